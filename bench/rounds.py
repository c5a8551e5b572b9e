"""Brokers and rounds: what all commands of the benchmarks share."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migproxy.cli.control import BrokerClient
from migproxy.errors import UsageError
from migproxy.testing.machine import SOFTWARE, device_name, machine

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))
MODES = ("native", "proxied")
TIMEOUT = 900.0
#: Name → side → one figure a round, in seconds.
Samples = dict[str, dict[str, list[float]]]


class Broker(subprocess.Popen[bytes]):
    """A broker for all proxied rounds.

    Attributes
    ----------
    socket : str
        Where it listens.
    gpu : str
        What it serves, as records name it.
    """

    socket = ""
    gpu = ""

    def stop(self) -> None:
        """End it."""
        self.terminate()
        self.wait(10)


def start_broker(scratch: Path, python: str = sys.executable, *, options: Sequence[str] = ()) -> Broker:
    """Start a broker of interpreter `python`'s migproxy and wait until it listens."""
    path = str(scratch / "broker.sock")
    device = os.environ.get("MIGPROXY_DEVICE") or "auto"
    command = [python, "-m", "migproxy", "broker", "--socket", path, "--device", device, *options]
    command += ["--parent-pid", str(os.getpid())]  # so that it ends with this process, however that ends
    broker = Broker(command, cwd=scratch, env=environment(python), stdout=subprocess.DEVNULL)
    broker.socket = path
    deadline = time.monotonic() + 60
    while not answers(path):
        if broker.poll() is not None or time.monotonic() > deadline:
            broker.kill()
            broker.wait(10)
            raise SystemExit("the broker did not start")
        time.sleep(0.02)
    return broker


def answers(path: str) -> bool:
    """Return whether a broker listens there."""
    try:
        BrokerClient(path).close()
    except UsageError:
        return False
    return True


@contextmanager
def served(scratch: Path, options: Sequence[str] = ()) -> Iterator[Broker]:
    """Run a broker of this interpreter for a ``with`` block; knows its device.

    SIGTERM, as a time limit sends it, ends the block in order: nothing that was started is left behind.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    broker = start_broker(scratch, options=options)
    try:
        client = BrokerClient(broker.socket)
        slices = client.status().slices
        client.close()
        broker.gpu = SOFTWARE if slices[0].kind == "software" else device_name()
        yield broker
    finally:
        broker.stop()


def modes_for(broker: Broker, proxied_only: bool) -> tuple[str, ...]:
    """Return the modes that can be compared: natively there is no software GPU.

    Raises
    ------
    SystemExit
        Native runs are asked for, but the broker serves a software GPU.
    """
    if proxied_only:
        return ("proxied",)
    if broker.gpu == SOFTWARE:
        raise SystemExit("nothing to compare with: there is no GPU here (--proxied-only measures on the software GPU)")
    return MODES


def in_turn(modes: Sequence[str], number: int) -> list[str]:
    """Return the order of round `number`: alternating, so that drifts cancel."""
    return list(modes) if number % 2 == 0 else list(reversed(modes))


def without_own(env: dict[str, str]) -> dict[str, str]:
    """Return an environment without what a function's process carries."""
    kept = ("MIGPROXY_CACHE_DIR",)
    return {name: value for name, value in env.items() if not name.startswith("MIGPROXY_") or name in kept}


def environment(python: str = sys.executable, **more: str) -> dict[str, str]:
    """Return the environment of measured processes; that of another interpreter finds that one's packages only."""
    env = {**without_own(dict(os.environ)), **more}
    if python != sys.executable:
        # Otherwise the working tree, which is the current directory or on the path, hides what is installed.
        env.pop("PYTHONPATH", None)
        env["PYTHONSAFEPATH"] = "1"
    return env


def command_for(mode: str, arguments: Sequence[str], broker: Broker, *options: str, python: str = "") -> list[str]:
    """Return the command line of ``python ARGUMENTS`` in a mode; `options` are those of ``migproxy run``."""
    python = python or sys.executable
    if mode == "native":
        return [python, *arguments]
    return [python, "-m", "migproxy", "run", "--broker", broker.socket, *options, *arguments]


