"""Break functions in every way of the fault table, beside one that computes on, and record what each of them saw.

Usage: ``python tools/measure_containment.py [--rounds N] [--kills N] [--seconds S] [--device D] --out FILE``. It starts
brokers of its own. The record is what ``tools/make_reliability.py`` makes docs/reliability.md from.
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
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from containment_kills import end, ends_within, kill_executors, kill_functions, rows, tenant

from migproxy.abi import control
from migproxy.cli.control import BrokerClient

WARM = 1
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
TRAP = FAULT.replace("*p = 1;", 'asm("trap;");')
ASSERT = FAULT.replace(
    'extern "C"',
    'extern "C" __device__ void __assertfail(const char*, const char*, unsigned, const char*, size_t); extern "C"',
).replace("*p = 1;", '__assertfail("p == 0", "bad.cu", 1, "bad", 1);')
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
PATTERN = """
pattern, words = 0x5A17C0DE, 10000
blocks = 4 * cupy.cuda.Device().attributes["MultiProcessorCount"]
count = cupy.zeros(1, dtype=cupy.uint32)
shared = cupy.RawKernel('''
extern "C" __global__ void shared(unsigned* found, unsigned pattern, unsigned words, int fill) {
    extern __shared__ unsigned room[];
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
        if (fill) room[i] = pattern;
        else if (room[i] == pattern) atomicAdd(found, 1);
    }
}''', "shared")
def in_shared(fill):
    for _ in range(3):
        arguments = count, cupy.uint32(pattern), cupy.uint32(words), cupy.int32(fill)
        shared((blocks,), (128,), arguments, shared_mem=4 * words)
    cupy.cuda.Device().synchronize()
"""
FILL = (
    PATTERN
    + """
full = cupy.full(40 << 20, pattern, dtype=cupy.uint32)
in_shared(1)
print("filled", flush=True)
time.sleep(60)
"""
)
SEARCH = (
    PATTERN
    + """
