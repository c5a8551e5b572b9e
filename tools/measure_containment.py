"""Break functions in every way of the fault table, beside one that computes on, and record what each of them saw.

Usage: ``python tools/measure_containment.py [--rounds N] [--device D] [--out FILE]``. It starts brokers of its own. The
record is what ``tools/make_reliability.py`` makes docs/reliability.md from.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from migproxy.abi import control
from migproxy.cli.control import BrokerClient

PROLOGUE = """
import ctypes, sys, time
import cupy
x = cupy.arange(1000, dtype=cupy.float32)
assert float((x * 2).sum()) == 999000.0
def told(error):
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__cause__
    return names
last = time.time()
print("ready", flush=True)
"""
LOOP = """
try:
    while True:
        assert float((x * 2).sum()) == 999000.0
        last = time.time()
except Exception as error:
    print(*told(error), round(time.time() - last, 3), flush=True)
"""
BYSTANDER = """
import select
rounds = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    assert float((x * 2).sum()) == 999000.0
    rounds += 1
print("right", rounds, flush=True)
"""
FAULT = """
bad = cupy.RawKernel('extern "C" __global__ void bad(int* p) { *p = 1; }', "bad")
began = time.time()
bad((1,), (1,), (ctypes.c_void_p(64).value and cupy.uint64(64),))
try:
    cupy.cuda.Device().synchronize(); print("nothing", 0, flush=True)
except Exception as error:
    first = str(error).split(":")[0]
    try:
        cupy.cuda.Device().synchronize(); print("forgotten", 0, flush=True)
    except Exception as again:
        print(first, str(again).split(":")[0], round(time.time() - began, 3), flush=True)
"""
QUOTA = """
kept, began = [], time.time()
try:
    while True:
        kept.append(cupy.empty(8 << 20, dtype=cupy.uint8))
except cupy.cuda.memory.OutOfMemoryError as error:
    name = type(error).__name__
del kept
cupy.get_default_memory_pool().free_all_blocks()
assert float((x * 2).sum()) == 999000.0
print(name, "went-on", round(time.time() - began, 3), flush=True)
"""
HANG = """
spin = cupy.RawKernel('extern "C" __global__ void spin(volatile float* p) { while (*p == 0) {} }', "spin")
zero = cupy.zeros(1, dtype=cupy.float32)
cupy.cuda.Device().synchronize()
began = time.time()
spin((1,), (1,), (zero,))
try:
    cupy.cuda.Device().synchronize(); print("nothing", 0, flush=True)
except Exception as error:
    print(str(error).split(":")[0], round(time.time() - began, 3), flush=True)
"""
NONSENSE = """
from migproxy.session import session
base, began = session.current().windows.arena_base, time.time()
for offset in range(0x100, 0x1000, 8):
    ctypes.c_uint64.from_address(base + offset).value = 0xDEADBEEFDEADBEEF
try:
    while time.time() - began < 20:
        float((x * 2).sum())
    print("nothing", 0, flush=True)
except BaseException as error:
    print(*told(error), round(time.time() - began, 3), flush=True)
time.sleep(30)
"""


class Rig:
    """A shared broker and functions on it."""

    def __init__(self, device: str) -> None:
        self.path = os.path.join(tempfile.mkdtemp(), "b.sock")
        command = [sys.executable, "-m", "migproxy", "broker", "--socket", self.path, "--device", device]
        command += ["--default-memory", "512MiB", "--kernel-seconds", "2", "--warm", "1"]
        self.broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.broker.stderr is not None
        if "serves on" not in self.broker.stderr.readline():
            raise SystemExit("the broker does not start")

    def function(self, code: str) -> subprocess.Popen[str]:
        """Start a function and wait until it computes."""
        command = [sys.executable, "-m", "migproxy", "run", "--broker", self.path, "/dev/fd/0"]
        with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
            file.write(PROLOGUE + code)
        command[-1] = file.name
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line(process)
        return process

    def executor_of(self, pid: int) -> int:
        """Return the pid of the executor that serves process `pid`."""
        return next(row.executor_pid for row in self.rows() if row.pid == pid)

    def rows(self) -> list[control.SessionRow]:
        """Return the broker's sessions."""
        client = BrokerClient(self.path)
        try:
            return client.ask(control.ListSessions(), control.Sessions).rows
        finally:
            client.close()

    def close(self) -> None:
        """Stop the broker."""
        self.broker.terminate()
        self.broker.communicate(timeout=30)


