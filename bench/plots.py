"""The report's pictures, by matplotlib; each names its device."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

GOOD, BAD, PLAIN = "#2f7d32", "#b06030", "#607080"
#: Kinds of a program's time, as the paper stacks them.
KINDS = (("gpu", "active GPU", "#2f7d32"), ("copies", "copies", "#3b6ea5"), ("allocation", "allocation", "#c9a227"),
         ("cpu", "CPU", "#b06030"))  # fmt: skip
MEMORIES = {
    ("native", "array"): ("native, pageable", "--", "#607080"),
    ("native", "pinned"): ("native, pinned", "--", "#3b6ea5"),
    ("proxied", "array"): ("migproxy, ordinary arrays", "-", "#b06030"),
    ("proxied", "pinned"): ("migproxy, mignificient_malloc", "-", "#2f7d32"),
    ("proxied", "foreign"): ("migproxy, foreign memory", ":", "#b03080"),
}


def png(draw: Callable[[Any], None], size: tuple[float, float], device: str) -> bytes:
    """Return a picture of one plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size)
    draw(axes)
    axes.set_title(device, fontsize=9)
    buffer = io.BytesIO()
    # Without the date and the program's version, so that the same figures make the same file.
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


def ratios(rows: Sequence[dict[str, Any]], device: str, names: Callable[[dict[str, Any]], str]) -> bytes:
    """Return bars of proxied by native time."""

    def draw(axes: Any) -> None:
        shown = list(reversed(rows))
        values = [row["ratio"] for row in shown]
        axes.barh(range(len(shown)), values, color=[GOOD if value <= 1 else BAD for value in values])
        axes.set_yticks(range(len(shown)), [names(row) for row in shown], fontsize=8)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlabel("proxied time / native time")
        axes.margins(y=0.01)

    return png(draw, (8, 1 + 0.22 * len(rows)), device)


def copies(pairs: dict[tuple[str, str], dict[int, float]], device: str) -> bytes:
    """Return the paper's figure: time of a copy pair by size, in microseconds."""

    def draw(axes: Any) -> None:
        for key, points in pairs.items():
            if key in MEMORIES:
                label, style, colour = MEMORIES[key]
                sizes = sorted(points)
                axes.plot(sizes, [points[size] for size in sizes], style, marker="o", label=label, color=colour)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("bytes")
        axes.set_ylabel("host to device and back, µs")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)

    return png(draw, (8, 5), device)


def stacked(bars: Sequence[tuple[str, dict[str, float], float]], device: str) -> bytes:
    """Return stacked bars of where programs' time goes, in percent of the third entry of each."""

    def draw(axes: Any) -> None:
        bottom = [0.0] * len(bars)
        for kind, label, colour in KINDS:
            heights = [100 * split.get(kind, 0.0) / whole for _, split, whole in bars]
            axes.bar(range(len(bars)), heights, bottom=bottom, label=label, color=colour)
            bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
        axes.set_xticks(range(len(bars)), [name for name, _, _ in bars], rotation=60, ha="right", fontsize=8)
        axes.set_ylabel("% of the program's native time")
        axes.legend(fontsize=8)

    return png(draw, (max(6.0, 0.55 * len(bars)), 4.5), device)


def stages(bars: Sequence[tuple[str, dict[str, float]]], device: str) -> bytes:
    """Return horizontal bars of what starting a script goes to, in milliseconds."""

    def draw(axes: Any) -> None:
        colours = [PLAIN, "#3b6ea5", "#7aa6d6", "#c9a227", "#2f7d32"]
        left = [0.0] * len(bars)
        for index, name in enumerate(bars[0][1]):
            widths = [each.get(name, 0.0) for _, each in bars]
            axes.barh(range(len(bars)), widths, left=left, label=name, color=colours[index % len(colours)])
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.set_xlabel("milliseconds from starting the process, until …")
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.3))

    return png(draw, (8, 0.8 + 0.6 * len(bars)), device)


def speedups(rows: Sequence[dict[str, Any]], device: str) -> bytes:
    """Return bars of the speed-up over one after another, by number of functions."""

    def draw(axes: Any) -> None:
        counts = sorted({row["functions"] for row in rows})
        modes = list(dict.fromkeys(row["mode"] for row in rows))
        width = 0.8 / len(modes)
        for place, mode in enumerate(modes):
            found = {row["functions"]: row["speedup"] for row in rows if row["mode"] == mode}
            offset = width * (place - 0.5 * (len(modes) - 1))
            places = [index + offset for index in range(len(counts))]
            axes.bar(places, [found.get(count, 0.0) for count in counts], 0.95 * width, label=mode)
        axes.set_xticks(range(len(counts)), [f"{count} functions" for count in counts])
        axes.axhline(1, color="black", linewidth=1)
        axes.set_ylabel("speed-up over one after another")
        axes.legend()

    return png(draw, (7, 4), device)
