"""What do several functions on one GPU cost each other?

::

    python -m bench.colocation [--functions 2 4 8] [--workloads inference black_scholes kmeans fft_pipeline]
                               [--ways native proxied mps sequential] [--whole 4]

Runs functions with CPU phases, copies and kernels (`bench/colocation/requests.py`; *inference* is about 45% GPU, 15%
copy and 40% CPU) at 1, 2, 4 and 8 at a time: as plain processes, which the driver time-slices, through one broker, and
as plain processes under MPS where that can be started. Workloads after the first run alone and four at a time. The
figure is the speed-up over running them one after another: N times the time of one alone, by the time until the last
of N has finished; alone in the same way, and alone natively.

``--whole`` starts so many functions whose preparations count and which end after their requests: so a broker in mode
``sequential``, which gives the slice to one function until that ends, can be compared. Last, a small request (50
dependent small kernels, each synchronised) runs beside a function that keeps the GPU busy; the figures are the
request's median, 99th percentile and worst, and the heavy neighbour's rate.

Processes start before the clock starts, and warm up too where they are not measured whole; they repeat a measurement
without starting again. A row that does not finish within its deadline is recorded as that, and the next one is
measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.colocation.groups import TooLate, group
from bench.colocation.requests import WORKLOADS
from bench.colocation.ways import WAYS, NotHere, Way
from bench.rounds import modes_for, served, write_record

Row = dict[str, Any]


def percentile(values: list[float], share: float) -> float:
    """Return a percentile, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


def makespan(way: Way, workload: str, functions: int, repeat: int, size: str) -> Row:
    """Return the row of a number of functions at once."""
    row: Row = {"what": "makespan" if functions > 1 else "alone", "workload": workload, "mode": way.name}
    row["functions"] = functions
    try:
        with group(way, [workload] * functions, size) as running:
            found = [max(one["seconds"] for one in running.measure()) for _ in range(repeat)]
    except TooLate as error:
        return {**row, "error": str(error)}
    return {**row, **seconds_of(found)}


def whole(way: Way, workload: str, functions: int, repeat: int, size: str) -> Row:
    """Return the row of a number of functions from their first use of the GPU to their ends."""
    row: Row = {"what": "whole functions", "workload": workload, "mode": way.name, "functions": functions}
    found = []
    try:
        for _ in range(repeat):
            with group(way, [workload] * functions, size, whole=True) as running:
                found.append(running.until_all_ended())
    except TooLate as error:
        return {**row, "error": str(error)}
    return {**row, **seconds_of(found)}


def seconds_of(found: list[float]) -> Row:
    """Return the median and the spread of a row's measurements."""
    spread = [round(min(found), 4), round(max(found), 4)]
    return {"seconds": round(statistics.median(found), 4), "spread": spread}


def beside_heavy(way: Way, size: str) -> Row:
    """Return the latencies of a small request beside a heavy neighbour, and the neighbour's rate."""
    row: Row = {"what": "small request beside a heavy neighbour", "mode": way.name}
    try:
        with group(way, ["small", "heavy"], size) as running:
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


def compare(row: Row, rows: list[Row]) -> Row:
    """Add the speed-ups over one after another: of the same way, and of plain processes."""
    alone = {each["mode"]: each.get("seconds") for each in rows if each["what"] == "alone" and same(each, row)}
    if row["what"] == "makespan" and "seconds" in row:
        for name, mode in (("speedup", row["mode"]), ("against_native", "native")):
            if alone.get(mode):
                row[name] = round(row["functions"] * alone[mode] / row["seconds"], 3)
    return row


def same(one: Row, other: Row) -> bool:
    """Tell whether two rows are of one workload."""
    return bool(one["workload"] == other["workload"])


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.colocation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--functions", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--workloads", nargs="+", choices=tuple(WORKLOADS), default=["inference"])
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=["native", "proxied"])
    parser.add_argument("--whole", type=int, default=0, help="so many whole functions; 0: none")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = []
    size, repeat = arguments.size, arguments.repeat
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as broker, ExitStack() as stack:

        def add(row: Row) -> None:
            rows.append(row)
            print(row, flush=True)
            # After each row, so that what is cut short leaves what it has measured.
            write_record(arguments.out, "colocation", broker.gpu, size, rows=rows)

        possible = modes_for(broker, arguments.proxied_only)
        ways: dict[str, Way] = {}
        for name in arguments.ways:
            if name in ("native", "mps") and "native" not in possible:
                continue
            try:
                ways[name] = stack.enter_context(WAYS[name](broker, Path(scratch)))
            except NotHere as error:
                add({"what": "not here", "mode": name, "error": str(error)})
        sharing = [way for name, way in ways.items() if name != "sequential"]
        for number, workload in enumerate(arguments.workloads):
            for functions in (1, *(arguments.functions if number == 0 else [4])):
                for way in sharing:
                    add(compare(makespan(way, workload, functions, repeat, size), rows))
        if arguments.whole:
            for way in ways.values():
                add(whole(way, arguments.workloads[0], arguments.whole, repeat, size))
        for way in sharing:
            add(beside_heavy(way, size))
    return int(any("error" in row for row in rows if row["what"] != "not here"))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
