"""Streams and events: order, asynchrony, the default stream's rules, faults."""

from __future__ import annotations

import ctypes
import resource
import struct
import threading
import time

import pytest
from softgpu_session import Session

NOT_READY, ILLEGAL_ADDRESS, INVALID_HANDLE = 600, 700, 400


def test_a_launch_returns_before_the_kernel_ends(session: Session) -> None:
    stream = session.stream()
    assert session.launch(session.function("wait"), stream) == 0
    assert session.cuda.cuStreamQuery(stream) == NOT_READY
    session.engine.gate.set()
    session.ok("cuStreamSynchronize", stream)
    assert session.cuda.cuStreamQuery(stream) == 0


def test_operations_of_a_stream_run_in_order(session: Session) -> None:
    stream, memory, store = session.stream(), session.alloc(4), session.function("store")
    for value in range(1, 200):
        assert session.launch(store, stream, memory, value) == 0
    session.ok("cuStreamSynchronize", stream)
    assert session.read(memory, 4) == struct.pack("<I", 199)


def test_non_blocking_streams_do_not_wait_for_each_other(session: Session) -> None:
    blocked, free = session.stream(), session.stream()
    memory = session.alloc(4)
    assert session.launch(session.function("wait"), blocked) == 0
    session.ok("cuMemsetD8Async", memory, 7, 4, free)
    session.ok("cuStreamSynchronize", free)
    assert session.cuda.cuStreamQuery(blocked) == NOT_READY


@pytest.mark.parametrize("first_is_default", [True, False])
def test_the_default_stream_and_blocking_streams_wait_for_each_other(session: Session, first_is_default: bool) -> None:
    blocking = session.stream(flags=0)
    first, second = (0, blocking) if first_is_default else (blocking, 0)
    memory, event = session.alloc(4), session.event()
    assert session.launch(session.function("wait"), first) == 0
    session.ok("cuMemsetD32Async", memory, 9, 1, second)
    session.ok("cuEventRecord", event, second)
    assert session.cuda.cuEventQuery(event) == NOT_READY
    assert session.cuda.cuStreamQuery(second) == NOT_READY
    session.engine.gate.set()
    session.ok("cuEventSynchronize", event)
    assert session.read(memory, 4) == struct.pack("<I", 9)


def test_the_default_stream_ignores_non_blocking_streams(session: Session) -> None:
    assert session.launch(session.function("wait"), session.stream(flags=1)) == 0
    session.ok("cuStreamSynchronize", 0)


def test_each_thread_has_its_own_per_thread_stream(session: Session) -> None:
    identifiers = [_stream_id(session, 2)]
    context = session.u64("cuCtxGetCurrent")

    def other() -> None:
        session.ok("cuCtxSetCurrent", context)
        identifiers.append(_stream_id(session, 2))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(10)
    assert identifiers[0] == _stream_id(session, 2)
    assert len(set(identifiers)) == 2
    assert _stream_id(session, 0) == _stream_id(session, 1)


def _stream_id(session: Session, handle: int) -> int:
    session.ok("cuStreamGetId", handle, session.at)
    return ctypes.c_uint64.from_address(session.at).value


def test_an_event_orders_two_streams(session: Session) -> None:
    first, second, event = session.stream(), session.stream(), session.event()
    memory = session.alloc(4)
    assert session.launch(session.function("wait"), first) == 0
    session.ok("cuMemsetD32Async", memory, 1, 1, first)
    session.ok("cuEventRecord", event, first)
    session.ok("cuStreamWaitEvent", second, event, 0)
    session.ok("cuMemsetD32Async", memory, 2, 1, second)
    assert session.cuda.cuStreamQuery(second) == NOT_READY
    session.engine.gate.set()
    session.ok("cuStreamSynchronize", second)
    assert session.read(memory, 4) == struct.pack("<I", 2)


def test_elapsed_time_is_the_time_between_the_events(session: Session) -> None:
    stream, start, end = session.stream(), session.event(), session.event()
    session.ok("cuEventRecord", start, stream)
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuEventRecord", end, stream)
    assert session.cuda.cuEventElapsedTime(session.at, start, end) == NOT_READY
    session.ok("cuEventSynchronize", start)
    before = time.perf_counter()
    while time.perf_counter() - before < 0.02:
        pass
    session.engine.gate.set()
    session.ok("cuEventSynchronize", end)
    session.ok("cuEventElapsedTime", session.at, start, end)
    milliseconds = ctypes.c_float.from_address(session.at).value
    assert 20 <= milliseconds < 10_000