in_shared(0)
place = cupy.empty(40 << 20, dtype=cupy.uint32)
print("device:", int((place == pattern).sum()), "shared:", int(count[0]), flush=True)
"""
)


class Rig:
    """A shared broker and functions on it."""

    def __init__(self, device: str) -> None:
        self.device = device
        scratch = tempfile.mkdtemp()
        self.path = os.path.join(scratch, "b.sock")
        #: What happened to each session, for whoever looks into a round that went wrong.
        self.log = os.path.join(scratch, "broker.log")
        command = [sys.executable, "-m", "migproxy", "broker", "--socket", self.path, "--device", device]
        command += [
            "--default-memory",
            "512MiB" if device == "software" else "4GiB",
            "--kernel-seconds",
            "2",
            "--warm",
            str(WARM),
            "--log-file",
            self.log,
        ]
        self.broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.broker.stderr is not None
        if "serves on" not in self.broker.stderr.readline():
            raise SystemExit("the broker does not start")
        print(f"the broker's log: {self.log}", file=sys.stderr, flush=True)

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
        return next(row.executor_pid for row in rows(self.path) if row.pid == pid)

    def footprint(self) -> dict[str, int]:
        """Return what the broker holds that could be left behind, once its next executor waits."""
        client = BrokerClient(self.path)
        try:
            deadline = time.monotonic() + 20
            while (served := client.ask(control.AskStatus(), control.Status).slices[0]).warm < WARM:
                if time.monotonic() > deadline:
                    raise RuntimeError("no executor waits for the next session")
                time.sleep(0.02)
        finally:
            client.close()
        children = Path(f"/proc/{self.broker.pid}/task/{self.broker.pid}/children").read_text().split()
        # The broker has not closed its end of the connection above yet in one look of six.
        opened = min((self._opened() for _ in range(5)), key=len)
        return {
            "descriptors": len(opened),
            "memory segments": sum("memfd:" in each for each in opened),
            "processes": len(children),
            "promised bytes": served.reserved,
            "sessions": served.sessions,
        }

    def _opened(self) -> list[str]:
        """Return what the broker's descriptors are."""
        opened = []
        for each in Path(f"/proc/{self.broker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since: the broker goes on meanwhile
                opened.append(os.readlink(each))
        time.sleep(0.02)
        return opened

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


def until_gone(rig: Rig, pid: int) -> float:
    """Return how long a dead function's session took to go."""
    began = time.monotonic()
    while any(row.pid == pid for row in rows(rig.path)):
        if time.monotonic() - began > 20:
            raise RuntimeError("its session stays")
        time.sleep(0.005)
    return time.monotonic() - began


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


def searched(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Have a function search its memory for what one before it, which was killed, had written into its own."""
    before = rig.function(FILL)
    line(before)
    end(before)
    until_gone(rig, before.pid)
    after = rig.function(SEARCH)
    try:
        words = line(after)
    finally:
        end(after)
    return words == ["device:", "0", "shared:", "0"], 0.0, " ".join(words)


def nonsense_sent(rig: Rig, chooser: random.Random) -> tuple[bool, float, str]:
    """Have a function send malformed commands of every operation."""
    process = tenant(rig.path, "nonsense")
    began = time.monotonic()
    try:
        words = line(process)
    finally:
        end(process)
    return "closed" in " ".join(words), time.monotonic() - began, "each answered, or its session closed"


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
    own = Rig(rig.device)
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


STEPS = "executor killed at a step"
MALFORMED = "malformed commands of every operation"
KILLS = "function killed at a random instant"
Event = Callable[[Rig, random.Random], tuple[bool, float, str]]
EVENTS: dict[str, Event] = {
    "kernel fault (illegal address)": scripted(FAULT, lambda w: w == ["cudaErrorIllegalAddress"] * 2),
    "kernel fault (trap)": scripted(TRAP, lambda w: len(w) == 2 and w[0] == w[1] and w[0] != "nothing"),
    "kernel fault (assert)": scripted(ASSERT, lambda w: w == ["cudaErrorAssert"] * 2),
    "quota exceeded": scripted(QUOTA, lambda w: w == ["OutOfMemoryError", "went-on"]),
    "hung kernel (limit 2 s)": scripted(HANG, lambda w: w == ["cudaErrorLaunchTimeout"]),
    "executor killed": executor_killed,
    "arena overwritten": arena_overwritten,
    "broker stopped": broker_stopped,
    MALFORMED: nonsense_sent,
    "memory searched for an earlier function's": searched,
}
NAMES = (STEPS, *EVENTS, KILLS)


def repeat(rig: Rig, event: Event, rounds: int, until: float) -> tuple[int, int, float, set[str]]:
    """Have an event happen several times; returns rounds, how many were as they are to be, the longest, what was
    seen."""
    chooser = random.Random(1)
    made, right, longest, seen = 0, 0, 0.0, set()
    while made < rounds and time.monotonic() < until:
        try:
            good, took, words = event(rig, chooser)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            good, took, words = False, 0.0, (str(error).splitlines() or [type(error).__name__])[-1][:200]
        made, right, longest = made + 1, right + good, max(longest, took)
        seen.add(words)
    return made, right, longest, seen


def left_behind(rig: Rig, before: dict[str, int]) -> tuple[int, int, float, set[str]]:
    """Compare what the broker holds with what it held before."""
    began = time.monotonic()
    after: dict[str, int] = {}
    while after != before and time.monotonic() < began + 10:
        time.sleep(0.1)
        after = rig.footprint()
    words = {f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]}
    return (
        1,
        int(not words),
        0.0,
        words or {"nothing: " + ", ".join(f"{value} {name}" for name, value in after.items())},
    )


def measure(
    chosen: Container[str], device: str, rounds: int, kills: int, herds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield one row for each chosen event."""
    until = time.monotonic() + seconds
    if STEPS in chosen:
        half = time.monotonic() + seconds / 2
        yield row(STEPS, *kill_executors(device, half, lambda text: print(text, file=sys.stderr)))
    rig = Rig(device)
    bystander = rig.function(BYSTANDER)
    try:
        before = rig.footprint()
        for name, event in EVENTS.items():
            if name in chosen:
                yield row(name, *repeat(rig, event, 1 if name == MALFORMED else rounds, until))
        if KILLS in chosen:
            yield row(KILLS, *kill_functions(rig.path, kills, herds, until))
        yield row("left behind by all that", *left_behind(rig, before))
        assert bystander.stdin is not None
        bystander.stdin.write("stop\n")
        bystander.stdin.flush()
        words = line(bystander)
        yield row("bystander", int(words[1]), int(words[1]), 0.0, {words[0]})
    finally:
        end(bystander)
        rig.close()


def row(event: str, made: int, right: int, longest: float, seen: set[str]) -> dict[str, Any]:
    """Return one row of the record, and show it."""
    found = {"event": event, "rounds": made, "right": right, "longest_s": round(longest, 3), "seen": sorted(seen)}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def device_name(device: str) -> str:
    """Return what the record calls the device."""
    if device == "software":
        return "software GPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def main() -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10, help="of each event that is no kill of a function")
    parser.add_argument("--kills", type=int, default=1000, help="of functions at random instants")
    parser.add_argument("--herds", type=int, default=2, help="functions that are killed at the same time")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no further round after so long")
    parser.add_argument("--device", default="software")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[""], help="events whose names contain one of these")
    arguments = parser.parse_args()
    chosen = [name for name in NAMES if any(part in name for part in arguments.only)]
    found = list(
        measure(chosen, arguments.device, arguments.rounds, arguments.kills, arguments.herds, arguments.seconds)
    )
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device_name(arguments.device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rows": found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(each["right"] == each["rounds"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
