"""Order of work within streams, between streams, and with the host."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest
from transports import Host, launch

from migproxy.errors import CudaError

Read = Callable[[int, int], bytes]
Device = Callable[[bytes | int], int]
Kernel = Callable[[str], int]

NON_BLOCKING = 1
NO_TIMING = 2
CLOCKS = 20_000_000


def launch_spin(cuda: Any, kernel: Kernel, stream: int, out: int, clocks: int = CLOCKS) -> None:
    launch(cuda, kernel("spin"), (1, 1, 1), (1, 1, 1), ctypes.c_longlong(clocks), ctypes.c_void_p(out), stream=stream)


@pytest.fixture
def stream(cuda: Any) -> Any:
    made = cuda.stream_create(NON_BLOCKING)
    yield made
    cuda.stream_synchronize(made)
    cuda.stream_destroy(made)


def test_flags_and_priority(cuda: Any) -> None:
    least, greatest = cuda.stream_priority_range()
    assert greatest <= least
    made = cuda.stream_create(NON_BLOCKING, greatest)
    assert (cuda.stream_flags(made), cuda.stream_priority(made)) == (NON_BLOCKING, greatest)
    cuda.stream_destroy(made)
    # Out of range is clamped.
    made = cuda.stream_create(0, greatest - 100)
    assert (cuda.stream_flags(made), cuda.stream_priority(made)) == (0, greatest)
    cuda.stream_destroy(made)


def test_an_idle_stream_is_done(cuda: Any, stream: int) -> None:
    cuda.stream_query(stream)
    cuda.stream_synchronize(stream)
    cuda.stream_query(0)


def test_a_stream_keeps_its_order(cuda: Any, kernel: Kernel, device: Device, stream: int, read: Read) -> None:
    pointer = device(bytes(8))
    for value in range(1, 20):
        cuda.memset(pointer, value, 1, 1, stream)
        launch_spin(cuda, kernel, stream, pointer, 1000)
        cuda.memcpy_dtod(pointer + 4, pointer, 4, stream)
        cuda.stream_synchronize(stream)
        assert read(pointer + 4, 1)[0] == value + 1


@pytest.mark.parametrize("source", ["managed", "pinned", "pageable"])
def test_copies_to_managed_memory_and_from_it_do_not_wait(
    cuda: Any, kernel: Kernel, device: Device, stream: int, source: str
) -> None:
    """A kernel before them may wait for the thread that makes them."""
    size = 4096
    first, second = (cuda.mem_alloc_managed(size, 1) for _ in range(2))
    pinned, pageable = cuda.host_alloc(size), Host(b"\x05" * size)
    ctypes.memset(first, 5, size)
    ctypes.memset(pinned, 5, size)
    at = {"managed": first, "pinned": pinned, "pageable": pageable.address}[source]
    launch_spin(cuda, kernel, stream, device(bytes(4)), 10 * CLOCKS)
    cuda.memcpy(second, at, size, stream)
    pageable.fill(0)
    cuda.memcpy(pinned, second, size, stream)
    if source != "pageable":  # then CUDA may wait, or copy the source first
        with pytest.raises(CudaError, check=lambda error: error.status == 600):
            cuda.stream_query(stream)
    cuda.stream_synchronize(stream)
    assert ctypes.string_at(pinned, size) == b"\x05" * size
    for pointer in (first, second):
        cuda.mem_free(pointer)
    cuda.host_free(pinned)


@pytest.mark.parametrize("source", ["managed", "pageable"])
def test_copies_to_managed_memory_are_captured(cuda: Any, stream: int, source: str) -> None:
    size = 4096
    first, second = (cuda.mem_alloc_managed(size, 1) for _ in range(2))
    pageable = Host(size)
    at = first if source == "managed" else pageable.address
    cuda.stream_begin_capture(stream, 2)
    cuda.memcpy(second, at, size, stream)
    graph = cuda.stream_end_capture(stream)
    executable = cuda.graph_instantiate(graph)
    for value in (3, 4):
        ctypes.memset(at, value, size)
        cuda.graph_launch(executable, stream)
        cuda.stream_synchronize(stream)
        assert ctypes.string_at(second, size) == bytes([value]) * size
    cuda.graph_exec_destroy(executable)
    cuda.graph_destroy(graph)
    for pointer in (first, second):
        cuda.mem_free(pointer)


def test_busy_streams_say_so(cuda: Any, kernel: Kernel, device: Device, stream: int) -> None:
    event = cuda.event_create(NO_TIMING)
    launch_spin(cuda, kernel, stream, device(bytes(4)), 10 * CLOCKS)
    cuda.event_record(event, stream)
    for query in (lambda: cuda.stream_query(stream), lambda: cuda.event_query(event)):
        with pytest.raises(CudaError, check=lambda error: error.status == 600):
            query()
    cuda.event_synchronize(event)
    cuda.event_query(event)
    cuda.stream_query(stream)
    cuda.event_destroy(event)


def test_another_stream_waits_for_an_event(cuda: Any, kernel: Kernel, device: Device, stream: int) -> None:
    other = cuda.stream_create(NON_BLOCKING)
    counter, copy = device(bytes(4)), device(bytes(4))
    event = cuda.event_create(NO_TIMING)
    launch_spin(cuda, kernel, stream, counter)
    cuda.event_record(event, stream)
    cuda.stream_wait_event(other, event)
    cuda.memcpy_dtod(copy, counter, 4, other)
    back = Host(4)
    cuda.memcpy_dtoh(back.address, copy, 4, other)
    cuda.stream_synchronize(other)
    assert back.data == b"\1\0\0\0"
    cuda.event_destroy(event)
    cuda.stream_destroy(other)


def test_the_default_stream_waits_for_blocking_streams(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    blocking = cuda.stream_create(0)
    pointer = device(bytes(4))
    launch_spin(cuda, kernel, blocking, pointer)
    back = Host(4)
    cuda.memcpy_dtoh(back.address, pointer, 4)
    assert back.data == b"\1\0\0\0"
    cuda.stream_destroy(blocking)


def test_a_destroyed_stream_finishes_its_work(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    pointer = device(bytes(4))
    made = cuda.stream_create(NON_BLOCKING)
    launch_spin(cuda, kernel, made, pointer)
    cuda.stream_destroy(made)
    cuda.context_synchronize()
    assert read(pointer, 4) == b"\1\0\0\0"


@pytest.mark.parametrize("destroyed", [False, True])
def test_freed_memory_stays_until_its_work_is_done(cuda: Any, kernel: Kernel, destroyed: bool) -> None:
    """Even where everything else is allocated meanwhile, and where the work's stream is gone."""
    free, _ = cuda.mem_get_info()
    size = free // 2
    pointer = cuda.mem_alloc(size)
    cuda.memset(pointer, 0, 1, 4)
    cuda.context_synchronize()
    made = cuda.stream_create(NON_BLOCKING)
    launch_spin(cuda, kernel, made, pointer, 5 * CLOCKS)
    if destroyed:
        cuda.stream_destroy(made)
    cuda.mem_free(pointer)
    again = cuda.mem_alloc(size)
    cuda.memset(again, 0, 1, 4096)
    cuda.context_synchronize()
    cuda.mem_free(again)
    if not destroyed:
        cuda.stream_destroy(made)


