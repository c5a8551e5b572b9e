"""The trace's lanes, and a real recording of two functions that take turns."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from migproxy.abi.control import SessionRow, TraceEvent
from migproxy.cli.trace import chrome_trace

ROOT = str(Path(__file__).resolve().parents[3])


def row(session: str, slice_name: str) -> SessionRow:
    return SessionRow(session, "f", 0, 7, 8, slice_name, "running", 1, 0, 0, 1.0, "python x.py")


def test_events_are_cut_to_the_recording_and_lie_in_their_sessions_lane() -> None:
    found = {
        "a": (row("a", "gpu0"), {TraceEvent("computes", 1_000, 3_000), TraceEvent("waits", 0, 500)}),
        "b": (row("b", "gpu1"), {TraceEvent("computes", 2_000, 9_000)}),
    }
    events = chrome_trace(found, 1_000, 5_000)["traceEvents"]
    shown = [(each["pid"], each["tid"], each["name"], each["ts"], each["dur"]) for each in events if each["ph"] == "X"]
    assert shown == [(0, 0, "computes", 0.0, 2.0), (1, 1, "computes", 1.0, 3.0)]


def test_a_recording_shows_turns_that_do_not_overlap(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")} | {"PYTHONPATH": ROOT}
    python = [sys.executable, "-m", "migproxy"]
    socket, out = str(tmp_path / "b.sock"), tmp_path / "trace.json"
    code = "import cupy, sys\nx = cupy.arange(5000.0)\nprint('ready', flush=True)\nwhile True: float((x * 2).sum())\n"
    (tmp_path / "loop.py").write_text(code)
    broker = subprocess.Popen(
        [*python, "broker", "--socket", socket, "--device", "software"], env=env, stderr=subprocess.PIPE, text=True
    )
    functions = []
    try:
        assert broker.stderr is not None
        assert "serves on" in broker.stderr.readline()
        for _ in range(2):
            command = [*python, "run", "--broker", socket, str(tmp_path / "loop.py")]
            functions.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        for function in functions:
            assert function.stdout is not None
            assert function.stdout.readline() == "ready\n"
        command = [*python, "trace", "--broker", socket, "--seconds", "1", "--out", str(out)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        for function in functions:
            function.kill()
            function.communicate(timeout=30)
        broker.terminate()
        broker.communicate(timeout=30)
    events = [each for each in json.loads(out.read_text())["traceEvents"] if each["ph"] == "X"]
    turns = sorted((each["ts"], each["ts"] + each["dur"], each["tid"]) for each in events if each["name"] == "computes")
    assert {tid for _, _, tid in turns} == {0, 1}
    for (_, end, one), (start, _, other) in itertools.pairwise(turns):
        assert one == other or start >= end, "two functions computed at a time"
