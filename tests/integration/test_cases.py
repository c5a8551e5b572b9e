"""Test suites as users of the GPU libraries write them, run by pytest in a function, and natively on a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from processes import run_command

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = ("cupy", "cupy_error", "numba", "cuda", "together")
WAYS = (
    pytest.param(["-m", "migproxy", "run", "--device", "software", "-m"], id="software"),
    pytest.param(["-m", "migproxy", "run", "--device", "0", "-m"], id="gpu", marks=pytest.mark.gpu),
    pytest.param(["-m"], id="native", marks=pytest.mark.gpu),
)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suite", SUITES)
def test_suite_of_a_user(suite: str, way: list[str], tmp_path: Path) -> None:
    file = HERE / "cases" / f"{suite}_cases.py"
    command = [
        sys.executable,
        *way,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'inner'}",
        str(file),
    ]
    done = run_command(command, timeout=380, cwd=ROOT)
    assert done.returncode == 0, done.said
    assert " passed" in done.stdout
    assert not done.stderr, done.said


def test_xdist_workers_are_functions_processes(tmp_path: Path) -> None:
    """Two workers share the function's quota, each with a session of its own."""
    file = tmp_path / "test_inner.py"
    file.write_text(
        "import os, cupy, pytest\n"
        "@pytest.mark.parametrize('value', range(6))\n"
        "def test_sum(value):\n"
        "    assert 'PYTEST_XDIST_WORKER' in os.environ\n"
        "    assert int(cupy.arange(value + 1).sum()) == value * (value + 1) // 2\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-n", "2", "-c", os.devnull, f"--rootdir={tmp_path}"]
    command = [sys.executable, "-m", "migproxy", "run", "-m", "pytest", *options, str(file)]
    done = run_command(command, cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert "6 passed" in done.stdout, done.said
