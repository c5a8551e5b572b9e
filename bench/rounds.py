"""Rounds of benchmarks in processes of their own, and what to make of their figures."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))
LIBRARIES = ("migproxy", "numpy", "cupy-cuda12x", "cupy-cuda13x", "numba", "numba-cuda", "cuda-bindings", "cuda-core")
TIMEOUT = 900.0
#: Name → mode → one figure a round, in seconds.
Samples = dict[str, dict[str, list[float]]]


class Broker(subprocess.Popen[bytes]):
    """A broker for all proxied rounds."""

    socket = ""


def start_broker(scratch: Path, python: str = sys.executable) -> Broker:
    """Start a broker of interpreter `python`'s migproxy and wait until it listens."""
    path = str(scratch / "broker.sock")
    broker = Broker([python, "-m", "migproxy", "broker", "--socket", path])
    broker.socket = path
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if broker.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the broker did not start")
        time.sleep(0.05)
    return broker


def run_once(
    mode: str, names: Sequence[str], size: str, scratch: Path, broker: Broker | None, python: str = sys.executable
) -> dict[str, Any]:
    """Run pytest-benchmark in one process and return its JSON.

    Parameters
    ----------
    mode : str
        ``"native"`` or ``"proxied"``.
    names : sequence of str
        Of `NAMES`; all if empty.
    size : str
        ``"smoke"`` or ``"full"``.
    scratch : Path
        For the JSON file.
    broker : Broker, optional
        For proxied runs.
    python : str
        The interpreter.
    """
    files = [str(HERE / f"test_{name}.py") for name in names or NAMES]
    output = scratch / f"{mode}.json"
    output.unlink(missing_ok=True)
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={output}", "--timeout=0", *files]
    command = [python, *pytest]
    if mode == "proxied":
        assert broker is not None
        command = [python, "-m", "migproxy", "run", "--broker", broker.socket, *pytest]
    env = dict(os.environ, BENCH_SIZE=size)
    done = subprocess.run(command, env=env, cwd=HERE.parent, timeout=TIMEOUT, capture_output=True, text=True)
    if not output.exists():
        raise SystemExit(f"the {mode} run failed:\n{done.stdout}\n{done.stderr}")
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def collect(result: dict[str, Any], mode: str, samples: Samples) -> None:
    """Add one run's medians, per call, in seconds."""
    for one in result["benchmarks"]:
        name = f"{Path(one['fullname'].split('::')[0]).stem.removeprefix('test_')}::{one['name'].removeprefix('test_')}"
        calls = one["extra_info"].get("calls", 1)
        samples.setdefault(name, {}).setdefault(mode, []).append(one["stats"]["median"] / calls)


def summarise(samples: Samples) -> list[dict[str, Any]]:
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
