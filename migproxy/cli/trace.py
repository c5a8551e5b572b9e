"""``migproxy trace``: who computed when, as a Chrome trace for Perfetto: a lane for each session.

An event is a turn on the slice's compute lease, from the first kernel to the hand-over, or a wait for one. What lies
between is a function's CPU phase or its copies. A slice without a lease (``full_overlap``) has no events.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from migproxy.abi.control import AskTrace, ListSessions, SessionRow, Sessions, TraceEvent, TraceEvents
from migproxy.cli.control import running_broker
from migproxy.errors import UsageError

#: How long an executor may take to send what it has.
_ANSWER_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trace", help="Record who computed when, for Perfetto or chrome://tracing.")(trace)


def trace(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("migproxy-trace.json"),
    seconds: Annotated[float, typer.Option(help="How long to record.")] = 5.0,
    broker: Annotated[str, typer.Option(help="Socket of the broker.")] = "",
    everyone: Annotated[bool, typer.Option("--all", help="Every user's sessions; for root.")] = False,
) -> int:
    """Record a trace."""
    begin = time.monotonic_ns()
    found: dict[str, tuple[SessionRow, set[TraceEvent]]] = {}
    with running_broker(broker) as client:
        end = begin + int(seconds * 1e9)
        while True:
            for row in client.ask(ListSessions(everyone), Sessions).rows:
                events = client.ask(AskTrace(row.session_id), TraceEvents).events
                found.setdefault(row.session_id, (row, set()))[1].update(events)
            now = time.monotonic_ns()
            if now > end + _ANSWER_SECONDS * 1e9:
                break
            time.sleep(min(_ANSWER_SECONDS, max(0.05, seconds / 10)))
    document = chrome_trace(found, begin, end)
    try:
        out.write_text(json.dumps(document))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    print(f"{sum(event['ph'] == 'X' for event in document['traceEvents'])} events of {len(found)} sessions in {out}")
    return 0


def chrome_trace(found: dict[str, tuple[SessionRow, set[TraceEvent]]], begin: int, end: int) -> dict[str, Any]:
    """Return the events between `begin` and `end` in the Trace Event Format; a process is a slice, a thread a
    session."""
    slices = sorted({row.slice for row, _ in found.values()})
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": slices.index(name), "args": {"name": f"slice {name}"}}
        for name in slices
    ]
    for lane, (session_id, (row, recorded)) in enumerate(sorted(found.items())):
        place = {"pid": slices.index(row.slice), "tid": lane}
        label = f"{row.pid} {row.program[:60]} ({session_id})"
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": label}})
        for event in sorted(recorded, key=lambda each: each.start):
            if event.end >= begin and event.start <= end:
                start = (max(event.start, begin) - begin) / 1000
                length = (min(event.end, end) - begin) / 1000 - start
                events.append({"ph": "X", "name": event.what, "cat": "lease", "ts": start, "dur": length, **place})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
