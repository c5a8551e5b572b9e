"""Did a change make proxied code slower? Two commits, built and installed apart, run in turn and compared in pairs.

``python -m bench ab BASE HEAD [NAME…]`` takes benchmarks of the working tree (names of `bench/`, or paths of other
pytest-benchmark files) and runs them in rounds. In a round each commit has a process and a broker of its own; the two
take turns benchmark by benchmark, in alternating order, so that a pair is measured right after one another
(`bench/baton.py`). Exit code 1 if a benchmark became slower.

How it judges: a round's figure is its *fastest* run, which other load on the machine disturbs least. Rounds are pairs,
and a row is slower only if both the bootstrap interval of the pairs' ratios and a paired t-test put it beyond the
smallest effect that counts (``--minimum-effect``), both corrected for the number of rows (`migproxy.testing.pairs`).
Rows that look different are then measured again, with as many fresh rounds; only what shows both times counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import baton
from bench.rounds import (
    HERE,
    NAMES,
    TIMEOUT,
    Samples,
    benchmark_json,
    collect,
    environment,
    for_benchmarks,
    name_of,
    pytest_command,
    start_broker,
)
from migproxy.testing.both import print_rows
from migproxy.testing.pairs import Comparison, compare_all

SIDES = ("base", "head")
DIFFERENT = ("slower", "faster")


def commit(revision: str) -> str:
    """Return a revision's full name."""
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout.strip()


def prepare(revision: str, folder: Path) -> str:
    """Check a commit out, install it into a virtual environment of its own, and return that environment's interpreter.

    Everything but migproxy comes from this interpreter's environment.
    """
    tree = folder / "tree"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), revision], cwd=HERE.parent, check=True)
    return install(tree, folder)


def install(tree: Path, folder: Path) -> str:
    """Install the checkout `tree` into a virtual environment under `folder`; returns its interpreter.

    Raises
    ------
    RuntimeError
        The interpreter finds another migproxy than that one.
    """
    place = folder / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    python = str(place / "bin" / "python")
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    # Links, because cuda.pathfinder looks for CUDA's libraries in site-packages itself and not along sys.path.
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        target = purelib / entry.name
        if not entry.name.startswith(("migproxy", "__editable__", "__pycache__")) and not target.exists():
            target.symlink_to(entry)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--ignore-installed", str(tree)], check=True, env=environment(python))
    code = "import migproxy; print(migproxy.__file__)"
    asked = subprocess.run([python, "-c", code], env=environment(python), cwd=folder, capture_output=True, text=True)
    if not asked.stdout.startswith(str(purelib)):
        raise RuntimeError(f"{python} finds migproxy at {asked.stdout.strip()!r}: {asked.stderr}")
    return python


class Sides:
    """Both commits, installed, each with a broker."""

    def __init__(self, pythons: dict[str, str], folders: dict[str, Path], size: str) -> None:
        self.pythons = pythons
        self._folders = folders
        self._size = size
        # Alone in a folder, so that the measured processes see nothing else of this one's code.
        self._plugins = folders[SIDES[0]].parent / "plugins"
        self._plugins.mkdir()
        shutil.copy(HERE / "baton.py", self._plugins)
        self._brokers = {side: start_broker(folders[side], python) for side, python in pythons.items()}
        #: Benchmark's name → what pytest calls it.
        self.tests: dict[str, str] = {}

    def measure(self, names: Sequence[str], rounds: int, only: Sequence[str] = ()) -> Samples:
        """Run the rounds, of all benchmarks or `only` some of them; returns the figures of both sides."""
        samples: Samples = {}
        tests = [self.tests[name] for name in only]
        for number in range(rounds):
            for side, result in self._round(names, number, tests).items():
                collect(result, side, samples, "min")
                self.tests.update({name_of(one): one["fullname"] for one in result["benchmarks"]})
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        return samples

    def _round(self, names: Sequence[str], number: int, only: list[str]) -> dict[str, dict[str, Any]]:
        """Run the benchmarks once on each side; returns what pytest-benchmark wrote."""
        running: dict[str, subprocess.Popen[bytes]] = {}
        ends = []
        try:
            for side, python in self.pythons.items():
                folder = self._folders[side]
                (folder / "run.json").unlink(missing_ok=True)
                ours, theirs = socket.socketpair()
                ends.append(ours)
                env = environment(python, **for_benchmarks(self._size))
                env.update({"PYTHONPATH": str(self._plugins), baton.VARIABLE: str(theirs.fileno())})
                env[baton.ONLY_VARIABLE] = json.dumps(only) if only else ""
                words = pytest_command("proxied", names, folder / "run.json", self._brokers[side], python, "baton")
                with open(folder / "run.log", "wb") as log, theirs:
                    running[side] = subprocess.Popen(
                        words, env=env, cwd=HERE.parent, stdout=log, stderr=log, pass_fds=[theirs.fileno()]
                    )
            baton.take_turns(ends, number, TIMEOUT)
            codes = {side: process.wait(60) for side, process in running.items()}
        finally:
            for process in running.values():
                process.kill()
                process.wait(30)
            for end in ends:
                end.close()
        return {
            side: benchmark_json(side, self._folders[side] / "run.json", code, said(self._folders[side]))
            for side, code in codes.items()
        }

    def close(self) -> None:
        """End the brokers."""
        for broker in self._brokers.values():
            broker.stop()