def line(process: subprocess.Popen[str]) -> list[str]:
    """Return the words of a function's next line."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        process.wait(10)
        assert process.stderr is not None
        raise RuntimeError(process.stderr.read()[-500:] or f"exit code {process.returncode}")
    return words


def end(process: subprocess.Popen[str]) -> None:
    """End a function if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.communicate(timeout=30)


def until_gone(rig: Rig, pid: int) -> float:
    """Return how long a dead function's session took to go."""
    began = time.monotonic()
    while any(row.pid == pid for row in rig.rows()):
        if time.monotonic() - began > 20:
            raise RuntimeError("its session stays")
        time.sleep(0.005)
    return time.monotonic() - began


def ends_within(pid: int, seconds: float) -> bool:
    """Tell whether a process ends in time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def scripted(
    code: str, expected: Callable[[list[str]], bool]
) -> Callable[[Rig, random.Random], tuple[bool, float, str]]:
    """Return an event that is a script which tells of it by itself."""

    def event(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
        process = rig.function(code)
        try:
            words = line(process)
        finally:
            end(process)
        return expected(words[:-1]), float(words[-1]), " ".join(words[:-1])

    return event


def executor_killed(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Kill a computing function's executor."""
    process = rig.function(LOOP)
    try:
        time.sleep(chooser.random() * 0.3)
        os.kill(rig.executor_of(process.pid), signal.SIGKILL)
        words = line(process)
    finally:
        end(process)
    return words[-2] == "SessionLost" and float(words[-1]) < 1, float(words[-1]), " ".join(words[:-1])


def function_killed(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Kill a computing function."""
    process = rig.function(LOOP)
    time.sleep(chooser.random() * 0.3)
    process.kill()
    took = until_gone(rig, process.pid)
    end(process)
    return took < 1, took, "session, quota and lease returned"


def arena_overwritten(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Have a function overwrite the words of its arena's header: its session is closed, though the process lives on."""
    process = rig.function(NONSENSE)
    try:
        words = line(process)
        took = until_gone(rig, process.pid)
    finally:
        end(process)
    return words[0] != "nothing", float(words[-1]) + took, " ".join(words[:-1])


def broker_stopped(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Stop a broker under a computing function; it has a broker of its own for that."""
    own = Rig(rig.broker.args[rig.broker.args.index("--device") + 1])  # type: ignore[index, union-attr]
    process = own.function(LOOP)
    try:
        executor = own.executor_of(process.pid)
        own.broker.send_signal(chooser.choice([signal.SIGTERM, signal.SIGKILL]))
        words = line(process)
        own.broker.communicate(timeout=30)
        gone = ends_within(executor, 1.0)
    finally:
        end(process)
    return words[-2] == "SessionLost" and gone, float(words[-1]), " ".join(words[:-1])


EVENTS: dict[str, Callable[[Rig, random.Random], tuple[bool, float, str]]] = {
    "kernel fault (illegal address)": scripted(FAULT, lambda w: w == ["cudaErrorIllegalAddress"] * 2),
    "quota exceeded": scripted(QUOTA, lambda w: w == ["OutOfMemoryError", "went-on"]),
    "hung kernel (limit 2 s)": scripted(HANG, lambda w: w == ["cudaErrorLaunchTimeout"]),
    "executor killed": executor_killed,
    "function killed": function_killed,
    "arena overwritten": arena_overwritten,
    "broker stopped": broker_stopped,
}


def measure(device: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each event."""
    chooser = random.Random(1)
    rig = Rig(device)
    bystander = rig.function(BYSTANDER)
    try:
        for name, event in EVENTS.items():
            right, longest, seen = 0, 0.0, set()
            for _ in range(rounds):
                try:
                    good, took, words = event(rig, chooser)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    good, took, words = False, 0.0, str(error).splitlines()[-1][:200]
                right += good
                longest = max(longest, took)
                seen.add(words)
            row = {
                "event": name,
                "rounds": rounds,
                "right": right,
                "longest_s": round(longest, 3),
                "seen": sorted(seen),
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            yield row
        assert bystander.stdin is not None
        bystander.stdin.write("stop\n")
        bystander.stdin.flush()
        words = line(bystander)
        yield {
            "event": "bystander",
            "rounds": int(words[1]),
            "right": int(words[1]),
            "longest_s": 0.0,
            "seen": [words[0]],
        }
    finally:
        end(bystander)
        rig.close()


def main() -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="software")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = list(measure(arguments.device, arguments.rounds))
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": "software GPU" if arguments.device == "software" else os.environ.get("DEVICE_NAME", arguments.device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(row["right"] == row["rounds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
