"""The pump's state block, and the Python side of it: tables that mirror the session's handles and memory.

One thread owns the block: it calls `PumpTables.run`, and everything here happens between two calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.errors import CudaError
from migproxy.executor import flight, pump
from migproxy.executor.flight_tables_unsafe import FlightTables
from migproxy.executor.repeat_tables_unsafe import RepeatTables

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.handlers.launch import LaunchTarget

_DRIVER_FUNCTIONS = {
    pump.LAUNCH_KERNEL: "cuLaunchKernel",
    pump.COPY_HTOD_ASYNC: "cuMemcpyHtoDAsync",
    pump.COPY_DTOH_ASYNC: "cuMemcpyDtoHAsync",
    pump.COPY_DTOD_ASYNC: "cuMemcpyDtoDAsync",
    pump.MEMSET_D8: "cuMemsetD8Async",
    pump.MEMSET_D16: "cuMemsetD16Async",
    pump.MEMSET_D32: "cuMemsetD32Async",
    pump.EVENT_RECORD: "cuEventRecord",
    pump.EVENT_QUERY: "cuEventQuery",
    pump.STREAM_WAIT_EVENT: "cuStreamWaitEvent",
    pump.STREAM_QUERY: "cuStreamQuery",
}
_COUNTERS = {
    "launch": pump.LAUNCHES,
    "bytes_htod": pump.BYTES_HTOD,
    "bytes_dtoh": pump.BYTES_DTOH,
    "copy_htod": pump.COPIES_HTOD,
    "copy_dtoh": pump.COPIES_DTOH,
    "copy_dtod": pump.COPIES_DTOD,
    "memset": pump.MEMSETS,
    "stream_sync": pump.SYNCS,
    "event_record": pump.EVENT_RECORDS,
    "event_query": pump.EVENT_QUERIES,
    "stream_query": pump.STREAM_QUERIES,
    "stream_wait_event": pump.EVENT_WAITS,
    "free_mark": pump.FREE_MARKS,
}
#: CU_EVENT_DISABLE_TIMING: cheaper to record, and completion records ask for no times.
_EVENT_FLAGS = 2
_EVENTS_AT_ONCE = 64
#: About 50 µs at the 2 to 4 GHz that time-stamp counters tick with.
_SPIN_TICKS = 150_000
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
        self.block = self._room(pump.STATE_SIZE)
        self._words = (ctypes.c_uint64 * (pump.STATE_SIZE // 8)).from_address(self.block)
        self._run = compile_pump()
        self._records: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self._names: dict[int, str] = {}
        self._retired: list[tuple[int, object]] = []
        self.flight: FlightTables | None = None
        self.repeats = RepeatTables()
        granules = (window[1] - window[0]) // DEVICE_GRANULE
        self._mapped = self._room(granules)
        self._event_kinds = self._room(pump.TABLE_SIZE)
        self._tables = {
            layout.KIND_STREAM: self._room(8 * pump.TABLE_SIZE),
            layout.KIND_EVENT: self._room(8 * pump.TABLE_SIZE),
            layout.KIND_FUNCTION: self._room(8 * pump.TABLE_SIZE),
        }
        for offset, value in (
            (pump.RING_BASE, ring),
            (pump.HEAP_START, heap[0]),
            (pump.HEAP_END, heap[1]),
            (pump.WINDOW_BASE, window[0]),
            (pump.WINDOW_END, window[1]),
            (pump.MAPPED, self._mapped),
            (pump.STREAMS, self._tables[layout.KIND_STREAM]),
            (pump.EVENTS, self._tables[layout.KIND_EVENT]),
            (pump.FUNCTIONS, self._tables[layout.KIND_FUNCTION]),
            (pump.POINTERS, self._room(8 * pump.MAX_PARAMETERS)),
            (pump.SPARE_EVENTS, self._room(8 * pump.SPARE_CAPACITY)),
            (pump.WAITS, self._room(pump.RECORD * pump.WAIT_CAPACITY)),
            (pump.HOST, self._room(pump.RECORD * pump.HOST_CAPACITY)),
            (pump.EVENT_KINDS, self._event_kinds),
            (pump.TIMED_EVENTS, self._room(8 * pump.TIMED_CAPACITY)),
            (pump.FREE_QUEUE, self._room(pump.RECORD * pump.HOST_CAPACITY)),
            (pump.OTHER_ESTIMATES, self._room(8 * flight.BUCKETS * 8)),
            (pump.SPIN_TICKS, _SPIN_TICKS),
            (pump.REPEATS, self.repeats.block),
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
        if self.get(pump.SPARE_COUNT) < 2:
            self.more_events()
        return self._run(self.block)

    def command(self) -> bytes:
        """Return the command in hand as it was copied out of its slot."""
        return ctypes.string_at(self.block + pump.COPY, layout.SLOT_SIZE)

    @property
    def tail(self) -> int:
        """How many commands were taken."""
        return self.get(pump.TAIL)

    def more_events(self) -> None:
        """Make spare events; the stack holds every one that exists, so it cannot overflow.

        Raises
        ------
        CudaError
            2 when the pump already uses as many as it may.
        """
        if self._total_events + _EVENTS_AT_ONCE > pump.SPARE_CAPACITY:
            raise CudaError(2, "too many completion records")
        for _ in range(_EVENTS_AT_ONCE):
            self.give_event(self._driver.out("cuEventCreate", _EVENT_FLAGS))
        self._total_events += _EVENTS_AT_ONCE

    def give_event(self, event: int) -> None:
        """Put an event on the stack of spare ones."""
        count = self.get(pump.SPARE_COUNT)
        ctypes.c_uint64.from_address(self.get(pump.SPARE_EVENTS) + 8 * count).value = event
        self.set(pump.SPARE_COUNT, count + 1)

    def take_event(self) -> int:
        """Take an event off the stack of spare ones."""
        if not self.get(pump.SPARE_COUNT):
            self.more_events()
        count = self.get(pump.SPARE_COUNT) - 1
        self.set(pump.SPARE_COUNT, count)
        return ctypes.c_uint64.from_address(self.get(pump.SPARE_EVENTS) + 8 * count).value

    def host_memory_used(self, number: int, stream: int) -> None:
        """Note that command `number` uses arena memory until the work submitted so far to the real stream is done."""
        last = self.get(pump.HOST_TAIL)
        if last - self.get(pump.HOST_HEAD) >= pump.HOST_CAPACITY:
            raise CudaError(2, "too many asynchronous copies on their way")
        event = self.take_event()
        self._driver.call("cuEventRecord", event, stream)
        record = self.get(pump.HOST) + last % pump.HOST_CAPACITY * pump.RECORD
        ctypes.c_uint64.from_address(record).value = number
        ctypes.c_uint64.from_address(record + 8).value = event
        self.set(pump.HOST_TAIL, last + 1)

    def outstanding(self) -> bool:
        """Tell whether the pump has completion records open."""
        return bool(
            self.get(pump.WAIT_COUNT)
            or self.get(pump.HOST_HEAD) != self.get(pump.HOST_TAIL)
            or self.get(pump.FREE_HEAD) != self.get(pump.FREE_TAIL)
            or (self.flight is not None and self.flight.on_its_way())
        )

    def take_waits(self) -> list[int]:
        """Give up the commands whose replies wait for work on its way; returns their numbers."""
        base, count = self.get(pump.WAITS), self.get(pump.WAIT_COUNT)
        self.set(pump.WAIT_COUNT, 0)
        self.set(pump.STREAM_WAITS, 0)
        flags = pump.OWN_EVENT | pump.ASKS_STREAM
        return [ctypes.c_uint64.from_address(base + index * pump.RECORD).value & ~flags for index in range(count)]

    def frees_outstanding(self) -> bool:
        """Tell whether the pump tracks frees."""
        return self.get(pump.FREE_HEAD) != self.get(pump.FREE_TAIL)

    # -- the function's events: those with a place in the table are kept nowhere else --------------------------------
    def holds_event(self, handle: int) -> bool:
        """Tell whether the table has a place for this event handle."""
        index = handle & layout.HANDLE_INDEX_MASK
        return handle >> layout.HANDLE_KIND_SHIFT == layout.KIND_EVENT and 0 < index < pump.TABLE_SIZE

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
        if kind.value & ~pump.EVENT_RECORDED == pump.EVENT_LENT:
            self.add(pump.LENT, -1)
            self._total_events -= 1
        kind.value = pump.EVENT_OTHER
        return event

    def is_fresh(self, handle: int) -> bool:
        """Tell whether an event that the pump may have given before has not been recorded since."""
        if not self.holds_event(handle):
            return False
        kind = ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK)).value
        return kind != pump.EVENT_OTHER and not kind & pump.EVENT_RECORDED

    def mark_recorded(self, handle: int) -> None:
        """Note that Python recorded an event."""
        if self.holds_event(handle):
            kind = ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK))
            if kind.value != pump.EVENT_OTHER:
                kind.value |= pump.EVENT_RECORDED

    def recycle_timed_event(self, handle: int) -> None:
        """Let the pump take the event of `handle` (made with flags 0) back by itself, and have some more to give."""
        ctypes.c_uint8.from_address(self._event_kinds + (handle & layout.HANDLE_INDEX_MASK)).value = pump.EVENT_TIMED
        count = self.get(pump.TIMED_COUNT)
        for place in range(count, pump.TIMED_CAPACITY // 2):
            event = self._driver.out("cuEventCreate", 0)
            ctypes.c_uint64.from_address(self.get(pump.TIMED_EVENTS) + 8 * place).value = event
            self.set(pump.TIMED_COUNT, place + 1)

    def live_events(self) -> int:
        """Return how many events the function has in the table."""
        table = (ctypes.c_uint64 * pump.TABLE_SIZE).from_address(self._tables[layout.KIND_EVENT])
        return sum(1 for event in table if event)

    # -- mirrors ---------------------------------------------------------------------------------------------------
    def enter(self, kind: int, handle: int, real: int) -> None:
        """Mirror a handle; kinds and indices that the pump does not know stay with Python."""
        table = self._tables.get(kind)
        index = handle & layout.HANDLE_INDEX_MASK
        if table is not None and index < pump.TABLE_SIZE and kind != layout.KIND_FUNCTION:
            ctypes.c_uint64.from_address(table + 8 * index).value = real
        if kind == layout.KIND_STREAM:
            self.add(pump.USER_STREAMS, 1)

    def remove(self, kind: int, handle: int) -> None:
        """Undo `enter` and `enter_function`."""
        table = self._tables.get(kind)
        index = handle & layout.HANDLE_INDEX_MASK
        if table is not None and index < pump.TABLE_SIZE:
            ctypes.c_uint64.from_address(table + 8 * index).value = 0
        if kind == layout.KIND_STREAM:
            self.add(pump.USER_STREAMS, -1)
        record = self._records.pop(handle, None)
        if record is not None:
            self._names.pop(ctypes.addressof(record) + pump.FUNCTION_ESTIMATES, None)
            if self.flight is not None:
                # Marks on their way still write to its estimates.
                self._retired = [each for each in self._retired if each[0] > self.flight.get(flight.HEAD)]
                self._retired.append((self.flight.get(flight.TAIL) + 1, record))

    def open_flight(self) -> FlightTables:
        """From now on mark work on the multiprocessors; see ``executor/flight.py``."""
        self.flight = FlightTables(self._driver, lambda estimates: self._names.get(estimates, "of an unloaded module"))
        self.set(pump.FLIGHT, self.flight.block)
        names = {Op.MEMSET: "memset", Op.COPY_DTOD: "copy on the device"}
        for op, name in names.items():
            self._names[self.get(pump.OTHER_ESTIMATES) + 8 * flight.BUCKETS * int(op)] = name
        return self.flight

    def enter_function(self, handle: int, target: LaunchTarget, name: bytes = b"") -> None:
        """Mirror a kernel with what its launches need, and its name for the trace."""
        index = handle & layout.HANDLE_INDEX_MASK
        if index >= pump.TABLE_SIZE or len(target.parameters) > pump.MAX_PARAMETERS:
            return
        offsets = [offset for offset, _ in target.parameters]
        unknown = (0,) * flight.BUCKETS
        words = (target.function, len(offsets), target.parameter_bytes, *unknown, *offsets)
        record = (ctypes.c_uint64 * len(words))(*words)
        self._records[handle] = record
        address = ctypes.addressof(record)
        self._names[address + pump.FUNCTION_ESTIMATES] = name[:_LONGEST_NAME].decode(errors="replace")
        ctypes.c_uint64.from_address(self._tables[layout.KIND_FUNCTION] + 8 * index).value = address

    def map(self, address: int, size: int, mapped: bool) -> None:
        """Mirror which granules of the window are mapped."""
        first = (address - self._window_base) // DEVICE_GRANULE
        ctypes.memset(self._mapped + first, int(mapped), size // DEVICE_GRANULE)

    def counters(self) -> dict[str, int]:
        """Return the pump's counters by name."""
        return {name: self.get(offset) for name, offset in _COUNTERS.items()}
