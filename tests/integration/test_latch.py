"""What waits for its function, on a slice where another computes: the function goes on as it does natively."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LATCH = """
import ctypes
import cupy as cp
code = r'''
extern "C" __global__ void latch(volatile int* go) { while (*go == 0) {} }
extern "C" __global__ void add(float* x, int n) { int i = threadIdx.x; if (i < n) x[i] += 1; }
'''
module = cp.RawModule(code=code)
latch, add = module.get_function("latch"), module.get_function("add")
place = cp.cuda.alloc_pinned_memory(4)
go = ctypes.c_int.from_address(place.ptr)
x = cp.zeros(32, cp.float32)
held, other = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
add((1,), (32,), (x, cp.int32(32)))
cp.cuda.Device().synchronize()
print("ready", flush=True)
input()
for rounds in range(2):
    go.value = 0
    latch((1,), (1,), (cp.uint64(place.ptr),), stream=held)
    for _ in range(3):
        add((1,), (32,), (x, cp.int32(32)), stream=other)
    other.synchronize()
    assert not held.done
    go.value = 1
    held.synchronize()
assert float(x[0]) == 7, float(x[0])
print("done", flush=True)
"""
HOST_FUNCTIONS = """
import time
import cupy as cp
x, stream, seen = cp.zeros(4), cp.cuda.Stream(non_blocking=True), []
with stream:
    x += 1
    stream.synchronize()
    print("ready", flush=True)
    input()
    for number in range(30):
        for _ in range(3):
            x += 1
            stream.launch_host_func(seen.append, number)
        x += 1
        stream.synchronize()
    # Far more than fits the ring, or the driver's queue, while the stream stands still.
    stream.launch_host_func(time.sleep, 0.1)
    for _ in range(6000):
        cp.add(x, 1, x)
    stream.synchronize()
    assert seen == [number for number in range(30) for _ in range(3)]
    assert float(x[0]) == 1 + 30 * 4 + 6000
print("done", flush=True)
"""
NEIGHBOUR = """
import select, sys
import cupy as cp
x = cp.arange(1000, dtype=cp.float32)
print("ready", flush=True)
rounds = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    assert float((x * 2).sum()) == 999000.0
    rounds += 1
print(rounds, flush=True)
"""
DEVICES = [pytest.param("software", id="software"), pytest.param("0", id="gpu", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "b.sock")
    command = [sys.executable, "-m", "migproxy", "broker", "--socket", path, "--device", request.param]
    command += ["--default-memory", "512MiB" if request.param == "software" else "4GiB", "--kernel-seconds", "20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "serves on" in process.stderr.readline()
    yield path
    process.terminate()
    process.communicate(timeout=20)


class Function:
    """A script in a function, which has said that it is ready."""

    def __init__(self, broker: str, path: Path, code: str) -> None:
        path.write_text(code)
        command = [sys.executable, "-m", "migproxy", "run", "--broker", broker, str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if not said:
            raise AssertionError(self.process.communicate(timeout=20)[1])
        return said

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


def test_a_kernel_waits_for_what_its_function_does_next(broker: str, tmp_path: Path) -> None:
    neighbour = Function(broker, tmp_path / "neighbour.py", NEIGHBOUR)
    holder = Function(broker, tmp_path / "holder.py", LATCH)
    try:
        holder.tell()
        assert holder.line() == "done"
        neighbour.tell()
        assert int(neighbour.line()) > 0
    finally:
        holder.end()
        neighbour.end()


def test_functions_with_host_functions_take_turns(broker: str, tmp_path: Path) -> None:
    functions = [Function(broker, tmp_path / f"{number}.py", HOST_FUNCTIONS) for number in range(2)]
    try:
        for each in functions:
            each.tell()
        assert [each.line() for each in functions] == ["done", "done"]
    finally:
        for each in functions:
            each.end()
