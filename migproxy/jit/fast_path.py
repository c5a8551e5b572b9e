"""The function's hot path, seen from Python: the producer over machine code, and who uses it.

`FastProducer` is a `Producer` whose ring operations are compiled. `attach` makes one session's producer the process's
current one, and ``interpose.capsules.accelerate`` puts the machine code of `entries` into a module's capsules.

``MIGPROXY_FAST_PATH=0`` leaves every call to Python.
"""

from __future__ import annotations

import array
import ctypes
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from migproxy.abi import layout
from migproxy.arena import ring
from migproxy.arena.machine_unsafe import function_at
from migproxy.arena.memory_unsafe import copy
from migproxy.errors import MigproxyError, SessionLost
from migproxy.jit import compiler, entries, language, submit
from migproxy.jit.heap import Heap
from migproxy.jit.heap import addresses as heap_functions

ENABLED = os.environ.get("MIGPROXY_FAST_PATH") != "0"
# CUdevice_attribute
_MAX_THREADS, _MAX_BLOCK, _MAX_GRID = 1, (2, 3, 4), (5, 6, 7)


class SessionLike(Protocol):
    """What `attach` needs of a session."""

    ring: Any
    heap: Any
    facts: Any
    windows: Any

    def finish(self, number: int, timeout: float | None = None, *, looked: bool = False) -> bytes:
        """Wait for a reply and raise what it says."""


_FUNCTIONS = (
    submit.ring_submit,
    submit.ring_replied,
    submit.forget_range,
    submit.ticks,
    submit.reserve_event,
    submit.release_event,
)


@cache
def _functions() -> dict[str, int]:
    compiler.use_cache()
    return language.compile_functions(*_FUNCTIONS)


@cache
def ticks_per_microsecond() -> float:
    """Return how fast the time-stamp counter runs."""
    read = language.bind(submit.ticks, _functions()["ticks"], holds_gil=True)
    start, ticks = time.perf_counter_ns(), read()
    while time.perf_counter_ns() - start < 200_000:
        pass
    return (read() - ticks) / (time.perf_counter_ns() - start) * 1000


def _counted(count: int) -> array.array[int]:
    """Return `count` 32-bit words: 1, 2, … and a 0."""
    words = array.array("I", range(1, count + 1))
    words[-1] = 0
    return words


def prepare() -> None:
    """Load what every session needs of machine code, and find out how fast the time-stamp counter runs."""
    ticks_per_microsecond()
    heap_functions()