def test_host_functions_run_in_order(cuda: Any, kernel: Kernel, device: Device, stream: int) -> None:
    seen: list[bytes] = []
    pinned = cuda.host_alloc(4)
    ctypes.memset(pinned, 0, 4)
    pointer = device(bytes(4))
    launch_spin(cuda, kernel, stream, pointer)
    cuda.memcpy_dtoh(pinned, pointer, 4, stream)
    cuda.stream_add_host_function(stream, lambda: seen.append(ctypes.string_at(pinned, 4)))
    launch_spin(cuda, kernel, stream, pointer, 1000)
    cuda.memcpy_dtoh(pinned, pointer, 4, stream)
    cuda.stream_add_host_function(stream, lambda: seen.append(ctypes.string_at(pinned, 4)))
    cuda.stream_synchronize(stream)
    assert seen == [b"\1\0\0\0", b"\2\0\0\0"]
    cuda.host_free(pinned)


def test_events_measure_time(cuda: Any, kernel: Kernel, device: Device, stream: int) -> None:
    start, end = cuda.event_create(), cuda.event_create()
    with pytest.raises(CudaError, check=lambda error: error.status == 400):
        cuda.event_elapsed_time(start, end)
    cuda.event_record(start, stream)
    launch_spin(cuda, kernel, stream, device(bytes(4)))
    cuda.event_record(end, stream)
    cuda.event_synchronize(end)
    assert 0.5 < cuda.event_elapsed_time(start, end) < 60_000
    without = cuda.event_create(NO_TIMING)
    cuda.event_record(without, stream)
    cuda.stream_synchronize(stream)
    with pytest.raises(CudaError, check=lambda error: error.status == 400):
        cuda.event_elapsed_time(start, without)
    for event in (start, end, without):
        cuda.event_destroy(event)


def test_an_event_that_was_never_recorded_is_done(cuda: Any) -> None:
    event = cuda.event_create()
    cuda.event_query(event)
    cuda.event_synchronize(event)
    cuda.event_destroy(event)


def test_several_threads_submit_at_once(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    counter = device(bytes(4))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            cuda.ensure_context()
            mine = cuda.stream_create(NON_BLOCKING)
            for _ in range(100):
                launch(cuda, kernel("count"), (2, 1, 1), (5, 1, 1), ctypes.c_void_p(counter), stream=mine)
            cuda.stream_synchronize(mine)
            cuda.stream_destroy(mine)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert int.from_bytes(read(counter, 4), "little") == 4 * 100 * 10


def test_a_captured_graph_repeats_the_work(cuda: Any, kernel: Kernel, device: Device, stream: int, read: Read) -> None:
    counter = device(bytes(4))
    cuda.stream_begin_capture(stream, 2)
    assert cuda.stream_capture_status(stream) == 1
    for _ in range(3):
        launch(cuda, kernel("count"), (1, 1, 1), (7, 1, 1), ctypes.c_void_p(counter), stream=stream)
    graph = cuda.stream_end_capture(stream)
    assert cuda.stream_capture_status(stream) == 0
    assert read(counter, 4) == bytes(4)
    executable = cuda.graph_instantiate(graph)
    for _ in range(5):
        cuda.graph_launch(executable, stream)
    cuda.stream_synchronize(stream)
    assert int.from_bytes(read(counter, 4), "little") == 5 * 3 * 7
    cuda.graph_exec_destroy(executable)
    cuda.graph_destroy(graph)
