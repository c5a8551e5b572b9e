"""The trace's lanes, and a real recording of two functions that take turns."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migproxy.abi.control import SessionRow, TraceEvent
from migproxy.cli.trace import LANES, chrome_trace, cpu_phases

ROOT = str(Path(__file__).resolve().parents[3])


def row(session: str, slice_name: str) -> SessionRow:
    return SessionRow(session, "f", 0, 7, 8, slice_name, "running", 1, 0, 0, 1.0, "python x.py")


def shown(document: dict[str, Any]) -> list[tuple[int, str, str, float, float]]:
    return [
        (each["pid"], LANES[each["tid"]], each["name"], each["ts"], each["dur"])
        for each in document["traceEvents"]
        if each["ph"] == "X"
    ]


def test_events_are_cut_to_the_recording_and_lie_in_their_sessions_lanes() -> None:
    found = {
        "a": (row("a", "gpu0"), {TraceEvent("computes", 1_000, 3_000), TraceEvent("waits", 0, 500)}),
        "b": (
            row("b", "gpu1"),
            {TraceEvent("kernel k", 2_000, 9_000), TraceEvent("copy to device, 8 bytes", 0, 2_000)},
        ),
    }
    assert shown(chrome_trace(found, 1_000, 5_000)) == [
        (0, "lease", "computes", 0.0, 2.0),
        (1, "copies", "copy to device, 8 bytes", 0.0, 1.0),
        (1, "kernels", "kernel k", 1.0, 3.0),
    ]


def test_the_cpu_phase_is_what_lies_between() -> None:
    events = [
        TraceEvent("computes", 0, 900_000),
        TraceEvent("kernel k", 0, 100_000),
        TraceEvent("kernel k", 105_000, 200_000),
        TraceEvent("copy to device, 8 bytes", 150_000, 400_000),
        TraceEvent("waits", 700_000, 900_000),
    ]
    assert cpu_phases(events) == [TraceEvent("CPU", 400_000, 700_000)]
    assert cpu_phases([]) == []


#: The recording is made again, longer each time, until everybody had a turn: how soon is up to the machine.
RECORDINGS = (1, 2, 4, 8, 16, 32)


def missing(found: list[tuple[int, str, str, float, float]]) -> set[tuple[int, str]]:
    """Return what a recording does not show yet, of all that each of the functions does again and again."""
    wanted = {"computes", "multiply", "copy from device"}
    seen = {(pid, what) for pid, _, name, _, _ in found for what in wanted if what in name}
    return set(itertools.product((0, 1), wanted)) - seen


@pytest.mark.timeout(300)
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
        for seconds in RECORDINGS:
            command = [*python, "trace", "--broker", socket, "--seconds", str(seconds), "--out", str(out)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            found = shown(json.loads(out.read_text()))
            if not missing(found):
                break
    finally:
        for function in functions:
            function.kill()
            function.communicate(timeout=30)
        broker.terminate()
        broker.communicate(timeout=30)
    assert not missing(found)
    turns = sorted((start, start + length, pid) for pid, _, name, start, length in found if name == "computes")
    for (_, end, one), (start, _, other) in itertools.pairwise(turns):
        assert one == other or start >= end, "two functions computed at a time"
    kernels = sorted((start, start + length, pid) for pid, lane, _, start, length in found if lane == "kernels")
    for (_, end, one), (start, _, other) in itertools.pairwise(kernels):
        assert one == other or start >= end, "kernels of two functions overlap"
    lanes = {lane for _, lane, name, _, _ in found if "multiply" in name or "copy from device" in name}
    assert lanes == {"kernels", "copies"}