def test_events_that_cannot_be_timed(session: Session) -> None:
    timed, untimed, never = session.event(), session.event(2), session.event()
    session.ok("cuEventRecord", timed, 0)
    session.ok("cuEventRecord", untimed, 0)
    assert session.cuda.cuEventElapsedTime(session.at, timed, untimed) == INVALID_HANDLE
    assert session.cuda.cuEventElapsedTime(session.at, timed, never) == INVALID_HANDLE
    assert session.cuda.cuEventQuery(never) == 0


def test_a_fault_is_sticky_and_later_work_is_not_run(session: Session) -> None:
    stream, memory = session.stream(), session.alloc(4)
    session.write(memory, struct.pack("<I", 5))
    assert session.launch(session.function("fault"), stream) == 0
    session.cuda.cuMemsetD32Async(memory, 6, 1, stream)
    assert session.cuda.cuStreamSynchronize(stream) == ILLEGAL_ADDRESS
    assert "wrote 0x10" in session.cuda.last_error_detail
    for _ in range(2):
        assert session.cuda.cuCtxSynchronize() == ILLEGAL_ADDRESS
        assert session.cuda.cuMemAlloc(session.at, 16) == ILLEGAL_ADDRESS
        assert session.cuda.cuStreamQuery(stream) == ILLEGAL_ADDRESS
    assert ctypes.c_uint32.from_address(memory).value == 5
    # As on a GPU, the process gets no other context there.
    session.ok("cuDevicePrimaryCtxReset", 0)
    assert session.cuda.cuDevicePrimaryCtxRetain(session.at, 0) == ILLEGAL_ADDRESS


def test_a_device_assert_reaches_stderr(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert session.launch(session.function("assertion")) == 0
    assert session.cuda.cuCtxSynchronize() == 710
    assert "Assertion `n > 0` failed" in capsys.readouterr().err


def test_a_host_function_runs_in_its_place(session: Session) -> None:
    stream, memory = session.stream(), session.alloc(4)
    seen: list[tuple[int, int]] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def callback(data: int) -> None:
        seen.append((data, ctypes.c_uint32.from_address(memory).value))

    session.ok("cuMemsetD32Async", memory, 1, 1, stream)
    session.ok("cuLaunchHostFunc", stream, ctypes.cast(callback, ctypes.c_void_p).value or 0, 77)
    session.ok("cuMemsetD32Async", memory, 2, 1, stream)
    session.ok("cuStreamSynchronize", stream)
    assert seen == [(77, 1)]


def test_a_wait_for_a_value_ends_with_another_streams_write(session: Session) -> None:
    waiting, writing = session.stream(), session.stream()
    flag, memory = session.alloc(4), session.alloc(4)
    session.ok("cuStreamWaitValue32", waiting, flag, 3, 1)
    session.ok("cuMemsetD32Async", memory, 4, 1, waiting)
    assert session.cuda.cuStreamQuery(waiting) == NOT_READY
    session.ok("cuStreamWriteValue32", writing, flag, 3, 0)
    session.ok("cuStreamSynchronize", waiting)
    assert session.read(memory, 4) == struct.pack("<I", 4)


def test_a_destroyed_stream_finishes_its_work(session: Session) -> None:
    stream, memory = session.stream(flags=0), session.alloc(4)
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuMemsetD32Async", memory, 8, 1, stream)
    session.ok("cuStreamDestroy", stream)
    assert session.cuda.cuStreamQuery(stream) == INVALID_HANDLE
    session.engine.gate.set()
    assert session.read(memory, 4) == struct.pack("<I", 8)


def test_many_threads_submit_at_once(session: Session) -> None:
    context, store = session.u64("cuCtxGetCurrent"), session.function("store")
    cells = [session.alloc(4) for _ in range(4)]
    streams = [session.stream(flags=index % 2) for index in range(4)]
    failures: list[int] = []

    def work(index: int) -> None:
        session.ok("cuCtxSetCurrent", context)
        for value in range(1, 101):
            failures.extend(filter(None, [session.launch(store, streams[index], cells[index], value)]))
            if value % 25 == 0:
                failures.extend(filter(None, [session.cuda.cuStreamSynchronize(streams[index])]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    session.ok("cuCtxSynchronize")
    assert not failures
    assert [session.read(cell, 4) for cell in cells] == [struct.pack("<I", 100)] * 4


def test_an_idle_device_uses_no_processor_time(session: Session) -> None:
    stream = session.stream()
    session.ok("cuMemsetD8Async", session.alloc(4), 1, 4, stream)
    session.ok("cuStreamSynchronize", stream)
    before = resource.getrusage(resource.RUSAGE_SELF)
    threading.Event().wait(0.3)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.05
