"""Submission in machine code, held against the readable producer: same bytes, same rules."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena import ring, segment
from migproxy.arena.machine_unsafe import as_python
from migproxy.arena.ring import Command, Consumer, Producer
from migproxy.errors import CudaError, SessionLost
from migproxy.interpose import capsules
from migproxy.jit import entries, fast_path, language, packed_launch, submit
from migproxy.jit.fast_path import FastProducer
from migproxy.jit.heap import Heap

HEAP_BYTES = 8 << 20
SIZE = layout.HEAP_OFFSET + HEAP_BYTES
DEVICE = 0x4000_0000_0000
ATTRIBUTES = {1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535}
FUNCTION = layout.make_handle(layout.KIND_FUNCTION, 7)
STREAM = layout.make_handle(layout.KIND_STREAM, 3)
EVENT = layout.make_handle(layout.KIND_EVENT, 9)
WIRE = layout.make_handle(layout.KIND_FUNCTION, 1234)
PARAMETERS = [(0, 8), (8, 4), (12, 1), (16, 8), (24, 24)]

_COMPILED = language.compile_functions(
    submit.submit_launch,
    submit.submit_packed,
    submit.submit_event,
    submit.submit_memset,
    submit.copy_on_device,
    submit.copy_in,
    submit.copy_out,
    submit.submit_sync,
    submit.memory_type,
    submit.create_event,
    submit.destroy_event,
    submit.ask_event,
)
NATIVE = {
    function.__name__: language.bind(function, _COMPILED[function.__name__])
    for function in (
        submit.submit_launch,
        submit.submit_packed,
        submit.submit_event,
        submit.submit_memset,
        submit.copy_on_device,
        submit.copy_in,
        submit.copy_out,
        submit.submit_sync,
        submit.memory_type,
        submit.create_event,
        submit.destroy_event,
        submit.ask_event,
    )
}


class Session:
    """As much of a session as the fast path needs."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.heap = Heap(base + layout.HEAP_OFFSET, HEAP_BYTES)
        self.ring = FastProducer(base, self.heap)
        self.ring.set_limits(ATTRIBUTES)
        self.ring.note_handle(STREAM, True)
        self.ring.adopt_event(EVENT, 0)
        self.ring.enter_function(FUNCTION, WIRE, PARAMETERS, 48, 512, 4096)
        self.ring.note_range(DEVICE, DEVICE, 1 << 20)
        self.facts = types.SimpleNamespace(attributes=ATTRIBUTES)
        self.windows = types.SimpleNamespace(device_base=DEVICE, device_size=1 << 30)
        self.consumer = Consumer(base, [(base + layout.HEAP_OFFSET, HEAP_BYTES)])

    def finish(self, number: int, timeout: float | None = None, *, looked: bool = False) -> bytes:
        status, data = self.ring.wait(number, 10)
        status = status or self.ring.take_deferred_status()
        if status:
            raise CudaError(status)
        return data

    def take(self) -> Command:
        command = self.consumer.take()
        assert command is not None
        assert not command.refusal
        return command


@pytest.fixture(scope="module")
def place() -> Iterator[int]:
    fd = segment.create("submit-test", SIZE)
    address = segment.find_window(SIZE)
    segment.reserve_at(address, SIZE)
    segment.map_over(fd, address, SIZE)
    os.close(fd)
    yield address
    segment.release(address, SIZE)


@pytest.fixture
def session(place: int) -> Session:
    ctypes.memset(place, 0, layout.HEAP_OFFSET)
    ring.write_header(place, SIZE)
    return Session(place)


class Server(threading.Thread):
    """An executor that copies through a bytearray standing for device memory."""

    def __init__(self, session: Session, statuses: dict[int, int] | None = None) -> None:
        super().__init__(daemon=True)
        self.session, self.device, self.seen = session, bytearray(1 << 20), []  # type: ignore[var-annotated]
        self.statuses = statuses or {}
        self.stop = False
        self.start()

    def run(self) -> None:
        while not self.stop:
            command = self.session.consumer.take()
            if command is None:
                self.session.consumer.sleep(0.05)
                continue
            self.seen.append(command.op)
            if command.op in (Op.COPY_HTOD, Op.COPY_DTOH):
                target, source, size = layout.COPY.unpack(command.payload)
                if command.op == Op.COPY_HTOD:
                    self.device[target - DEVICE : target - DEVICE + size] = ctypes.string_at(source, size)
                else:
                    ctypes.memmove(target, bytes(self.device[source - DEVICE : source - DEVICE + size]), size)
            self.session.consumer.set_host_retired(command.number + 1)
            if command.waits:
                self.session.consumer.reply(command.number, self.statuses.get(command.op, 0), b"")

    def end(self) -> None:
        self.stop = True
        self.session.consumer.wake()
        self.join(10)


