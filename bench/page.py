"""A page that is written as self-contained HTML and as Markdown at once."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = """body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
.device { color: #555; font-size: 90% }"""


class Page:
    """Collects sections.

    Parameters
    ----------
    title : str
    device : str
        What all figures are of; every table and picture says so.
    """

    def __init__(self, title: str, device: str) -> None:
        self.device = device
        self.pictures: dict[str, bytes] = {}
        self._title = title
        self._html = [f"<h1>{html.escape(title)}</h1>"]
        self._markdown = [f"# {title}", ""]

    def text(self, text: str) -> None:
        """Add a paragraph; `code` in backquotes."""
        parts = html.escape(text).split("`")
        marked = "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
        self._html.append(f"<p>{marked}</p>")
        self._markdown += [text, ""]

    def heading(self, text: str) -> None:
        """Add a section's heading."""
        self._html.append(f"<h2>{html.escape(text)}</h2>")
        self._markdown += [f"## {text}", ""]

    def command(self, record: dict[str, object]) -> None:
        """Say how a record was made."""
        words = record["command"]
        assert isinstance(words, list)
        self.text(f"Made by `{' '.join(words)}`.")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table, with the device under it."""
        lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
        for row in rows:
            lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>")
        self._html.append("\n".join([*lines, f'</table><p class="device">{html.escape(self.device)}</p>']))
        self._markdown.append("| " + " | ".join(head) + " |")
        self._markdown.append("|---|" + "---:|" * (len(head) - 1))
        self._markdown += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        self._markdown += ["", f"*{self.device}*", ""]

    def picture(self, name: str, data: bytes, words: str) -> None:
        """Add a plot; the drawing itself names the device."""
        self.pictures[name] = data
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        self._html.append(f'<img alt="{html.escape(words)}" src="{source}">')
        self._markdown += [f"![{words}](pictures/{name})", ""]

    def verbatim(self, markdown: str) -> None:
        """Add text written by hand."""
        self._html.append(f"<pre>{html.escape(markdown)}</pre>")
        self._markdown += [markdown.rstrip(), ""]

    def write_html(self, folder: Path) -> Path:
        """Write ``index.html``, and the pictures beside it; returns the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.pictures.items():
            (folder / name).write_bytes(data)
        head = f'<meta charset="utf-8"><title>{html.escape(self._title)}</title><style>{_STYLE}</style>'
        body = "\n".join(self._html)
        index = folder / "index.html"
        index.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n', "utf-8")
        return index

    def write_markdown(self, path: Path) -> None:
        """Write the page as Markdown, and its pictures to ``pictures/`` beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, data in self.pictures.items():
            (path.parent / "pictures").mkdir(exist_ok=True)
            (path.parent / "pictures" / name).write_bytes(data)
        path.write_text("\n".join(self._markdown).rstrip() + "\n", "utf-8")
