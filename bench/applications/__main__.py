"""What does a whole program cost through the proxy?

::

    python -m bench.applications [--rodinia] [--npbench PATH] [--pyhpc PATH] [--presets S M] [--only NAME…]

Runs a Rodinia-like set (`bench/applications/rodinia.py`, checked against NumPy), and from checkouts that are given by
path, NPBench's CuPy benchmarks (https://github.com/spcl/npbench) and pyhpc-benchmarks' CuPy kernels
(https://github.com/dionhaefner/pyhpc-benchmarks), unmodified. A native and a function process stay up side by side and
take turns, program by program: native, proxied, proxied, native. A program's first invocation, with its compilations,
does not count; its figure is the median of the others, its ratio proxied by native. Where NumPy's own result is not at
hand, the results of both modes are compared with each other.

``--numpy`` takes no times: it runs each program once as a function and compares its results with those of NumPy's
version, by the norm of the difference relative to NumPy's.

*Array calls* of an invocation are what its executor counted: launches, library calls, memsets and device copies.
"""

from __future__ import annotations

import argparse
import json
import math
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.applications.external import PYHPC, npbench_names
from bench.rounds import Broker, command_for, environment, modes_for, served, write_record
from migproxy.abi.control import ListSessions, Sessions
from migproxy.cli.control import BrokerClient

RODINIA = ("bfs", "hotspot", "pathfinder", "gaussian", "srad", "lavaMD", "nw", "kmeans")
#: Array calls of one invocation: where the next band begins, and the bands' names.
BANDS = ((50, "under 50"), (2_000, "50 to 2,000"), (40_000, "2,000 to 40,000"), (math.inf, "above 40,000"))
CALLS = ("launch", "launch_ex", "graph_launch", "library_call", "memset", "copy_dtod")
#: Sums of absolute values may differ by so much between modes: the order of atomics and reductions is free.
AGREE = 1e-3
#: Relative norm of the difference to NumPy's results. Some programs compute with 32 bits.
NUMPY_AGREES = 1e-4


class Runner:
    """A worker process in one mode; started anew if it ended or hangs."""

    def __init__(self, mode: str, broker: Broker) -> None:
        self.mode = mode
        self._command = command_for(mode, ["-m", "bench.applications.worker"], broker)
        self._broker = broker
        self._process: subprocess.Popen[str] | None = None

    def ask(self, what: str, limit: float, **arguments: Any) -> dict[str, Any]:
        """Have it do something; an answer with ``error`` if that failed or took longer than `limit` seconds."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"what": what, "limit": limit, **arguments}) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(limit + 8) else ""
        if not line:
            self.stop()
            return {"error": f"the {self.mode} process ended or did not answer"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        root = Path(__file__).resolve().parent.parent.parent
        env = environment(NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS="0", PYTHONWARNINGS="ignore")
        return subprocess.Popen(
            self._command, env=env, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def array_calls(self) -> int:
        """Return how many array calls its executor has counted so far.

        Listing sessions has executors report, and a later list has what they said: so until it does not change.
        """
        assert self._process is not None
        client = BrokerClient(self._broker.socket)
        found: list[int] = []
        try:
            while len(found) < 5 or len(set(found[-3:])) > 1:
                rows = [row for row in client.ask(ListSessions(), Sessions).rows if row.pid == self._process.pid]
                found.append(sum(row.counters.get(name, 0) for row in rows for name in CALLS))
                time.sleep(0.02)
        finally:
            client.close()
        return found[-1]

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None


def measure(
    runners: Sequence[Runner], program: dict[str, str], seconds: float, limit: float, load_limit: float
) -> dict[str, Any]:
    """Return a program's row."""
    row: dict[str, Any] = {"suite": program["suite"], "name": program["name"], "preset": program["preset"]}
    loaded = {}
    for runner in runners:
        loaded[runner.mode] = runner.ask("load", load_limit, **program)
        if "error" in loaded[runner.mode]:
            row["error"] = f"{runner.mode}: {loaded[runner.mode]['error']}"
            return row
    row["checked"] = all(each["checked"] for each in loaded.values())
    if len(loaded) == 2:
        row["agree"] = agree(loaded["native"]["digest"], loaded["proxied"]["digest"])
    proxied = runners[-1]
    before = proxied.array_calls()
    once = proxied.ask("run", limit, seconds=0.0, most=1)
    row["array_calls"] = proxied.array_calls() - before
    times: dict[str, list[float]] = {}
    shares: dict[str, dict[str, list[float]]] = {}
    for runner in (*runners, *reversed(runners)) if "error" not in once else ():
        answer = runner.ask("run", limit * 2 + seconds, seconds=seconds / 2, most=30)
        if "error" in answer:
            once = answer
            break
        times.setdefault(runner.mode, []).extend(answer["times"])
        for kind, took in answer["shares"].items():
            shares.setdefault(runner.mode, {}).setdefault(kind, []).extend(took)
    for runner in runners:
        runner.ask("end", 30)
    if "error" in once:
        row["error"] = once["error"]
        return row
    for mode, found in times.items():
        row[mode] = round(statistics.median(found) * 1e6, 1)
        row[f"{mode}_spread"] = [round(min(found) * 1e6, 1), round(max(found) * 1e6, 1)]
        if mode in shares:
            row[f"{mode}_split"] = {k: round(statistics.median(v) * 1e6, 1) for k, v in shares[mode].items()}
    if len(times) == 2:
        row["ratio"] = round(row["proxied"] / row["native"], 3)
    return row


