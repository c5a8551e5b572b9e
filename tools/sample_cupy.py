"""Run a drawn sample of CuPy's own tests on the software GPU, and record how many passed.

    python tools/sample_cupy.py run TESTS OUT [--count 2000] [--seed 20261124] [--shards 8]
    python tools/sample_cupy.py record OUT docs/data/compatibility/cupy-software.json

TESTS is the ``tests`` folder of CuPy's sources at the tag of the installed version. Outcomes go to one file a shard in
OUT as they come; a run that was cut short goes on where it was. This file is also the pytest plugin that draws: by
``random.Random(seed).sample`` from all collected tests, in the order of collection.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDERS = ("creation", "manipulation", "logic", "indexing", "math", "sorting", "statistics", "lib", "functional",
           "padding", "polynomial", "io", "misc", "binary")  # fmt: skip
_VARIABLE = "MIGPROXY_SAMPLE"
_STATE: dict[str, Any] = {}


# ---- the plugin -----------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep this shard's part of the sample, less what is done."""
    plan = json.loads(os.environ[_VARIABLE])
    drawn = sorted(random.Random(plan["seed"]).sample(range(len(items)), plan["count"]))
    shard, shards = plan["shard"], plan["shards"]
    mine = set(drawn[shard * len(drawn) // shards : (shard + 1) * len(drawn) // shards])
    done = {row["id"] for row in read(Path(plan["out"]))}
    config.hook.pytest_deselected(items=[item for number, item in enumerate(items) if number not in mine])
    items[:] = [item for number, item in enumerate(items) if number in mine and item.nodeid not in done]
    _STATE["out"] = plan["out"]


def pytest_runtest_logreport(report: Any) -> None:
    """Write a test's outcome down at once."""
    if report.when == "call" or report.outcome != "passed":
        text = "" if report.outcome == "passed" else str(report.longrepr)[-3000:]
        row = {"id": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3), "text": text}
        with open(_STATE["out"], "a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The outcomes in a file; none when there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- the tool -------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Run what is left of each shard, one after another."""
    options.out.mkdir(parents=True, exist_ok=True)
    folders = [f"cupy_tests/{name}_tests" for name in FOLDERS]
    for shard in range(options.shards):
        plan = {"count": options.count, "seed": options.seed, "shard": shard, "shards": options.shards,
                "out": str((options.out / f"shard{shard}.jsonl").resolve())}  # fmt: skip
        path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "migproxy", "run", "--device", "software", "-m", "pytest", "-q", "--tb=short",
                   "-p", "sample_cupy", "-p", "no:cacheprovider", "-W", "ignore",
                   f"--timeout={options.timeout}"]  # fmt: skip
        environment = {**os.environ, _VARIABLE: json.dumps(plan), "PYTHONPATH": path}
        subprocess.run([*command, *folders], cwd=options.tests, env=environment, check=False)


def record(options: argparse.Namespace) -> None:
    """Write the counts for ``tools/make_compatibility.py``, and say what failed."""
    rows = [row for path in sorted(options.out.glob("*.jsonl")) for row in read(path)]
    outcomes = {row["id"]: row for row in rows}
    counts = {
        name: sum(row["outcome"] == name for row in outcomes.values()) for name in ("passed", "failed", "skipped")
    }
    library = "cupy-cuda13x" if _installed("cupy-cuda13x") else "cupy-cuda12x"
    data = {
        "suite": f"{len(outcomes)} of CuPy v{version(library)}'s own tests", "library": f"{library} {version(library)}",
        "device": "software GPU", "mode": "through the broker", **counts,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "notes": [f"drawn with random.Random({options.seed}).sample from the tests of tests/cupy_tests/"
                  f"{{{','.join(FOLDERS)}}}_tests in the order of collection (tools/sample_cupy.py), "
                  f"{sum(row['seconds'] for row in outcomes.values()):.0f} s in all", *options.note],
    }  # fmt: skip
    options.file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    for row in outcomes.values():
        if row["outcome"] == "failed":
            print(row["id"], row["text"].strip().splitlines()[-1] if row["text"].strip() else "")


def _installed(name: str) -> bool:
    try:
        version(name)
    except ImportError:
        return False
    return True


def main() -> None:
    """Run or record."""
    parser = argparse.ArgumentParser(prog="sample_cupy.py", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="run the sample")
    one.add_argument("tests", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--count", type=int, default=2000)
    one.add_argument("--shards", type=int, default=8)
    one.add_argument("--timeout", type=int, default=900, help="seconds a test may take")
    one.set_defaults(call=run)
    two = commands.add_parser("record", help="count the outcomes")
    two.add_argument("out", type=Path)
    two.add_argument("file", type=Path)
    two.add_argument("--note", action="append", default=[])
    two.set_defaults(call=record)
    for command in (one, two):
        command.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