def said(folder: Path) -> str:
    """Return what a side's last run printed."""
    return (folder / "run.log").read_text(errors="replace")


def judge(measure: Callable[[Sequence[str]], Samples], effect: float) -> list[Comparison]:
    """Measure, and measure again what looks different; returns a row for each benchmark.

    Parameters
    ----------
    measure : callable
        Returns the figures of both sides for the benchmarks that it is given the names of; for all if there are none.
    effect : float
        The smallest relative change that counts.
    """
    rows = compare(measure(()), effect)
    suspects = [row.name for row in rows if row.verdict in DIFFERENT]
    if suspects:
        print("again:", ", ".join(suspects), file=sys.stderr, flush=True)
        rows = confirm(rows, compare(measure(suspects), effect))
    return rows


def compare(samples: Samples, effect: float) -> list[Comparison]:
    """Compare all benchmarks that ran on both sides."""
    pairs = {name: (found["base"], found["head"]) for name, found in samples.items() if len(found) == 2}
    return compare_all(pairs, tolerance=effect)


def confirm(rows: Sequence[Comparison], again: Sequence[Comparison]) -> list[Comparison]:
    """Return the rows; a difference that the second measurement does not show is ``"unclear"``."""
    second = {row.name: row for row in again}
    return [
        replace(row, verdict="unclear")
        if row.verdict in DIFFERENT and second[row.name].verdict != row.verdict
        else second.get(row.name, row)
        for row in rows
    ]


def main(arguments: list[str]) -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench ab")
    parser.add_argument("base", help="the commit before")
    parser.add_argument("head", help="the commit after")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}, or paths of pytest-benchmark files")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of processes (default 15)")
    parser.add_argument("--minimum-effect", type=float, default=0.05, help="smallest change that counts (default 0.05)")
    parser.add_argument("--out", type=Path, help="write all figures and verdicts to this file, as JSON")
    options = parser.parse_args(arguments)
    names = [str(Path(name).resolve()) if name not in NAMES else name for name in options.names]
    with tempfile.TemporaryDirectory(prefix="migproxy-ab-") as scratch:
        folders = {side: Path(scratch) / side for side in SIDES}
        try:
            pythons = {}
            for side in SIDES:
                folders[side].mkdir()
                pythons[side] = prepare(getattr(options, side), folders[side])
            sides = Sides(pythons, folders, options.size)
            measured: list[Samples] = []

            def measure(only: Sequence[str]) -> Samples:
                measured.append(sides.measure(names, options.rounds, only))
                return measured[-1]

            try:
                rows = judge(measure, options.minimum_effect)
            finally:
                sides.close()
        finally:
            for side in SIDES:
                remove = ["git", "worktree", "remove", "--force", str(folders[side] / "tree")]
                subprocess.run(remove, cwd=HERE.parent, check=False)
    print_rows(rows, sides=SIDES)
    if options.out is not None:
        facts: dict[str, Any] = {name: getattr(options, name) for name in ("size", "rounds", "minimum_effect")}
        facts |= {side: commit(getattr(options, side)) for side in SIDES}
        record = {**facts, "measured": measured, "rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(row.verdict == "slower" for row in rows))