def compare(runner: Runner, program: dict[str, str], limit: float) -> dict[str, Any]:
    """Return a program's row for ``--numpy``."""
    row: dict[str, Any] = {"suite": program["suite"], "name": program["name"], "preset": program["preset"]}
    answer = runner.ask("load", limit, **program)
    if "error" not in answer:
        answer = runner.ask("compare", 3 * limit)
    runner.ask("end", 30)
    if "error" in answer:
        return {**row, "error": answer["error"]}
    return {**row, "off": answer["off"], "agree": answer["off"] <= NUMPY_AGREES}


def agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two digests say the same."""
    pairs = list(zip(first, second, strict=False))
    return len(first) == len(second) and all(math.isclose(a, b, rel_tol=AGREE, abs_tol=AGREE) for a, b in pairs)


def band(calls: int) -> str:
    """Return the band of a number of array calls."""
    return next(name for end, name in BANDS if calls < end)


def bands(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the geometric mean of the ratios by suite, preset and band."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if "ratio" in row:
            groups.setdefault((row["suite"], row["preset"], band(row["array_calls"])), []).append(row["ratio"])
    names = [name for _, name in BANDS]
    found = []
    for suite, preset, name in sorted(groups, key=lambda group: (*group[:2], names.index(group[2]))):
        ratios = groups[suite, preset, name]
        mean = round(math.exp(statistics.fmean(map(math.log, ratios))), 3)
        row = {"suite": suite, "preset": preset, "array_calls": name, "programs": len(ratios), "geometric_mean": mean}
        found.append({**row, "range": [min(ratios), max(ratios)]})
    return found


def programs(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Return what the command line asks for."""
    found = []
    if arguments.rodinia or not (arguments.npbench or arguments.pyhpc):
        found += [{"suite": "rodinia", "root": "", "name": name, "preset": arguments.size} for name in RODINIA]
    presets = ["smoke"] if arguments.size == "smoke" else arguments.presets
    for preset in presets:
        if arguments.npbench:
            root = str(arguments.npbench.resolve())
            names = npbench_names(arguments.npbench)
            found += [{"suite": "npbench", "root": root, "name": name, "preset": preset} for name in names]
        if arguments.pyhpc:
            root = str(arguments.pyhpc.resolve())
            found += [{"suite": "pyhpc", "root": root, "name": name, "preset": preset} for name in PYHPC]
    return [one for one in found if not arguments.only or one["name"] in arguments.only]


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.applications", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rodinia", action="store_true", help="the own set too; alone if no path is named")
    parser.add_argument("--npbench", type=Path, help="a checkout of NPBench")
    parser.add_argument("--pyhpc", type=Path, help="a checkout of pyhpc-benchmarks")
    parser.add_argument("--presets", nargs="*", choices=("S", "M"), default=["S", "M"])
    parser.add_argument("--only", nargs="*", help="names of programs")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time per program and mode (default 1)")
    parser.add_argument("--limit", type=float, default=20.0, help="leave out what takes longer at a time (default 20)")
    parser.add_argument("--budget", type=float, default=math.inf, help="start no program after so many seconds")
    parser.add_argument("--memory", default="", help="the function's quota")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    parser.add_argument("--numpy", action="store_true", help="compare results with NumPy's, as a function only")
    arguments = parser.parse_args()
    begin = time.monotonic()
    chosen = programs(arguments)
    options = ("--default-memory", arguments.memory) if arguments.memory else ()
    rows: list[dict[str, Any]] = []
    seconds = 0.0 if arguments.size == "smoke" else arguments.seconds
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), options) as broker:
        modes = modes_for(broker, arguments.proxied_only or arguments.numpy)
        runners = [Runner(mode, broker) for mode in (modes[-1:] if arguments.numpy else modes)]
        try:
            for number, program in enumerate(chosen):
                if time.monotonic() - begin > arguments.budget:
                    rows += [{**each, "root": "", "error": "no time was left"} for each in chosen[number:]]
                    break
                # NumPy's own result takes its time.
                load_limit = 60.0 if program["suite"] == "rodinia" else 3 * arguments.limit
                if arguments.numpy:
                    rows.append(compare(runners[0], program, load_limit))
                else:
                    rows.append(measure(runners, program, seconds, arguments.limit, load_limit))
                print(describe(rows[-1]), flush=True)
                write_record(arguments.out, "applications", broker.gpu, arguments.size, rows=rows, bands=bands(rows))
        finally:
            for runner in runners:
                runner.stop()
        write_record(arguments.out, "applications", broker.gpu, arguments.size, rows=rows, bands=bands(rows))
    for one in bands(rows):
        print(one)
    wrong = [row for row in rows if not row.get("agree", True)]
    return int(bool(wrong) or (arguments.size == "smoke" and any("error" in row for row in rows)))


def describe(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    name = f"{row['suite']}:{row['name']}-{row['preset']}"
    if "error" in row:
        return f"{name:40} {row['error']}"
    if "off" in row:
        return f"{name:40} off NumPy's by {row['off']:.1e}{'' if row['agree'] else '  RESULTS DIFFER'}"
    times = "  ".join(f"{mode} {row[mode] / 1e3:10.3f} ms" for mode in ("native", "proxied") if mode in row)
    said = "" if row.get("agree", True) else "  RESULTS DIFFER"
    return f"{name:40} {times}  ratio {row.get('ratio', '-')}  {row['array_calls']} array calls{said}"


if __name__ == "__main__":
    sys.exit(main())
