"""Draw a trace of ``migproxy trace`` as lanes: a band for each function, in it kernels, copies and CPU phases.

Usage: ``python tools/draw_trace.py TRACE.json PICTURE [--start MS] [--length MS] [--title TEXT]``
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Patch

#: Lane of the trace → colour and place in its function's band, from the top.
LOOKS = {"kernels": ("#2a6fbb", 0), "copies": ("#e08a2c", 1), "CPU": ("#8a8a8a", 2), "waits": ("#e5c4c4", 3)}
BAND = 5.0
#: Milliseconds; shorter gaps between two kernels are the way from one command to the next.
SHORTEST_PHASE = 0.2


def draw(document: dict[str, Any], target: Path, start: float, length: float, title: str) -> None:
    """Write a picture of the trace between `start` and `start` + `length` milliseconds."""
    events = document["traceEvents"]
    names = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    functions = sorted(names)
    figure, axes = pyplot.subplots(figsize=(11, 0.6 + 0.75 * len(functions)))
    for index, function in enumerate(functions):
        for lane, (colour, place) in LOOKS.items():
            spans = [
                (each["ts"] / 1e3 - start, each["dur"] / 1e3)
                for each in events
                if each["ph"] == "X" and each["pid"] == function and lane in (each["cat"], each["name"])
            ]
            least = SHORTEST_PHASE if lane == "CPU" else 0.0
            spans = [(begin, took) for begin, took in spans if begin + took > 0 and begin < length and took > least]
            axes.broken_barh(spans, (-BAND * index - place - 1, 0.9), facecolors=colour)
    axes.set_xlim(0, length)
    axes.set_yticks([-BAND * index - 2 for index in range(len(functions))])
    axes.set_yticklabels([f"function {index + 1}" for index in range(len(functions))])
    axes.set_xlabel("ms")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(
        [Patch(color=colour) for colour, _ in LOOKS.values()],
        ["kernels", "copies", "on the CPU", "waits for the lease"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(LOOKS),
        frameon=False,
    )
    if title:
        axes.set_title(title, pad=28)
    figure.savefig(target, bbox_inches="tight")


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--start", type=float, default=0.0, help="milliseconds after the beginning")
    parser.add_argument("--length", type=float, default=60.0, help="milliseconds")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    document = json.loads(arguments.trace.read_text())
    draw(document, arguments.picture, arguments.start, arguments.length, arguments.title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
