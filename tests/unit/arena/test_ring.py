"""The ring: order, fullness, replies, sleep and wake across processes, refusals."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena import ring, segment
from migproxy.arena.ring import Consumer, Producer
from migproxy.errors import ProtocolError, SessionLost

SIZE = layout.HEAP_OFFSET + (1 << 20)
HEAP = 1 << 20


@pytest.fixture
def base() -> Iterator[int]:
    fd = segment.create("ring-test", SIZE)
    address = segment.find_window(SIZE)
    segment.reserve_at(address, SIZE)
    segment.map_over(fd, address, SIZE)
    os.close(fd)
    ring.write_header(address, SIZE)
    yield address
    segment.release(address, SIZE)


@pytest.fixture
def ends(base: int) -> tuple[Producer, Consumer]:
    return Producer(base), Consumer(base, [(base + layout.HEAP_OFFSET, HEAP)])


def write_slot(base: int, number: int, **fields: int) -> None:
    """Overwrite a published slot, as a hostile function can."""
    names = ("op", "flags", "length", "stream", "address", "reply", "capacity", "thread")
    values = [fields.get(name, 0) for name in names]
    address = base + layout.RING_OFFSET + number % layout.SLOT_COUNT * layout.SLOT_SIZE
    ctypes.memmove(address, layout.SLOT_HEADER.pack(*values), layout.SLOT_HEADER.size)


def test_commands_arrive_in_order_and_whole(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    assert consumer.take() is None
    payloads = [b"", b"x", bytes(range(256)), b"y" * layout.INLINE_PAYLOAD]
    for index, payload in enumerate(payloads):
        assert producer.submit(Op.COPY_HTOD, payload, stream=index, flags=layout.FLAG_WAIT) == index
    for index, payload in enumerate(payloads):
        command = consumer.take()
        assert command is not None
        assert (command.number, command.op, command.stream, command.payload) == (index, Op.COPY_HTOD, index, payload)
        assert command.waits
        assert not command.refusal
    with pytest.raises(ValueError, match="does not fit"):
        producer.submit(Op.NOP, b"z" * (layout.INLINE_PAYLOAD + 1))


def test_a_spilled_payload_is_read_from_the_heap(base: int, ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    data = os.urandom(5000)
    ctypes.memmove(base + layout.HEAP_OFFSET, data, len(data))
    producer.submit(Op.MODULE_LOAD, b"", spill=(base + layout.HEAP_OFFSET, len(data)))
    command = consumer.take()
    assert command is not None
    assert command.payload == data


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"op": 65535}, "unknown operation 65535"),
        ({"op": 1, "flags": 0x80}, "unknown flags 0x80"),
        ({"op": 1, "length": layout.INLINE_PAYLOAD + 1}, "does not fit"),
        ({"op": 1, "flags": layout.FLAG_SPILLED, "address": 0x1000, "length": 8}, "not in the arena"),
        ({"op": 1, "flags": layout.FLAG_SPILLED, "address": -1, "length": 0xFFFFFFFF}, "not in the arena"),
        ({"op": 1, "reply": 0x1000, "capacity": 64}, "reply buffer"),
    ],
)
def test_malformed_commands_carry_their_refusal(
    base: int, ends: tuple[Producer, Consumer], fields: dict[str, int], words: str
) -> None:
    producer, consumer = ends
    number = producer.submit(Op.NOP, b"")
    fields = {key: value & 0xFFFFFFFFFFFFFFFF if key == "address" else value for key, value in fields.items()}
    write_slot(base, number, **fields)
    command = consumer.take()
    assert command is not None
    assert words in command.refusal
    assert command.payload == b""


def test_ranges_must_end_inside(base: int, ends: tuple[Producer, Consumer]) -> None:
    consumer = ends[1]
    start = base + layout.HEAP_OFFSET
    assert consumer.in_heap(start, HEAP)
    assert not consumer.in_heap(start, HEAP + 1)
    assert not consumer.in_heap(start - 1, 1)
    assert not consumer.in_heap(start + HEAP, 1)
    assert not consumer.in_heap(start + 8, 2**64 - 8)


def test_an_impossible_head_is_refused(base: int, ends: tuple[Producer, Consumer]) -> None:
    ctypes.c_uint64.from_address(base + layout.HEAD_OFFSET).value = layout.SLOT_COUNT + 1
    command = ends[1].take()
    assert command is not None
    assert "head" in command.refusal


def test_replies_reach_their_waiter(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    numbers = [producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT) for _ in range(3)]
    for number in reversed(numbers):
        consumer.reply(number, -number, b"d" * number * 20)
    for number in numbers:
        assert producer.wait(number, 5) == (-number, b"d" * number * 20)


def test_a_full_ring_blocks_until_slots_are_taken(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    for _ in range(layout.SLOT_COUNT):
        producer.submit(Op.NOP, b"")
    started, done = threading.Event(), threading.Event()

    def more() -> None:
        started.set()
        for _ in range(10):
            producer.submit(Op.NOP, b"more")
        done.set()

    thread = threading.Thread(target=more)
    thread.start()
    started.wait(10)
    assert not done.wait(0.05)
    taken = 0
    deadline = time.monotonic() + 10
    while taken < layout.SLOT_COUNT + 10 and time.monotonic() < deadline:
        if consumer.take() is not None:
            taken += 1
    thread.join(10)
    assert done.is_set()
    assert taken == layout.SLOT_COUNT + 10


def test_a_reply_line_is_not_given_away_while_its_waiter_has_not_read_it(ends: tuple[Producer, Consumer]) -> None:
    """One round later the same line would be overwritten, and the first waiter would wait for ever."""
    producer, consumer = ends
    first = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    for _ in range(layout.SLOT_COUNT - 1):
        producer.submit(Op.NOP, b"")
    while consumer.take() is not None:
        pass
    consumer.reply(first, 7, b"")
    second = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    # What does nothing took the slot whose reply line is not free.
    assert second == first + layout.SLOT_COUNT + 1
    padding = consumer.take()
    assert padding is not None
    assert (padding.op, padding.waits) == (Op.NOP, False)
    assert producer.wait(first, 5) == (7, b"")


def test_an_abandoned_line_frees_itself_when_its_reply_comes(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    first = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    with pytest.raises(TimeoutError):
        producer.wait(first, 0.001)
    for _ in range(layout.SLOT_COUNT - 1):
        producer.submit(Op.NOP, b"")
    while consumer.take() is not None:
        pass
    assert not producer._has_room(True)
    assert producer._has_room(False)
    consumer.reply(first, 0, b"")
    assert producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT) == layout.SLOT_COUNT


def test_status_words(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    assert (producer.take_deferred_status(), producer.sticky_status()) == (0, 0)
    consumer.set_deferred_status(1)
    consumer.set_deferred_status(2)
    consumer.set_sticky_status(700)
    assert producer.take_deferred_status() == 1
    assert producer.take_deferred_status() == 0
    assert producer.sticky_status() == 700
    consumer.set_host_retired(12)
    consumer.add_frees_retired(3)
    consumer.set_memory(5, 9)
    assert (producer.host_retired(), producer.frees_retired(), producer.other_bytes()) == (12, 3, 5)
    producer.wait_host_retired(11)
    producer.wait_frees_retired(3)


def test_a_lost_session_ends_every_wait(ends: tuple[Producer, Consumer]) -> None:
    producer, _ = ends
    number = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            producer.wait(number)
        except SessionLost as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    producer.mark_lost()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2
    with pytest.raises(SessionLost):
        producer.wait_host_retired(5)


def test_host_functions_are_called_and_acknowledged(ends: tuple[Producer, Consumer]) -> None:
    producer, consumer = ends
    ran: list[int] = []

    def serve() -> None:
        for _ in range(50):
            ran.append(producer.wait_called())
            producer.note_ran()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    for count in range(1, 51):
        consumer.call(count, 1000 - count)
        while not consumer.wait_ran(count, 10.0):
            pass
    thread.join(10.0)
    assert ran == [1000 - count for count in range(1, 51)]
    assert not consumer.wait_ran(51, 0.01)
    consumer.set_state(layout.STATE_CLOSED)
    with pytest.raises(SessionLost):
        producer.wait_called()


def test_ctrl_c_ends_a_wait(ends: tuple[Producer, Consumer]) -> None:
    producer, _ = ends
    number = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            producer.wait(number, 20)
    finally:
        timer.join(10)


def test_sleep_and_wake_across_processes(base: int) -> None:
    """Two thousand round trips with both sides asleep in between at times: no wake-up is lost."""
    producer = Producer(base)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            consumer = Consumer(base, [])
            served = 0
            while served < 2000:
                command = consumer.take()
                if command is None:
                    consumer.sleep(20.0)
                    continue
                if command.waits:
                    consumer.reply(command.number, 0, command.number.to_bytes(8, "little"))
                    served += 1
            status = 0
        finally:
            os._exit(status)
    try:
        for round_trip in range(2000):
            for _ in range(round_trip % 4):
                producer.submit(Op.NOP, b"")
            number = producer.submit(Op.STREAM_SYNC, b"", flags=layout.FLAG_WAIT)
            assert producer.wait(number, 20) == (0, number.to_bytes(8, "little"))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(pid, 0)[1]
    assert status == 0


def test_an_idle_executor_uses_no_cpu(ends: tuple[Producer, Consumer]) -> None:
    consumer = ends[1]
    before = time.thread_time()
    consumer.sleep(0.3)
    assert time.thread_time() - before < 0.02


def test_wake_ends_a_sleep(ends: tuple[Producer, Consumer]) -> None:
    consumer = ends[1]
    timer = threading.Timer(0.05, consumer.wake)
    start = time.monotonic()
    timer.start()
    consumer.sleep(20.0)
    timer.join(10)
    assert time.monotonic() - start < 10


def test_headers_are_checked(base: int) -> None:
    ctypes.c_uint32.from_address(base + layout.VERSION_OFFSET).value = 99
    with pytest.raises(ProtocolError, match="99"):
        Producer(base)
    ctypes.c_uint32.from_address(base + layout.VERSION_OFFSET).value = 0
    with pytest.raises(ProtocolError, match="version 0"):
        Consumer(base, [])


def test_looking_grows_to_what_would_have_been_enough(
    ends: tuple[Producer, Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, _ = ends
    for name, seconds in (("SPIN_SECONDS", 50e-6), ("_LONGEST_SPIN", 200e-6), ("_SHORTEST_SPIN", 3e-6)):
        monkeypatch.setattr(ring, name, seconds)
    looking = []
    for waited in (120e-6, 190e-6, 10e-6, 5e-3, 5e-3, 1.0, 1.0, 1.0, 1.0, 1.0, 60e-6):
        producer._adapt(waited)
        looking.append(round(producer._looking * 1e6, 1))
    assert looking == [150, 200, 50, 25, 12.5, 6.2, 3.1, 3, 3, 3, 75]


def test_what_machine_code_has_looked_for_counts_as_waited(
    ends: tuple[Producer, Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a wait seems shorter than it was, and the next one is looked for in vain again."""
    producer, consumer = ends
    waits: list[float] = []
    monkeypatch.setattr(producer, "_adapt", waits.append)
    producer._spin, producer._looking = 0.0, 7.0
    number = producer.submit(Op.MEMSET, b"", flags=layout.FLAG_WAIT)
    monkeypatch.setattr(ring.futex_unsafe, "wait", lambda *_: consumer.reply(number, 0, b""))
    assert producer.wait(number, 20.0, looked=True) == (0, b"")
    (waited,) = waits
    assert waited > 7.0
