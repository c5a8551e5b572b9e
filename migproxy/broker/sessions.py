"""One session's record in the broker, and what is remembered of functions whose sessions ended."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from migproxy.abi.control import FunctionReport, Hello, Report, ReportNow, SessionRow, TraceEvent, TraceEvents, TraceNow
from migproxy.abi.layout import PEAK_BYTES_OFFSET
from migproxy.arena import packets
from migproxy.broker import segments
from migproxy.broker.loop import Timer
from migproxy.broker.supervisor import Executor
from migproxy.device.inventory import Slice

#: Functions whose reports are kept after their last session ended.
KEEP_REPORTS = 1_000
#: Events of one session for `migproxy trace`: as many as an executor keeps.
MAX_EVENTS = 2_000
#: What an executor notes while it answers may have ended a little before the last event that it sent.
TRACE_OVERLAP_NS = 1_000_000
#: Names of counters that one session may report.
MAX_COUNTERS = 256


@dataclass
class Session:
    """One function process, its executor and its arena.

    `state` is ``starting``, ``running`` or ``ending``.
    """

    session_id: str
    function_id: str
    uid: int
    hello: Hello
    slice: Slice
    quota: int
    state: str = "starting"
    executor: Executor | None = None
    segment_fds: list[int] = field(default_factory=list)
    segment_sizes: list[int] = field(default_factory=list)
    growing: list[tuple[int, int]] = field(default_factory=list)
    events: deque[TraceEvent] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    traced_until: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    failure: str = ""
    overdue: Timer | None = None
    account_place: int = -1
    asked: set[type[Report] | type[TraceEvents]] = field(default_factory=set)

    def ask(self, request: ReportNow | TraceNow, answer: type[Report] | type[TraceEvents]) -> None:
        """Have its executor send an `answer`, unless it was asked for one that has not come yet.

        Else whoever lists sessions often could fill the socket of an executor that is busy, which would end it.
        """
        if self.state == "running" and self.executor is not None and answer not in self.asked:
            self.asked.add(answer)
            self.executor.send(request)

    def keep(self, events: list[TraceEvent]) -> None:
        """Add what its executor has sent of its latest events; the next question is for later ones."""
        until = self.traced_until
        self.events.extend([each for each in events if each.end > until or each not in self.events])
        self.traced_until = max((each.end for each in events), default=until)

    def trace_request(self) -> TraceNow:
        """Return the question for events that have not come yet, and for those that may have been noted meanwhile."""
        return TraceNow(max(0, self.traced_until - TRACE_OVERLAP_NS))

    @property
    def arena_bytes(self) -> int:
        """Shared memory promised to this session, segments on their way included."""
        return sum(self.segment_sizes) + sum(size for _, size in self.growing)

    def row(self, *, gpu_time_ns: int = 0, waits: bool = False) -> SessionRow:
        """Return the session as `migproxy ps` shows it."""
        peak = segments.read_word(self.segment_fds[0], PEAK_BYTES_OFFSET) if self.segment_fds else 0
        return SessionRow(
            session_id=self.session_id,
            function_id=self.function_id,
            uid=self.uid,
            pid=self.hello.pid,
            executor_pid=self.executor.pid if self.executor else 0,
            slice=self.slice.name,
            state=self.state,
            quota=self.quota,
            peak_bytes=min(peak, self.quota),
            arena_bytes=self.arena_bytes,
            age_s=time.monotonic() - self.started,
            program=self.hello.program[:200],
            gpu_time_ns=gpu_time_ns or self.counters.get("gpu_time_ns", 0),
            waits=waits,
            counters=dict(self.counters),
        )

    def close(self) -> None:
        """Close the broker's descriptors of the arena."""
        packets.close_all(self.segment_fds)
        packets.close_all(fd for fd, _ in self.growing)
        self.segment_fds.clear()
        self.growing.clear()


def add_counters(total: dict[str, int], more: dict[str, int]) -> None:
    """Add `more` to `total`. ``peak_…`` and ``quota_…`` are not sums: the largest counts."""
    for name, value in more.items():
        if name.startswith(("peak_", "quota_")):
            total[name] = max(total.get(name, 0), value)
        elif name in total or len(total) < MAX_COUNTERS:
            total[name] = total.get(name, 0) + value


@dataclass
class _Function:
    uid: int
    sessions: int = 0
    counters: dict[str, int] = field(default_factory=dict)


class Reports:
    """What the ended sessions of each function did."""

    def __init__(self) -> None:
        self._functions: OrderedDict[str, _Function] = OrderedDict()

    def add(self, session: Session) -> None:
        """Enter an ended session."""
        function = self._functions.setdefault(session.function_id, _Function(session.uid))
        self._functions.move_to_end(session.function_id)
        if function.uid == session.uid:
            function.sessions += 1
            add_counters(function.counters, session.counters)
        while len(self._functions) > KEEP_REPORTS:
            self._functions.popitem(last=False)

    def report(self, function_id: str, uid: int, running: list[Session]) -> FunctionReport:
        """Return the sums over the ended and the running sessions of a function of `uid`."""
        function = self._functions.get(function_id)
        counters: dict[str, int] = {}
        ended = 0
        if function is not None and function.uid == uid:
            counters.update(function.counters)
            ended = function.sessions
        for session in running:
            add_counters(counters, session.counters)
        return FunctionReport(function_id, ended + len(running), len(running), counters)
