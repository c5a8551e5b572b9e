"""Run the benchmarks natively and proxied, in turn, in one go; print ratios and write JSON.

::

    python -m bench [NAME…] [--size smoke|full] [--rounds N] [--out DIR] [--proxied-only]

Each round runs pytest-benchmark once in a plain process and once under ``migproxy run`` with the same warm broker,
in alternating
order. A benchmark's figure is the median over its rounds' medians; its spread the smallest and largest of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))
LIBRARIES = ("migproxy", "numpy", "cupy-cuda12x", "cupy-cuda13x", "numba", "numba-cuda", "cuda-bindings", "cuda-core")
TIMEOUT = 900.0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=3, help="native and proxied processes each (default 3)")
    parser.add_argument("--out", type=Path, help="directory for results.json")
    parser.add_argument("--proxied-only", action="store_true", help="no native run, so no ratios (no GPU here)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    modes = ["proxied"] if arguments.proxied_only else ["native", "proxied"]
    samples: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        broker = start_broker(Path(scratch))
        try:
            for number in range(arguments.rounds):
                for mode in modes if number % 2 == 0 else reversed(modes):
                    collect(run_once(mode, arguments, Path(scratch), broker), mode, samples)
        finally:
            broker.terminate()
            broker.wait(10)
    rows = summarise(samples)
    print_table(rows)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {"machine": machine(), "command": sys.argv[1:], "size": arguments.size, "rows": rows}, indent=1
        )
        (arguments.out / "results.json").write_text(text + "\n")
    return 0


class Broker(subprocess.Popen[bytes]):
    """A broker for all proxied rounds."""

    socket = ""


def start_broker(scratch: Path) -> Broker:
    """Start a broker and wait until it listens."""
    path = str(scratch / "broker.sock")
    broker = Broker([sys.executable, "-m", "migproxy", "broker", "--socket", path])
    broker.socket = path
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if broker.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the broker did not start")
        time.sleep(0.05)
    return broker


def run_once(mode: str, arguments: argparse.Namespace, scratch: Path, broker: Broker) -> dict[str, Any]:
    """Run pytest-benchmark in one process and return its JSON."""
    files = [str(HERE / f"test_{name}.py") for name in arguments.names or NAMES]
    output = scratch / f"{mode}.json"
    output.unlink(missing_ok=True)
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={output}", "--timeout=0", *files]
    command = [sys.executable, *pytest]
    if mode == "proxied":
        command = [sys.executable, "-m", "migproxy", "run", "--broker", broker.socket, *pytest]
    env = dict(os.environ, BENCH_SIZE=arguments.size)
    done = subprocess.run(command, env=env, cwd=HERE.parent, timeout=TIMEOUT, capture_output=True, text=True)
    if not output.exists():
        raise SystemExit(f"the {mode} run failed:\n{done.stdout}\n{done.stderr}")
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def collect(result: dict[str, Any], mode: str, samples: dict[str, dict[str, list[float]]]) -> None:
    """Add one run's medians, per call, in seconds."""
    for one in result["benchmarks"]:
        name = f"{Path(one['fullname'].split('::')[0]).stem.removeprefix('test_')}::{one['name'].removeprefix('test_')}"
        calls = one["extra_info"].get("calls", 1)
        samples.setdefault(name, {}).setdefault(mode, []).append(one["stats"]["median"] / calls)


def summarise(samples: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return a row for each benchmark: medians in microseconds, spreads, ratio."""
    rows = []
    for name, by_mode in samples.items():
        row: dict[str, Any] = {"name": name}
        for mode, values in by_mode.items():
            row[mode] = round(statistics.median(values) * 1e6, 3)
            row[f"{mode}_spread"] = [round(min(values) * 1e6, 3), round(max(values) * 1e6, 3)]
        if "native" in row and "proxied" in row:
            row["ratio"] = round(row["proxied"] / row["native"], 3)
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows; times in microseconds."""
    print(f"{'benchmark':44} {'native µs':>12} {'proxied µs':>12} {'ratio':>7}   proxied spread")
    for row in rows:
        spread = row.get("proxied_spread", ["", ""])
        native, proxied = (f"{row[mode]:.2f}" if mode in row else "-" for mode in ("native", "proxied"))
        print(f"{row['name']:44} {native:>12} {proxied:>12} {row.get('ratio', '-')!s:>7}   {spread[0]}…{spread[1]}")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: host, GPU, driver, versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        gpu = "software GPU"
    return {
        "gpu": gpu,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": versions,
    }


if __name__ == "__main__":
    sys.exit(main())