def pointers(values: list[bytes]) -> tuple[int, list[Any]]:
    buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
    table = (ctypes.c_void_p * max(1, len(buffers)))(*[ctypes.addressof(buffer) for buffer in buffers])
    return ctypes.addressof(table), [table, buffers]


def test_a_launch_has_the_bytes_that_python_packs(session: Session) -> None:
    values = [os.urandom(size) for _, size in PARAMETERS]
    address, _keep = pointers(values)
    arguments = (FUNCTION, 1, 2, 3, 32, 4, 2, 100, STREAM, address, layout.LAUNCH_COOPERATIVE)
    assert NATIVE["submit_launch"](session.ring.block, *arguments) == submit.DONE
    command = session.take()
    packed = bytearray(48)
    for (offset, size), value in zip(PARAMETERS, values, strict=True):
        packed[offset : offset + size] = value
    head = layout.LAUNCH.pack(WIRE, 1, 2, 3, 32, 4, 2, 100, layout.LAUNCH_COOPERATIVE, 48, 0)
    assert (command.op, command.stream, command.flags) == (Op.LAUNCH, STREAM, 0)
    assert len(command.payload) == len(head) + 48
    assert command.payload[: len(head)] == head
    for offset, size in PARAMETERS:
        assert command.payload[len(head) + offset : len(head) + offset + size] == packed[offset : offset + size]


small = st.integers(0, 70000)
words = st.one_of(small, st.integers(0, 2**32 - 1))
handles = st.sampled_from([FUNCTION, FUNCTION + 1, 0, 7, EVENT, FUNCTION | 1 << 39, 2**64 - 1])
streams = st.sampled_from([0, 1, 2, STREAM, EVENT, 5, 2**64 - 1])


def check_launch(function: int, extents: list[int], shared: int, stream: int, parameters: bool) -> bool:
    """What `session.api.launch` refuses, in Python."""
    grid, block = extents[:3], extents[3:]
    if function != FUNCTION or not (stream <= 1 or stream == STREAM) or not parameters:
        return False
    if any(not 0 < value <= ATTRIBUTES[5 + i] for i, value in enumerate(grid)):
        return False
    if any(not 0 < value <= ATTRIBUTES[2 + i] for i, value in enumerate(block)):
        return False
    return block[0] * block[1] * block[2] <= 512 and shared <= 4096


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    handles,
    st.lists(st.one_of(st.integers(0, 40), words), min_size=6, max_size=6),
    st.one_of(st.just(0), words),
    streams,
    st.booleans(),
)
def test_launch_limits_and_handles(
    session: Session, function: int, extents: list[int], shared: int, stream: int, parameters: bool
) -> None:
    address, _keep = pointers([bytes(size) for _, size in PARAMETERS])
    arguments = (function, *extents, shared, stream, address if parameters else 0, 0)
    native = NATIVE["submit_launch"](session.ring.block, *arguments)
    twin = as_python(submit.submit_launch)(session.ring.block, *arguments)
    good = check_launch(function, extents, shared, stream, parameters)
    assert native == twin == (submit.DONE if good else submit.LATER)
    if good:
        first, second = session.take(), session.take()
        assert (first.payload, first.stream) == (second.payload, second.stream)
    assert session.consumer.take() is None


