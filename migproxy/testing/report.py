"""A self-contained report page: machine, versions, command line, table and plots of paired timings. Needs
matplotlib."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migproxy.errors import UsageError
from migproxy.testing.machine import label, machine
from migproxy.testing.pairs import Comparison

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .2em .8em; text-align: right; border-bottom:
1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }} .slower {{ color: #b00 }} .faster {{ color: #070 }} img {{
max-width: 100% }}
</style></head><body><h1>{title}</h1>{body}</body></html>
"""


def plot(rows: Sequence[Comparison], device: str) -> bytes:
    """Return a PNG: the ratio of each pair with its interval; 1 is native."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("the report needs matplotlib: pip install 'migproxy[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.35 * len(rows)))
    for position, row in enumerate(reversed(rows)):
        colour = {"slower": "#b03030", "faster": "#2f7d32"}.get(row.verdict, "#607080")
        axes.plot([row.low, row.high], [position, position], color=colour, linewidth=3, alpha=0.5)
        axes.plot(row.ratio, position, "o", color=colour)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.name.rsplit("::", 1)[-1] for row in reversed(rows)])
    axes.set_xlabel(f"proxied time / native time, 95% interval — {device}")
    axes.grid(axis="x", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return picture.getvalue()


def write_report(folder: Path, rows: Sequence[Comparison], *, command: Sequence[str], gpu: str = "") -> Path:
    """Write ``index.html`` (self-contained) and ``ratios.png``; returns the page's path.

    Raises
    ------
    UsageError
        matplotlib is missing.
    """
    facts = machine(gpu)
    picture = plot(rows, label(facts["gpu"])) if rows else b""
    folder.mkdir(parents=True, exist_ok=True)
    if picture:
        (folder / "ratios.png").write_bytes(picture)
    page = folder / "index.html"
    page.write_text(_PAGE.format(title="Native and proxied", body=_body(rows, facts, command, picture)), "utf-8")
    return page


def _body(rows: Sequence[Comparison], facts: dict[str, Any], command: Sequence[str], picture: bytes) -> str:
    from migproxy.testing.both import seconds

    def cells(values: Sequence[Any], tag: str = "td", kind: str = "") -> str:
        inner = "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)
        return f'<tr class="{kind}">{inner}</tr>'

    lines = [f"<p><code>{html.escape(' '.join(command))}</code></p>", "<table>"]
    known = {**facts, **facts["versions"], "gpu": label(facts["gpu"])}
    lines += [cells((name, value)) for name, value in known.items() if name != "versions"]
    lines.append("</table>")
    if picture:
        lines.append(f'<img alt="ratios" src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
    lines.append("<table>" + cells(("test", "native", "proxied", "ratio", "95% interval", "verdict"), "th"))
    for row in rows:
        interval = f"{row.low:.3f} … {row.high:.3f}"
        values = (row.name, seconds(row.base), seconds(row.other), f"{row.ratio:.3f}", interval, row.verdict)
        lines.append(cells(values, kind=row.verdict))
    return "\n".join([*lines, "</table>"])
