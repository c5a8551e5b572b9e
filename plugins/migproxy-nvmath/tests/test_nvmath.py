"""The conformance kit, and nvmath's front ends in a function."""

from __future__ import annotations

import ast
import ctypes
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


@pytest.mark.timeout(420)
@pytest.mark.parametrize("device", DEVICES)
def test_conformance(device: str) -> None:
    said = run("plugin", "check", "nvmath", "--device", device)
    assert "nvmath: hostile arguments: ok" in said
    assert "nvmath: threads: ok" in said


@pytest.mark.parametrize("device", DEVICES)
def test_front_ends(device: str) -> None:
    assert run("run", "--device", device, str(HERE / "front_ends.py")).splitlines()[-1] == "16 of 16 passed"


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="the calls would reach the libraries, with objects that are NULL")
def test_nvmaths_own_functions_take_what_the_table_sends_confined_or_not() -> None:
    """The executor half for a GPU, here where none is: nvmath converts each argument before it misses the driver."""

    def answers(*options: str) -> dict[str, dict[str, int]]:
        done = subprocess.run(
            [sys.executable, str(HERE / "executor" / "confined.py"), *options],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        return {
            name: ast.literal_eval(rest) for name, _, rest in (row.partition(" ") for row in done.stdout.splitlines())
        }

    found = answers()
    assert [name.rpartition(".")[2] for name in found] == ["cublas", "cublasLt", "cufft", "cusolver", "cusolverDn"]
    assert {kind for counts in found.values() for kind in counts} == {"NotSupportedError"}
    assert sum(found["nvmath.bindings.cublas"].values()) > 400
    assert answers("confined") == found