def packet(function: int, extents: list[int], shared: int, stream: int, parameters: bytes) -> bytes:
    return struct.pack(submit.PACKED_FORMAT, function, stream, *extents, shared) + parameters


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    handles,
    st.lists(st.one_of(st.integers(0, 40), words), min_size=6, max_size=6),
    st.one_of(st.just(0), words, st.integers(2**32, 2**64 - 1)),
    streams,
    st.one_of(st.binary(min_size=48, max_size=48), st.binary(max_size=60)),
    st.one_of(st.just(200), st.integers(0, 60)),
)
def test_a_packed_launch_is_the_launch_of_its_parameters(
    session: Session, function: int, extents: list[int], shared: int, stream: int, parameters: bytes, cut: int
) -> None:
    data = packet(function, extents, shared, stream, parameters)[:cut]
    address, _keep = pointers([data])
    place = ctypes.c_void_p.from_address(address).value
    native = NATIVE["submit_packed"](session.ring.block, place, len(data))
    twin = as_python(submit.submit_packed)(session.ring.block, place, len(data))
    good = len(data) == submit.PACKED_SIZE + 48 and check_launch(function, extents, shared, stream, True)
    assert native == twin == (submit.DONE if good else submit.LATER)
    if good:
        head = layout.LAUNCH.pack(WIRE, *extents, shared, 0, 48, 0)
        for command in (session.take(), session.take()):
            wire = stream if stream > 1 else 0
            assert (command.op, command.stream, command.flags) == (Op.LAUNCH, wire, 0)
            assert command.payload == head + parameters
    assert session.consumer.take() is None


def test_the_launcher_is_a_function_of_python(session: Session) -> None:
    launch = packed_launch.launcher()
    data = packet(FUNCTION, [1] * 6, 0, STREAM, bytes(range(48)))
    before = sys.getrefcount(data)
    assert launch(data) is False  # no session
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        assert launch(data) is True
        assert session.take().payload.endswith(bytes(range(48)))
        assert launch(data[:-1]) is False
        assert launch(b"") is False
        with pytest.raises(TypeError, match="bytes"):
            launch(5)  # type: ignore[arg-type]
        session.ring.mark_lost()
        assert launch(data) is False
    finally:
        fast_path.detach()
    assert sys.getrefcount(data) == before
    assert session.consumer.take() is None


def test_unknown_and_forgotten_functions_are_left_to_python(session: Session) -> None:
    launch = NATIVE["submit_launch"]
    empty = layout.make_handle(layout.KIND_FUNCTION, 8)
    arguments = (1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
    assert launch(session.ring.block, empty, *arguments) == submit.LATER
    session.ring.enter_function(empty, 1, [], 0, 32, 0)
    assert launch(session.ring.block, empty, *arguments) == submit.DONE
    session.ring.forget_function(empty)
    assert launch(session.ring.block, empty, *arguments) == submit.LATER
    session.ring.enter_function(empty, 1, [(0, 400)], 400, 32, 0)
    address, _keep = pointers([bytes(400)])
    assert launch(session.ring.block, empty, *arguments[:-2], address, 0) == submit.DONE
    session.ring.enter_function(empty, 1, [(0, 401)], 401, 32, 0)
    assert launch(session.ring.block, empty, *arguments[:-2], address, 0) == submit.LATER
    with_bad_offset = layout.make_handle(layout.KIND_FUNCTION, 10)
    session.ring.enter_function(with_bad_offset, 1, [(396, 8)], 400, 32, 0)
    assert launch(session.ring.block, with_bad_offset, *arguments[:-2], address, 0) == submit.LATER


def test_small_commands_have_the_bytes_that_python_packs(session: Session) -> None:
    block = session.ring.block
    assert NATIVE["submit_event"](block, Op.EVENT_RECORD, EVENT, 5, 1) == submit.DONE
    assert NATIVE["submit_memset"](block, DEVICE + 64, 0xABCD, 2, 100, STREAM) == submit.DONE
    assert NATIVE["copy_on_device"](block, DEVICE, DEVICE + 4096, 512, 0) == submit.DONE
    commands = [session.take() for _ in range(3)]
    assert [(c.op, c.stream) for c in commands] == [(Op.EVENT_RECORD, 0), (Op.MEMSET, STREAM), (Op.COPY_DTOD, 0)]
    assert commands[0].payload == layout.EVENT.pack(EVENT, 5)
    assert commands[1].payload == layout.MEMSET.pack(DEVICE + 64, 0xABCD, 2, 100)
    assert commands[2].payload == layout.COPY.pack(DEVICE, DEVICE + 4096, 512)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 21), st.one_of(words, st.just(2**63)), streams)