class FastProducer(ring.Producer):
    """The function's end of the ring in machine code; safe for threads with and without the GIL.

    Parameters
    ----------
    base : int
        Address of the control segment.
    heap : Heap
        The session's heap, in machine code.
    """

    def __init__(self, base: int, heap: Heap) -> None:
        super().__init__(base)
        self.heap = heap
        self._tables: list[ctypes.Array[Any]] = [
            (ctypes.c_uint64 * submit.TABLE_SIZE)(),
            (ctypes.c_uint64 * (2 * submit.RANGE_COUNT))(),
            (ctypes.c_uint64 * (2 * submit.MAX_PINNED))(),
            (ctypes.c_uint64 * (2 * submit.RETIRING_COUNT))(),
            (ctypes.c_uint64 * (3 * layout.SLOT_COUNT))(),
            (ctypes.c_uint8 * submit.TABLE_SIZE)(),
            (ctypes.c_uint8 * submit.TABLE_SIZE)(),
            (ctypes.c_uint32 * submit.TABLE_SIZE).from_buffer(_counted(submit.TABLE_SIZE)),
        ]
        self._block = (ctypes.c_uint64 * (submit.STATE_SIZE // 8))()
        self.block = ctypes.addressof(self._block)
        functions, ranges, pinned, retiring, landings, streams, events, free_events = (
            ctypes.addressof(table) for table in self._tables
        )
        for offset, value in (
            (submit.BASE, base),
            (submit.OWNERS, ctypes.addressof(self._owners)),
            (submit.FUNCTIONS, functions),
            (submit.RANGES, ranges),
            (submit.HEAP, heap.state),
            (submit.PINNED, pinned),
            (submit.RETIRING, retiring),
            (submit.LANDINGS, landings),
            (submit.STREAMS, streams),
            (submit.EVENTS, events),
            (submit.FREE_EVENTS, free_events),
            (submit.FREE_EVENTS_TAIL, submit.TABLE_SIZE - 1),
        ):
            self._set(offset, value)
        self._event_numbers = itertools.count(submit.TABLE_SIZE)  # when the table is full
        self._records: dict[int, ctypes.Array[Any]] = {}
        addresses = _functions()
        self._submit = ctypes.PYFUNCTYPE(
            ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64
        )(addresses["ring_submit"])
        self._replied = function_at(addresses["ring_replied"], language.prototype(submit.ring_replied))
        self._reserve_event = language.bind(submit.reserve_event, addresses["reserve_event"], holds_gil=True)
        self._release_event = language.bind(submit.release_event, addresses["release_event"], holds_gil=True)
        self._forget_range = function_at(addresses["forget_range"], language.prototype(submit.forget_range))
        self._lock_word, self._unlock_word = heap.lock_functions()
        self._look_for(ring.SPIN_SECONDS)

    def _look_for(self, seconds: float) -> None:
        self._looking = seconds
        self._set(submit.SPIN, int(seconds * 1e6 * ticks_per_microsecond()))
        self._spin = 0.0  # the machine code does the looking

    def _set(self, offset: int, value: int) -> None:
        self._block[offset // 8] = value

    def _get(self, offset: int) -> int:
        return int(self._block[offset // 8])

    def set_limits(self, attributes: Mapping[int, int]) -> None:
        """Set the device's launch limits from its attributes."""
        for base, numbers in ((submit.MAX_BLOCK, _MAX_BLOCK), (submit.MAX_GRID, _MAX_GRID)):
            for index, number in enumerate(numbers):
                self._set(base + 8 * index, attributes[number])
        self._set(submit.MAX_THREADS, attributes[_MAX_THREADS])

    @property
    def submitted(self) -> int:
        """How many commands machine code has put into the ring."""
        return self._get(submit.SUBMITTED)

    def waited_ns(self) -> int:
        """Return how long this side has waited, in Python and in machine code, in nanoseconds."""
        return self._waited_ns + int(self._get(submit.WAITED) / ticks_per_microsecond() * 1000)

    # -- the ring ------------------------------------------------------------------------------------------------------
    def _try_submit(self, slot: bytes, waits: bool) -> int:
        return int(self._submit(self.block, slot, len(slot), waits)) - 1

    def wait(self, number: int, timeout: float | None = None, *, looked: bool = False) -> tuple[int, bytes]:
        """As `Producer.wait`; machine code looks first, without the GIL."""
        if not looked:
            self._replied(self.block, number)
        return super().wait(number, timeout, looked=True)

    def mark_lost(self) -> None:
        """Make every waiter give up, and leave every call to Python."""
        self._set(submit.LOST, 1)
        super().mark_lost()

    def hold(self) -> None:
        """Keep every thread from submitting, for a fork: the ring's lock is of the same kind as the heap's."""
        self._lock_word(self.block)

    def let_go(self) -> None:
        """Let threads submit again."""
        self._unlock_word(self.block)

    def landing(self, number: int) -> tuple[int, int, int]:
        """Take what `submit.note_landing` left for command `number`: staging block (0 if none), target, bytes (0 if
        it was no copy to the host)."""
        table = self._tables[4]
        place = 3 * (number % layout.SLOT_COUNT)
        block, target, size = table[place], table[place + 1], table[place + 2]
        table[place] = table[place + 2] = 0
        return block, target, size

    # -- what machine code is told
    # ---------------------------------------------------------------------------------------
    def enter_function(
        self,
        handle: int,
        wire: int,
        parameters: Sequence[tuple[int, int]],
        size: int,
        max_threads: int,
        max_shared: int,
    ) -> None:
        """A kernel can be launched from machine code, if its parameters fit a slot."""
        index = handle & layout.HANDLE_INDEX_MASK
        inside = all(offset >= 0 and offset + width <= size for offset, width in parameters)
        fits = inside and size <= layout.INLINE_PAYLOAD - layout.LAUNCH.size
        if handle >> layout.HANDLE_KIND_SHIFT != layout.KIND_FUNCTION or index >= submit.TABLE_SIZE or not fits:
            self.forget_function(handle)
            return
        words = [handle, wire, len(parameters), size, max_threads, max_shared]
        words += [offset | width << 32 for offset, width in parameters]
        record = (ctypes.c_uint64 * len(words))(*words)
        # The old record stays alive: another thread may be reading it.
        self._records.setdefault(len(self._records), record)
        self._tables[0][index] = ctypes.addressof(record)

    def forget_function(self, handle: int) -> None:
        """Leave a kernel's launches to Python."""
        index = handle & layout.HANDLE_INDEX_MASK
        if index < submit.TABLE_SIZE:
            self._tables[0][index] = 0

    def note_handle(self, handle: int, live: bool) -> None:
        """The executor knows this stream from now on, or no longer."""
        index = handle & layout.HANDLE_INDEX_MASK
        if index < submit.TABLE_SIZE:
            self._tables[5][index] = live

    # -- events
    # ----------------------------------------------------------------------------------------------------------
    def reserve_event(self, flags: int) -> int:
        """Return the handle for a new event; beyond the table's room one that only Python knows."""
        return self._reserve_event(self.block, flags) or super().reserve_event(flags)

    def _event_place(self, handle: int) -> int:
        """Return an event's place in the table, 0 if it has none."""
        index = handle & layout.HANDLE_INDEX_MASK
        return index if handle >> layout.HANDLE_KIND_SHIFT == layout.KIND_EVENT and index < submit.TABLE_SIZE else 0

    def adopt_event(self, handle: int, flags: int) -> None:
        """Note an event under a handle from before a fork."""
        if place := self._event_place(handle):
            self._tables[6][place] = flags + 1
        else:
            super().adopt_event(handle, flags)

    def release_event(self, handle: int) -> None:
        """Forget an event; its number is used again when all others have been."""
        if self._event_place(handle):
            self._release_event(self.block, handle)
        else:
            super().release_event(handle)

    def event_flags(self, handle: int) -> int | None:
        """Return an event's flags, None if there is no such event."""
        if place := self._event_place(handle):
            return self._tables[6][place] - 1 if self._tables[6][place] else None
        return super().event_flags(handle)

    def live_events(self) -> dict[int, int]:
        """Return handle and flags of every event."""
        made = {layout.make_handle(layout.KIND_EVENT, i): flags - 1 for i, flags in enumerate(self._tables[6]) if flags}
        return {**made, **super().live_events()}

    def note_range(self, pointer: int, start: int, size: int) -> None:
        """`pointer` lies in the device allocation of `size` bytes at `start`."""
        place = 2 * ((pointer >> submit.RANGE_SHIFT) % submit.RANGE_COUNT)
        table = self._tables[1]
        table[place + 1] = 0
        table[place] = start
        table[place + 1] = start + size

    def forget_range(self, start: int) -> None:
        """A device allocation was freed."""
        self._forget_range(self.block, start)

    def note_foreign(self, count: int) -> None:
        """So many device allocations lie outside the session's window; while there are any, Python tells what an
        address is."""
        self._set(submit.FOREIGN, count)

    def set_window(self, base: int, size: int) -> None:
        """Set the session's window of device addresses."""
        self._set(submit.WINDOW_BASE, base)
        self._set(submit.WINDOW_END, base + size)

    def note_pinned(self, blocks: Mapping[int, int]) -> None:
        """These blocks of the arena are page-locked memory; with more than a few, copies are left to Python."""
        table = self._tables[2]
        self._set(submit.PINNED_COUNT, submit.MAX_PINNED + 1)  # until the table is whole, Python decides
        if len(blocks) <= submit.MAX_PINNED:
            for index, (start, size) in enumerate(list(blocks.items())):
                table[2 * index], table[2 * index + 1] = start, start + size
            self._set(submit.PINNED_COUNT, len(blocks))

    def note_capturing(self, count: int) -> None:
        """So many streams are being captured; while there are any, copies and memsets are Python's."""
        self._set(submit.CAPTURING, count)


# -- the process's current session ------------------------------------------------------------------------------------
_session: SessionLike | None = None


def make_heap(base: int, size: int) -> Heap:
    """Return a session's heap in machine code."""
    compiler.use_cache()
    return Heap(base, size)


def attach(session: SessionLike) -> None:
    """Let machine code submit to `session`."""
    global _session
    producer = session.ring
    producer.set_limits(session.facts.attributes)
    producer.set_window(session.windows.device_base, session.windows.device_size)
    _session = session
    if ENABLED:
        cell(entries.CURRENT).value = producer.block


def detach() -> None:
    """Leave every call to Python: the session ends, or this is a forked child."""
    global _session
    cell(entries.CURRENT).value = 0
    cell(entries.CONTEXT_THREAD).value = 0
    _session = None


def context_changed() -> None:
    """Some thread's current context was set by hand."""
    cell(entries.CONTEXT_THREAD).value = 0


def cell(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(int(address))


def finish(number: int) -> None:
    """Wait for the reply to a command of machine code, land a staged copy, and raise what the reply says."""
    session = _session
    if session is None:
        raise SessionLost("the session ended while a call waited")
    block, target, size = session.ring.landing(number)
    try:
        session.finish(number, looked=True)
    except MigproxyError:
        if block:
            session.heap.free(block)
        raise
    except (
        BaseException
    ):  # Ctrl-C: the copy goes on, into memory that nobody may use for something else until it is done
        if size:
            keep_until_replied(session, number, block, target)
        raise
    if block:
        copy(target, block, size)
        session.heap.free(block)


def keep_until_replied(session: SessionLike, number: int, block: int, target: int) -> None:
    """After giving up on a copy to the host: free its staging block, or let its target be freed, only when it is
    done."""
    heap = session.heap
    if block:
        session.ring.when_replied(number, lambda: heap.free(block))
    else:
        held = heap.hold(target)
        if held:
            session.ring.when_replied(number, lambda: heap.release(held))
