"""``migproxy ps``: the sessions of this user."""

from __future__ import annotations

from typing import Annotated

import typer

from migproxy.abi.control import ListSessions, Sessions
from migproxy.cli.control import running_broker
from migproxy.sizes import format_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ps", help="List your sessions at the broker.")(ps)


def ps(
    broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "",
    everyone: Annotated[bool, typer.Option("--all", help="Every user's sessions; for root.")] = False,
) -> int:
    """List sessions."""
    with running_broker(broker) as client:
        rows = client.ask(ListSessions(everyone), Sessions).rows
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("SESSION", "FUNCTION", "PID", "SLICE", "STATE", "PEAK", "QUOTA", "ARENA", "AGE", "PROGRAM"):
        table.add_column(name, overflow="ellipsis" if name == "PROGRAM" else "fold", no_wrap=True)
    for row in rows:
        table.add_row(
            row.session_id,
            row.function_id,
            str(row.pid),
            row.slice,
            row.state,
            format_size(row.peak_bytes),
            format_size(row.quota),
            format_size(row.arena_bytes),
            f"{row.age_s:.1f}s",
            row.program,
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240
    console.print(table)
    return 0