def test_device_ranges_are_checked(session: Session, offset: int, size: int, stream: int) -> None:
    good = size > 0 and offset + size <= 1 << 20 and (stream <= 1 or stream == STREAM)
    expected = submit.DONE if good else submit.LATER
    arguments = (session.ring.block, DEVICE + offset, 0, 1, size, stream)
    assert NATIVE["submit_memset"](*arguments) == as_python(submit.submit_memset)(*arguments) == expected
    arguments = (session.ring.block, DEVICE, DEVICE + offset, size, stream)
    assert NATIVE["copy_on_device"](*arguments) == as_python(submit.copy_on_device)(*arguments) == expected
    while session.consumer.take() is not None:
        pass


def test_forgotten_ranges_and_captures_are_left_to_python(session: Session) -> None:
    memset = NATIVE["submit_memset"]
    session.ring.note_capturing(1)
    assert memset(session.ring.block, DEVICE, 0, 1, 8, 0) == submit.LATER
    session.ring.note_capturing(0)
    assert memset(session.ring.block, DEVICE, 0, 1, 8, 0) == submit.DONE
    session.ring.forget_range(DEVICE)
    assert memset(session.ring.block, DEVICE, 0, 1, 8, 0) == submit.LATER


@pytest.mark.parametrize("what", ["sticky", "closed", "lost", "full"])
def test_trouble_is_left_to_python(session: Session, what: str) -> None:
    if what == "sticky":
        session.consumer.set_sticky_status(700)
    elif what == "closed":
        session.consumer.set_state(layout.STATE_CLOSED)
    elif what == "lost":
        session.ring._set(submit.LOST, 1)
    else:
        for _ in range(layout.SLOT_COUNT):
            session.ring.submit(Op.NOP, b"")
    assert NATIVE["submit_event"](session.ring.block, Op.EVENT_RECORD, EVENT, 0, 0) == submit.LATER
    assert NATIVE["submit_sync"](session.ring.block, Op.STREAM_SYNC, 0, 0) == submit.LATER


def test_handles_that_ended_are_left_to_python(session: Session) -> None:
    block = session.ring.block
    session.ring.release_event(EVENT)
    assert NATIVE["submit_event"](block, Op.EVENT_RECORD, EVENT, 0, 0) == submit.LATER
    session.ring.adopt_event(EVENT, 0)
    assert NATIVE["submit_event"](block, Op.EVENT_RECORD, EVENT, 0, STREAM) == submit.DONE
    session.ring.note_handle(STREAM, False)
    assert NATIVE["submit_event"](block, Op.EVENT_RECORD, EVENT, 0, STREAM) == submit.LATER
    assert NATIVE["submit_sync"](block, Op.STREAM_SYNC, STREAM, 0) == submit.LATER


def test_the_python_producer_and_machine_code_share_one_ring(session: Session) -> None:
    """Several threads with and without the GIL submit; every command arrives once and whole."""
    per_thread, threads = 2000, []
    fast = NATIVE["submit_memset"]
    producer: Producer = session.ring

    def native(index: int) -> None:
        for i in range(per_thread):
            while fast(session.ring.block, DEVICE + index, i, 4, 1, 0) != submit.DONE:
                pass

    def python(index: int) -> None:
        for i in range(per_thread):
            producer.submit(Op.MEMSET, layout.MEMSET.pack(DEVICE + index, i, 4, 1))

    for index, work in enumerate((native, python, native, python)):
        threads.append(threading.Thread(target=work, args=(index,)))
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {}
    while sum(map(len, seen.values())) < 4 * per_thread:
        command = session.consumer.take()
        if command is not None:
            assert not command.refusal
            target, value, _, _ = layout.MEMSET.unpack(command.payload)
            seen.setdefault(target - DEVICE, []).append(value)
    for thread in threads:
        thread.join(20)
    assert seen == {index: list(range(per_thread)) for index in range(4)}


def test_the_fast_producer_keeps_the_producers_promises(session: Session) -> None:
    producer = session.ring
    number = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    session.take()
    session.consumer.reply(number, 3, b"data")
    assert producer.wait(number, 5) == (3, b"data")
    number = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    with pytest.raises(TimeoutError):
        producer.wait(number, 0.01)
    producer.mark_lost()
    with pytest.raises(SessionLost):
        producer.wait(number, 10)


