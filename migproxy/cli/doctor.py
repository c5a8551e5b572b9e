"""``migproxy doctor``: what is here, whether it is supported, and what would run where."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Tell what is here, whether it is supported, and what would run where.")(doctor)


def doctor() -> int:
    """Print the findings; the exit code is 1 if something is broken."""
    from rich.console import Console
    from rich.table import Table

    from migproxy.cli.diagnose import diagnose

    findings = diagnose()
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.topic, {"ok": "ok", "note": "note", "bad": "BAD"}[finding.verdict], finding.text)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0
