"""When this session's commands may use the multiprocessors: its lease, how much it keeps in flight, and its own
watchdog.

`Alone` is for a slice without a lease: it allows everything. `Turns` is for the other modes.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from migproxy.abi.control import TraceEvent
from migproxy.abi.ops import OPERATIONS, Op
from migproxy.errors import CudaError
from migproxy.executor import pump
from migproxy.executor.lease import LeaseClient

if TYPE_CHECKING:
    from migproxy.executor.state import SessionState

#: How long a holder that has nothing to do keeps the lease, besides the time that the pump looks for work by itself.
THINK = 50e-6
#: Work in flight while others wait is two marks of about this long: 2 ms, or two kernels where one is longer.
MARK_NS = 1_000_000
_LARGEST_MARK = 512
_UNLIMITED = 1 << 62
_NOT_READY = 600
_COPIES = frozenset({Op.COPY_HTOD, Op.COPY_DTOH})
CUDA_ERROR_LAUNCH_TIMEOUT = 702


class Alone:
    """No lease: every command may run at once. Watches for hung kernels only.

    Parameters
    ----------
    state : SessionState
    """

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._limit = int(state.spec.kernel_seconds * 1e9)
        self._seen: tuple[int, ...] = ()
        self._progress = 0

    def may_carry_out(self, reason: int) -> bool:
        """Tell whether the command in hand may be carried out now; ask again until it may."""
        return True

    def look(self, *, idle: bool) -> None:
        """Do what is due; called once a round. `idle`: no command waits and no completion record is open."""
        if self._limit:
            self._watch()

    def nap(self, longest: float) -> float:
        """Return how long an idle executor may sleep."""
        return longest

    def close(self) -> None:
        """The session ends."""

    def events(self) -> list[TraceEvent]:
        """Return what the session did lately; from any thread."""
        return []

    def _on_its_way(self) -> bool:
        return self._state.pump.outstanding() or bool(self._state.completions)

    def _watch(self) -> None:
        """Declare the context dead when work on its way makes no progress for longer than the slice's limit."""
        tables = self._state.pump
        now = time.monotonic_ns()
        if not self._on_its_way():
            self._progress = 0
            return
        seen = (tables.get(pump.WAIT_COUNT), tables.get(pump.HOST_HEAD), tables.get(pump.FREE_HEAD), tables.tail)
        if not self._progress or seen != self._seen:
            self._seen, self._progress = seen, now
        elif now - self._progress > self._limit and not self._state.sticky:
            self._state.counters["hung_kernels"] += 1
            self._state.note_status(CUDA_ERROR_LAUNCH_TIMEOUT)
            self._state.closing = True
            for number in tables.take_waits():
                self._state.reply(number, CUDA_ERROR_LAUNCH_TIMEOUT)


