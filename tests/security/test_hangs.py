"""What counts as hung: a kernel that runs for too long, not an executor that compiles or loads code meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import run_command

HERE = Path(__file__).resolve().parent
CODE = f"""
import ctypes, sys, time
sys.path.insert(0, {str(HERE)!r})
from victim import BYTES, COUNT, PTX
from migproxy.session import api

api.init()
api.ensure_context()
module = api.module_load(PTX)
function = api.module_function(module, b"add_one")
place, host = api.mem_alloc(BYTES), api.host_alloc(BYTES)
api.memset(place, 0, 4, COUNT)
pointer, count = ctypes.c_uint64(place), ctypes.c_uint32(COUNT)
parameters = (ctypes.c_void_p * 2)(ctypes.addressof(pointer), ctypes.addressof(count))
api.launch(function, (COUNT // 128, 1, 1), (128, 1, 1), 0, 0, ctypes.addressof(parameters))
try:
    time.sleep(0.2)  # the executor has nothing to do but to look at what is on its way
    api.module_load(PTX)
    api.memcpy_dtoh(host, place, BYTES)
except Exception as error:
    print(type(error).__name__, error)
else:
    print((ctypes.c_float * COUNT).from_address(host)[COUNT - 1])
"""


@contextmanager
def slow_broker(folder: Path, what: str) -> Iterator[str]:
    path = str(folder / "b.sock")
    command = [sys.executable, str(HERE / "slow_broker.py"), path, what]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "serves on" in process.stderr.readline()
        yield path
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()


@pytest.mark.parametrize(
    ("what", "said"),
    [("compile", "1.0"), ("load", "1.0"), ("forever", "CudaError CUresult 702")],
)
def test_only_a_kernel_hangs_and_not_what_compiles_it(tmp_path: Path, what: str, said: str) -> None:
    script = tmp_path / "function.py"
    script.write_text(CODE)
    with slow_broker(tmp_path, what) as path:
        command = [sys.executable, "-m", "migproxy", "run", "--broker", path, str(script)]
        done = run_command(command, timeout=120)
    assert done.stdout.strip() == said, done.said
