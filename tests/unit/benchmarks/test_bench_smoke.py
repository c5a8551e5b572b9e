"""Every benchmark runs at its smoke size on the software GPU, and the report reads what they leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import run_command

pytest.importorskip("pytest_benchmark")
pytest.importorskip("cupy")

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {
    "results": ("bench", "--rounds", "1"),
    "coldstart": ("bench.coldstart",),
    "launch_profile": ("bench.launch_profile", "--rounds", "1"),
    "colocation": (
        *("bench.colocation", "--functions", "2", "--repeat", "1", "--ways", "proxied", "sequential", "--whole", "2"),
        *("--workloads", "inference", "black_scholes", "kmeans", "fft_pipeline"),
    ),
    "applications": ("bench.applications",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("question", COMMANDS)
def test_it_runs(folder: Path, question: str) -> None:
    words = [*COMMANDS[question], "--size", "smoke", "--proxied-only", "--out", str(folder)]
    # The software GPU, also where there is a real one: nothing here measures.
    env = {"MIGPROXY_DEVICE": "software"}
    done = run_command([sys.executable, "-m", *words], cwd=ROOT, timeout=280, env=env)
    assert done.returncode == 0, done.said
    record = json.loads((folder / f"{question}.json").read_text())
    assert record["machine"]["gpu"] == "software GPU"
    assert record["command"][:3] == ["python", "-m", words[0]]
    assert str(folder) not in json.dumps(record)
    check = {"results": every_file, "applications": every_program}.get(question)
    assert record["rows"]
    if check:
        check(record["rows"])


def every_file(rows: list[dict[str, Any]]) -> None:
    """Each benchmark file left rows."""
    from bench.test_api import CALLS

    seen = {row["name"].split("::")[0] for row in rows if "::" in row["name"]}
    assert seen == {"copies", "launches", "latency", "memory", "numpy_arena"}
    assert {row["name"] for row in rows if "::" not in row["name"]} == {f"bindings.{name}" for name in CALLS}


def every_program(rows: list[dict[str, Any]]) -> None:
    """Each program ran, was checked against NumPy, counted its array calls and split its time."""
    from bench.applications.__main__ import RODINIA

    assert [row["name"] for row in rows] == list(RODINIA)
    for row in rows:
        assert row["checked"], row
        assert row["array_calls"] > 0, row
        split = row["proxied_split"]
        assert sum(split.values()) == pytest.approx(row["proxied"], rel=0.2), row
        assert min(split[kind] for kind in ("gpu", "copies", "allocation")) >= 0, row
