"""A page with tables and plots of measured figures, and the same tables as Markdown for the documentation.

``python -m bench report DIR [--out OUT] [--markdown FILE]`` reads ``DIR/results.json`` (of ``python -m bench``) and
``DIR/colocation.json`` (of ``python -m bench.colocation``) as far as they are there, with ``DIR/notes.txt`` behind
them, and writes ``OUT/index.html`` (self-contained) and PNGs. Every table and figure names the device; figures of a
software GPU are marked as such.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Published for the C++ system on an A100 (MIGnificient, SC24): microseconds natively and through it.
PUBLISHED = (
    ("4-byte copy pair", 13.0, 52.0),
    ("launch and synchronize", 16.0, 33.0),
    ("empty synchronize", 0.9, 22.0),
)
_STYLE = """body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: right; border-bottom: 1px
solid #ddd }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }"""


class Page:
    """Collects sections as HTML and as Markdown."""

    def __init__(self, title: str) -> None:
        self.html = [f"<h1>{html.escape(title)}</h1>"]
        self.markdown = [f"# {title}", ""]

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.html.append(f"<p>{html.escape(text)}</p>")
        self.markdown += [text, ""]

    def heading(self, text: str) -> None:
        """Add a section's heading."""
        self.html.append(f"<h2>{html.escape(text)}</h2>")
        self.markdown += [f"## {text}", ""]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table."""
        lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
        for row in rows:
            lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>")
        self.html.append("\n".join([*lines, "</table>"]))
        self.markdown.append("| " + " | ".join(head) + " |")
        self.markdown.append("|" + "---|" * len(head))
        self.markdown += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        self.markdown.append("")

    def picture(self, name: str, data: bytes, folder: Path) -> None:
        """Add a plot to the page, and as a file beside it."""
        (folder / name).write_bytes(data)
        self.html.append(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}">')


def _png(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


def ratio_plot(rows: list[dict[str, Any]], device: str) -> bytes:
    """Return bars of proxied by native time."""

    def draw(axes: Any) -> None:
        names = [row["name"] for row in reversed(rows)]
        values = [row["ratio"] for row in reversed(rows)]
        axes.barh(names, values, color=["#2f7d32" if value <= 1 else "#b06030" for value in values])
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlabel(f"proxied time / native time — {device}")

    return _png(draw, (9, 1 + 0.28 * len(rows)))


def copy_plot(rows: list[dict[str, Any]], device: str) -> bytes:
    """Return the paper's figure: time of a copy pair by size."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["name"].startswith("copies::copy[pair-"):
            _, memory, size = row["name"].split("[")[1].rstrip("]").split("-")
            for mode in ("native", "proxied"):
                if mode in row:
                    lines.setdefault(f"{mode}, {memory}", []).append((int(size), row[mode]))

    def draw(axes: Any) -> None:
        for label, points in sorted(lines.items()):
            points.sort()
            style = "--" if label.startswith("native") else "-"
            axes.plot([size for size, _ in points], [time for _, time in points], style, marker="o", label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("bytes")
        axes.set_ylabel("host-to-device and device-to-host copy, µs")
        axes.set_title(device, fontsize=9)
        axes.legend()
        axes.grid(alpha=0.3)

    return _png(draw, (8, 5))


def colocation_plot(rows: list[dict[str, Any]], device: str) -> bytes:
    """Return bars of the speed-up over one after another."""

    def draw(axes: Any) -> None:
        for offset, mode in ((-0.2, "native"), (0.2, "proxied")):
            found = [row for row in rows if row["what"] == "makespan" and row["mode"] == mode]
            places = [index + offset for index in range(len(found))]
            axes.bar(places, [row["speedup"] for row in found], 0.4, label=mode)
            axes.set_xticks(range(len(found)), [f"{row['functions']} functions" for row in found])
        axes.axhline(1, color="black", linewidth=1)
        axes.set_ylabel("speed-up over one after another")
        axes.set_title(device, fontsize=9)
        axes.legend()

    return _png(draw, (7, 4))


def device_of(facts: dict[str, Any]) -> str:
    """Return the device's name as every figure carries it."""
    name: str = facts["machine"]["gpu"]
    return f"{name} (figures of a software GPU say nothing about a real one)" if name == "software GPU" else name


def add_results(page: Page, facts: dict[str, Any], folder: Path) -> None:
    """Add the benchmarks of ``python -m bench``."""
    device, rows = device_of(facts), facts["rows"]
    page.heading("Launches, latencies and copies")
    versions = ", ".join(f"{name} {number}" for name, number in facts["machine"]["versions"].items())
    page.text(f"{device}; {facts['machine']['cpus']} cores, Python {facts['machine']['python']}; {versions}.")
    page.text(
        f"Made by `python -m bench {' '.join(facts['command'])}`. Times in µs: the median over rounds of each round's "
        "median; in brackets the smallest and largest round."
    )

    def figure(row: dict[str, Any], mode: str) -> str:
        if mode not in row:
            return "–"
        low, high = row[f"{mode}_spread"]
        return f"{row[mode]} [{low}, {high}]"

    page.table(
        ("benchmark", "native", "proxied", "proxied / native"),
        [(row["name"], figure(row, "native"), figure(row, "proxied"), row.get("ratio", "–")) for row in rows],
    )
    compared = [row for row in rows if "ratio" in row]
    if compared:
        page.picture("ratios.png", ratio_plot(compared, device), folder)
    if any(row["name"].startswith("copies::copy[pair-") for row in rows):
        page.picture("copies.png", copy_plot(rows, device), folder)
        page.text("Published for the C++ system on an A100, natively and through it, in µs:")
        page.table(("what", "native", "C++ system"), PUBLISHED)


def add_colocation(page: Page, facts: dict[str, Any], folder: Path) -> None:
    """Add the figures of ``python -m bench.colocation``."""
    device, rows = device_of(facts), facts["rows"]
    page.heading("Several functions on one GPU")
    page.text(f"{device}. Made by `python -m bench.colocation {' '.join(facts['command'])}`.")
    spans = [row for row in rows if row["what"] in ("alone", "makespan")]
    page.table(
        ("mode", "functions at once", "seconds", "speed-up over one after another"),
        [(row["mode"], row["functions"], row["seconds"], row.get("speedup", 1.0)) for row in spans],
    )
    beside = [row for row in rows if row["what"].startswith("small request")]
    page.text("A request of 50 small synchronised kernels beside a function that keeps the GPU busy:")
    keys = ("mode", "alone_p50_ms", "p50_ms", "p99_ms", "worst_ms", "heavy_per_second")
    page.table(
        ("mode", "alone, median ms", "median ms", "99% ms", "worst ms", "heavy neighbour, products a second"),
        [tuple(row[key] for key in keys) for row in beside],
    )
    if any("speedup" in row for row in rows):
        page.picture("colocation.png", colocation_plot(rows, device), folder)


def main(arguments: list[str]) -> int:
    """Make the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench report")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the page and its plots go; DIR itself if not given")
    parser.add_argument("--markdown", type=Path, help="write the tables as a page of the documentation too")
    options = parser.parse_args(arguments)
    page = Page("Performance")
    parts = {"results.json": add_results, "colocation.json": add_colocation}
    out: Path = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    found = [name for name in parts if (options.folder / name).exists()]
    if not found:
        parser.error(f"{options.folder} holds none of {', '.join(parts)}")
    for name in found:
        parts[name](page, json.loads((options.folder / name).read_text()), out)
    notes = options.folder / "notes.txt"
    if notes.exists():
        page.markdown += [notes.read_text("utf-8").rstrip(), ""]
        page.html.append(f"<pre>{html.escape(notes.read_text('utf-8'))}</pre>")
    body = "\n".join(page.html)
    index = out / "index.html"
    head = f'<meta charset="utf-8"><title>Performance</title><style>{_STYLE}</style>'
    index.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n', "utf-8")
    if options.markdown:
        options.markdown.write_text("\n".join(page.markdown).rstrip() + "\n", "utf-8")
    print(index)
    return 0
