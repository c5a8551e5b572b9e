"""When this session's commands may use the multiprocessors: its lease, how much it keeps in flight, and its own
watchdog.

`Alone` is for a slice without a lease: it allows everything. `Turns` is for the other modes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.control import TraceEvent
from migproxy.abi.ops import OPERATIONS, Op
from migproxy.errors import CudaError
from migproxy.executor import flight, pump, pump_block
from migproxy.executor.lease import LeaseClient
from migproxy.executor.repeat_tables_unsafe import call_name

if TYPE_CHECKING:
    from migproxy.executor.state import SessionState

#: How long the pump looks for work before it rests.
LOOK = 50e-6
#: How long a holder that has nothing to do keeps the lease at first; see `Turns._learn_to_think`.
THINK = 100e-6
SHORTEST_THINK = 10e-6
#: How long the loop sleeps between two looks at work on its way, at first and after `LONG_WAIT` looks.
NAP = 30e-6
LONG_NAP = 200e-6
LONG_WAIT = 100
#: A session that waits for the lease looks up this often, so that a lost wake-up costs no more.
LONGEST_WAIT = 5e-3
#: A hand-over is announced so long before it is expected, and who is next looks for the lease so long then. A nap ends
#: up to a tenth of a millisecond late on a virtual machine, and to be woken takes as long; so the holder does not nap
#: any more from then on. With few cores whoever looks would take one from somebody who computes.
_CORES = len(os.sched_getaffinity(0))
ANNOUNCE = 300e-6 if _CORES >= 4 else 60e-6
ANNOUNCED = 700e-6 if _CORES >= 4 else 300e-6
#: While nobody else is there, a session looks after its lease once in so many rounds; a round is a command of Python's.
ROUNDS = 16
#: Marks that a trace is given at once: a packet has room for so many.
KEEP_MARKS = 1000
#: Operations whose payload begins with the handle of what they run.
_BY_HANDLE = frozenset({Op.LAUNCH, Op.GRAPH_LAUNCH})
_COPIES = frozenset({Op.COPY_HTOD, Op.COPY_DTOH})
#: What the executor may do for long by itself, while nothing hangs: it compiles, links or reads code.
_LOADS = frozenset(
    {Op.MODULE_LOAD, Op.MODULE_FUNCTION, Op.LIBRARY_LOAD, Op.LIBRARY_KERNEL, Op.GRAPH_INSTANTIATE, Op.DRIVER_CALL}
)
#: How long that may take until it is a hang after all. Loads of gigabytes of libraries take seconds.
LONGEST_LOAD = 60.0
CUDA_ERROR_LAUNCH_TIMEOUT = 702


class Alone:
    """No lease: every command may run at once. Watches for hung kernels only.

    Parameters
    ----------
    state : SessionState
    """

    #: The command in hand is for Python, since the pump would not carry it out in a turn that is to end.
    by_hand = False

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._limit = int(state.spec.kernel_seconds * 1e9)
        self._seen: tuple[int, ...] = ()
        self._progress = 0
        self._compiles_since = 0

    def may_carry_out(self, reason: int) -> bool:
        """Tell whether the command in hand may be carried out now; ask again until it may."""
        return True

    def look(self, *, idle: bool) -> None:
        """Do what is due; called once a round. `idle`: no command waits and no completion record is open."""
        if self._limit:
            self._watch()

    def carry_out(self, action: Callable[[], None]) -> None:
        """Carry out the command in hand by `action`."""
        action()

    def hold(self, naps: int) -> None:
        """Sleep a little: the command in hand cannot be carried out yet. `naps`: how often it was so before."""
        time.sleep(self.rest(naps))

    def rest(self, naps: int) -> float:
        """Return how long to sleep while work is on its way, of which nothing is known. `naps`: see `hold`."""
        return NAP if naps < LONG_WAIT else LONG_NAP

    def account(self) -> None:
        """Enter the session's time on the device into its counters; from any thread."""

    def events(self, after: int = 0) -> list[TraceEvent]:
        """Return what the session did lately and ended later than `after` (ns); from any thread."""
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
        seen = self._progress_seen()
        if not self._progress or seen != self._seen or self._compiles(now):
            self._seen, self._progress = seen, now
        elif now - self._progress > self._limit and not self._state.sticky:
            self._state.counters["hung_kernels"] += 1
            self._state.note_status(CUDA_ERROR_LAUNCH_TIMEOUT)
            self._state.closing = True
            for number in tables.take_waits():
                self._state.reply(number, CUDA_ERROR_LAUNCH_TIMEOUT)

    def _progress_seen(self) -> tuple[int, ...]:
        """Return what changes while work goes on; more work, or another question, is as good as progress here."""
        tables = self._state.pump
        waits, copies, frees = (
            tables.get(each) for each in (pump_block.WAIT_COUNT, pump_block.HOST_HEAD, pump_block.FREE_HEAD)
        )
        return waits, copies, frees, tables.tail

    def _compiles(self, now: int) -> bool:
        """Tell whether the device itself compiles what was launched, and not for too long."""
        if not self._state.driver.compiling:
            self._compiles_since = 0
            return False
        self._compiles_since = self._compiles_since or now
        return now - self._compiles_since < LONGEST_LOAD * 1e9


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
        self._flight = state.pump.open_flight()
        self._bounded = False
        self._think = THINK
        self._answers = self._answers_of_turn = 0
        self._gave_up_at = 0
        self._wanted_at = 0
        self._rounds = 0
        self._announced = False
        self._called: set[str] = set()
        tables = state.pump
        tables.set(pump_block.LEASE_WORD, lease.permit_address)
        tables.set(pump_block.LEASE_VALUE, 1)
        tables.set(pump_block.LEASE_COPIES, int(with_copies))
        tables.set(pump_block.LEASE_BEGUN, 0)
        self._begun = tables.word(pump_block.LEASE_BEGUN)
        self._operation = tables.word(pump_block.COPY)

    # -- before and after a command ----------------------------------------------------------------------------------
    def may_carry_out(self, reason: int) -> bool:
        """Tell whether the command in hand may be carried out now; ask again until it may."""
        self.by_hand = False
        if reason == pump_block.REASON_ERROR or self._state.sticky or not self._is_leased():
            return True
        if self.undisturbed():
            return reason != pump_block.REASON_FULL
        if self._gave_up_at:
            self._learn_to_think(time.monotonic_ns() - self._gave_up_at)
        if not self._lease.acquire():
            self._wanted_at = self._wanted_at or time.monotonic_ns()
            # A turn that is to end ends once its work is done. If that waits for the function, then for this command.
            if self._lease.should_yield() and self._flight.is_late():
                self._bound(True)  # it may have begun while nobody else was there, and must not go on without end
                self.by_hand = self._has_room()
            return self.by_hand
        self._begin()
        if reason == pump_block.REASON_FULL:
            return False
        if not self._bounded:
            return not self._flight.full
        return reason == pump_block.REASON_LEASE or self._has_room()

    def _has_room(self) -> bool:
        return self._capturing() or self._flight.has_room(self._estimates())

    def carry_out(self, action: Callable[[], None]) -> None:
        """Carry out the command in hand, and mark what it puts on its way on the multiprocessors."""
        if self._limit and self._may_load():
            # A kernel issued before may be done long before this is, and nobody looks meanwhile.
            self._lease.loads(LONGEST_LOAD)
        if not self._is_leased() or self._capturing() or self._state.sticky:
            action()
            return
        if not self._bounded:
            stream = self._stream()
            action()
            if not self._capturing():
                self._note(self._flight.light(stream))
            return
        estimates, stream = self._estimates(), self._stream()
        self._note(self._flight.before(estimates, stream))
        action()
        if not self._capturing():
            self._note(self._flight.issued(estimates, stream))

    def undisturbed(self) -> bool:
        """Tell whether a turn goes on in which nothing is bounded, because nobody else computes on the slice.

        That is most of the time of most functions, so it is told without a call.
        """
        return self._lease.alone and not self._bounded and bool(self._begun.value)

    def _note(self, status: int) -> None:
        """A mark that cannot be set: the context is dead, or the stream has gone and with it what was to be marked."""
        if status:
            self._state.note_status(status)

    def _may_load(self) -> bool:
        """Tell whether the command in hand loads code: also the first call of each library function does."""
        op = self._operation.value & 0xFFFF
        if op != Op.LIBRARY_CALL:
            return op in _LOADS
        raw = self._state.pump.command()
        if raw[2] & layout.FLAG_SPILLED:
            return True  # its name lies elsewhere
        name = called_name(raw[layout.PAYLOAD_OFFSET :])
        first = name not in self._called
        self._called.add(name)
        return first

    def _is_leased(self) -> bool:
        return self._operation.value & 0xFFFF in self._operations

    def _capturing(self) -> bool:
        """What is captured does not run, and a mark would become part of the graph."""
        return bool(self._state.capturing)

    def _progress_seen(self) -> tuple[int, ...]:
        """Return what changes while work goes on.

        While others wait for the slice only what is done counts: a function whose kernel never ends could ask and
        submit for ever. Its marks are reached in the order of issue, so no other stream's work hides the one that
        hangs.
        """
        reached = self._flight.get(flight.HEAD)
        if self._lease.contended and self._flight.on_its_way():
            return (reached,)
        return (*super()._progress_seen(), reached)

    def _begin(self) -> None:
        """A turn on the lease begins, if it has not yet."""
        tables = self._state.pump
        self._bound(self._lease.contended and not self._sequential)
        if self._wanted_at:
            self._state.counters["lease_waits"] += 1
            self._state.counters["waited_ns"] += time.monotonic_ns() - self._wanted_at
            self._wanted_at = 0
        if not tables.get(pump_block.LEASE_BEGUN):
            tables.set(pump_block.LEASE_BEGUN, 1)
            self._answers = self._count_answers()
        self._look_for(self._think if self._bounded else LOOK)

    def _bound(self, bounded: bool) -> None:
        """Bound what is on its way, or no longer."""
        if bounded != self._bounded:
            self._bounded = bounded
            self._flight.bound(bounded)

    def _estimates(self) -> int:
        """Return the address of the estimates for the command in hand, which is Python's."""
        raw = self._state.pump.command()
        op = raw[0] | raw[1] << 8
        kind: Hashable = op
        name = Op(op).name.lower()
        body = raw[layout.PAYLOAD_OFFSET :]
        if op in _BY_HANDLE:
            kind = op, body[:8]
        elif op == Op.LIBRARY_CALL and not raw[2] & layout.FLAG_SPILLED:
            name = called_name(body)
            kind = name
        return self._flight.estimates_of(kind, name)

    def _stream(self) -> int:
        """Return the real stream of the command in hand."""
        try:
            return self._state.stream(self._state.pump.get(pump.SLOT_STREAM))
        except CudaError:
            return 0  # a wrong handle is refused when the command is carried out

    # -- once a round ------------------------------------------------------------------------------------------------
    def look(self, *, idle: bool) -> None:
        """Hand the lease over if it is due; called once a round."""
        if not idle and self.undisturbed():
            self._rounds += 1
            if self._rounds % ROUNDS:
                return
        elif idle and not self._bounded:
            # Nothing comes for now: what was issued gets its mark, so that it is seen to end.
            self._flight.mark()
        super().look(idle=idle)
        self._lease.progress(on_its_way=self._on_its_way())
        if not self._lease.holds():
            return
        if self._sequential:
            return
        if self._lease.should_yield():
            if self._drained():
                self._give_up(wants=bool(self._wanted_at) or not idle)
        elif idle and self._drained() and self._lease.contended:
            self._give_up(wants=False)

    def _drained(self) -> bool:
        """Tell whether nothing is on its way on the multiprocessors; looks, never waits."""
        if self._state.sticky:
            return True
        return not self._flight.on_its_way() if self._capturing() else self._flight.drained()

    def _give_up(self, *, wants: bool) -> None:
        """Hand the lease to the next in turn; or, with nothing to do, to whoever comes first."""
        if self._lease.should_yield():
            given = self._lease.release(wants=wants)
            if not given and not wants:
                given = self._lease.pause()
        else:
            given = self._lease.pause()
        if given:
            self._answers_of_turn = self._count_answers() - self._answers
            self._gave_up_at = 0 if wants else time.monotonic_ns()
            self._state.pump.set(pump_block.LEASE_BEGUN, 0)
            self._look_for(LOOK)

    # -- the think-time ----------------------------------------------------------------------------------------------
    def _count_answers(self) -> int:
        tables = self._state.pump
        return sum(
            tables.get(each)
            for each in (pump_block.SYNCS, pump_block.EVENT_QUERIES, pump_block.STREAM_QUERIES, pump_block.COPIES_DTOH)
        )

    def _learn_to_think(self, gap: int) -> None:
        """How long it pays to keep the lease although there is nothing to do.

        A function that waits for each of many small kernels is back in some ten microseconds, and to hand over in
        between would cost it a kernel of its neighbour each time. One that waits once, at the end of its work, has a
        CPU phase before it, and every microsecond of thinking is lost to the others.
        """
        self._gave_up_at = 0
        if gap < 4e9 * THINK:
            self._think = min(4 * THINK, max(THINK, self._think + 2e-9 * gap))
        elif self._answers_of_turn <= 1:
            self._think = max(SHORTEST_THINK, self._think / 2)

    # -- waiting -----------------------------------------------------------------------------------------------------
    def hold(self, naps: int) -> None:
        """Sleep a little: the command in hand cannot be carried out yet."""
        if self._wanted_at and not self._on_its_way():
            woken = self._lease.wait(LONGEST_WAIT)
            # Woken before the time: the holder is about to hand over.
            self._look_for(ANNOUNCED if woken else LOOK)
        else:
            time.sleep(self._rest(naps, more=True))

    def rest(self, naps: int) -> float:
        """Return how long to sleep while work is on its way: not at all if it is about to be done."""
        return self._rest(naps, more=False)

    def _rest(self, naps: int, *, more: bool) -> float:
        """`rest`; `more`: a command of this turn waits already."""
        left = self._flight.left_ns()
        if not left or left > ANNOUNCE * 1e9:
            self._announced = False
        elif not self._announced and left > -LONG_NAP * 1e9 and self._ends_its_turn(more=more):
            self._announced = True
            self._lease.announce()
        if left > (ANNOUNCE + 1.5 * LONG_NAP) * 1e9:
            return LONG_NAP
        if left and -LONG_NAP * 1e9 < left < (ANNOUNCE if self._announced else 2 * NAP) * 1e9:
            return 0.0
        return super().rest(naps) if not left else NAP

    def _ends_its_turn(self, *, more: bool) -> bool:
        """Tell whether this session will hand over once what is on its way is done: told to, or likely to pause."""
        return self._lease.should_yield() or (not more and self._think <= SHORTEST_THINK)

    def _look_for(self, seconds: float) -> None:
        """Have the pump look for work, or for the lease, so long before it returns."""
        self._state.pump.set(pump_block.SPIN_TICKS, self._flight.ticks(int(seconds * 1e9)))

    def account(self) -> None:
        """Enter the session's time on the device into its counters: with the lease, and with work on its way."""
        self._state.counters["gpu_time_ns"] = self._lease.held_ns
        self._state.counters["gpu_busy_ns"] = self._flight.busy_ns

    def events(self, after: int = 0) -> list[TraceEvent]:
        """Return what the session did lately and ended later than `after` (ns); from any thread."""
        lately = [each for each in self._lease.events.copy() if each.end > after]
        return [*lately, *self._flight.events(KEEP_MARKS, after)]


def called_name(payload: bytes) -> str:
    """Return library and function of a `LIBRARY_CALL`, for the estimates and the trace; the rest is not decoded.

    It is a MessagePack array of two strings and the arguments; what is malformed is refused when it is carried out.
    """
    names = []
    position = 1
    for _ in range(2):
        if position >= len(payload) or payload[position] & 0xE0 != 0xA0:
            return "library call"
        end = position + 1 + (payload[position] & 0x1F)
        names.append(payload[position + 1 : end].decode(errors="replace"))
        position = end
    return call_name(*names)


def make_turns(state: SessionState, lease: LeaseClient | None) -> Alone:
    """Return what decides over this session's commands; `lease` is None where the slice has none."""
    return Alone(state) if lease is None else Turns(state, lease)
