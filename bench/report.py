"""A page with tables and plots of measured figures, and the same as Markdown for the documentation.

``python -m bench report DIR [--out OUT] [--markdown FILE]`` reads the records that the other commands left in ``DIR``
(``results.json``, ``coldstart.json``, ``launch_profile.json``, ``colocation.json``, ``applications.json``, as far as
they are there), with ``DIR/notes.txt`` behind them, and writes ``OUT/index.html`` (self-contained) and PNGs. Every
table and picture names the device. Records of different devices are not mixed: a folder that holds some is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import plots
from bench.page import Page
from migproxy.testing.machine import is_software, label

#: Published for the C++ system on an A100 (MIGnificient, SC24): microseconds natively and through it.
PUBLISHED = (
    ("4-byte copy pair", 13.0, 52.0, "copies::copy[pair-array-4]"),
    ("launch and synchronize", 16.0, 33.0, "latency::launch_sync"),
    ("empty synchronize", 0.9, 22.0, "latency::empty_sync"),
)
#: Published for copy pairs of 5 MiB: time by native time.
PUBLISHED_PAIRS = (
    ("5 MiB pair, ordinary memory", "1.5", "copies::copy[pair-array-5242880]"),
    ("5 MiB pair, mignificient_malloc", "0.87 to 1.03", "copies::copy[pair-pinned-5242880]"),
)
#: Largest ratios to native aimed at, by benchmark.
TARGETS = {
    **dict.fromkeys(("launches::add", "launches::exp", "launches::add_out", "launches::numba_launch"), 0.6),
    **dict.fromkeys(("latency::kernel_sync", "latency::read_element", "latency::matmul_sync"), 1.05),
    **dict.fromkeys(("latency::fft_sync", "latency::svd"), 1.05),
}
_QUESTIONS = (
    ("launches", "Calls where the host is the limit", "launches::", "Time per call, of many calls and one wait."),
    ("latencies", "Calls that wait", "latency::", "Time of a call and its wait."),
    ("api", "The driver API by function", "bindings.", "Time that a call costs its caller; names as cuda-python's."),
    ("memory", "Device memory running short", "memory::", "Natively the whole GPU is filled, in a function its quota."),
    ("numpy", "NumPy arrays in the arena", "numpy_arena::", "`np.empty` and free."),
)


class Mixed(ValueError):
    """Records of several devices in one folder."""


def figure(row: dict[str, Any], mode: str) -> str:
    """Return a time with its spread, in microseconds."""
    if mode not in row:
        return "–"
    low, high = row[f"{mode}_spread"]
    return f"{number(row[mode])} [{number(low)}, {number(high)}]"


def fastest_ratio(row: dict[str, Any]) -> str:
    """Return proxied by native of the fastest round each: what a machine whose cores are shared disturbs least."""
    if "ratio" not in row or not row["native_spread"][0]:
        return "–"
    return f"{row['proxied_spread'][0] / row['native_spread'][0]:.2f}"


def number(value: float) -> str:
    """Return a figure with no more digits than it can have."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def add_results(page: Page, record: dict[str, Any]) -> None:
    """Add the benchmarks of ``python -m bench``."""
    rows = record["rows"]
    add_copies(page, record)
    for name, heading, prefix, words in _QUESTIONS:
        found = [row for row in rows if row["name"].startswith(prefix)]
        if not found:
            continue
        page.heading(heading)
        page.command(record)
        spread = "the median over rounds of each round's median; in brackets the smallest and largest round"
        page.text(f"{words} In µs: {spread}.")
        page.table(
            ("benchmark", "native", "proxied", "proxied / native", "of the fastest rounds", "target"),
            [
                (
                    f"`{row['name'].removeprefix(prefix)}`",
                    figure(row, "native"),
                    figure(row, "proxied"),
                    row.get("ratio", "–"),
                    fastest_ratio(row),
                    TARGETS.get(row["name"], "–"),
                )
                for row in found
            ],
        )
        compared = [row for row in found if "ratio" in row]
        if compared:
            picture = plots.ratios(compared, page.device, lambda row: row["name"].removeprefix(prefix))  # noqa: B023
            page.picture(f"{name}.png", picture, heading)


