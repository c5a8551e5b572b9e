"""The pump's state block, and the Python side of it: tables that mirror the session's handles and memory.

One thread owns the block: it calls `PumpTables.run`, and everything here happens between two calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.errors import CudaError
from migproxy.executor import flight, pump, pump_block
from migproxy.executor.flight_tables_unsafe import FlightTables
from migproxy.executor.repeat_tables_unsafe import RepeatTables

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.handlers.launch import LaunchTarget

_DRIVER_FUNCTIONS = {
    pump_block.LAUNCH_KERNEL: "cuLaunchKernel",
    pump_block.COPY_HTOD_ASYNC: "cuMemcpyHtoDAsync",
    pump_block.COPY_DTOH_ASYNC: "cuMemcpyDtoHAsync",
    pump_block.COPY_DTOD_ASYNC: "cuMemcpyDtoDAsync",
    pump_block.MEMSET_D8: "cuMemsetD8Async",
    pump_block.MEMSET_D16: "cuMemsetD16Async",
    pump_block.MEMSET_D32: "cuMemsetD32Async",
    pump_block.EVENT_RECORD: "cuEventRecord",
    pump_block.EVENT_QUERY: "cuEventQuery",
    pump_block.STREAM_WAIT_EVENT: "cuStreamWaitEvent",
    pump_block.STREAM_QUERY: "cuStreamQuery",
}
_COUNTERS = {
    "launch": pump_block.LAUNCHES,
    "bytes_htod": pump_block.BYTES_HTOD,
    "bytes_dtoh": pump_block.BYTES_DTOH,
    "copy_htod": pump_block.COPIES_HTOD,
    "copy_dtoh": pump_block.COPIES_DTOH,
    "copy_dtod": pump_block.COPIES_DTOD,
    "memset": pump_block.MEMSETS,
    "stream_sync": pump_block.SYNCS,
    "event_record": pump_block.EVENT_RECORDS,
    "event_query": pump_block.EVENT_QUERIES,
    "stream_query": pump_block.STREAM_QUERIES,
    "stream_wait_event": pump_block.EVENT_WAITS,
    "free_mark": pump_block.FREE_MARKS,
}
#: CU_EVENT_DISABLE_TIMING: cheaper to record, and completion records ask for no times.
_EVENT_FLAGS = 2
_EVENTS_AT_ONCE = 64
#: About 50 µs at the 2 to 4 GHz that time-stamp counters tick with.
_SPIN_TICKS = 150_000
#: About 20 µs.
_TELL_TICKS = 50_000
#: About a millisecond, where there are cores to spare: docs/decisions/waits.md.
_LONG_TICKS = 20 * _SPIN_TICKS if len(os.sched_getaffinity(0)) >= 4 else _SPIN_TICKS
#: Of a kernel's name, in the trace.
_LONGEST_NAME = 120


@cache
def compile_pump() -> Callable[..., int]:
    """Return `pump_run` as machine code."""
    from migproxy.jit import language

    address = language.compile_functions(*pump.FUNCTIONS_COMPILED)["pump_run"]
    return language.bind(pump.pump_run, address)


class PumpTables:
    """The state block of one session's pump.

    Parameters
    ----------
    driver : AnyDriver
    ring : int
        Address of the control segment.
    heap : tuple of int
        Start and end of the arena's heap.
    window : tuple of int
        Start and end of the device window.
    """

    def __init__(self, driver: AnyDriver, ring: int, heap: tuple[int, int], window: tuple[int, int]) -> None:
        self._driver = driver
        self._kept: list[object] = []
        self.block = self._room(pump_block.STATE_SIZE)
        self._words = (ctypes.c_uint64 * (pump_block.STATE_SIZE // 8)).from_address(self.block)
        self._run = compile_pump()
        self._records: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self._names: dict[int, str] = {}
        self._retired: list[tuple[int, object]] = []
        self.flight: FlightTables | None = None
        self.repeats = RepeatTables()
        granules = (window[1] - window[0]) // DEVICE_GRANULE
        self._mapped = self._room(granules)
        self._event_kinds = self._room(pump_block.TABLE_SIZE)
        self._tables = {
            layout.KIND_STREAM: self._room(8 * pump_block.TABLE_SIZE),
            layout.KIND_EVENT: self._room(8 * pump_block.TABLE_SIZE),
            layout.KIND_FUNCTION: self._room(8 * pump_block.TABLE_SIZE),
        }
        for offset, value in (
            (pump_block.RING_BASE, ring),
            (pump_block.HEAP_START, heap[0]),
            (pump_block.HEAP_END, heap[1]),
            (pump_block.WINDOW_BASE, window[0]),
            (pump_block.WINDOW_END, window[1]),
            (pump_block.MAPPED, self._mapped),
            (pump_block.STREAMS, self._tables[layout.KIND_STREAM]),
            (pump_block.EVENTS, self._tables[layout.KIND_EVENT]),
            (pump_block.FUNCTIONS, self._tables[layout.KIND_FUNCTION]),
            (pump_block.POINTERS, self._room(8 * pump_block.MAX_PARAMETERS)),
            (pump_block.SPARE_EVENTS, self._room(8 * pump_block.SPARE_CAPACITY)),
            (pump_block.WAITS, self._room(pump_block.RECORD * pump_block.WAIT_CAPACITY)),
            (pump_block.HOST, self._room(pump_block.RECORD * pump_block.HOST_CAPACITY)),
            (pump_block.EVENT_KINDS, self._event_kinds),
            (pump_block.TIMED_EVENTS, self._room(8 * pump_block.TIMED_CAPACITY)),
            (pump_block.FREE_QUEUE, self._room(pump_block.RECORD * pump_block.HOST_CAPACITY)),
            (pump_block.OTHER_ESTIMATES, self._room(8 * flight.BUCKETS * 8)),
            (pump_block.SPIN_TICKS, _SPIN_TICKS),
            (pump_block.LONG_TICKS, _LONG_TICKS),
            (pump_block.TELL_TICKS, _TELL_TICKS),
            (pump_block.REPEATS, self.repeats.block),
        ):
            self.set(offset, value)
        for offset, name in _DRIVER_FUNCTIONS.items():
            self.set(offset, driver.pointer(name))
        self._window_base = window[0]
        self._total_events = 0

    def _room(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size + 64)
        self._kept.append(buffer)
        return (ctypes.addressof(buffer) + 63) & ~63

    def get(self, offset: int) -> int:
        """Return a word of the block."""
        return self._words[offset >> 3]

    def word(self, offset: int) -> ctypes.c_uint64:
        """Return a word of the block as an object."""
        return ctypes.c_uint64.from_address(self.block + offset)

    def set(self, offset: int, value: int) -> None:
        """Set a word of the block."""
        self._words[offset >> 3] = value

    def add(self, offset: int, value: int) -> None:
        """Add to a word of the block."""
        self.set(offset, self.get(offset) + value)

    # -- running ---------------------------------------------------------------------------------------------------
    def run(self) -> int:
        """Let the pump work until it has a reason to return; the GIL is released."""
        if self.get(pump_block.SPARE_COUNT) < 2:
            self.more_events()
        return self._run(self.block)

    def let_device_answer(self) -> None:
        """Have waits answered by the device's own store, where the driver can: the reply lines are page-locked."""
        with contextlib.suppress(CudaError):
            self.set(pump_block.WRITE_VALUE, self._driver.pointer("cuStreamWriteValue64"))

    def command(self) -> bytes:
        """Return the command in hand as it was copied out of its slot."""
        return ctypes.string_at(self.block + pump_block.COPY, layout.SLOT_SIZE)

    @property
    def tail(self) -> int:
        """How many commands were taken."""
        return self.get(pump_block.TAIL)

    def more_events(self) -> None:
        """Make spare events; the stack holds every one that exists, so it cannot overflow.

        Raises
        ------
        CudaError
            2 when the pump already uses as many as it may.
        """
        if self._total_events + _EVENTS_AT_ONCE > pump_block.SPARE_CAPACITY:
            raise CudaError(2, "too many completion records")
        for _ in range(_EVENTS_AT_ONCE):
            self.give_event(self._driver.out("cuEventCreate", _EVENT_FLAGS))
        self._total_events += _EVENTS_AT_ONCE

    def give_event(self, event: int) -> None:
        """Put an event on the stack of spare ones."""
        count = self.get(pump_block.SPARE_COUNT)
        ctypes.c_uint64.from_address(self.get(pump_block.SPARE_EVENTS) + 8 * count).value = event
        self.set(pump_block.SPARE_COUNT, count + 1)

    def take_event(self) -> int:
        """Take an event off the stack of spare ones."""
        if not self.get(pump_block.SPARE_COUNT):
            self.more_events()
        count = self.get(pump_block.SPARE_COUNT) - 1
        self.set(pump_block.SPARE_COUNT, count)
        return ctypes.c_uint64.from_address(self.get(pump_block.SPARE_EVENTS) + 8 * count).value

    def host_memory_used(self, number: int, stream: int) -> None:
        """Note that command `number` uses arena memory until the work submitted so far to the real stream is done."""
        last = self.get(pump_block.HOST_TAIL)
        if last - self.get(pump_block.HOST_HEAD) >= pump_block.HOST_CAPACITY:
            raise CudaError(2, "too many asynchronous copies on their way")
        event = self.take_event()
        self._driver.call("cuEventRecord", event, stream)
        record = self.get(pump_block.HOST) + last % pump_block.HOST_CAPACITY * pump_block.RECORD
        ctypes.c_uint64.from_address(record).value = number
        ctypes.c_uint64.from_address(record + 8).value = event
        self.set(pump_block.HOST_TAIL, last + 1)

    def outstanding(self) -> bool:
        """Tell whether the pump has completion records open."""
        return bool(
            self.get(pump_block.WAIT_COUNT)
            or self.get(pump_block.HOST_HEAD) != self.get(pump_block.HOST_TAIL)
            or self.get(pump_block.FREE_HEAD) != self.get(pump_block.FREE_TAIL)
            or (self.flight is not None and self.flight.on_its_way())
        )

    def take_waits(self) -> list[int]:
        """Give up the commands whose replies wait for work on its way; returns their numbers."""
        base, count = self.get(pump_block.WAITS), self.get(pump_block.WAIT_COUNT)
        self.set(pump_block.WAIT_COUNT, 0)
        self.set(pump_block.STREAM_WAITS, 0)
        flags = pump_block.OWN_EVENT | pump_block.ASKS_STREAM | pump_block.UNTOLD
        return [ctypes.c_uint64.from_address(base + index * pump_block.RECORD).value & ~flags for index in range(count)]

    def frees_outstanding(self) -> bool:
        """Tell whether the pump tracks frees."""
        return self.get(pump_block.FREE_HEAD) != self.get(pump_block.FREE_TAIL)

    # -- the function's events: those with a place in the table are kept nowhere else --------------------------------
    def holds_event(self, handle: int) -> bool:
        """Tell whether the table has a place for this event handle."""
        index = handle & layout.HANDLE_INDEX_MASK
        return handle >> layout.HANDLE_KIND_SHIFT == layout.KIND_EVENT and 0 < index < pump_block.TABLE_SIZE

    def event(self, handle: int) -> int:
        """Return the real event of a handle that `holds_event`, 0 if there is none."""
        place = self._tables[layout.KIND_EVENT] + 8 * (handle & layout.HANDLE_INDEX_MASK)
        return ctypes.c_uint64.from_address(place).value

    def enter_event(self, handle: int, event: int) -> None:
        """Enter an event that Python made and will end."""
        place = self._tables[layout.KIND_EVENT] + 8 * (handle & layout.HANDLE_INDEX_MASK)
        ctypes.c_uint64.from_address(place).value = event

    def remove_event(self, handle: int) -> int:
        """Take an event out of the table; the caller ends it."""
        event = self.event(handle)
        self.enter_event(handle, 0)
        kind = ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK))
        if kind.value & ~pump_block.EVENT_RECORDED == pump_block.EVENT_LENT:
            self.add(pump_block.LENT, -1)
            self._total_events -= 1
        kind.value = pump_block.EVENT_OTHER
        return event

    def is_fresh(self, handle: int) -> bool:
        """Tell whether an event that the pump may have given before has not been recorded since."""
        if not self.holds_event(handle):
            return False
        kind = ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK)).value
        return kind != pump_block.EVENT_OTHER and not kind & pump_block.EVENT_RECORDED

    def mark_recorded(self, handle: int) -> None:
        """Note that Python recorded an event."""
        if self.holds_event(handle):
            kind = ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK))
            if kind.value != pump_block.EVENT_OTHER:
                kind.value |= pump_block.EVENT_RECORDED

    def recycle_timed_event(self, handle: int) -> None:
        """Let the pump take the event of `handle` (made with flags 0) back by itself, and have some more to give."""
        ctypes.c_uint8.from_address(
            self._event_kinds + (handle & layout.HANDLE_INDEX_MASK)
        ).value = pump_block.EVENT_TIMED
        count = self.get(pump_block.TIMED_COUNT)
        for place in range(count, pump_block.TIMED_CAPACITY // 2):
            event = self._driver.out("cuEventCreate", 0)
            ctypes.c_uint64.from_address(self.get(pump_block.TIMED_EVENTS) + 8 * place).value = event
            self.set(pump_block.TIMED_COUNT, place + 1)

    def live_events(self) -> int:
        """Return how many events the function has in the table."""
        table = (ctypes.c_uint64 * pump_block.TABLE_SIZE).from_address(self._tables[layout.KIND_EVENT])
        return sum(1 for event in table if event)

    # -- mirrors ---------------------------------------------------------------------------------------------------
    def enter(self, kind: int, handle: int, real: int) -> None:
        """Mirror a handle; kinds and indices that the pump does not know stay with Python."""
        table = self._tables.get(kind)
        index = handle & layout.HANDLE_INDEX_MASK
        if table is not None and index < pump_block.TABLE_SIZE and kind != layout.KIND_FUNCTION:
            ctypes.c_uint64.from_address(table + 8 * index).value = real
        if kind == layout.KIND_STREAM:
            self.add(pump_block.USER_STREAMS, 1)

    def remove(self, kind: int, handle: int) -> None:
        """Undo `enter` and `enter_function`."""
        table = self._tables.get(kind)
        index = handle & layout.HANDLE_INDEX_MASK
        if table is not None and index < pump_block.TABLE_SIZE:
            ctypes.c_uint64.from_address(table + 8 * index).value = 0
        if kind == layout.KIND_STREAM:
            self.add(pump_block.USER_STREAMS, -1)
        record = self._records.pop(handle, None)
        if record is not None:
            self._names.pop(ctypes.addressof(record) + pump_block.FUNCTION_ESTIMATES, None)
            if self.flight is not None:
                # Marks on their way still write to its estimates.
                self._retired = [each for each in self._retired if each[0] > self.flight.get(flight.HEAD)]
                self._retired.append((self.flight.get(flight.TAIL) + 1, record))

    def open_flight(self) -> FlightTables:
        """From now on mark work on the multiprocessors; see ``executor/flight.py``."""
        self.flight = FlightTables(self._driver, lambda estimates: self._names.get(estimates, "of an unloaded module"))
        self.set(pump_block.FLIGHT, self.flight.block)
        names = {Op.MEMSET: "memset", Op.COPY_DTOD: "copy on the device"}
        for op, name in names.items():
            self._names[self.get(pump_block.OTHER_ESTIMATES) + 8 * flight.BUCKETS * int(op)] = name
        return self.flight

    def enter_function(self, handle: int, target: LaunchTarget, name: bytes = b"") -> None:
        """Mirror a kernel with what its launches need, and its name for the trace."""
        index = handle & layout.HANDLE_INDEX_MASK
        if index >= pump_block.TABLE_SIZE or len(target.parameters) > pump_block.MAX_PARAMETERS:
            return
        offsets = [offset for offset, _ in target.parameters]
        unknown = (0,) * flight.BUCKETS
        words = (target.function, len(offsets), target.parameter_bytes, *unknown, *offsets)
        record = (ctypes.c_uint64 * len(words))(*words)
        self._records[handle] = record
        address = ctypes.addressof(record)
        self._names[address + pump_block.FUNCTION_ESTIMATES] = name[:_LONGEST_NAME].decode(errors="replace")
        ctypes.c_uint64.from_address(self._tables[layout.KIND_FUNCTION] + 8 * index).value = address

    def map(self, address: int, size: int, mapped: bool) -> None:
        """Mirror which granules of the window are mapped."""
        first = (address - self._window_base) // DEVICE_GRANULE
        ctypes.memset(self._mapped + first, int(mapped), size // DEVICE_GRANULE)

    def counters(self) -> dict[str, int]:
        """Return the pump's counters by name."""
        return {name: self.get(offset) for name, offset in _COUNTERS.items()}
