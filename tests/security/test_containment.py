"""What one function suffers, others do not notice. Real functions and executors on the software GPU."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker.broker_tools import ROOT, Peer, alive, until

from migproxy.abi import control

ENV = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")} | {"PYTHONPATH": ROOT}


class RealBroker:
    """A shared broker in a process of its own."""

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "migproxy", "broker", "--socket", path, "--device", "software",
             "--software-memory", "1GiB", "--default-memory", "128MiB", *options],
            env=ENV, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        assert "serves on" in self.process.stderr.readline()
        self.functions: list[subprocess.Popen[str]] = []

    def start(self, code: str) -> subprocess.Popen[str]:
        """Start a function that is told nothing more."""
        function = self.run("-")
        assert function.stdin is not None
        function.stdin.write(code)
        function.stdin.close()
        return function

    def run(self, script: str) -> subprocess.Popen[str]:
        """Start a function from a file."""
        function = subprocess.Popen(
            [sys.executable, "-m", "migproxy", "run", "--broker", self.path, script],
            env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.functions.append(function)
        return function

    def ask(self, message: control.Message) -> object:
        peer = Peer(self.path)
        try:
            return peer.ask(message)
        finally:
            peer.close()

    def rows(self) -> list[control.SessionRow]:
        answer = self.ask(control.ListSessions())
        assert isinstance(answer, control.Sessions)
        return answer.rows

    def reserved(self) -> int:
        answer = self.ask(control.AskStatus())
        assert isinstance(answer, control.Status)
        return answer.slices[0].reserved

    def row_of(self, function: subprocess.Popen[str]) -> control.SessionRow:
        def running() -> bool:
            assert function.poll() is None, function.stderr and function.stderr.read()
            return any(row.pid == function.pid and row.state == "running" for row in self.rows())

        until(running, 40.0)
        return next(row for row in self.rows() if row.pid == function.pid)

    def close(self) -> None:
        for function in self.functions:
            with contextlib.suppress(ProcessLookupError):
                function.kill()
            for stream in (function.stdin, function.stdout, function.stderr):
                if stream is not None:
                    stream.close()
            function.wait(10.0)
        self.process.terminate()
        self.process.communicate(timeout=20.0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    running = RealBroker(str(tmp_path / "b.sock"), "--kernel-seconds", "3")
    yield running
    running.close()
    assert running.process.returncode == 0


def line(function: subprocess.Popen[str]) -> str:
    assert function.stdout is not None
    said = function.stdout.readline()
    if not said:
        assert function.stderr is not None
        raise AssertionError(function.stderr.read())
    return said.strip()


BYSTANDER = """
import sys
import cupy
x = cupy.arange(4096, dtype=cupy.float32)
expected = cupy.asnumpy(x) * 3 + 1
rounds = 0
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0] and rounds < 100_000:
    assert (cupy.asnumpy(x * 3 + 1) == expected).all()
    rounds += 1
"""

WATCHED = """
import os, sys, threading
import cupy
x = cupy.arange(1000, dtype=cupy.float32)
total = float((x * 2).sum())
print(total, flush=True)
import signal
signal.pause()
"""


def test_the_function_process_holds_no_gpu(broker: RealBroker) -> None:
    function = broker.start(WATCHED)
    assert line(function) == "999000.0"
    maps = Path(f"/proc/{function.pid}/maps").read_text()
    assert not re.search(r"libcuda\.so|/dev/nvidia|libnvidia-ml|libcublas|libcudart", maps)
    opened = [os.readlink(link) for link in Path(f"/proc/{function.pid}/fd").iterdir()]
    assert not [target for target in opened if "nvidia" in target]
    environment = Path(f"/proc/{function.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in environment
    assert Path(f"/proc/{function.pid}/task/{function.pid}/children").read_text().split() == []


def test_a_killed_executor_is_seen_at_once_and_by_its_function_only(broker: RealBroker) -> None:
    code = """
import sys, time
import cupy
from migproxy.errors import SessionLost
x = cupy.arange(1000, dtype=cupy.float32)
float(x.sum())
last = time.time()
print("ready", flush=True)
try:
    while True:
        float((x * 2).sum())
        last = time.time()
except Exception as error:
    chain = []
    while error is not None:
        chain.append(type(error).__name__)
        error = error.__cause__
    print(chain[0], chain[-1], round(time.time() - last, 3), flush=True)
"""
    victim, other = broker.start(code), broker.start(code)
    assert [line(victim), line(other)] == ["ready", "ready"]
    os.kill(broker.row_of(victim).executor_pid, signal.SIGKILL)
    surface, root, took = line(victim).split()
    assert root == "SessionLost"
    assert surface != "SessionLost", "the error is not the library's own type"
    assert float(took) < 2.0
    assert other.poll() is None
    assert broker.row_of(other).state == "running"
    assert victim.wait(20.0) == 0


def cpu_ns(pid: int) -> int:
    """Return how long a process and its threads have been on a CPU."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


