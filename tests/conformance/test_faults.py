"""A kernel that fails: the status, and that it sticks. Each in a process of its own, since its context is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import run_command
from transports import TRANSPORTS

SCRIPT = Path(__file__).with_name("faulty.py")


@pytest.mark.parametrize(
    "transport",
    [pytest.param(each, marks=[pytest.mark.gpu] if each.startswith("gpu") else []) for each in TRANSPORTS],
)
@pytest.mark.parametrize(("kernel", "status"), [("store", 700), ("trap", 719)])
def test_faults_stick(transport: str, kernel: str, status: int) -> None:
    done = run_command([sys.executable, str(SCRIPT), transport, kernel], timeout=60)
    assert done.returncode == 0, done.said
    assert done.stdout.split() == [str(status)] * 3, done.said
