"""Measure how long the compute lease of a slice takes from one function to the next.

Usage: ``python tools/measure_handover.py [--functions N] [--seconds S] [--device D] [--gpu-ms M] [--cpu-ms M]``. It
starts a broker of its own and functions that by turns compute, wait for that, and do something else (sleep), and reads
from the broker's trace what each did when. Printed are percentiles of

- ``release to start``: the holder had handed over, until the next in turn could issue, where it waited already;
- ``last kernel to first``: the slice idle, from the end of one function's last kernel to the start of another's first,
  where the other waited already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from migproxy.abi.control import AskTrace, ListSessions, Sessions, TraceEvent, TraceEvents
from migproxy.cli.control import BrokerClient

FUNCTION = """
import sys, time
import cupy
gpu_ms, cpu_ms, seconds = (float(word) for word in sys.argv[1:])
work = cupy.RawKernel('''
extern "C" __global__ void work(float* p, long long n) {
    float x = p[0];
    for (long long i = 0; i < n; i++) x = x * 0.5f + 1.0f;
    p[0] = x;
}''', "work")
place = cupy.zeros(1, dtype=cupy.float32)
stream = cupy.cuda.get_current_stream()
def once(n):
    work((1,), (1,), (place, cupy.int64(n)))
    stream.synchronize()
def timed(n):
    began = time.perf_counter(); once(n); return time.perf_counter() - began
n = 1000
timed(n)
while min(timed(n) for _ in range(3)) < max(gpu_ms, 0.05) / 1e3 and n < 1 << 30:
    n *= 2
n = n if gpu_ms else 1
print("ready", flush=True)
sys.stdin.readline()
end = time.perf_counter() + seconds
rounds = 0
while time.perf_counter() < end:
    once(n)
    time.sleep(cpu_ms / 1e3)
    rounds += 1
print(rounds, flush=True)
sys.stdin.readline()
"""


def percentiles(values: list[int]) -> dict[str, float]:
    """Return count, median, 90th and 99th percentile and the largest, in microseconds."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    at = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES}
    return {"count": len(ordered)} | {name: round(value / 1e3, 1) for name, value in at.items()}


SHARES = (("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def release_to_start(found: dict[str, set[TraceEvent]]) -> list[int]:
    """Return for each wait how long ago its end the lease was given up by somebody else."""
    ends = sorted((each.end, name) for name, events in found.items() for each in events if each.what == "computes")
    took = []
    for name, events in found.items():
        for wait in events:
            before = [end for end, other in ends if other != name and wait.start < end <= wait.end]
            if wait.what == "waits" and before:
                took.append(wait.end - max(before))
    return took


def last_to_first(found: dict[str, set[TraceEvent]]) -> list[int]:
    """Return the idle times of the slice between kernels of two functions of which the second waited already."""
    kernels = sorted(
        (each.start, each.end, name) for name, events in found.items() for each in events if "kernel " in each.what
    )
    waits = {name: [e for e in events if e.what == "waits"] for name, events in found.items()}
    took = []
    for (_, end, name), (start, _, after) in itertools.pairwise(kernels):
        if name != after and any(wait.start < end < wait.end <= start for wait in waits[after]):
            took.append(start - end)
    return took


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--functions", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--gpu-ms", type=float, default=0.0)
    parser.add_argument("--cpu-ms", type=float, default=1.0)
    parser.add_argument("--device", default="software")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "b.sock")
        command = [sys.executable, "-m", "migproxy", "broker", "--socket", path, "--device", arguments.device]
        broker = subprocess.Popen([*command, "--default-memory", "1GiB"], stderr=subprocess.PIPE, text=True)
        assert broker.stderr is not None
        if "serves on" not in broker.stderr.readline():
            raise SystemExit("the broker does not start")
        script = Path(scratch) / "function.py"
        script.write_text(FUNCTION)
        numbers = [str(each) for each in (arguments.gpu_ms, arguments.cpu_ms, arguments.seconds)]
        command = [sys.executable, "-m", "migproxy", "run", "--broker", path, str(script), *numbers]
        functions = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(arguments.functions)
        ]
        try:
            found, rounds = record(path, functions, arguments.seconds)
        finally:
            for one in functions:
                one.kill()
                one.communicate()
            broker.terminate()
            broker.communicate(timeout=30)
    print(json.dumps({"rounds": rounds}))
    print(json.dumps({"release to start, µs": percentiles(release_to_start(found))}))
    print(json.dumps({"last kernel to first, µs": percentiles(last_to_first(found))}))
    return 0


def record(
    path: str, functions: list[subprocess.Popen[str]], seconds: float
) -> tuple[dict[str, set[TraceEvent]], list[int]]:
    """Let the functions run; return what the broker's trace says of each session, and their rounds."""
    for one in functions:
        assert one.stdout is not None
        if one.stdout.readline().strip() != "ready":
            raise SystemExit("a function does not start")
    began = time.monotonic_ns()
    for one in functions:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    found: dict[str, set[TraceEvent]] = {}
    client = BrokerClient(path)
    end = time.monotonic() + seconds + 0.5
    while time.monotonic() < end:
        for row in client.ask(ListSessions(), Sessions).rows:
            events = client.ask(AskTrace(row.session_id), TraceEvents).events
            found.setdefault(row.session_id, set()).update(each for each in events if each.start > began)
        time.sleep(0.2)
    client.close()
    rounds = []
    for one in functions:
        assert one.stdout is not None
        rounds.append(int(one.stdout.readline()))
    return found, rounds


if __name__ == "__main__":
    sys.exit(main())
