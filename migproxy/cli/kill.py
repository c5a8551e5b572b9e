"""``migproxy kill``: end a session; its function sees SessionLost."""

from __future__ import annotations

from typing import Annotated

import typer

from migproxy.abi.control import Done, KillSession
from migproxy.cli.control import running_broker
from migproxy.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("kill", help="End a session; its function sees SessionLost.")(kill)


def kill(
    session: Annotated[str, typer.Argument(help="A session as migproxy ps shows it.")],
    broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "",
) -> int:
    """End a session."""
    with running_broker(broker) as client:
        reason = client.ask(KillSession(session), Done).reason
    if reason:
        raise UsageError(reason)
    return 0
