"""The conformance kit, and nvmath's front ends in a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HAS_GPU = os.path.exists("/dev/nvidiactl")
DEVICES = ("software", pytest.param("0", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a real NVIDIA GPU")))


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "migproxy", *command], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("device", DEVICES)
def test_conformance(device: str) -> None:
    said = run("plugin", "check", "nvmath", "--device", device)
    assert "nvmath: hostile arguments: ok" in said
    assert "nvmath: threads: ok" in said


@pytest.mark.parametrize("device", DEVICES)
def test_front_ends(device: str) -> None:
    assert run("run", "--device", device, str(HERE / "front_ends.py")).splitlines()[-1] == "16 of 16 passed"