def add_copies(page: Page, record: dict[str, Any]) -> None:
    """Add the paper's figure, and copies in one direction."""
    rows = {row["name"]: row for row in record["rows"]}
    pairs: dict[tuple[str, str], dict[int, float]] = {}
    others = []
    for name, row in rows.items():
        if not name.startswith("copies::copy["):
            continue
        kind, memory, size = name.split("[")[1].rstrip("]").split("-")
        if kind != "pair":
            others.append((kind, memory, int(size), row))
            continue
        for mode in ("native", "proxied"):
            if mode in row:
                pairs.setdefault((mode, memory), {})[int(size)] = row[mode]
    if not pairs:
        return
    page.heading("Copies")
    page.command(record)
    page.text(
        "A buffer to the device and back, in µs. Ordinary arrays are NumPy's: pageable natively, in the arena in a "
        "function. Page-locked memory is the arena's in a function (`mignificient_malloc`)."
    )
    columns = [key for key in plots.MEMORIES if key in pairs]
    sizes = sorted({size for points in pairs.values() for size in points})
    page.table(
        ("bytes", *(plots.MEMORIES[key][0] for key in columns)),
        [
            (f"{size:,}", *(number(pairs[key][size]) if size in pairs[key] else "–" for key in columns))
            for size in sizes
        ],
    )
    page.picture("copies.png", plots.copies(pairs, page.device), "Copy pairs by size")
    page.text("Beside what was published for the C++ system on an A100; times in µs, or ratios to native:")

    def ours(name: str, key: str) -> object:
        value = rows.get(name, {}).get(key, "–")
        return value if value == "–" or key == "ratio" else number(value)

    shown: list[tuple[object, ...]] = [
        (
            what,
            native,
            proxied,
            round(proxied / native, 2),
            ours(key, "native"),
            ours(key, "proxied"),
            ours(key, "ratio"),
        )
        for what, native, proxied, key in PUBLISHED
    ]
    shown += [
        (what, "", "", ratio, ours(key, "native"), ours(key, "proxied"), ours(key, "ratio"))
        for what, ratio, key in PUBLISHED_PAIRS
    ]
    head = ("what", "A100 native", "A100 C++ system", "its ratio", "native here", "migproxy here", "our ratio")
    page.table(head, shown)
    if others:
        page.text("One direction, until the bytes have arrived (`submit`: until the call returns), in µs:")
        page.table(
            ("direction, memory, bytes", "native", "proxied", "proxied / native"),
            [
                (f"{kind}, {memory}, {size:,}", figure(row, "native"), figure(row, "proxied"), row.get("ratio", "–"))
                for kind, memory, size, row in others
            ],
        )


def add_coldstart(page: Page, record: dict[str, Any]) -> None:
    """Add the figures of ``python -m bench.coldstart``."""
    rows = record["rows"]
    page.heading("Starting a script")
    page.command(record)
    page.text(
        "From starting the process to a CuPy script's first result, natively and by `migproxy run` against a running "
        "broker with warm executors; in ms, and the time from one stage to the next."
    )
    names = list(rows[0]["stages_ms"])
    page.table(
        ("mode", "all", "spread", *names),
        [(row["mode"], row["ms"], "{} to {}".format(*row["spread_ms"]), *row["stages_ms"].values()) for row in rows],
    )
    page.picture("coldstart.png", plots.stages([(row["mode"], row["stages_ms"]) for row in rows], page.device), "Start")
    if "ratio" in record:
        low, high = record["ratio"]["interval"]
        page.text(f"Proxied by native: {record['ratio']['ratio']} ({low} to {high}); the target is 0.7.")
    own = record["import_migproxy"]
    slowest = ", ".join(f"`{each['module']}` {each['ms']}" for each in record["imports"])
    page.text(f"`import migproxy` alone takes {own['ms']} ms ({own['spread'][0]} to {own['spread'][1]}); target 50.")
    page.text(
        f"Modules that take longest themselves, in ms, over all processes of a run under the profiler: {slowest}."
    )


