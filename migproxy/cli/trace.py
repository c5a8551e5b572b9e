"""``migproxy trace``: what each function did when, as a Chrome trace for Perfetto.

A process of the trace is a session, its threads are the lanes: turns on the slice's compute lease and waits for one;
kernels (short ones of a row in one piece); copies between host and device; and the CPU phase, which is what lies
between: nothing was on its way and nothing waited. A slice without a lease (``full_overlap``) has no events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from migproxy.abi.control import AskTrace, ListSessions, SessionRow, Sessions, TraceEvent, TraceEvents
from migproxy.cli.control import BrokerClient, running_broker
from migproxy.errors import UsageError

#: How long an executor may take to send what it has.
_ANSWER_SECONDS = 0.5
#: Executors keep a thousand events: busy ones are to be asked this often.
_ASK_SECONDS = 0.05
LANES = ("lease", "kernels", "copies", "CPU")
#: A shorter gap between two events is the way from one command to the next, no phase.
SHORTEST_PHASE = 20_000

Recorded = dict[str, tuple[SessionRow, set[TraceEvent]]]


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
    with running_broker(broker) as client:
        begin, end, found = record(client, seconds, everyone=everyone)
    document = chrome_trace(found, begin, end)
    try:
        out.write_text(json.dumps(document))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    print(f"{sum(event['ph'] == 'X' for event in document['traceEvents'])} events of {len(found)} sessions in {out}")
    return 0


def record(client: BrokerClient, seconds: float, *, everyone: bool = False) -> tuple[int, int, Recorded]:
    """Ask a broker for what its sessions do in the next `seconds`; returns begin, end (ns) and the events."""
    found: Recorded = {}

    def ask() -> None:
        for row in client.ask(ListSessions(everyone), Sessions).rows:
            events = client.ask(AskTrace(row.session_id), TraceEvents).events
            found.setdefault(row.session_id, (row, set()))[1].update(events)

    # Executors tell what they have kept so far before the time that counts: that takes them milliseconds.
    ask()
    time.sleep(_ASK_SECONDS)
    begin = time.monotonic_ns()
    end = begin + int(seconds * 1e9)
    while True:
        ask()
        if time.monotonic_ns() > end + _ANSWER_SECONDS * 1e9:
            return begin, end, found
        time.sleep(_ASK_SECONDS)


def lane_of(event: TraceEvent) -> str:
    """Return the lane that an event belongs to."""
    if event.what.startswith("kernel "):
        return "kernels"
    return "copies" if event.what.startswith("copy ") else "lease"


def cpu_phases(events: Iterable[TraceEvent]) -> list[TraceEvent]:
    """Return the times between the first and the last event in which nothing was on its way and nothing waited."""
    busy = sorted((each.start, each.end) for each in events if each.what != "computes")
    phases = []
    reached = busy[0][1] if busy else 0
    for start, end in busy:
        if start - reached > SHORTEST_PHASE:
            phases.append(TraceEvent("CPU", reached, start))
        reached = max(reached, end)
    return phases


def chrome_trace(found: Recorded, begin: int, end: int) -> dict[str, Any]:
    """Return the events between `begin` and `end` in the Trace Event Format."""
    events: list[dict[str, Any]] = []
    for number, (session_id, (row, recorded)) in enumerate(sorted(found.items())):
        label = f"{row.pid} {row.program[:60]} ({session_id}) on {row.slice}"
        events.append({"ph": "M", "name": "process_name", "pid": number, "args": {"name": label}})
        for lane, name in enumerate(LANES):
            events.append({"ph": "M", "name": "thread_name", "pid": number, "tid": lane, "args": {"name": name}})
        shown = [each for each in recorded if each.end >= begin and each.start <= end]
        phases = [(LANES.index("CPU"), each) for each in cpu_phases(shown)]
        for lane, event in sorted([*((LANES.index(lane_of(each)), each) for each in shown), *phases], key=_by_start):
            start = (max(event.start, begin) - begin) / 1000
            length = (min(event.end, end) - begin) / 1000 - start
            place = {"pid": number, "tid": lane}
            events.append({"ph": "X", "name": event.what, "cat": LANES[lane], "ts": start, "dur": length, **place})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _by_start(item: tuple[int, TraceEvent]) -> int:
    return item[1].start
