"""``migproxy top``: slices and sessions, live."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from migproxy.abi.control import ListSessions, SessionRow, Sessions, Status
from migproxy.cli.control import running_broker
from migproxy.sizes import format_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top", help="Show slices and sessions, live.")(top)


def top(
    broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "",
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    count: Annotated[int, typer.Option(help="Stop after so many looks; 0: go on until interrupted.")] = 0,
    everyone: Annotated[bool, typer.Option("--all", help="Every user's sessions; for root.")] = False,
) -> int:
    """Show slices and sessions until interrupted."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    before: dict[str, SessionRow] = {}
    then = time.monotonic()
    with running_broker(broker) as client, Live(console=console, auto_refresh=False) as live:
        looks = 0
        try:
            while True:
                rows = client.ask(ListSessions(everyone), Sessions).rows
                now = time.monotonic()
                live.update(
                    Group(slices_table(client.status()), sessions_table(rows, before, now - then)), refresh=True
                )
                before, then = {row.session_id: row for row in rows}, now
                looks += 1
                if looks == count:
                    return 0
                time.sleep(max(0.05, interval))
        except KeyboardInterrupt:
            return 0


def slices_table(status: Status) -> Table:
    """Return one line for each slice."""
    table = Table(title=f"broker {status.version}, up {status.uptime_s:.0f} s", title_justify="left", box=None)
    for name in ("SLICE", "MEMORY", "PROMISED", "SESSIONS", "MODE", "POLICY", "LEASE", "WAITING", "WARM"):
        table.add_column(name)
    for each in status.slices:
        share = f"{100 * each.reserved / each.capacity:.0f}%" if each.capacity else "-"
        table.add_row(
            each.name,
            format_size(each.capacity),
            f"{format_size(each.reserved)} ({share})",
            str(each.sessions),
            each.mode,
            each.policy or "-",
            each.holder or "free",
            str(each.waiting),
            str(each.warm),
        )
    return table


def sessions_table(rows: list[SessionRow], before: dict[str, SessionRow], seconds: float) -> Table:
    """Return one line for each session; rates are since the last look."""
    table = Table(box=None)
    for name in ("SESSION", "PID", "SLICE", "STATE", "PEAK/QUOTA", "GPU", "LAUNCHES/s", "H2D/s", "D2H/s", "PROGRAM"):
        table.add_column(name, no_wrap=True)
    for row in sorted(rows, key=lambda each: -each.gpu_time_ns):
        last = before.get(row.session_id)

        def rate(name: str, row: SessionRow = row, last: SessionRow | None = last) -> float:
            if last is None or seconds <= 0:
                return 0.0
            return max(0, row.counters.get(name, 0) - last.counters.get(name, 0)) / seconds

        busy = 0.0
        if last is not None and seconds > 0:
            busy = min(1.0, max(0, row.gpu_time_ns - last.gpu_time_ns) / 1e9 / seconds)
        table.add_row(
            row.session_id,
            str(row.pid),
            row.slice,
            "waits" if row.waits else row.state,
            f"{format_size(row.peak_bytes)}/{format_size(row.quota)}",
            f"{100 * busy:.0f}%",
            f"{rate('launch'):,.0f}",
            format_size(int(rate("bytes_htod"))),
            format_size(int(rate("bytes_dtoh"))),
            row.program,
        )
    return table