@pytest.mark.parametrize("size", [1, 4, 4096, 65536])
@pytest.mark.parametrize("where", ["foreign", "arena", "pinned"])
def test_copies_arrive(session: Session, size: int, where: str) -> None:
    server = Server(session)
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        data = os.urandom(size)
        if where == "foreign":
            buffer = ctypes.create_string_buffer(size)
            address = ctypes.addressof(buffer)
        else:
            address = session.heap.allocate(size)
            if where == "pinned":
                session.ring.note_pinned({address: size})
        ctypes.memmove(address, data, size)
        for is_async in (1, 0):
            for copy_in, copy_out in (
                (submit.copy_in, submit.copy_out),
                (as_python(submit.copy_in), as_python(submit.copy_out)),
            ):
                native_in = NATIVE["copy_in"] if copy_in is submit.copy_in else copy_in
                native_out = NATIVE["copy_out"] if copy_out is submit.copy_out else copy_out
                ctypes.memmove(address, data, size)
                settle(native_in(session.ring.block, DEVICE + 8, address, size, 0, is_async, 0))
                settle(NATIVE["submit_sync"](session.ring.block, Op.STREAM_SYNC, 0, 0))
                assert bytes(server.device[8 : 8 + size]) == data
                ctypes.memset(address, 0, size)
                settle(native_out(session.ring.block, address, DEVICE + 8, size, 0, is_async, 0))
                if where == "pinned" and is_async:
                    settle(NATIVE["submit_sync"](session.ring.block, Op.STREAM_SYNC, 0, 0))
                assert ctypes.string_at(address, size) == data
                server.device[:] = bytes(len(server.device))
    finally:
        fast_path.detach()
        server.end()


def settle(result: int) -> None:
    """Do what the entries do with a result."""
    assert result != submit.LATER
    if result & 0xFF == submit.ASKED:
        fast_path.finish(result >> 8)


def test_pageable_sources_may_be_overwritten_at_once(session: Session) -> None:
    """The bytes are staged before the call returns, though nobody has executed anything."""
    address = session.heap.allocate(4096)
    ctypes.memmove(address, b"a" * 4096, 4096)
    assert NATIVE["copy_in"](session.ring.block, DEVICE, address, 4096, 0, 1, 0) == submit.DONE
    ctypes.memset(address, ord("b"), 4096)
    _, source, _ = layout.COPY.unpack(session.take().payload)
    assert source != address
    assert ctypes.string_at(source, 4096) == b"a" * 4096


def test_staging_blocks_come_back(session: Session) -> None:
    before = session.heap.live_bytes
    buffer = ctypes.create_string_buffer(1000)
    for round_trip in range(3000):
        assert NATIVE["copy_in"](session.ring.block, DEVICE, ctypes.addressof(buffer), 1000, 0, 1, 0) == submit.DONE
        command = session.take()
        session.consumer.set_host_retired(command.number + 1)
        assert session.heap.live_bytes - before < 5000, round_trip


def test_failed_copies_free_their_blocks_and_raise(session: Session) -> None:
    server = Server(session, {Op.COPY_DTOH: 700})
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        buffer = ctypes.create_string_buffer(b"x" * 100, 100)
        before = session.heap.live_bytes
        result = NATIVE["copy_out"](session.ring.block, ctypes.addressof(buffer), DEVICE, 100, 0, 0, 0)
        with pytest.raises(CudaError, match="700"):
            settle(result)
        assert session.heap.live_bytes == before
        assert buffer.raw == b"x" * 100
    finally:
        fast_path.detach()
        server.end()


class _Interrupted(BaseException):
    pass


