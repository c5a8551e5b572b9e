"""The Python side of ``executor/flight.py``: its block, and what it says in nanoseconds.

Precondition of every read and write in here: it goes to the block, or to room that the object keeps.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from migproxy.abi.control import TraceEvent
from migproxy.executor import flight

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver

#: What may be on its way while others compute on the slice too; one longer kernel may exceed it.
LIMIT_NS = 2_000_000
#: Work that takes longer has a mark of its own; shorter work shares one.
SHORT_NS = 50_000
BATCH_NS = 100_000
#: The next long kernel may be issued so long before the one on its way is expected to be done.
AHEAD_NS = 100_000
#: A batch while nothing is bounded is to take so long at most: far less than a kernel may.
LIGHT_NS = 250_000_000
#: A kernel that takes so much longer than expected may wait for what the function does next; see `flight.has_room`.
LATE_NS = 100_000_000
#: CU_EVENT_DISABLE_TIMING: cheaper to record.
_EVENT_FLAGS = 2
#: Further kinds of work than these share one estimate.
_OTHER_KINDS = 256


@cache
def compile_flight() -> dict[str, Callable[..., int]]:
    """Return the functions of ``executor/flight.py`` as machine code."""
    from migproxy.jit import language

    addresses = language.compile_functions(*flight.FUNCTIONS_COMPILED)
    return {each.__name__: language.bind(each, addresses[each.__name__]) for each in flight.FUNCTIONS_COMPILED}


@dataclass
class Clock:
    """The time-stamp counter in nanoseconds of CLOCK_MONOTONIC."""

    ticks: int
    ns: int
    rate: float

    def to_ns(self, ticks: int) -> int:
        """Return a reading of the counter as a time."""
        return self.ns + int((ticks - self.ticks) / self.rate)


@cache
def calibrate() -> Clock:
    """Compare the counter with the clock; takes 2 ms, once a process."""
    read = compile_flight()["read_time_stamp"]

    def both() -> tuple[int, int]:
        # The pair with the shortest time between its two readings is the best of some.
        best = min((_bracket(read) for _ in range(5)), key=lambda each: each[0])
        return best[1], best[2]

    ticks, ns = both()
    time.sleep(2e-3)
    ticks_later, ns_later = both()
    return Clock(ticks, ns, (ticks_later - ticks) / (ns_later - ns))


def _bracket(read: Callable[..., int]) -> tuple[int, int, int]:
    before = time.monotonic_ns()
    ticks = read(0)
    after = time.monotonic_ns()
    return after - before, ticks, (before + after) // 2


class FlightTables:
    """The block of one session. Used by the executor's main thread, except `events`.

    Parameters
    ----------
    driver : AnyDriver
    name_of : callable
        Says what the trace calls the kernel whose estimates lie at an address.
    """

    def __init__(self, driver: AnyDriver, name_of: Callable[[int], str]) -> None:
        self._name_of = name_of
        self._code = compile_flight()
        self._clock = calibrate()
        self._kept: list[Any] = []
        self.block = self._room(flight.BLOCK_SIZE)
        self._words = (ctypes.c_uint64 * (flight.BLOCK_SIZE // 8)).from_address(self.block)
        records = self._room(flight.MARKS * flight.MARK)
        for index in range(flight.MARKS):
            place = records + index * flight.MARK + flight.MARK_EVENT
            ctypes.c_uint64.from_address(place).value = driver.out("cuEventCreate", _EVENT_FLAGS)
        self._trace = self._room(flight.TRACE_CAPACITY * flight.TRACE_RECORD)
        for offset, value in (
            (flight.LIMIT, flight.NO_LIMIT),
            (flight.SHORT, self.ticks(SHORT_NS)),
            (flight.UNKNOWN, self.ticks(LIMIT_NS)),
            (flight.BATCH_FULL, self.ticks(BATCH_NS)),
            (flight.AHEAD, self.ticks(AHEAD_NS)),
            (flight.LATE, self.ticks(LATE_NS)),
            (flight.LIGHT_MOST, flight.LIGHT_FIRST),
            (flight.LIGHT_TICKS, self.ticks(LIGHT_NS)),
            (flight.RECORDS, records),
            (flight.EVENT_RECORD, driver.pointer("cuEventRecord")),
            (flight.EVENT_QUERY, driver.pointer("cuEventQuery")),
            (flight.TRACE, self._trace),
        ):
            self.set(offset, value)
        self._estimates: dict[Hashable, int] = {}
        self._names: dict[int, str] = {}

    def _room(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size + 64)
        self._kept.append(buffer)
        return (ctypes.addressof(buffer) + 63) & ~63

    def get(self, offset: int) -> int:
        """Return a word of the block."""
        return self._words[offset >> 3]

    def set(self, offset: int, value: int) -> None:
        """Set a word of the block."""
        self._words[offset >> 3] = value

    def ticks(self, ns: int) -> int:
        """Return nanoseconds as ticks."""
        return int(ns * self._clock.rate)

    # -- the bound -------------------------------------------------------------------------------------------------
    def bound(self, bounded: bool) -> None:
        """Bound what is on its way, or no longer."""
        self.mark()
        self.set(flight.LIMIT, self.ticks(LIMIT_NS) if bounded else flight.NO_LIMIT)

    def estimates_of(self, kind: Hashable, name: str) -> int:
        """Return the address of the estimates of a kind of work that Python carries out."""
        found = self._estimates.get(kind)
        if found is None:
            if len(self._estimates) >= _OTHER_KINDS:
                kind, name = "others", "others"
            found = self._estimates.get(kind) or self._room(8 * flight.BUCKETS)
            self._estimates[kind], self._names[found] = found, name
        return found

    def has_room(self, estimates: int) -> bool:
        """Tell whether more may be issued now; closes the batch if not, so that it comes to an end."""
        if self._code["has_room"](self.block, estimates, 0):
            return True
        self._code["mark"](self.block)
        return False

    def before(self, estimates: int, stream: int) -> int:
        """Call before issuing such work; returns a CUresult."""
        return self._code["before"](self.block, estimates, 0, stream)

    def issued(self, estimates: int, stream: int) -> int:
        """Note that such work was issued; returns a CUresult."""
        return self._code["issued"](self.block, estimates, 0, stream)

    def light(self, stream: int) -> int:
        """Note work of Python's that was issued while nothing is bounded; returns a CUresult."""
        return self._code["light"](self.block, stream, 0)

    @property
    def full(self) -> bool:
        """No mark can be set now."""
        return bool(self._code["is_full"](self.block))

    def mark(self) -> None:
        """Mark what was not marked yet; call it before the stream goes, too."""
        self._code["mark"](self.block)

    def drained(self) -> bool:
        """Tell whether nothing is on its way on the multiprocessors; marks what was not marked yet."""
        self.mark()
        if self.get(flight.HEAD) != self.get(flight.TAIL):
            self._code["poll_marks"](self.block)
        return self.get(flight.HEAD) == self.get(flight.TAIL)

    def on_its_way(self) -> bool:
        """Tell whether a mark is not known to be reached."""
        return self.get(flight.HEAD) != self.get(flight.TAIL)

    def is_late(self) -> bool:
        """Tell whether what is marked is so late that it may wait for the function itself."""
        return self.left_ns() < -LATE_NS

    def left_ns(self) -> int:
        """Return how long what is marked is expected to take still; negative: it is late. 0: nothing is marked."""
        end = self._code["expected_end"](self.block)
        return int((end - self._code["read_time_stamp"](0)) / self._clock.rate) if end else 0

    @property
    def busy_ns(self) -> int:
        """How long work was on its way on the multiprocessors, in all, as the marks tell."""
        return int(self.get(flight.BUSY) / self._clock.rate)

    # -- the trace -------------------------------------------------------------------------------------------------
    def events(self, most: int, after: int = 0) -> list[TraceEvent]:
        """Return the latest kernels and copies that ended later than `after` (ns), oldest first; from any thread."""
        written = self.get(flight.TRACED)
        first = max(0, written - min(most, flight.TRACE_CAPACITY - 64))  # the oldest are about to be overwritten
        found = []
        # Backwards, and not further than needed: the thread that serves commands waits for the interpreter meanwhile.
        for number in range(written - 1, first - 1, -1):
            place = self._trace + number % flight.TRACE_CAPACITY * flight.TRACE_RECORD
            name, start, end, count = (ctypes.c_uint64 * 4).from_address(place)
            ended = self._clock.to_ns(end)
            if ended <= after:
                break
            found.append(TraceEvent(self._text(name, count), self._clock.to_ns(start), ended))
        found.reverse()
        return found

    def _text(self, name: int, count: int) -> str:
        if name >> 62:
            direction = "to" if name >> 62 == 1 else "from"
            return f"copy {direction} device, {name & flight.NAME_BYTES} bytes"
        text = (self._names.get(name) or self._name_of(name)) if name else "of a library, or a graph"
        return f"kernel {text}" if count == 1 else f"kernel {text} and {count - 1} more before it"