def test_an_idle_session_costs_no_cpu_time(broker: RealBroker) -> None:
    function = broker.start(WATCHED)
    assert line(function) == "999000.0"
    row = broker.row_of(function)
    pids = {"function": function.pid, "executor": row.executor_pid, "broker": broker.process.pid}
    time.sleep(0.5)  # what it did before comes to an end
    before = {name: cpu_ns(pid) for name, pid in pids.items()}
    time.sleep(1.0)  # nothing is to happen meanwhile
    used = {name: (cpu_ns(pid) - before[name]) / 1e9 for name, pid in pids.items()}
    assert max(used.values()) < 0.005, used


def test_killed_functions_give_everything_back(broker: RealBroker) -> None:
    chooser = random.Random(5)
    for _ in range(4):
        function = broker.start(WATCHED.replace("signal.pause()", "\nwhile True: float((x * 2).sum())"))
        row = broker.row_of(function)
        time.sleep(chooser.random())  # the instant of the kill is random on purpose
        function.kill()
        began = time.monotonic()
        until(lambda: not broker.rows() and not broker.reserved(), 10.0)
        assert time.monotonic() - began < 2.0
        assert not alive(row.executor_pid)


def test_a_hung_kernel_ends_its_own_function_with_a_launch_timeout(broker: RealBroker) -> None:
    code = """
import cupy
spin = cupy.RawKernel('extern "C" __global__ void spin(volatile int* x) { while (*x == 0) {} }', "spin")
x = cupy.zeros(1, dtype=cupy.int32)
cupy.cuda.Device().synchronize()
print("ready", flush=True)
spin((1,), (1,), (x,))
try:
    cupy.cuda.Device().synchronize()
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
    good = """
import cupy, sys, time
x = cupy.arange(1000, dtype=cupy.float32)
end = time.time() + 6
while time.time() < end:
    assert float((x * 2).sum()) == 999000.0
print("right", flush=True)
"""
    bystander, hung = broker.start(good), broker.start(code)
    assert line(hung) == "ready"
    said = line(hung)
    assert "CUDARuntimeError" in said
    assert "LaunchTimeout" in said or "launch timed out" in said.lower(), said
    assert line(bystander) == "right"


def test_quota_exceeded_is_the_native_error_and_the_function_goes_on(broker: RealBroker) -> None:
    code = """
import cupy
blocks = []
for round in range(3):
    try:
        while True:
            blocks.append(cupy.zeros(8 << 20, dtype=cupy.uint8))
    except cupy.cuda.memory.OutOfMemoryError:
        count = len(blocks)
        blocks.clear()
        cupy.get_default_memory_pool().free_all_blocks()
print(count, cupy.cuda.runtime.memGetInfo()[1] >> 20, float(cupy.ones(10).sum()), flush=True)
"""
    count, total, result = line(broker.start(code)).split()
    assert 8 <= int(count) <= 16
    assert (total, result) == ("128", "10.0")


def test_an_arena_full_of_nonsense_closes_that_session_only(broker: RealBroker) -> None:
    code = """
import ctypes, os, sys
import cupy
from migproxy.session import session
x = cupy.arange(10)
int(x.sum())
mine = session.current()
base = mine.windows.arena_base
print("ready", flush=True)
for index in range(0, 0x1000, 8):
    ctypes.c_uint64.from_address(base + index).value = 0xdeadbeefdeadbeef
import time
time.sleep(60)
"""
    hostile, other = broker.start(code), broker.start(WATCHED)
    row = broker.row_of(hostile)
    assert line(hostile) == "ready"
    assert line(other) == "999000.0"
    until(lambda: not alive(row.executor_pid), 20.0)
    until(lambda: [each.pid for each in broker.rows()] == [other.pid], 10.0)
    assert broker.row_of(other).state == "running"


def test_what_a_function_keeps_is_limited(tmp_path: Path) -> None:
    """Modules, kernels and handles of one function, by the broker's configuration; another one has its own."""
    config = tmp_path / "broker.toml"
    config.write_text("[limits]\nmodules = 5\nkernels = 4\nhandles = 40\n")
    broker = RealBroker(str(tmp_path / "b.sock"), "--config", str(config))
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from victim import PTX
from migproxy.errors import CudaError
from migproxy.session import api
api.init(); api.ensure_context()
def count(make):
    made = []
    try:
        while len(made) < 100:
            made.append(make())
    except CudaError as error:
        return made, error.status
    return made, 0
def stream():
    api.stream_create()  # waits for no answer
    api.context_synchronize()
modules, status = count(lambda: api.module_load(PTX))
unused = iter(modules)
kernels, of_kernels = count(lambda: api.module_function(next(unused), b"add_one"))
streams, of_streams = count(stream)
print(len(modules), status, len(kernels), of_kernels, len(streams), of_streams, flush=True)
api.module_unload(modules.pop())
api.module_load(PTX)
print("went-on", flush=True)
"""
    try:
        functions = [broker.start(code), broker.start(code)]
        for function in functions:
            # 5 modules and 4 kernels are 9 of the 40 handles.
            assert line(function) == "5 2 4 2 31 2"
            assert line(function) == "went-on"
    finally:
        broker.close()