LAUNCH_PARTS = {
    "call": "an empty Python function",
    "add": "`cupy.add(x, y, out)`, until it returns",
    "launch": "`cuLaunchKernel` from machine code, until it returns",
    "done": "the same, until the device is done",
}


def add_launch_profile(page: Page, record: dict[str, Any]) -> None:
    """Add the figures of ``python -m bench.launch_profile``."""
    rows = {row["name"]: row for row in record["rows"]}
    page.heading("Where a launch's time goes")
    page.command(record)
    page.text("In µs a launch, of the shortest of many bursts; the median over rounds, in brackets their range.")
    page.table(
        ("", "native", "in a function"),
        [(words, figure(rows[part], "native"), figure(rows[part], "proxied")) for part, words in LAUNCH_PARTS.items()],
    )
    said = [
        f"CuPy's own Python and Cython takes {number(rows['add'][mode] - rows['launch'][mode])} µs {words}"
        for mode, words in (("native", "natively"), ("proxied", "in a function"))
        if mode in rows["add"]
    ]
    if "native" in rows["done"]:
        beyond = rows["done"]["proxied"] - rows["launch"]["native"]
        said.append(f"the executor and the device need {number(beyond)} µs beyond the driver's call")
    page.text("; ".join(said) + ".")


def add_colocation(page: Page, record: dict[str, Any]) -> None:
    """Add the figures of ``python -m bench.colocation``."""
    rows = record["rows"]
    page.heading("Several functions on one GPU")
    page.command(record)
    page.text(
        "Speed-up over one after another: as many times the time of one alone, by the time until the last of them has "
        "finished; beside one alone in the same way, and beside one plain process alone."
    )
    spans = [row for row in rows if row["what"] in ("alone", "makespan")]
    page.table(
        ("workload", "functions at once", "mode", "seconds", "spread", "speed-up", "against plain processes"),
        [
            (
                row.get("workload", "inference"),
                row["functions"],
                row["mode"],
                row.get("seconds", row.get("error")),
                "{} to {}".format(*row["spread"]) if "spread" in row else "",
                row.get("speedup", 1.0 if row["functions"] == 1 and "seconds" in row else "–"),
                row.get("against_native", "–"),
            )
            for row in spans
        ],
    )
    compared = [row for row in spans if "speedup" in row and row.get("workload", "inference") == "inference"]
    if compared:
        page.picture("colocation.png", plots.speedups(compared, page.device), "Speed-up over one after another")
    whole = [row for row in rows if row["what"] == "whole functions"]
    if whole:
        page.text("Whole functions at once, from their first use of the GPU until the last has ended:")
        page.table(
            ("workload", "functions at once", "mode", "seconds", "spread"),
            [
                (
                    *(row[key] for key in ("workload", "functions", "mode")),
                    row.get("seconds", row.get("error")),
                    "{} to {}".format(*row["spread"]) if "spread" in row else "",
                )
                for row in whole
            ],
        )
    missing = [f"{row['mode']}: {row['error']}" for row in rows if row["what"] == "not here"]
    if missing:
        page.text("Not compared with: " + "; ".join(missing) + ".")
    beside = [row for row in rows if row["what"].startswith("small request")]
    if beside:
        page.text("A request of 50 small synchronised kernels beside a function that keeps the GPU busy:")
        keys = ("alone_p50_ms", "p50_ms", "p99_ms", "worst_ms", "heavy_alone_per_second", "heavy_per_second")
        page.table(
            ("mode", "alone, median ms", "median ms", "99% ms", "worst ms", "neighbour alone, a second", "beside it"),
            [(row["mode"], *(row.get(key, row.get("error", "–")) for key in keys)) for row in beside],
        )


