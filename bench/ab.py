"""Did a change make proxied code slower? Two commits, built and installed apart, run in turn and compared in pairs.

``python -m bench ab BASE HEAD [NAME…]``: each round runs the benchmarks once with each commit's migproxy, in
alternating order; the
benchmarks themselves are the working tree's. Exit code 1 if a benchmark became slower beyond the noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from bench.rounds import HERE, NAMES, Samples, collect, run_once, start_broker
from migproxy.testing.both import print_rows
from migproxy.testing.pairs import compare


def prepare(revision: str, folder: Path) -> str:
    """Check a commit out, install it into a virtual environment of its own, and return that environment's interpreter.

    Everything but migproxy comes from this interpreter's environment.
    """
    tree = folder / "tree"
    subprocess.run(["git", "worktree", "add", "--detach", str(tree), revision], cwd=HERE.parent, check=True)
    return install(tree, folder)


def install(tree: Path, folder: Path) -> str:
    """Install the checkout `tree` into a virtual environment under `folder`; returns its interpreter."""
    environment = folder / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # Links, because cuda.pathfinder looks for CUDA's libraries in site-packages itself and not along sys.path.
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        target = purelib / entry.name
        if not entry.name.startswith(("migproxy", "__editable__", "__pycache__")) and not target.exists():
            target.symlink_to(entry)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--ignore-installed", str(tree)], check=True)
    return str(python)


def main(arguments: list[str]) -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench ab")
    parser.add_argument("base", help="the commit before")
    parser.add_argument("head", help="the commit after")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    sides = ("base", "head")
    with tempfile.TemporaryDirectory(prefix="migproxy-ab-") as scratch:
        folders = {side: Path(scratch) / side for side in sides}
        try:
            pythons = {}
            for side in sides:
                folders[side].mkdir()
                pythons[side] = prepare(getattr(options, side), folders[side])
            return judge(measure(pythons, folders, options.names, options.size, options.rounds))
        finally:
            for side in sides:
                remove = ["git", "worktree", "remove", "--force", str(folders[side] / "tree")]
                subprocess.run(remove, cwd=HERE.parent, check=False)


def measure(pythons: dict[str, str], folders: dict[str, Path], names: list[str], size: str, rounds: int) -> Samples:
    """Run the rounds; returns the figures of both sides."""
    samples: Samples = {}
    brokers = {side: start_broker(folders[side], python) for side, python in pythons.items()}
    try:
        for number in range(rounds):
            order = list(pythons) if number % 2 == 0 else list(reversed(pythons))
            for side in order:
                result = run_once("proxied", names, size, folders[side], brokers[side], pythons[side])
                collect(result, side, samples)
    finally:
        for broker in brokers.values():
            broker.terminate()
        for broker in brokers.values():
            broker.wait(10)
    return samples


def judge(samples: Samples) -> int:
    """Print the pairs; returns 1 if any benchmark became slower."""
    rows = [compare(name, sides["base"], sides["head"]) for name, sides in samples.items() if len(sides) == 2]
    print("native is BASE, proxied is HEAD:")
    print_rows(rows)
    return int(any(row.verdict == "slower" for row in rows))
