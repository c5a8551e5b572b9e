"""What do several functions on one GPU cost each other?

``python -m bench.colocation`` runs functions like inference requests, about 45% GPU (matrix products), 15% copy and
40% CPU, at 1, 2, 4 and 8 at a time: natively (the driver time-slices the processes) and through one broker. The figure
is the speed-up over running them one after another: N times the time of one alone, by the time until the last of N has
finished. Then a small request (50 dependent small kernels, each synchronised) runs beside a function that keeps the GPU
busy; the figures are the request's median, 99th percentile and worst, and the heavy neighbour's rate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rounds import machine, start_broker

MODES = ("native", "proxied")
SMOKE = {"matrix": 64, "copy": 1 << 16, "spin": 0.001, "requests": 3}
FULL = {"matrix": 4096, "copy": 100 << 20, "spin": 0.004, "requests": 60}
DEADLINE = 240.0


# -- in the function ---------------------------------------------------------------------------------------------------
def spin(seconds: float) -> None:
    """The CPU phase."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def worker(kind: str, size: dict[str, Any], iterations: int) -> None:
    """Prepare, say ``ready``, wait for a line, run, and print what came of it as JSON."""
    import cupy as cp

    a = cp.random.rand(size["matrix"], size["matrix"], dtype=cp.float32)
    host = cp.cuda.alloc_pinned_memory(size["copy"])
    device = cp.empty(size["copy"], cp.uint8)
    small = cp.ones(1 << 20, dtype=cp.float32)
    stream = cp.cuda.get_current_stream()

    def request() -> None:
        spin(size["spin"])
        device.data.copy_from_host_async(host.ptr, size["copy"], stream)
        stream.synchronize()
        for _ in range(2):
            a @ a
        stream.synchronize()

    def small_request() -> None:
        for _ in range(50):
            small + 1
            stream.synchronize()

    def heavy() -> None:
        a @ a
        stream.synchronize()

    once = {"request": request, "small": small_request, "heavy": heavy}[kind]
    for _ in range(3):
        once()
    print("ready", flush=True)
    sys.stdin.readline()
    latencies = []
    start = time.perf_counter()
    if kind == "heavy":
        while time.perf_counter() - start < iterations:
            once()
            latencies.append(0.0)
    else:
        for _ in range(iterations):
            if kind == "small":
                time.sleep(0.005)
            begin = time.perf_counter()
            once()
            latencies.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": time.perf_counter() - start, "latencies": latencies}), flush=True)


# -- around it ---------------------------------------------------------------------------------------------------------
class Worker:
    """One function or native process."""

    def __init__(self, mode: str, kind: str, iterations: int, size: str, broker: str) -> None:
        inner = ["-m", "bench.colocation", "--worker", kind, "--iterations", str(iterations), "--size", size]
        prefix = [sys.executable]
        if mode == "proxied":
            prefix = [sys.executable, "-m", "migproxy", "run", "--broker", broker, "--memory", "4GiB"]
            if size == "smoke":
                prefix[-1] = "256MiB"
        self.process = subprocess.Popen(
            [*prefix, *inner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def wait_ready(self) -> None:
        """Wait until it has prepared.

        Raises
        ------
        RuntimeError
            It ended before.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"a worker said {line!r} and ended with {self.process.wait(10)}")

    def go(self) -> None:
        """Start its measured part."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Return what it measured."""
        out, _ = self.process.communicate(timeout=DEADLINE)
        found: dict[str, Any] = json.loads(out)
        return found


def together(mode: str, kinds: list[tuple[str, int]], size: str, broker: str) -> list[dict[str, Any]]:
    """Run workers at the same time and return their results."""
    workers = [Worker(mode, kind, iterations, size, broker) for kind, iterations in kinds]
    try:
        for one in workers:
            one.wait_ready()
        for one in workers:
            one.go()
        return [one.result() for one in workers]
    finally:
        for one in workers:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()


def percentile(values: list[float], share: float) -> float:
    """Return a percentile, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.colocation")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--functions", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    parser.add_argument("--worker")
    parser.add_argument("--iterations", type=int, default=0)
    arguments = parser.parse_args()
    size = SMOKE if arguments.size == "smoke" else FULL
    if arguments.worker:
        worker(arguments.worker, size, arguments.iterations)
        return 0
    modes = MODES[1:] if arguments.proxied_only else MODES
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        broker = start_broker(Path(scratch))
        try:
            for mode in modes:
                rows += makespans(mode, arguments, size, broker.socket)
            for mode in modes:
                rows.append(beside_heavy(mode, arguments, broker.socket))
        finally:
            broker.terminate()
            broker.wait(10)
    for row in rows:
        print(row)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        command = [word for word in sys.argv[1:] if word not in ("--out", str(arguments.out))]
        text = json.dumps({"machine": machine(), "command": command, "rows": rows}, indent=1)
        (arguments.out / "colocation.json").write_text(text + "\n")
    return 0


def makespans(mode: str, arguments: argparse.Namespace, size: dict[str, Any], broker: str) -> list[dict[str, Any]]:
    """Return a row for each number of functions at once."""
    count = size["requests"]

    def makespan(functions: int) -> float:
        found = [
            max(one["seconds"] for one in together(mode, [("request", count)] * functions, arguments.size, broker))
            for _ in range(arguments.repeat)
        ]
        return statistics.median(found)

    alone = makespan(1)
    rows = [{"what": "alone", "mode": mode, "functions": 1, "seconds": round(alone, 4)}]
    for functions in arguments.functions:
        seconds = makespan(functions)
        rows.append(
            {
                "what": "makespan",
                "mode": mode,
                "functions": functions,
                "seconds": round(seconds, 4),
                "speedup": round(functions * alone / seconds, 3),
            }
        )
    return rows


def beside_heavy(mode: str, arguments: argparse.Namespace, broker: str) -> dict[str, Any]:
    """Return the latencies of a small request beside a heavy neighbour, and the neighbour's rate."""
    count = 3 if arguments.size == "smoke" else 60
    alone = together(mode, [("small", count)], arguments.size, broker)[0]["latencies"]
    seconds = 1 if arguments.size == "smoke" else 6
    small, heavy = together(mode, [("small", count), ("heavy", seconds)], arguments.size, broker)
    return {
        "what": "small request beside a heavy neighbour",
        "mode": mode,
        "alone_p50_ms": round(percentile(alone, 0.5), 3),
        "p50_ms": round(percentile(small["latencies"], 0.5), 3),
        "p99_ms": round(percentile(small["latencies"], 0.99), 3),
        "worst_ms": round(max(small["latencies"]) * 1e3, 3),
        "heavy_per_second": round(len(heavy["latencies"]) / heavy["seconds"], 1),
    }


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
