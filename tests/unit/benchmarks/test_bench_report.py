"""The report: complete, self-contained, and never of two devices at once."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bench.applications.__main__ import agree, band, bands
from bench.applications.worker import off
from bench.report import Mixed, main, make_page

MACHINE = {
    "gpu": "NVIDIA H100",
    "processor": "Some CPU",
    "cpus": 16,
    "python": "3.12.3",
    "kernel": "6.18",
    "versions": {"cupy": "14.2"},
}


def timed(name: str, native: float, proxied: float) -> dict[str, Any]:
    """A row of both modes."""
    row: dict[str, Any] = {"name": name, "native": native, "proxied": proxied, "ratio": round(proxied / native, 3)}
    return {**row, "native_spread": [native, native], "proxied_spread": [proxied, proxied * 1.1]}


def records() -> dict[str, dict[str, Any]]:
    """One of each record."""
    common = {"machine": MACHINE, "size": "full"}
    split = {"gpu": 4000.0, "copies": 1000.0, "allocation": 500.0, "cpu": 2000.0}
    program = {"suite": "rodinia", "preset": "full", "checked": True, "array_calls": 100, **timed("bfs", 7500, 8000)}
    stages = {"script begins": 30.0, "first result": 900.0}
    row = {"mode": "native", "ms": 930.0, "spread_ms": [900.0, 990.0], "stages_ms": stages}
    return {
        "results.json": {
            **common,
            "command": ["python", "-m", "bench"],
            "rows": [
                *(timed(f"copies::copy[pair-{kind}-4]", 13.0, 20.0) for kind in ("array", "pinned", "foreign")),
                timed("copies::copy[pair-array-5242880]", 900.0, 300.0),
                timed("copies::copy[htod-array-1048576]", 60.0, 30.0),
                timed("launches::add", 9.0, 5.0),
                timed("latency::launch_sync", 16.0, 14.0),
                timed("bindings.launch.launch_empty_kernel", 2.0, 1.0),
            ],
        },
        "coldstart.json": {
            **common,
            "command": ["python", "-m", "bench.coldstart"],
            "rows": [row, {**row, "mode": "proxied"}],
            "imports": [{"module": "cupy", "ms": 100.0}],
            "import_migproxy": {"ms": 1.0, "spread": [0.9, 1.1]},
            "ratio": {"ratio": 0.7, "interval": [0.6, 0.8]},
        },
        "launch_profile.json": {
            **common,
            "command": ["python", "-m", "bench.launch_profile"],
            "rows": [
                {**{"name": part, "native": 4.0, "native_spread": [3.9, 4.1], "proxied": 2.5}, "proxied_spread": [2, 3]}
                for part in ("call", "add", "launch", "done")
            ],
        },
        "colocation.json": {
            **common,
            "command": ["python", "-m", "bench.colocation"],
            "rows": [
                {"what": "alone", "mode": "native", "functions": 1, "seconds": 1.0, "spread": [1.0, 1.0]},
                {"what": "makespan", "mode": "native", "functions": 2, "error": "no answer in time"},
                {
                    **{"what": "makespan", "mode": "proxied", "functions": 2, "seconds": 1.2, "speedup": 1.7},
                    "spread": [1.1, 1.3],
                },
                {
                    **{"what": "whole functions", "workload": "inference", "mode": "proxied, sequential"},
                    **{"functions": 4, "seconds": 5.5, "spread": [5.1, 5.9]},
                },
                {"what": "not here", "mode": "mps", "error": "it is not installed"},
                {"what": "small request beside a heavy neighbour", "mode": "native", "p50_ms": 80.6},
            ],
        },
        "applications.json": {
            **common,
            "command": ["python", "-m", "bench.applications"],
            "rows": [
                {**program, "native_split": split, "proxied_split": split},
                {"suite": "npbench", "name": "lu", "preset": "M", "error": "took longer than its limit"},
            ],
            "bands": bands([program]),
        },
    }


def test_the_page_is_self_contained_and_names_its_device(tmp_path: Path) -> None:
    for name, record in records().items():
        (tmp_path / name).write_text(json.dumps(record))
    (tmp_path / "notes.txt").write_text("## What it says\n\nMuch.\n")
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--markdown", str(tmp_path / "docs" / "page.md")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert page.count("<table>") == page.count('<p class="device">NVIDIA H100')
    for words in (
        "python -m bench.coldstart",
        "Some CPU",
        "16 cores",
        "cupy 14.2",
        "52.0",
        "no answer in time",
        "5.1 to 5.9",
        "mps: it is not installed",
    ):
        assert words in page, words
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures >= {"copies.png", "launches.png", "api.png", "coldstart.png", "colocation.png", "applications.png"}
    markdown = (tmp_path / "docs" / "page.md").read_text()
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (tmp_path / "docs" / picture).read_bytes().startswith(b"\x89PNG")
    assert "## What it says" in markdown
    assert "| `add` | 9.00 [9.00, 9.00] | 5.00 [5.00, 5.50] | 0.556 | 0.56 | 0.6 |" in markdown


def test_devices_are_not_mixed(tmp_path: Path) -> None:
    mixed = records()
    mixed["colocation.json"] = copy.deepcopy(mixed["colocation.json"])
    mixed["colocation.json"]["machine"]["gpu"] = "software GPU"
    with pytest.raises(Mixed, match="NVIDIA H100, software GPU"):
        make_page(mixed)


def test_a_software_gpus_figures_are_marked() -> None:
    found = records()
    for record in found.values():
        record["machine"] = {**MACHINE, "gpu": "software GPU"}
    assert make_page(found).device == "software GPU (figures of a software GPU say nothing about a real one)"


def test_bands_are_geometric_means() -> None:
    rows = [
        {"suite": "npbench", "preset": "S", "array_calls": calls, "ratio": ratio}
        for calls, ratio in ((10, 0.5), (49, 2.0), (50, 3.0), (1_999, 3.0), (2_000, 0.9), (50_000, 0.4))
    ]
    found = {one["array_calls"]: (one["programs"], one["geometric_mean"]) for one in bands(rows)}
    assert found == {
        "under 50": (2, 1.0),
        "50 to 2,000": (2, 3.0),
        "2,000 to 40,000": (1, 0.9),
        "above 40,000": (1, 0.4),
    }
    assert band(40_000) == "above 40,000"


def test_results_are_compared() -> None:
    assert agree([1.0, 2.0], [1.0, 2.0001])
    assert not agree([1.0], [1.1])
    assert not agree([1.0], [1.0, 2.0])


def test_results_are_compared_with_numpys() -> None:
    ones, short = np.ones((3, 4)), np.ones(5)
    assert off([ones, short], [ones.copy(), short]) == 0.0
    assert off([ones * 1.5], [ones]) == pytest.approx(0.5)
    # NumPy's version returns what the other leaves in its arguments only.
    assert off([short], [ones, short]) == 0.0
    assert off([np.array([1.0, np.inf])], [np.array([1.0, np.inf])]) == 0.0
    for wrong, said in ((np.ones(4), "shape"), (np.array([1.0] * 4 + [np.nan]), "finite")):
        with pytest.raises(ValueError, match=said):
            off([wrong], [short])
    with pytest.raises(ValueError, match="0 results"):
        off([], [short])