@pytest.mark.parametrize("where", ["foreign", "arena"])
def test_memory_of_an_interrupted_copy_is_not_used_again_before_it_is_done(
    session: Session, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        buffer = ctypes.create_string_buffer(5000)
        address = ctypes.addressof(buffer) if where == "foreign" else session.heap.allocate(5000)
        result = NATIVE["copy_out"](session.ring.block, address, DEVICE, 5000, 0, 0, 0)
        assert result & 0xFF == submit.ASKED

        def interrupt(number: int, timeout: float | None = None, *, looked: bool = False) -> bytes:
            raise _Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(session, "finish", interrupt)
            with pytest.raises(_Interrupted):
                fast_path.finish(result >> 8)
        if where == "arena":
            session.heap.free(address)
        command = session.take()
        target = layout.COPY.unpack(command.payload)[0]
        others = [session.heap.allocate(5000) for _ in range(20)]
        assert target not in others
        session.consumer.reply(command.number, 0, b"")
        session.ring.poll_orphans()
        assert target in [session.heap.allocate(5000) for _ in range(20)]
        # The reply line is free again as well.
        assert session.ring._has_room(True)
    finally:
        fast_path.detach()


def test_a_deferred_error_comes_out_of_a_synchronize(session: Session) -> None:
    server = Server(session)
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        session.consumer.set_deferred_status(1)
        result = NATIVE["submit_sync"](session.ring.block, Op.CONTEXT_SYNC, 0, 0)
        with pytest.raises(CudaError, match="CUresult 1"):
            settle(result)
        settle(NATIVE["submit_sync"](session.ring.block, Op.CONTEXT_SYNC, 0, 0))
    finally:
        fast_path.detach()
        server.end()


@pytest.mark.parametrize("how", ["native", "python"])
def test_a_stream_that_the_last_command_waited_for_needs_no_command(session: Session, how: str) -> None:
    server = Server(session)
    fast_path.attach(session)  # type: ignore[arg-type]
    block = session.ring.block
    copy_out = NATIVE["copy_out"] if how == "native" else as_python(submit.copy_out)
    sync = NATIVE["submit_sync"] if how == "native" else as_python(submit.submit_sync)
    memset = NATIVE["submit_memset"]

    def commands(action: Any) -> int:
        head = ctypes.c_uint64.from_address(session.base + layout.HEAD_OFFSET)
        before = head.value
        settle(action())
        return head.value - before

    def drained() -> bool:
        """Whether the reply came while machine code looked for it; else Python has read it."""
        return (
            ctypes.c_uint64.from_address(block + submit.DRAINED).value
            == ctypes.c_uint64.from_address(session.base + layout.HEAD_OFFSET).value
        )

    try:
        # However loaded the machine: look long enough to see the reply come.
        ctypes.c_uint64.from_address(block + submit.SPIN).value = 1 << 40
        buffer = ctypes.create_string_buffer(100)
        for _ in range(200):
            settle(copy_out(block, ctypes.addressof(buffer), DEVICE, 100, STREAM, 0, 0))
            if not drained():
                continue
            assert commands(lambda: sync(block, Op.STREAM_SYNC, STREAM, 0)) == 0
            # Another stream, and the whole context, are not what was waited for.
            assert commands(lambda: sync(block, Op.STREAM_SYNC, 0, 0)) == 1
            settle(copy_out(block, ctypes.addressof(buffer), DEVICE, 100, STREAM, 0, 0))
            assert commands(lambda: sync(block, Op.CONTEXT_SYNC, 0, 0)) == 1
            settle(copy_out(block, ctypes.addressof(buffer), DEVICE, 100, STREAM, 0, 0))
            # Work was submitted since.
            assert memset(block, DEVICE, 1, 8, 1, 0) in (submit.DONE, submit.LATER)
            settle(NATIVE["submit_event"](block, Op.EVENT_RECORD, EVENT, 0, STREAM))
            assert commands(lambda: sync(block, Op.STREAM_SYNC, STREAM, 0)) == 1
            if not drained():
                continue
            assert commands(lambda: sync(block, Op.STREAM_SYNC, STREAM, 0)) == 0
            # An earlier command's error must come out.
            session.consumer.set_deferred_status(1)
            with pytest.raises(CudaError, match="CUresult 1"):
                commands(lambda: sync(block, Op.STREAM_SYNC, STREAM, 0))
            break
        else:
            pytest.fail("no reply came in time")
    finally:
        fast_path.detach()
        server.end()


def make_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__pyx_capi__ = {  # type: ignore[attr-defined]
        entry.__name__: capsules.new_capsule(1, text) for owner, text, entry in entries.ENTRIES if owner == name
    }
    return module


def test_entries_use_machine_code_with_a_session_and_python_without(session: Session) -> None:
    module = make_module("cuda.bindings.cydriver")
    calls: list[tuple[Any, ...]] = []
    handlers = {name: (lambda *a, n=name: calls.append((n, *a)) or 77) for name in module.__pyx_capi__}  # type: ignore[misc]
    capsules.replace(module, handlers)
    assert "cuLaunchKernel" in capsules.accelerate(module, lambda number: fast_path.finish(number) or 0)
    record = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)(capsules.pointer(module, "cuEventRecord"))
    query = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)(capsules.pointer(module, "cuEventQuery"))
    sync = ctypes.CFUNCTYPE(ctypes.c_int)(capsules.pointer(module, "cuCtxSynchronize"))
    assert record(EVENT, 0) == 77
    assert calls == [("cuEventRecord", EVENT, 0)]
    server = Server(session)
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        calls.clear()
        assert (record(EVENT, 0), sync(), query(EVENT)) == (0, 0, 0)
        assert server.seen == [Op.EVENT_RECORD, Op.CONTEXT_SYNC, Op.EVENT_QUERY]
        assert calls == []
        assert record(EVENT, 2) == 77  # the per-thread stream is Python's
        assert calls == [("cuEventRecord", EVENT, 2)]
    finally:
        fast_path.detach()
        server.end()
    assert record(EVENT, 0) == 77


