"""``migproxy smi``: what a broker serves, and how much of it is promised."""

from __future__ import annotations

from typing import Annotated

import typer

from migproxy.cli.control import running_broker
from migproxy.sizes import format_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("smi", help="Show the broker's slices and how much of them is promised.")(smi)


def smi(broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "") -> int:
    """Show the slices."""
    with running_broker(broker) as client:
        status = client.status()
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"broker {status.version}, pid {status.pid}, up {status.uptime_s:.0f} s", title_justify="left")
    for name in (
        "slice",
        "kind",
        "device",
        "memory",
        "promised",
        "sessions",
        "mode",
        "policy",
        "lease",
        "waiting",
        "warm",
    ):
        table.add_column(name)
    for each in status.slices:
        table.add_row(
            each.name,
            each.kind,
            each.device,
            format_size(each.capacity),
            format_size(each.reserved),
            str(each.sessions),
            each.mode or "-",
            each.policy or "-",
            each.holder or "-",
            str(each.waiting),
            str(each.warm),
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    return 0
