"""The heap: blocks never overlap, come back, and the compiled form does what the readable one does."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migproxy.arena import heap_unsafe as readable
from migproxy.arena import machine_unsafe as machine
from migproxy.arena import segment
from migproxy.jit.heap import Heap

SIZE = 16 << 20
WINDOW = 64 << 20


@pytest.fixture(scope="module")
def place() -> Iterator[int]:
    """Two segments' worth of shared memory."""
    fd = segment.create("heap-test", 2 * SIZE)
    address = segment.find_window(WINDOW)
    segment.reserve_at(address, WINDOW)
    segment.map_over(fd, address, 2 * SIZE)
    os.close(fd)
    yield address
    segment.release(address, WINDOW)


def make(kind: type[readable.Heap], place: int, *, two: bool = True) -> readable.Heap:
    made = kind(place, SIZE, WINDOW)
    if two:
        made.add_segment(place + SIZE, SIZE)
    return made


KINDS = pytest.mark.parametrize("kind", [readable.Heap, Heap], ids=["readable", "compiled"])


def test_size_classes_cover_every_size() -> None:
    last = 0
    for number in range(readable.CLASSES):
        size = readable.class_size(number)
        assert size > last
        assert size % readable.MIN_ALIGN == 0
        for request in (last + 1, (last + size) // 2, size):
            assert machine.as_python(readable.class_of)(request) == number
        if last >= 256:
            assert size <= last * 1.25
        assert machine.as_python(readable.span_pages)(size) * readable.PAGE // size >= 8
        last = size
    assert last == readable.MAX_SMALL


@KINDS
def test_blocks_are_aligned_big_enough_and_apart(kind: type[readable.Heap], place: int) -> None:
    heap = make(kind, place)
    chooser = random.Random(3)
    live: dict[int, int] = {}
    for _ in range(1500):
        if live and chooser.random() < 0.45:
            address = chooser.choice(list(live))
            del live[address]
            heap.free(address)
        else:
            size = int(2 ** chooser.uniform(0, 20))
            align = chooser.choice([1, 64, 64, 256, 4096])
            address = heap.allocate(size, align)
            if address:
                assert address % max(align, readable.MIN_ALIGN) == 0
                assert heap.usable_size(address) >= size
                assert heap.owns(address)
                assert heap.owns(address + size - 1)
                # In one segment, which the executor checks and registers one by one.
                assert (address - place) // SIZE == (address + size - 1 - place) // SIZE
                live[address] = size
    ordered = sorted(live.items())
    for (first, size), (second, _) in itertools.pairwise(ordered):
        assert first + size <= second
    ranges = list(heap.live_ranges())
    for address, size in live.items():
        assert any(start <= address and address + size <= start + length for start, length in ranges)
    for address in live:
        heap.free(address)
    assert heap.live_bytes == 0
    # Freed memory merges again: a block of nearly a whole segment fits twice.
    assert heap.allocate(SIZE - (2 << 20))
    assert heap.allocate(SIZE - (2 << 20))
    assert heap.allocate(SIZE - (2 << 20)) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1 << 20), st.integers(0, 40)), max_size=60))
def test_compiled_and_readable_agree(steps: list[tuple[int, int, int]]) -> None:
    """The same requests give the same addresses, and the same books."""
    fd = segment.create("heap-test", SIZE)
    address = segment.find_window(SIZE)
    segment.reserve_at(address, SIZE)
    segment.map_over(fd, address, SIZE)
    os.close(fd)
    try:
        books = []
        for kind in (readable.Heap, Heap):
            ctypes.memset(address, 0, 1 << 16)
            heap = kind(address, SIZE, SIZE)
            blocks: list[int] = []
            trace: list[object] = []
            for what, size, index in steps:
                if what < 2 or not blocks:
                    block = heap.allocate(size if what else size % 3000)
                    trace.append(block)
                    if block:
                        blocks.append(block)
                else:
                    block = blocks.pop(index % len(blocks))
                    heap.free(block)
                    trace.append((block, heap.live_bytes))
            trace.append(sorted(heap.live_ranges()))
            books.append(
                (trace, ctypes.string_at(heap.state + readable.BIN_MAP, readable.STATE_SIZE - readable.BIN_MAP))
            )
        assert books[0] == books[1]
    finally:
        segment.release(address, SIZE)


@KINDS
def test_wrong_frees_are_refused(kind: type[readable.Heap], place: int) -> None:
    heap = make(kind, place)
    small, large = heap.allocate(100), heap.allocate(100_000)
    for wrong in (0, place - 64, place + 2 * SIZE, small + 64 * 3 + 8, large + 4096, large + 64):
        with pytest.raises(ValueError, match="no block"):
            heap.free(wrong)
    heap.free(small)
    heap.free(large)
    for wrong in (small, large):
        with pytest.raises(ValueError, match="no block"):
            heap.free(wrong)
    with pytest.raises(ValueError, match="align"):
        heap.allocate(10, 3)
    with pytest.raises(ValueError, match="align"):
        heap.allocate(10, 8192)


@KINDS
@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_held_blocks_are_freed_later(kind: type[readable.Heap], place: int, size: int) -> None:
    heap = make(kind, place)
    address = heap.allocate(size)
    before = heap.live_bytes
    assert heap.hold(address + size - 1) == address
    assert heap.hold(address) == 0
    heap.free(address)
    assert heap.live_bytes == before
    heap.release(address)
    assert heap.live_bytes == 0
    address = heap.allocate(size)
    heap.hold(address)
    heap.release(address)
    assert heap.live_bytes == before
    heap.free(address)
    assert heap.live_bytes == 0
    assert heap.hold(place - 1) == 0


def test_fresh_pages_are_told_from_recycled_ones(place: int) -> None:
    heap = make(Heap, place, two=False)
    take = machine.as_python(readable.heap_take)
    first = take(heap.state, 100_000, 64)
    assert first & 1
    heap.free(first & ~1)
    again = take(heap.state, 100_000, 64)
    assert again == first & ~1
    beyond = take(heap.state, 200_000, 64)
    assert beyond & 1


def test_threads_share_the_compiled_heap(place: int) -> None:
    heap = make(Heap, place)
    clashes: list[int] = []

    def work(index: int) -> None:
        chooser = random.Random(index)
        mine: list[int] = []
        for _ in range(4000):
            address = heap.allocate(chooser.choice([64, 100, 5000, 70_000]))
            if address:
                machine.store64(address + 8, index)
                mine.append(address)
            if len(mine) > 30 or not address:
                victim = mine.pop(chooser.randrange(len(mine)))
                if machine.load64(victim + 8) != index:
                    clashes.append(victim)
                heap.free(victim)
        for address in mine:
            heap.free(address)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert clashes == []
    assert heap.live_bytes == 0


def test_buffers_free_themselves(place: int) -> None:
    heap = make(Heap, place)
    buffer = heap.buffer(1000)
    buffer[:3] = b"abc"
    view = buffer[1:]
    del buffer
    assert bytes(view[:2]) == b"bc"
    assert heap.live_bytes >= 1000
    del view
    assert heap.live_bytes == 0
    with pytest.raises(MemoryError):
        heap.buffer(1 << 30)


def test_segments_outside_the_window_are_refused(place: int) -> None:
    heap = make(Heap, place)
    with pytest.raises(ValueError, match="outside"):
        heap.add_segment(place + WINDOW, SIZE)
    with pytest.raises(ValueError, match="outside"):
        heap.add_segment(place - SIZE, SIZE)
    with pytest.raises(ValueError, match="page-aligned"):
        Heap(place + 8, SIZE)