def test_cupy_entries_return_none_and_raise(session: Session) -> None:
    module = make_module("cupy_backends.cuda.api.runtime")

    def fail(*_: Any) -> Any:
        raise LookupError("python")

    capsules.replace(module, dict.fromkeys(module.__pyx_capi__, fail))
    capsules.accelerate(module)
    function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_int64, ctypes.c_int)
    sync = function(capsules.pointer(module, "streamSynchronize"))
    device = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int)(capsules.pointer(module, "getDevice"))
    with pytest.raises(LookupError, match="python"):
        sync(0, 0)
    server = Server(session)
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        assert sync(STREAM, 0) is None
        assert device(0) == 0
        session.consumer.set_deferred_status(700)
        with pytest.raises(CudaError, match="700"):
            sync(0, 0)
        with pytest.raises(LookupError, match="python"):
            sync(2, 0)
    finally:
        fast_path.detach()
        server.end()


def test_every_entry_has_its_own_fallback(session: Session) -> None:
    """Without a session each call reaches the Python handler of the same name, with its own arguments."""
    for owner in ("cuda.bindings.cydriver", "cupy_backends.cuda.api.driver", "cupy_backends.cuda.api.runtime"):
        module = make_module(owner)
        called: list[tuple[Any, ...]] = []
        capsules.replace(
            module, {n: (lambda *a, n=n, called=called: called.append((n, *a)) or 0) for n in module.__pyx_capi__}
        )  # type: ignore[misc]
        capsules.accelerate(module, query=lambda number: 0)
        for name, text in capsules.read(module).items():
            prototype = capsules.parse_prototype(text)
            kinds = {
                4: ctypes.c_int64,
                8: ctypes.c_uint64,
                3: ctypes.c_int32,
                7: ctypes.c_uint32,
                6: ctypes.c_uint16,
                5: ctypes.c_uint8,
            }
            optional = "opt_args" in text
            count = len(prototype.parameters) - optional
            parameters = [kinds[int(p.kind)] for p in prototype.parameters[:count]]
            if prototype.skip_dispatch:
                parameters.append(ctypes.c_int32)
            if optional:
                parameters.append(ctypes.c_uint64)
            result = ctypes.py_object if int(prototype.result) == 11 else ctypes.c_int32
            make = ctypes.PYFUNCTYPE if owner.startswith("cupy") else ctypes.CFUNCTYPE
            values = list(range(10, 10 + count)) + [0] * (len(parameters) - count)
            assert make(result, *parameters)(capsules.pointer(module, name))(*values) == 0
            expected = (name, *values[:count], 0) if optional else (name, *values[:count])
            assert called.pop() == expected


