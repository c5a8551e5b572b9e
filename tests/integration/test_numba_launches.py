"""Launches of Numba's kernels that the plugin takes over, and those that it leaves to Numba, with their results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import run_command

CASES = [Path(__file__).parent / "cases" / name for name in ("numba_launches.py", "numba_launches_left.py")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("device", [pytest.param("software"), pytest.param("0", id="gpu", marks=pytest.mark.gpu)])
def test_launches(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "migproxy", "run", "--device", device, "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}", *map(str, CASES)]
    done = run_command(command, timeout=220, cwd=CASES[0].parents[3])
    assert done.returncode == 0, done.said
    assert " passed" in done.stdout
