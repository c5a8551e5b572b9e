"""Check mode for a function: it knows the function's own allocations."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from processes import run_command

SCRIPT = """
import cupy

cupy.cuda.set_allocator(None)
kernel = cupy.RawKernel('extern "C" __global__ void move(int* to, const int* from, int at)'
                        '{ to[threadIdx.x] = from[threadIdx.x + at]; }', 'move')
full, empty = cupy.arange(10, dtype="i4"), cupy.empty(10, "i4")
kernel((1,), (10,), (empty, full, 0))
kernel((1,), (10,), (full, empty, 0))  # written by now
assert (full == cupy.arange(10)).all()
fresh = cupy.empty(10, "i4")
try:
    kernel((1,), (10,), (full, WHAT))
    cupy.cuda.Device().synchronize()
except cupy.cuda.runtime.CUDARuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("empty, 1", "IllegalAddress", "access outside every allocation"),
        ("fresh, 0", "LaunchFailure", "read of memory that was never written"),
    ],
)
def test_findings_reach_the_user(what: str, status: str, said: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("WHAT", what))
    command = [sys.executable, "-m", "migproxy", "run", "--device", "software", str(script)]
    done = run_command(command, env={**os.environ, "MIGPROXY_SOFTGPU": "check"})
    assert status in done.stdout, done.said
    assert said in done.stderr, done.said
    assert "in kernel move" in done.stderr
    assert "PTX line" in done.stderr