def test_memory_types(session: Session) -> None:
    session.ring.set_window(DEVICE, 1 << 30)
    buffer = ctypes.create_string_buffer(8)
    foreign, arena, pinned = ctypes.addressof(buffer), session.heap.allocate(5000), session.heap.allocate(5000)
    session.ring.note_pinned({pinned: 5000})

    def kinds() -> list[int]:
        found = [
            NATIVE["memory_type"](session.ring.block, a) for a in (DEVICE, DEVICE + (1 << 21), foreign, arena, pinned)
        ]
        twin = as_python(submit.memory_type)
        assert found == [twin(session.ring.block, a) for a in (DEVICE, DEVICE + (1 << 21), foreign, arena, pinned)]
        return found

    assert kinds() == [2, 0, 1, 1, 0]
    session.ring.note_foreign(1)
    assert kinds() == [2, 0, 0, 1, 0]


def test_events_are_made_and_ended(session: Session) -> None:
    block, producer = session.ring.block, session.ring
    first = NATIVE["create_event"](block, 2)
    second = as_python(submit.create_event)(block, 0)
    third = producer.reserve_event(1)
    assert len({first, second, third, EVENT}) == 4
    assert producer.live_events() == {first: 2, second: 0, third: 1, EVENT: 0}
    commands = [session.take() for _ in range(2)]
    assert [(c.op, c.payload) for c in commands] == [
        (Op.EVENT_CREATE, layout.CREATE.pack(first, 2, 0)),
        (Op.EVENT_CREATE, layout.CREATE.pack(second, 0, 0)),
    ]
    assert NATIVE["create_event"](block, 4) == 0  # for other processes: Python's to refuse
    assert NATIVE["destroy_event"](block, first) == submit.DONE
    assert as_python(submit.destroy_event)(block, second) == submit.DONE
    assert NATIVE["destroy_event"](block, first) == submit.LATER
    producer.release_event(third)
    assert [session.take().payload for _ in range(2)] == [layout.HANDLE.pack(first), layout.HANDLE.pack(second)]
    assert producer.live_events() == {EVENT: 0}


def test_event_numbers_come_round_and_never_clash(session: Session) -> None:
    producer = session.ring
    made = [producer.reserve_event(0) for _ in range(submit.TABLE_SIZE + 10)]
    assert len(set(made)) == len(made)
    assert EVENT not in made
    assert made[-1] & layout.HANDLE_INDEX_MASK >= submit.TABLE_SIZE  # beyond the table: Python's alone
    assert producer.event_flags(made[-1]) == 0
    assert NATIVE["create_event"](producer.block, 0) == 0
    for event in made:
        producer.release_event(event)
    assert producer.live_events() == {EVENT: 0}
    again = NATIVE["create_event"](producer.block, 0)
    assert again == made[0]


def test_queries_tell_not_ready_from_done(session: Session) -> None:
    statuses = {Op.EVENT_QUERY: 600}
    server = Server(session, statuses)
    fast_path.attach(session)  # type: ignore[arg-type]
    try:
        for status, expected in ((600, submit.PENDING), (0, submit.DONE)):
            statuses[Op.EVENT_QUERY] = status
            results = {NATIVE["ask_event"](session.ring.block, Op.EVENT_QUERY, EVENT, 0) for _ in range(1)}
            for result in results:
                if result & 0xFF == submit.ASKED:
                    if status:
                        with pytest.raises(CudaError, match="600"):
                            fast_path.finish(result >> 8)
                    else:
                        fast_path.finish(result >> 8)
                else:
                    assert result == expected
    finally:
        fast_path.detach()
        server.end()


def test_types_that_differ_stay_with_python() -> None:
    module = types.ModuleType("cuda.bindings.cydriver")
    module.__pyx_capi__ = {"cuEventRecord": capsules.new_capsule(5, "CUresult (CUevent, CUstream, int)")}  # type: ignore[attr-defined]
    assert capsules.accelerate(module) == []
    assert capsules.pointer(module, "cuEventRecord") == 5


def test_installed_libraries_have_the_expected_types() -> None:
    for name in ("cuda.bindings.cydriver", "cupy_backends.cuda.api.driver", "cupy_backends.cuda.api.runtime"):
        module = pytest.importorskip(name)
        found = capsules.read(module)
        for owner, text, entry in entries.ENTRIES:
            if owner == name:
                assert found[entry.__name__] == text
