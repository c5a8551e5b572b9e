"""What do several functions on one GPU cost each other?

``python -m bench.colocation`` runs functions like inference requests, about 45% GPU (matrix products), 15% copy and
40% CPU, at 1, 2, 4 and 8 at a time: natively (the driver time-slices the processes) and through one broker. The figure
is the speed-up over running them one after another: N times the time of one alone, by the time until the last of N has
finished. Then a small request (50 dependent small kernels, each synchronised) runs beside a function that keeps the GPU
busy; the figures are the request's median, 99th percentile and worst, and the heavy neighbour's rate.

Processes start and warm up before the clock starts; they repeat a measurement without starting again. A row that does
not finish within its deadline is recorded as that, and the next one is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rounds import Broker, command_for, environment, modes_for, served, write_record

SMOKE: dict[str, Any] = {
    **{"matrix": 64, "copy": 1 << 16, "spin": 0.001, "requests": 3, "memory": "256MiB"},
    **{"small": 1 << 10, "small_requests": 2, "seconds": 0.3},
}
FULL: dict[str, Any] = {
    **{"matrix": 4096, "copy": 100 << 20, "spin": 0.004, "requests": 60, "memory": "4GiB"},
    **{"small": 1 << 20, "small_requests": 60, "seconds": 5},
}
#: For starting a function and for what it measures, in seconds.
START, DEADLINE = 90.0, 60.0


# -- in the function ---------------------------------------------------------------------------------------------------
def spin(seconds: float) -> None:
    """The CPU phase."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def worker(kind: str, size: dict[str, Any]) -> None:
    """Prepare, say ``ready``; then for each line that comes, measure, and print what came of it as JSON."""
    import cupy as cp

    a = cp.random.rand(size["matrix"], size["matrix"], dtype=cp.float32)
    host = cp.cuda.alloc_pinned_memory(size["copy"])
    device = cp.empty(size["copy"], cp.uint8)
    small = cp.ones(size["small"], dtype=cp.float32)
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
    for _ in sys.stdin:
        print(json.dumps(measured(kind, once, size)), flush=True)


def measured(kind: str, once: Callable[[], None], size: dict[str, Any]) -> dict[str, Any]:
    """Run the requests; returns all of their time, and each one's."""
    latencies = []
    start = time.perf_counter()
    if kind == "heavy":
        while time.perf_counter() - start < size["seconds"]:
            once()
            latencies.append(0.0)
    else:
        for _ in range(size["requests"] if kind == "request" else size["small_requests"]):
            if kind == "small":
                time.sleep(0.005)
            begin = time.perf_counter()
            once()
            latencies.append(time.perf_counter() - begin)
    return {"seconds": time.perf_counter() - start, "latencies": latencies}


# -- around it ---------------------------------------------------------------------------------------------------------
class TooLate(Exception):
    """A function did not answer by its deadline."""


class Worker:
    """One function or native process."""

    def __init__(self, mode: str, kind: str, size: str, broker: Broker) -> None:
        inner = ["-m", "bench.colocation", "--worker", kind, "--size", size]
        memory = (SMOKE if size == "smoke" else FULL)["memory"]
        self.process = subprocess.Popen(
            command_for(mode, inner, broker, "--memory", memory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).resolve().parent.parent,
            env=environment(),
        )

    def line(self, deadline: float) -> str:
        """Return its next line.

        Raises
        ------
        TooLate
            None came by `deadline`, or the process ended.
        """
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            text = self.process.stdout.readline() if selector.select(max(0, deadline - time.monotonic())) else ""
        if not text:
            raise TooLate(f"no answer in time; exit code {self.process.poll()}")
        return text.strip()

    def go(self) -> None:
        """Start its measured part."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Group:
    """Workers that measure at the same time, any number of times."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    def measure(self, *only: int) -> list[dict[str, Any]]:
        """Run all, or `only` some by number, at the same time and return their results."""
        chosen = [self._workers[number] for number in only] if only else self._workers
        for one in chosen:
            one.go()
        deadline = time.monotonic() + DEADLINE
        return [json.loads(one.line(deadline)) for one in chosen]


@contextmanager
def group(mode: str, kinds: list[str], size: str, broker: Broker) -> Iterator[Group]:
    """Start workers, for a ``with`` block."""
    workers: list[Worker] = []
    try:
        workers += [Worker(mode, kind, size, broker) for kind in kinds]
        deadline = time.monotonic() + START
        for one in workers:
            if (said := one.line(deadline)) != "ready":
                raise TooLate(f"a function said {said!r}")
        yield Group(workers)
    finally:
        for one in workers:
            one.end()


def percentile(values: list[float], share: float) -> float:
    """Return a percentile, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


def makespan(mode: str, functions: int, repeat: int, size: str, broker: Broker) -> dict[str, Any]:
    """Return the row of a number of functions at once."""
    row: dict[str, Any] = {"what": "makespan" if functions > 1 else "alone", "mode": mode, "functions": functions}
    try:
        with group(mode, ["request"] * functions, size, broker) as running:
            found = [max(one["seconds"] for one in running.measure()) for _ in range(repeat)]
    except TooLate as error:
        return {**row, "error": str(error)}
    spread = [round(min(found), 4), round(max(found), 4)]
    return {**row, "seconds": round(statistics.median(found), 4), "spread": spread}


def beside_heavy(mode: str, size: str, broker: Broker) -> dict[str, Any]:
    """Return the latencies of a small request beside a heavy neighbour, and the neighbour's rate."""
    row: dict[str, Any] = {"what": "small request beside a heavy neighbour", "mode": mode}
    try:
        with group(mode, ["small", "heavy"], size, broker) as running:
            alone = running.measure(0)[0]["latencies"]
            rate = running.measure(1)[0]
            small, heavy = running.measure()
    except TooLate as error:
        return {**row, "error": str(error)}
    return {
        **row,
        "alone_p50_ms": round(percentile(alone, 0.5), 3),
        "p50_ms": round(percentile(small["latencies"], 0.5), 3),
        "p99_ms": round(percentile(small["latencies"], 0.99), 3),
        "worst_ms": round(max(small["latencies"]) * 1e3, 3),
        "heavy_alone_per_second": round(len(rate["latencies"]) / rate["seconds"], 1),
        "heavy_per_second": round(len(heavy["latencies"]) / heavy["seconds"], 1),
    }


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.colocation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--functions", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, SMOKE if arguments.size == "smoke" else FULL)
        return 0
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        # After each row, so that what is cut short leaves what it has measured.
        write_record(arguments.out, "colocation", broker.gpu, arguments.size, rows=rows)

    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as broker:
        modes = modes_for(broker, arguments.proxied_only)
        alone = {}
        for functions in (1, *arguments.functions):
            for mode in modes:
                row = makespan(mode, functions, arguments.repeat, arguments.size, broker)
                if functions == 1:
                    alone[mode] = row.get("seconds", 0.0)
                if functions > 1 and "seconds" in row:
                    row["speedup"] = round(functions * alone[mode] / row["seconds"], 3)
                add(row)
        for mode in modes:
            add(beside_heavy(mode, arguments.size, broker))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
