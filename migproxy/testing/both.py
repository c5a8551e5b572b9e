"""``pytest --migproxy=both``: pairs of runs, a table of outcomes and ratios, and JSON for pytest-benchmark."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migproxy.testing.machine import SOFTWARE, device_name
from migproxy.testing.pairs import Comparison, compare_all
from migproxy.testing.plugin import run_child, scratch
from migproxy.testing.processes import child_environment, functions_environment

if TYPE_CHECKING:
    import pytest

MODES = ("native", "proxied")
Runs = dict[str, list[dict[str, Any]]]


def run_both(config: pytest.Config, arguments: list[str]) -> int:
    """Run the pairs and print what came of them.

    Returns
    -------
    int
        0 when every test has the same outcome in both modes and none failed; 1 otherwise; the child's own code for
        usage errors.
    """
    rounds = config.getoption("--migproxy-rounds")
    function_env = functions_environment(os.getpid())
    outcomes: Runs = {mode: [] for mode in MODES}
    benchmarks: Runs = {mode: [] for mode in MODES}
    with scratch() as folder:
        for number in range(rounds):
            for mode in MODES if number % 2 == 0 else reversed(MODES):
                print(f"migproxy: round {number + 1} of {rounds}, {mode}", flush=True)
                code = _one(mode, arguments, Path(folder), function_env, config, outcomes, benchmarks)
                if code:
                    return code
    rows = comparisons(outcomes, benchmarks)
    same = print_outcomes(outcomes)
    print_rows(rows)
    if config.getoption("--migproxy-json"):
        write_json(Path(config.getoption("--migproxy-json")), benchmarks)
    if config.getoption("--migproxy-report"):
        from migproxy.testing.report import write_report

        gpu = devices(os.environ.get("MIGPROXY_DEVICE", ""))
        print("report:", write_report(Path(config.getoption("--migproxy-report")), rows, command=sys.argv, gpu=gpu))
    return 0 if same else 1


def devices(asked: str) -> str:
    """Return the device of both modes as the report names it; natively nothing runs on the software GPU.

    Parameters
    ----------
    asked : str
        What functions are told to use, as ``--device``.
    """
    native = device_name()
    if asked != "software" or native == SOFTWARE:
        return native
    return f"{SOFTWARE} (proxied) beside {native} (native): not comparable"


def _one(
    mode: str,
    arguments: list[str],
    folder: Path,
    function_env: dict[str, str],
    config: pytest.Config,
    outcomes: Runs,
    benchmarks: Runs,
) -> int:
    """Run one child; returns 0, or the exit code of a child that could not run tests."""
    told, timed = folder / "outcomes.json", folder / "benchmark.json"
    told.unlink(missing_ok=True)
    timed.unlink(missing_ok=True)
    extra = [f"--benchmark-json={timed}"] if find_spec("pytest_benchmark") else []
    env = child_environment(mode, str(told), function_env)
    done = run_child([*arguments, *extra], env, config.invocation_params.dir)
    if not told.exists() or done.returncode not in (0, 1, 5):
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        return done.returncode or 1
    outcomes[mode].append(json.loads(told.read_text()))
    benchmarks[mode].append(json.loads(timed.read_text()) if timed.exists() and timed.stat().st_size else {})
    if done.returncode == 1:
        print(done.stdout, file=sys.stderr)
    return 0


def comparisons(outcomes: Runs, benchmarks: Runs) -> list[Comparison]:
    """Return a row for each test that passed in every run of both modes: by its benchmark if it has one."""
    timed = {mode: [_medians(run) for run in benchmarks[mode]] for mode in MODES}
    samples: dict[str, tuple[list[float], list[float]]] = {}
    for name in outcomes["native"][0]:
        runs = [run.get(name) for mode in MODES for run in outcomes[mode]]
        if any(run is None or run["outcome"] != "passed" for run in runs):
            continue
        values = {}
        for mode in MODES:
            medians = [run.get(name) for run in timed[mode]]
            if any(value is None for value in medians):
                values[mode] = [run[name]["seconds"] for run in outcomes[mode]]
            else:
                values[mode] = [float(value) for value in medians if value is not None]
        samples[name] = values["native"], values["proxied"]
    return compare_all(samples)


def _medians(run: dict[str, Any]) -> dict[str, float]:
    return {one["fullname"]: one["stats"]["median"] for one in run.get("benchmarks", ())}


def print_outcomes(outcomes: Runs) -> bool:
    """Print the tests whose outcome differs between the modes or that failed; returns whether there were none."""
    good = True
    for name in sorted({name for mode in MODES for run in outcomes[mode] for name in run}):
        said = {mode: sorted({run.get(name, {}).get("outcome", "missing") for run in outcomes[mode]}) for mode in MODES}
        if said["native"] != said["proxied"] or said["native"] not in (["passed"], ["skipped"]):
            good = False
            print(f"{name}: native {'/'.join(said['native'])}, proxied {'/'.join(said['proxied'])}")
    return good


def print_rows(rows: list[Comparison], sides: tuple[str, str] = MODES) -> None:
    """Print the table of pairs; `sides` names its two columns of times."""
    if not rows:
        print(f"migproxy: no test passed in every run of both modes ({', '.join(sides)}): nothing to compare")
        return
    width = max(len(row.name) for row in rows)
    base, other = sides
    print(f"{'test':{width}}  {base:>10}  {other:>10}  {'ratio':>6}  {'95% interval':>15}  verdict")
    for row in rows:
        interval = f"{row.low:.3f} … {row.high:.3f}"
        times = f"{seconds(row.base):>10}  {seconds(row.other):>10}"
        print(f"{row.name:{width}}  {times}  {row.ratio:6.3f}  {interval:>15}  {row.verdict}")


def seconds(value: float) -> str:
    """Return a duration with a unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value * 1e9:.0f} ns"


def write_json(folder: Path, benchmarks: Runs) -> None:
    """Write each mode's last run as pytest-benchmark wrote it: ``pytest-benchmark compare`` reads both."""
    folder.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        runs = [run for run in benchmarks[mode] if run]
        if runs:
            (folder / f"{mode}.json").write_text(json.dumps(runs[-1], indent=1))
