"""The pytest plugin, from outside: child runs of pytest on small test files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cupy")

PROXIED = """
import cupy
import os

def test_add():
    assert os.environ["MIGPROXY_ACTIVE"] == "1"
    assert float((cupy.arange(4) + 1).sum()) == 10.0

def test_session(migproxy_session):
    assert migproxy_session.facts.name
    assert migproxy_session.quota > 0
"""
BOTH = """
def test_same(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=5)

def test_plain():
    assert True
"""
DIFFERS = """
import os

def test_differs():
    assert "MIGPROXY_ACTIVE" not in os.environ
"""


def run(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_it.py"
    file.write_text(text)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MIGPROXY_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=110)


def test_proxied_runs_the_suite_in_a_function(tmp_path: Path) -> None:
    done = run(tmp_path, PROXIED, "--migproxy=proxied")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_proxied_with_xdist(tmp_path: Path) -> None:
    done = run(tmp_path, PROXIED, "--migproxy=proxied", "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_failure_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_no():\n    assert 0\n", "--migproxy=proxied")
    assert done.returncode == 1


def test_both_prints_pairs_and_writes_json(tmp_path: Path) -> None:
    options = ("--migproxy=both", "--migproxy-rounds", "3", f"--migproxy-json={tmp_path / 'json'}")
    done = run(tmp_path, BOTH, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_it.py::test_same" in done.stdout
    assert "test_it.py::test_plain" in done.stdout
    assert "95% interval" in done.stdout
    for mode in ("native", "proxied"):
        assert json.loads((tmp_path / "json" / f"{mode}.json").read_text())["benchmarks"]


def test_both_names_tests_that_differ(tmp_path: Path) -> None:
    done = run(tmp_path, DIFFERS, "--migproxy=both", "--migproxy-rounds=1")
    assert done.returncode == 1
    assert "test_differs: native passed, proxied failed" in done.stdout


def test_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ("--migproxy=both", "--migproxy-rounds=1", f"--migproxy-report={tmp_path / 'report'}")
    done = run(tmp_path, BOTH, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    assert "test_same" in page
    assert "data:image/png;base64," in page