class Turns(Alone):
    """Work on the multiprocessors waits for the slice's lease.

    Parameters
    ----------
    state : SessionState
    lease : LeaseClient
    """

    def __init__(self, state: SessionState, lease: LeaseClient) -> None:
        super().__init__(state)
        self._lease = lease
        self._sequential = state.spec.mode == "sequential"
        with_copies = state.spec.mode in ("sequential", "overlap_cpu")
        leased = {op for op, facts in OPERATIONS.items() if facts.lease}
        self._operations = frozenset(int(op) for op in (leased | _COPIES if with_copies else leased))
        self._marks: deque[tuple[int, int]] = deque()
        self._mark_size = 8
        self._last_done = 0
        self._draining = False
        self._drained = False
        self._paused = False
        self._resting = False
        self._wanted_at = 0
        tables = state.pump
        tables.set(pump.LEASE_WORD, lease.permit_address)
        tables.set(pump.LEASE_VALUE, 1)
        tables.set(pump.LEASE_COPIES, int(with_copies))
        tables.set(pump.LEASE_CREDIT, 0)

    def may_carry_out(self, reason: int) -> bool:
        """Tell whether the command in hand may be carried out now; ask again until it may."""
        self._paused = self._resting = False
        if reason == pump.REASON_ERROR:
            return True
        if self._state.pump.get(pump.COPY) & 0xFFFF not in self._operations:
            return True
        if not self._lease.acquire():
            self._wanted_at = self._wanted_at or time.monotonic_ns()
            return False
        if self._wanted_at:
            self._state.counters["lease_waits"] += 1
            self._state.counters["waited_ns"] += time.monotonic_ns() - self._wanted_at
            self._wanted_at = 0
        if not self._refill():
            return False
        if reason != pump.REASON_LEASE and self._state.pump.get(pump.LEASE_CREDIT):  # the pump takes its own credit
            self._state.pump.add(pump.LEASE_CREDIT, -1)
        return True

    def look(self, *, idle: bool) -> None:
        """Hand the lease over if it is due; called once a round."""
        super().look(idle=idle)
        self._lease.progress(on_its_way=self._on_its_way())
        if self._sequential:
            return
        if self._lease.should_yield():
            if self._drain():
                self._draining = False
                self._lease.release(wants=bool(self._wanted_at) or not idle)
        elif idle and self._resting and not self._paused:
            # The think-time has passed; what was launched without waiting for it may still run.
            if self._drain():
                self._draining = False
                self._paused = True
                self._lease.pause()
        else:
            self._draining = False

    def nap(self, longest: float) -> float:
        """Return how long an idle executor may sleep: short once, before the lease is given up."""
        if self._sequential or self._paused or not self._lease.holds() or not self._lease.contended:
            return longest
        self._resting = True
        return THINK

    def close(self) -> None:
        """The session ends: its time on the device goes into the report."""
        self._state.counters["gpu_time_ns"] = self._lease.held_ns

    def events(self) -> list[TraceEvent]:
        """Return what the session did lately; from any thread."""
        return list(self._lease.events.copy())

    def _drain(self) -> bool:
        """Return whether everything submitted is done; looks from round to round, never waits."""
        if not self._draining:
            self._draining, self._drained = True, False

            def done(_: int) -> None:
                self._drained = True

            self._state.after_everything(done)
        return self._drained

    def _refill(self) -> bool:
        """Let the pump issue up to the next mark; False while two marks are on their way already."""
        tables = self._state.pump
        if tables.get(pump.LEASE_CREDIT):
            return True
        if not self._lease.contended or self._state.capturing:
            self._drop_marks()
            tables.set(pump.LEASE_CREDIT, _LARGEST_MARK if self._state.capturing else _UNLIMITED)
            return True
        self._poll_marks()
        if len(self._marks) >= 2:
            return False
        stream = self._stream()
        event = tables.take_event()
        if self._state.driver.status("cuEventRecord", event, stream):
            tables.give_event(event)
        else:
            self._marks.append((event, time.monotonic_ns()))
        tables.set(pump.LEASE_CREDIT, self._mark_size)
        return True

    def _stream(self) -> int:
        """Return the real stream of the command in hand."""
        try:
            return self._state.stream(self._state.pump.get(pump.SLOT_STREAM))
        except CudaError:
            return 0  # a wrong handle is refused when the command is carried out

    def _poll_marks(self) -> None:
        while self._marks and self._state.driver.status("cuEventQuery", self._marks[0][0]) != _NOT_READY:
            event, issued = self._marks.popleft()
            self._state.pump.give_event(event)
            now = time.monotonic_ns()
            took = now - max(issued, self._last_done)
            self._last_done = now
            if took < MARK_NS // 2:
                self._mark_size = min(_LARGEST_MARK, self._mark_size * 2)
            elif took > MARK_NS * 5 // 4:
                self._mark_size = max(1, self._mark_size // 2)

    def _drop_marks(self) -> None:
        while self._marks:
            self._state.pump.give_event(self._marks.popleft()[0])


def make_turns(state: SessionState, lease: LeaseClient | None) -> Alone:
    """Return what decides over this session's commands; `lease` is None where the slice has none."""
    return Alone(state) if lease is None else Turns(state, lease)
