"""What the command line may ask a broker. A caller sees and ends its own uid's sessions only; root sees all if it
asks to."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import migproxy
from migproxy.abi import control
from migproxy.abi.control import Message
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.broker.client import Client
from migproxy.broker.sessions import Session
from migproxy.errors import ProtocolError

if TYPE_CHECKING:
    from migproxy.broker.server import Broker


def answer(broker: Broker, client: Client, message: Message) -> Message:
    """Return the answer to one request.

    Raises
    ------
    ProtocolError
        It is no request.
    """
    mine = [each for each in broker.sessions.values() if each.uid == client.uid]
    if isinstance(message, control.ListSessions):
        shown = list(broker.sessions.values()) if message.everyone and client.uid == 0 else mine
        return control.Sessions([row_of(broker, each) for each in shown[:1000]])
    if isinstance(message, control.KillSession):
        killable = broker.sessions.values() if client.uid == 0 else mine
        for session in killable:
            if session.session_id == message.session_id:
                broker.lose(session, "it was ended by migproxy kill")
                return control.Done()
        return control.Done(f"no session {message.session_id[:80]!r} of yours")
    if isinstance(message, control.ReadLog):
        lines, following = broker.log.read(message.after, message.session_id, None if client.uid == 0 else client.uid)
        return control.LogLines(lines, following)
    if isinstance(message, control.AskReport):
        running = [each for each in mine if each.function_id == message.function_id]
        return broker.reports.report(message.function_id, client.uid, running)
    if isinstance(message, control.AskTrace):
        for session in broker.sessions.values() if client.uid == 0 else mine:
            if session.session_id == message.session_id:
                session.ask(session.trace_request(), control.TraceEvents)
                return control.TraceEvents(list(session.events))
        return control.TraceEvents([])
    if isinstance(message, control.AskStatus):
        return status(broker)
    raise ProtocolError(f"{type(message).__name__} is no request")


def row_of(broker: Broker, session: Session) -> control.SessionRow:
    """Return a session's line, and have its executor report for the next time."""
    session.ask(control.ReportNow(), control.Report)
    lease = broker.leases.get(session.slice.name)
    if lease is None:
        return session.row()
    return session.row(gpu_time_ns=lease.held_ns(session.session_id), waits=lease.waits(session.session_id))


def status(broker: Broker) -> control.Status:
    """Return what the broker serves and how much of it is promised."""
    return control.Status(
        protocol=PROTOCOL_VERSION,
        version=migproxy.__version__,
        pid=os.getpid(),
        uptime_s=time.monotonic() - broker.started,
        default_memory=broker.config.default_memory,
        max_memory=broker.config.max_memory,
        slices=[
            control.SliceStatus(
                name=each.name,
                kind=each.kind,
                device=each.device_name,
                capacity=broker.ledgers[each.name].capacity,
                reserved=broker.ledgers[each.name].reserved,
                sessions=broker.ledgers[each.name].sessions,
                mode=broker.leases[each.name].mode if each.name in broker.leases else "full_overlap",
                policy=broker.leases[each.name].policy_name if each.name in broker.leases else "",
                holder=broker.leases[each.name].holder if each.name in broker.leases else "",
                waiting=broker.leases[each.name].waiting if each.name in broker.leases else 0,
                warm=broker.warm.waiting(each.name),
            )
            for each in broker.slices
        ],
    )