def add_applications(page: Page, record: dict[str, Any]) -> None:
    """Add the figures of ``python -m bench.applications``."""
    rows = record["rows"]
    page.heading("Applications")
    page.command(record)
    if record["bands"]:
        page.text("Geometric mean of proxied / native, by array calls of one invocation:")
        page.table(
            ("suite, preset", "array calls", "programs", "geometric mean", "range"),
            [
                (
                    f"{one['suite']}, {one['preset']}",
                    one["array_calls"],
                    one["programs"],
                    one["geometric_mean"],
                    "{} to {}".format(*one["range"]),
                )
                for one in record["bands"]
            ],
        )
    bars = [
        (f"{row['name']}, {mode}", row[f"{mode}_split"], row.get("native", row["proxied"]))
        for row in rows
        for mode in ("native", "proxied")
        if f"{mode}_split" in row
    ]
    if bars:
        page.text("Where the time of the Rodinia-like programs goes, in ms:")
        kinds = [kind for kind, _, _ in plots.KINDS]
        head = ("program, mode", *(name for _, name, _ in plots.KINDS))
        page.table(head, [(name, *(number(split[kind] / 1e3) for kind in kinds)) for name, split, _ in bars])
        page.picture("applications.png", plots.stacked(bars, page.device), "Time of programs by kind")
    done = [row for row in rows if "error" not in row]
    if done:
        page.text("All programs, in ms; results are checked against NumPy, or the modes' against each other:")
        page.table(
            ("program", "array calls", "native", "proxied", "proxied / native", "results"),
            [
                (
                    f"{row['suite']} {row['name']} {row['preset']}",
                    f"{row['array_calls']:,}",
                    *(number(row[mode] / 1e3) if mode in row else "–" for mode in ("native", "proxied")),
                    row.get("ratio", "–"),
                    verified(row),
                )
                for row in done
            ],
        )
    left = [f"{row['suite']} {row['name']} {row['preset']} ({row['error'][:80]})" for row in rows if "error" in row]
    if left:
        page.text("Left out: " + "; ".join(left) + ".")


def verified(row: dict[str, Any]) -> str:
    """Return how a program's results were verified."""
    if row["checked"]:
        return "as NumPy's"
    return {True: "agree", False: "DIFFER"}.get(row.get("agree", ""), "not compared")


PARTS = {
    "results.json": add_results,
    "coldstart.json": add_coldstart,
    "launch_profile.json": add_launch_profile,
    "colocation.json": add_colocation,
    "applications.json": add_applications,
}


def make_page(records: dict[str, dict[str, Any]], notes: str = "") -> Page:
    """Return the page of some records.

    Parameters
    ----------
    records : dict
        By file name, of `PARTS`.
    notes : str
        What follows the figures.

    Raises
    ------
    Mixed
        They are of different devices.
    """
    devices = {record["machine"]["gpu"] for record in records.values()}
    if len(devices) != 1:
        raise Mixed(f"records of several devices are not mixed in one report: {', '.join(sorted(devices))}")
    facts = next(iter(records.values()))["machine"]
    page = Page("Performance", label(facts["gpu"]))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    known = f"{facts.get('processor', '')}, {facts['cpus']} cores, Linux {facts['kernel']}, Python {facts['python']}"
    page.text(f"{page.device}; {known.lstrip(', ')}; {versions}.")
    if is_software(facts["gpu"]):
        page.text("These are figures of a software GPU: they show that the benchmarks work, not how fast anything is.")
    for name, add in PARTS.items():
        if name in records:
            if records[name]["size"] == "smoke":
                page.text(f"The figures of `{name}` are of the smoke size, which means nothing.")
            add(page, records[name])
    if notes:
        page.verbatim(notes)
    return page


def main(arguments: Sequence[str]) -> int:
    """Make the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench report")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the page and its plots go; DIR itself if not given")
    parser.add_argument("--markdown", type=Path, help="write the page for the documentation too, and its pictures")
    options = parser.parse_args(arguments)
    found = {name: options.folder / name for name in PARTS if (options.folder / name).exists()}
    if not found:
        parser.error(f"{options.folder} holds none of {', '.join(PARTS)}")
    notes = options.folder / "notes.txt"
    try:
        page = make_page(
            {name: json.loads(path.read_text()) for name, path in found.items()},
            notes.read_text("utf-8") if notes.exists() else "",
        )
    except Mixed as error:
        parser.error(str(error))
    if options.markdown:
        page.write_markdown(options.markdown)
    print(page.write_html(options.out or options.folder))
    return 0
