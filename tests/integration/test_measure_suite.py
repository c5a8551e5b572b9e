"""The tool that compares a suite natively and proxied, on a suite of four tests and the software GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from processes import run_command

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import cupy, pytest
def test_sum(): assert int(cupy.arange(10).sum()) == 45
def test_wrong(): assert int(cupy.arange(10).sum()) == 44
@pytest.mark.skip(reason="not now")
def test_skipped(): pass
def test_more(): assert cupy.ones(3).get().sum() == 3
"""


@pytest.mark.timeout(180)
def test_a_suite_is_run_counted_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    words = ["rec.json", "--suite", "four tests", "--library", "cupy", "--device", "software", "--quota", "512MiB"]
    words += ["--workers", "2", "--native-seconds", "0", "--", "-W", "ignore", "test_it.py"]
    command = [sys.executable, str(ROOT / "tools" / "measure_suite.py"), *words]
    done = run_command(command, cwd=tmp_path, timeout=170)
    assert done.returncode == 0, done.said
    record = json.loads((tmp_path / "rec.json").read_text())
    assert (record["passed"], record["failed"], record["skipped"]) == (2, 1, 1), done.said
    assert record["notes"][-1] == "afterwards the broker had 0 sessions and 0 bytes promised"
    assert record["device"] == "software GPU"


def test_what_differs_is_what_passes_natively_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import measure_suite

    outcomes = [("a", "passed"), ("b", "passed"), ("b", "failed"), ("c", "passed"), ("d", "skipped"), ("e", "passed")]
    rows = [{"id": f"t::{name}", "outcome": outcome, "text": ""} for name, outcome in outcomes]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "t::f", "out')
    native = measure_suite.read(path)
    assert {name: outcome for name, (outcome, _) in native.items()} == {
        "t::a": "passed", "t::b": "failed", "t::c": "passed", "t::d": "skipped", "t::e": "passed"}  # fmt: skip
    proxied = {"t::a": ("passed", ""), "t::b": ("failed", ""), "t::c": ("skipped", "why"), "t::d": ("passed", "")}
    assert measure_suite.compare(native, proxied) == (["t::c"], ["t::e"])
