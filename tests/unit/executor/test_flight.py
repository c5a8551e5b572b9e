"""What may be on its way: the bound in time, marks, and what they teach; with events that the test lets come."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migproxy.arena import machine_unsafe
from migproxy.executor import flight
from migproxy.executor.flight_tables_unsafe import LATE_NS, LIMIT_NS, SHORT_NS, FlightTables, compile_flight
from migproxy.jit import language

NOT_READY = 600


class Device:
    """Events that are reached when the test says so, in the order in which they were recorded."""

    kind = "software"

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.reached: set[int] = set()
        self.made = 0
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)
        self._record = prototype(self._on_record)
        self._query = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)(
            lambda event: 0 if event in self.reached else NOT_READY
        )

    def _on_record(self, event: int, stream: int) -> int:
        self.reached.discard(event)
        self.recorded.append(event)
        return 0

    def out(self, name: str, *arguments: int) -> int:
        assert name == "cuEventCreate"
        self.made += 1
        return self.made

    def pointer(self, name: str) -> int:
        function = {"cuEventRecord": self._record, "cuEventQuery": self._query}[name]
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def finish(self) -> None:
        self.reached.add(self.recorded.pop(0))


class Work:
    """A flight and kernels that take as long as the test says."""

    def __init__(self) -> None:
        self.device = Device()
        self.tables = FlightTables(self.device, lambda _: "named")  # type: ignore[arg-type]
        self.tables.bound(True)

    def issue(self, kind: str, stream: int = 0) -> bool:
        estimates = self.tables.estimates_of(kind, kind)
        if not self.tables.has_room(estimates):
            return False
        assert self.tables.before(estimates, stream) == 0
        assert self.tables.issued(estimates, stream) == 0
        return True

    def know(self, kind: str, ns: int) -> None:
        """Have a kind of kernel be known to take so long."""
        word = ctypes.c_uint64.from_address(self.tables.estimates_of(kind, kind))
        word.value = self.tables.ticks(ns)

    def known(self, kind: str) -> float:
        return ctypes.c_uint64.from_address(self.tables.estimates_of(kind, kind)).value / self.tables._clock.rate


@pytest.fixture
def work() -> Work:
    return Work()


def test_what_was_never_measured_goes_alone(work: Work) -> None:
    assert work.issue("new")
    assert not work.issue("new")
    work.device.finish()
    assert work.tables.drained()
    assert work.issue("new")


@pytest.mark.parametrize(("ns", "most"), [(5_000_000, 1), (2_500_000, 1), (900_000, 2), (400_000, 5)])
def test_as_much_as_the_bound_is_on_its_way_and_always_one(work: Work, ns: int, most: int) -> None:
    work.know("kernel", ns)
    count = 0
    while work.issue("kernel"):
        count += 1
        assert count <= most
    assert count == most


def test_a_long_kernel_waits_for_the_short_ones_before_it(work: Work) -> None:
    work.know("short", 10_000)
    work.know("long", 5_000_000)
    assert all(work.issue("short") for _ in range(8))
    assert not work.issue("long")
    assert len(work.device.recorded) == 1, "the batch of short ones has no mark, so nobody would see it end"
    work.device.finish()
    assert work.tables.drained()
    assert work.issue("long")


def test_many_short_kernels_share_a_mark_and_are_bounded_too(work: Work) -> None:
    work.know("short", 5_000)
    count = 0
    while work.issue("short"):
        count += 1
    assert LIMIT_NS // 5_000 - 1 <= count <= LIMIT_NS // 5_000 + 1
    assert len(work.device.recorded) < count // 8


def test_a_stream_has_marks_of_its_own(work: Work) -> None:
    work.know("short", 5_000)
    assert work.issue("short", stream=1)
    assert work.issue("short", stream=2)
    assert len(work.device.recorded) == 1


def test_without_a_bound_the_marks_are_the_only_limit(work: Work) -> None:
    work.tables.bound(False)
    work.know("long", 5_000_000)
    assert all(work.issue("long") for _ in range(flight.MARKS))
    assert not work.issue("long")


def test_durations_are_learned_up_at_once_and_down_slowly(work: Work) -> None:
    def take(seconds: float) -> None:
        assert work.issue("kernel")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        work.device.finish()
        assert work.tables.drained()

    take(0.004)
    first = work.known("kernel")
    assert first >= 4e6
    take(0.0)
    assert 0.7 * first < work.known("kernel") < 0.8 * first
    take(0.02)
    assert work.known("kernel") >= 20e6
    assert work.tables.busy_ns >= 24e6


def test_a_batch_that_took_long_is_not_taken_for_short_again(work: Work) -> None:
    """A kernel of the same size may suddenly take a thousand times as long: its loop count is an argument."""
    work.know("loop", 2_000)
    while work.issue("loop"):
        pass
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
    while work.device.recorded:
        work.device.finish()
    assert work.tables.drained()
    assert work.known("loop") > SHORT_NS


def test_the_trace_names_what_ran_when(work: Work) -> None:
    before = time.monotonic_ns()
    assert work.issue("sgemm")
    work.device.finish()
    assert work.tables.drained()
    (event,) = work.tables.events(10)
    assert event.what == "kernel sgemm"
    assert before - 1_000_000 < event.start <= event.end < time.monotonic_ns() + 1_000_000


def test_only_what_ended_since_is_told_again(work: Work) -> None:
    ends = []
    for name in ("first", "second", "third"):
        assert work.issue(name)
        work.device.finish()
        assert work.tables.drained()
        ends.append(work.tables.events(1)[0].end)
    assert [each.what for each in work.tables.events(10, ends[0])] == ["kernel second", "kernel third"]
    assert work.tables.events(10, ends[2]) == []
    assert [each.what for each in work.tables.events(2)] == ["kernel second", "kernel third"]


def test_the_next_long_kernel_follows_one_that_is_about_to_be_done(work: Work) -> None:
    """Of a kernel of 100 s the last 20 may go by with the next one behind it, and none after that."""
    second = 1_000_000_000
    work.tables.set(flight.AHEAD, work.tables.ticks(20 * second))
    work.know("kernel", 100 * second)
    assert work.issue("kernel")
    started = ctypes.c_uint64.from_address(work.tables.get(flight.RECORDS) + flight.MARK_START)
    started.value -= work.tables.ticks(70 * second)
    assert not work.issue("kernel")
    started.value -= work.tables.ticks(20 * second)
    assert work.issue("kernel")
    started.value -= work.tables.ticks(100 * second)
    assert not work.issue("kernel"), "three are on their way"


def test_none_follows_one_that_is_late(work: Work) -> None:
    work.know("kernel", 4_000_000)
    assert work.issue("kernel")
    started = ctypes.c_uint64.from_address(work.tables.get(flight.RECORDS) + flight.MARK_START)
    started.value -= work.tables.ticks(4_010_000)
    assert not work.issue("kernel")


def test_more_follows_one_that_is_so_late_that_it_may_wait_for_it_but_not_without_end(work: Work) -> None:
    work.know("kernel", 4_000_000)
    assert work.issue("kernel")
    started = ctypes.c_uint64.from_address(work.tables.get(flight.RECORDS) + flight.MARK_START)
    started.value -= work.tables.ticks(4_000_000 + LATE_NS // 2)
    assert not work.tables.is_late()
    assert not work.issue("kernel")
    hour = 3_600_000_000_000
    started.value -= work.tables.ticks(hour)
    assert work.tables.is_late()
    assert sum(work.issue("kernel") for _ in range(100)) == flight.LATE_MOST - 1


_WORDS = (flight.HEAD, flight.TAIL, flight.EXPECTED, flight.LIMIT, flight.BATCH_COUNT, flight.BATCH_EXPECTED)


@given(values=st.lists(st.integers(0, 1 << 40), min_size=6, max_size=6), units=st.integers(0, 1 << 62), known=st.data())
def test_the_compiled_bound_is_the_readable_one(values: list[int], units: int, known: st.DataObject) -> None:
    block = ctypes.create_string_buffer(flight.BLOCK_SIZE)
    estimates = (ctypes.c_uint64 * flight.BUCKETS)(*known.draw(st.lists(st.integers(0, 9), max_size=flight.BUCKETS)))
    records = ctypes.create_string_buffer(flight.MARKS * flight.MARK)
    address, where = ctypes.addressof(block), ctypes.addressof(estimates)
    ctypes.c_uint64.from_address(address + flight.RECORDS).value = ctypes.addressof(records)
    for offset, value in zip(_WORDS, values, strict=True):
        ctypes.c_uint64.from_address(address + offset).value = value
    twin: Callable[..., int] = machine_unsafe.as_python(flight.has_room)
    assert compile_flight()["has_room"](address, where, units) == int(twin(address, where, units))


def test_while_nothing_is_bounded_a_batch_goes_on_until_somebody_waits(work: Work) -> None:
    tables = work.tables
    tables.bound(False)
    tables.set(flight.LIGHT_MOST, flight.LIGHT_LONGEST)
    assert all(tables.light(1) == 0 for _ in range(1000))
    assert not work.device.recorded
    assert tables.light(2) == 0
    assert len(work.device.recorded) == 1, "what was issued to the other stream has no mark"
    assert not tables.drained()
    assert len(work.device.recorded) == 2
    work.device.finish()
    work.device.finish()
    assert tables.drained()
    assert sum("999 more" in event.what for event in tables.events(10)) == 1


def test_a_batch_is_as_long_as_the_watchdog_can_wait_for(work: Work) -> None:
    tables = work.tables
    tables.bound(False)
    assert all(tables.light(1) == 0 for _ in range(10 * flight.LIGHT_FIRST))
    assert len(work.device.recorded) == 10, "nothing was measured yet"
    while work.device.recorded:
        work.device.finish()
    assert tables.drained()
    assert tables.get(flight.LIGHT_MOST) == flight.LIGHT_LONGEST, "they took no time"
    adapt: Callable[..., int] = machine_unsafe.as_python(flight.adapt)
    tables.set(flight.LIGHT_TICKS, 1000)
    for took, most in ((100, 100), (10**6, 1), (0, flight.LIGHT_LONGEST)):
        adapt(tables.block, took, 10)
        assert tables.get(flight.LIGHT_MOST) == most


def test_what_was_issued_without_a_bound_is_marked_when_there_is_one(work: Work) -> None:
    work.tables.bound(False)
    assert work.tables.light(1) == 0
    work.tables.bound(True)
    assert len(work.device.recorded) == 1
    assert not work.tables.drained()


def test_a_mark_is_never_set_over_one_that_was_not_reached(work: Work) -> None:
    work.tables.bound(False)
    for number in range(flight.MARKS + 1):
        assert not work.tables.full
        assert work.tables.light(number) == 0
    assert work.tables.full
    work.tables.mark()
    assert len(work.device.recorded) == flight.MARKS
    work.device.finish()
    assert not work.tables.drained()
    work.tables.mark()
    assert len(work.device.recorded) == flight.MARKS


def test_a_stream_seen_idle_needs_no_mark(work: Work) -> None:
    settle = language.bind(flight.settle, language.compile_functions(flight.settle)["settle"])
    work.tables.bound(False)
    assert work.tables.light(1) == 0
    settle(work.tables.block, 2)
    assert work.tables.get(flight.BATCH_COUNT) == 1
    settle(work.tables.block, 1)
    assert work.tables.drained()
    assert not work.device.recorded
    assert work.tables.busy_ns > 0
