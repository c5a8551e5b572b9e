"""``migproxy logs``: what broker and executors noted."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated

import typer

from migproxy.abi.control import LogLine, LogLines, ReadLog
from migproxy.cli.control import running_broker


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs", help="Show what broker and executors noted.")(logs)


def logs(
    session: Annotated[str, typer.Option(help="Only this session's lines.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "",
) -> int:
    """Show the log."""
    following = 0
    with running_broker(broker) as client:
        while True:
            answer = client.ask(ReadLog(following, session), LogLines)
            following = answer.next
            for line in answer.lines:
                print(format_line(line), flush=True)
            if not answer.lines and not follow:
                return 0
            if not answer.lines:
                try:
                    time.sleep(0.2)
                except KeyboardInterrupt:
                    return 0


def format_line(line: LogLine) -> str:
    """Return a log line as text."""
    when = datetime.fromtimestamp(line.time).isoformat(sep=" ", timespec="milliseconds")
    return f"{when} {line.level:<7} {line.session_id or '-':<12} {line.text}"