def pytest_command(
    mode: str, names: Sequence[str], output: Path, broker: Broker, python: str = sys.executable, plugin: str = ""
) -> list[str]:
    """Return the command line that runs benchmarks in a mode and writes pytest-benchmark's JSON to `output`.

    Parameters
    ----------
    mode : str
        ``"native"`` or ``"proxied"``.
    names : sequence of str
        Of `NAMES`, or paths and pytest's ids; all of `NAMES` if empty.
    output : Path
    broker : Broker
        For proxied runs.
    python : str
        The interpreter.
    plugin : str
        A further pytest plugin.
    """
    # From the root, so that files anywhere have names.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0", "--import-mode=importlib"]
    for each in ("pytest_benchmark.plugin", "pytest_timeout", plugin):
        pytest += ["-p", each] if each else []
    pytest += [f"--benchmark-json={output}", "--benchmark-columns=median", "-c", str(HERE.parent / "pyproject.toml")]
    return command_for(mode, [*pytest, "--rootdir", "/", *files_of(names)], broker, python=python)


def run_once(mode: str, names: Sequence[str], size: str, scratch: Path, broker: Broker) -> dict[str, Any]:
    """Run benchmarks in one process and return pytest-benchmark's JSON, with pytest's exit code as ``exit_code``."""
    output = scratch / f"{mode}.json"
    output.unlink(missing_ok=True)
    command, env = pytest_command(mode, names, output, broker), environment(**for_benchmarks(size))
    done = subprocess.run(command, env=env, cwd=HERE.parent, timeout=TIMEOUT, capture_output=True, text=True)
    return benchmark_json(mode, output, done.returncode, done.stdout + done.stderr)


def for_benchmarks(size: str) -> dict[str, str]:
    """Return what benchmarks find in their environment. Of pytest's plugins only those that are named are loaded."""
    return {"BENCH_SIZE": size, "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def benchmark_json(side: str, output: Path, exit_code: int, said: str) -> dict[str, Any]:
    """Return what a run of pytest-benchmark wrote.

    Raises
    ------
    SystemExit
        It wrote nothing.
    """
    if not output.exists() or not output.stat().st_size:
        raise SystemExit(f"the {side} run failed:\n{said}")
    if exit_code:
        print(f"of the {side} run, some failed:", said[-6000:], sep="\n", file=sys.stderr)
    found: dict[str, Any] = json.loads(output.read_text())
    return {**found, "exit_code": exit_code}


def files_of(names: Sequence[str]) -> list[str]:
    """Return what pytest is given for these benchmarks."""
    return [str(HERE / f"test_{name}.py") if name in NAMES else name for name in names or NAMES]


def name_of(benchmark: dict[str, Any]) -> str:
    """Return a benchmark's name in tables: its own if it has one, else file and function."""
    own = benchmark["extra_info"].get("id")
    file = Path(benchmark["fullname"].split("::")[0]).stem.removeprefix("test_")
    return str(own) if own else f"{file}::{benchmark['name'].removeprefix('test_')}"


def collect(result: dict[str, Any], side: str, samples: Samples, figure: str = "median") -> None:
    """Add one run's figures, per call, in seconds; `figure` is one of pytest-benchmark's, as ``median`` or ``min``."""
    for one in result["benchmarks"]:
        calls = one["extra_info"].get("calls", 1)
        samples.setdefault(name_of(one), {}).setdefault(side, []).append(one["stats"][figure] / calls)


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


def write_record(out: Path | None, question: str, gpu: str, size: str, **found: Any) -> None:
    """Write what a command measured to ``OUT/QUESTION.json``, with all that it depends on."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    # Where the figures went is nobody else's business; everything else makes them again.
    words = iter(sys.argv[1:])
    command = [Path(word).name if "/" in word else word for word in words if not (word == "--out" and next(words, ""))]
    program = Path(sys.argv[0])
    module = "bench" if program.name == "__main__.py" else f"bench.{program.stem}"
    if program.name == "__main__.py" and program.parent.name != "bench":
        module = f"bench.{program.parent.name}"
    facts = {"machine": machine(gpu), "command": ["python", "-m", module, *command], "size": size, **found}
    (out / f"{question}.json").write_text(json.dumps(facts, indent=1) + "\n")
