"""The arena's heap: who uses which bytes of the segments.

Books are kept in ordinary memory of the function, never in the arena: one `PAGE_RECORD` for each 4 KiB page of the
window. Blocks up to 32 KiB come from spans cut into one size each (32 sizes, at most 25% apart); larger ones are runs
of pages, best fit from bins by size, merged again when freed. Pages that were never used are known to be zero. A
block never crosses from one segment into the next, because the executor registers and checks segments one by one.

The functions below are in the small language of `machine_unsafe`: ``migproxy.jit.heap`` compiles them; run as Python
they are the readable twin. `heap` is the address of a state block made by `Heap`. Precondition of all: `heap` is such
an address.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

from migproxy.abi.protocol import ARENA_WINDOW
from migproxy.arena import machine_unsafe as machine
from migproxy.arena import segment
from migproxy.arena.machine_unsafe import (
    U32,
    U64,
    External,
    compare_exchange32,
    leading_zeros,
    load32,
    load32_acquire,
    load64,
    pause,
    store32,
    store32_release,
    store64,
    trailing_zeros,
)

PAGE = 4096
MAX_SMALL = 32768
CLASSES = 32
#: Alignment that every block has.
MIN_ALIGN = 64

# -- state block ------------------------------------------------------------------------------------------------------
LOCK = 0x00  # u32
BASE = 0x08  # u64: address of page 0
END = 0x10  # u64: address behind the last segment
PAGES = 0x18  # u64: address of the page records
LIVE_BYTES = 0x20  # u64: bytes in used blocks
PEAK_BYTES = 0x28  # u64
TOUCHED = 0x30  # u64: pages from this one on were never used, and are zero
HELD_COUNT = 0x38  # u64: blocks in HELD, which DMA may still write
BIN_MAP = 0x40  # 3 × u64: which bins of free runs are not empty
CLASS_LISTS = 0x80  # CLASSES × u64: first span with a free block, as page number + 1
BINS = CLASS_LISTS + 8 * CLASSES  # BIN_COUNT × u64: first free run, as page number + 1
BIN_COUNT = 144
HELD = BINS + 8 * BIN_COUNT  # MAX_HELD records: block, 1 if it was freed meanwhile
MAX_HELD = 64
STATE_SIZE = HELD + 16 * MAX_HELD

# -- page record ------------------------------------------------------------------------------------------------------
PAGE_RECORD = 32
KIND = 0  # u32: KIND_* | FLAG_*
VALUE = 4  # u32: pages of a run (first and last page of it); first page of a span (all its pages)
FREE_LIST = 8  # u64, span: first free block, 0 if none
LIVE = 16  # u32, span: used blocks
FRESH = 20  # u32, span: blocks handed out at least once
NEXT = 24  # u32: list of spans or free runs, page number + 1
PREVIOUS = 28  # u32

KIND_NONE = 0
KIND_FREE = 1
KIND_LARGE = 2
KIND_SPAN = 3  # + class
KIND_MASK = 0xFF
FLAG_SEGMENT_START = 0x100  # nothing merges across

sched_yield = External("sched_yield", "I32()")
gil_held = External("PyGILState_Check", "I32()")
save_thread = External("PyEval_SaveThread", "U64()")
restore_thread = External("PyEval_RestoreThread", "None(U64)")


def wait_unlocked(heap: U64) -> None:
    """Let the holder of the lock run. If this thread has the GIL, the holder may need it: over a fork, Python holds
    the lock."""
    sched_yield()
    if load32_acquire(heap + LOCK) != 0 and gil_held() != 0:
        thread = save_thread()
        while load32_acquire(heap + LOCK) != 0:
            sched_yield()
        restore_thread(thread)


def heap_lock(heap: U64) -> None:
    spins = 0
    while compare_exchange32(heap + LOCK, 0, 1) != 0:
        while load32_acquire(heap + LOCK) != 0:
            pause()
            spins += 1
            if spins > 200:
                wait_unlocked(heap)
                spins = 0


def heap_unlock(heap: U64) -> None:
    store32_release(heap + LOCK, 0)


def page_record(heap: U64, page: U64) -> U64:
    return load64(heap + PAGES) + page * PAGE_RECORD


def class_of(size: U64) -> U64:
    """The size class of a small request."""
    if size <= 512:
        return (size + 63) // 64 - 1 if size else 0
    log = 63 - leading_zeros(size - 1)
    return 8 + (log - 9) * 4 + (((size - 1) >> (log - 2)) & 3)


def class_size(number: U64) -> U64:
    """Bytes of each block of a size class."""
    if number < 8:
        return (number + 1) * 64
    log = 9 + (number - 8) // 4
    return (1 << log) + (((number - 8) % 4 + 1) << (log - 2))


def span_pages(size: U64) -> U64:
    """Pages of a span of blocks of `size` bytes: at least eight blocks."""
    return (size * 8 + PAGE - 1) // PAGE


def bin_of(pages: U64) -> U64:
    """The bin of free runs of `pages` pages: one each below 64, four for each power of two above."""
    if pages < 64:
        return pages
    log = 63 - leading_zeros(pages)
    return 64 + (log - 6) * 4 + ((pages >> (log - 2)) & 3)


# -- free runs --------------------------------------------------------------------------------------------------------
def list_push(heap: U64, head: U64, page: U64) -> None:
    """Put a page's record in front of the list whose first entry is stored at `head`."""
    first = load64(head)
    record = page_record(heap, page)
    store32(record + NEXT, first)
    store32(record + PREVIOUS, 0)
    if first:
        store32(page_record(heap, first - 1) + PREVIOUS, page + 1)
    store64(head, page + 1)


def list_remove(heap: U64, head: U64, page: U64) -> None:
    record = page_record(heap, page)
    after = load32(record + NEXT)
    before = load32(record + PREVIOUS)
    if before:
        store32(page_record(heap, before - 1) + NEXT, after)
    else:
        store64(head, after)
    if after:
        store32(page_record(heap, after - 1) + PREVIOUS, before)


def run_insert(heap: U64, page: U64, pages: U64) -> None:
    """Add a free run."""
    first = page_record(heap, page)
    store32(first + KIND, (load32(first + KIND) & FLAG_SEGMENT_START) | KIND_FREE)
    store32(first + VALUE, pages)
    if pages > 1:
        last = page_record(heap, page + pages - 1)
        store32(last + KIND, KIND_FREE)
        store32(last + VALUE, pages)
    number = bin_of(pages)
    list_push(heap, heap + BINS + 8 * number, page)
    word = heap + BIN_MAP + 8 * (number // 64)
    store64(word, load64(word) | (1 << (number % 64)))


def run_remove(heap: U64, page: U64, pages: U64) -> None:
    """Take a free run out of its bin."""
    number = bin_of(pages)
    head = heap + BINS + 8 * number
    list_remove(heap, head, page)
    if load64(head) == 0:
        word = heap + BIN_MAP + 8 * (number // 64)
        store64(word, load64(word) & ~(1 << (number % 64)))


def run_find(heap: U64, pages: U64) -> U64:
    """The first page + 1 of a free run of at least `pages` pages, of the smallest bin that has one; 0 if there is
    none."""
    number = bin_of(pages)
    found = load64(heap + BINS + 8 * number)
    while found:  # runs in one bin differ in size
        record = page_record(heap, found - 1)
        if load32(record + VALUE) >= pages:
            return found
        found = load32(record + NEXT)
    number += 1
    if number >= BIN_COUNT:
        return 0
    word = number // 64
    bits = load64(heap + BIN_MAP + 8 * word) & (-1 << (number % 64))
    while bits == 0:
        word += 1
        if word == 3:
            return 0
        bits = load64(heap + BIN_MAP + 8 * word)
    return load64(heap + BINS + 8 * (word * 64 + trailing_zeros(bits)))


def run_take(heap: U64, pages: U64) -> U64:
    """Cut `pages` pages from a free run. Returns the first page + 1, with bit 32 set if they are zero; 0 if there is no
    room."""
    found = run_find(heap, pages)
    if found == 0:
        return 0
    page = found - 1
    record = page_record(heap, page)
    whole = load32(record + VALUE)
    run_remove(heap, page, whole)
    if whole > pages:
        store32(page_record(heap, page + pages) + KIND, KIND_NONE)
        run_insert(heap, page + pages, whole - pages)
    touched = load64(heap + TOUCHED)
    if page + pages > touched:
        store64(heap + TOUCHED, page + pages)
    return found | (1 << 32) if page >= touched else found


def run_give(heap: U64, page: U64, pages: U64) -> None:
    """Free pages, merged with their free neighbours of the same segment."""
    record = page_record(heap, page)
    if load32(record + KIND) & FLAG_SEGMENT_START == 0 and page > 0:
        before = page_record(heap, page - 1)
        if load32(before + KIND) & KIND_MASK == KIND_FREE:
            count = load32(before + VALUE)
            run_remove(heap, page - count, count)
            store32(record + KIND, KIND_NONE)
            store32(before + KIND, load32(before + KIND) & FLAG_SEGMENT_START)
            page = page - count
            pages += count
    after = page_record(heap, page + pages)
    kind = load32(after + KIND)
    if kind & KIND_MASK == KIND_FREE and kind & FLAG_SEGMENT_START == 0:
        count = load32(after + VALUE)
        run_remove(heap, page + pages, count)
        store32(after + KIND, KIND_NONE)
        pages += count
    run_insert(heap, page, pages)


# -- blocks -----------------------------------------------------------------------------------------------------------
def count_live(heap: U64, size: U64) -> None:
    live = load64(heap + LIVE_BYTES) + size
    store64(heap + LIVE_BYTES, live)
    if live > load64(heap + PEAK_BYTES):
        store64(heap + PEAK_BYTES, live)


def take_large(heap: U64, pages: U64) -> U64:
    """A run as a block: its address, with bit 0 set if it is zero; 0 if there is no room. The lock is held."""
    found = run_take(heap, pages)
    if found == 0:
        return 0
    page = (found & 0xFFFFFFFF) - 1
    record = page_record(heap, page)
    store32(record + KIND, (load32(record + KIND) & FLAG_SEGMENT_START) | KIND_LARGE)
    store32(record + VALUE, pages)
    if pages > 1:
        store32(page_record(heap, page + pages - 1) + KIND, KIND_NONE)
    count_live(heap, pages * PAGE)
    return (load64(heap + BASE) + page * PAGE) | (found >> 32)


def new_span(heap: U64, number: U64) -> U64:
    """Make a span of a size class and list it; its first page + 1, or 0. The lock is held."""
    pages = span_pages(class_size(number))
    found = run_take(heap, pages) & 0xFFFFFFFF
    if found == 0:
        return 0
    page = found - 1
    for i in range(pages):
        record = page_record(heap, page + i)
        store32(record + KIND, (load32(record + KIND) & FLAG_SEGMENT_START) | (KIND_SPAN + number))
        store32(record + VALUE, page)
    record = page_record(heap, page)
    store64(record + FREE_LIST, 0)
    store32(record + LIVE, 0)
    store32(record + FRESH, 0)
    list_push(heap, heap + CLASS_LISTS + 8 * number, page)
    return found


def take_small(heap: U64, number: U64) -> U64:
    """A block of a size class, or 0. The lock is held."""
    head = heap + CLASS_LISTS + 8 * number
    found = load64(head)
    if found == 0:
        found = new_span(heap, number)
        if found == 0:
            return 0
    page = found - 1
    record = page_record(heap, page)
    size = class_size(number)
    count_live(heap, size)
    live = load32(record + LIVE) + 1
    store32(record + LIVE, live)
    block = load64(record + FREE_LIST)
    if block:
        store64(record + FREE_LIST, load64(block))
    else:
        fresh = load32(record + FRESH)
        store32(record + FRESH, fresh + 1)
        block = load64(heap + BASE) + page * PAGE + fresh * size
    if live == span_pages(size) * PAGE // size:
        list_remove(heap, head, page)
    return block


def release_span(heap: U64, head: U64, first: U64, pages: U64) -> None:
    """Give an empty span's pages back. The lock is held."""
    list_remove(heap, head, first)
    for i in range(pages):
        inner = page_record(heap, first + i)
        store32(inner + KIND, load32(inner + KIND) & FLAG_SEGMENT_START)
    run_give(heap, first, pages)


def release_empty_spans(heap: U64) -> None:
    """Give back the empty span that each size class keeps. The lock is held."""
    for number in range(CLASSES):
        head = heap + CLASS_LISTS + 8 * number
        first = load64(head)
        if first != 0 and load32(page_record(heap, first - 1) + LIVE) == 0:
            release_span(heap, head, first - 1, span_pages(class_size(number)))


def take_block(heap: U64, size: U64, align: U64) -> U64:
    """What `heap_take` returns. The lock is held."""
    if size <= MAX_SMALL and align <= MIN_ALIGN:
        return take_small(heap, class_of(size))
    return take_large(heap, (size + PAGE - 1) // PAGE if size else 1)


def heap_take(heap: U64, size: U64, align: U64) -> U64:
    """A block of at least `size` bytes; bit 0 of the result tells that it is zero. 0 if there is no room or `align`
    is above a page."""
    if align > PAGE or size > 1 << 40:
        return 0
    heap_lock(heap)
    block = take_block(heap, size, align)
    if block == 0:
        release_empty_spans(heap)
        block = take_block(heap, size, align)
    heap_unlock(heap)
    return block


def heap_allocate(heap: U64, size: U64, align: U64) -> U64:
    """The address of a block of at least `size` bytes, aligned to `align` (a power of two up to a page); 0 if there
    is no room."""
    return heap_take(heap, size, align) & ~1


def heap_owns(heap: U64, address: U64) -> U32:
    """Whether `address` lies in the heap's segments."""
    return address >= load64(heap + BASE) and address < load64(heap + END)


def heap_size(heap: U64, block: U64) -> U64:
    """Usable bytes of a block; 0 if there is no block at this address."""
    if not heap_owns(heap, block):
        return 0
    offset = block - load64(heap + BASE)
    record = page_record(heap, offset // PAGE)
    kind = load32(record + KIND) & KIND_MASK
    if kind == KIND_LARGE:
        return load32(record + VALUE) * PAGE if offset % PAGE == 0 else 0
    if kind >= KIND_SPAN:
        size = class_size(kind - KIND_SPAN)
        inside = offset - load32(record + VALUE) * PAGE
        return size if inside % size == 0 else 0
    return 0


def held_record(heap: U64, block: U64) -> U64:
    """The record of a held block, 0 if it is not held. The lock is held."""
    for i in range(load64(heap + HELD_COUNT)):
        record = heap + HELD + 16 * i
        if load64(record) == block:
            return record
    return 0


def block_start(heap: U64, address: U64) -> U64:
    """The used block in which `address` lies, or 0. The lock is held."""
    if not heap_owns(heap, address):
        return 0
    base = load64(heap + BASE)
    page = (address - base) // PAGE
    record = page_record(heap, page)
    kind = load32(record + KIND) & KIND_MASK
    if kind >= KIND_SPAN:
        start = base + load32(record + VALUE) * PAGE
        size = class_size(kind - KIND_SPAN)
        return start + (address - start) // size * size
    while kind != KIND_LARGE:
        if page == 0 or kind == KIND_FREE:
            return 0
        page -= 1
        kind = load32(page_record(heap, page) + KIND) & KIND_MASK
    return base + page * PAGE


def heap_hold(heap: U64, address: U64) -> U64:
    """Keep the block of `address` from being used again, even if it is freed. Returns the block; 0 if there is none,
    it is held already, or too many are."""
    heap_lock(heap)
    block = block_start(heap, address)
    count = load64(heap + HELD_COUNT)
    if block == 0 or count == MAX_HELD or held_record(heap, block) != 0:
        heap_unlock(heap)
        return 0
    store64(heap + HELD + 16 * count, block)
    store64(heap + HELD + 16 * count + 8, 0)
    store64(heap + HELD_COUNT, count + 1)
    heap_unlock(heap)
    return block


def heap_release(heap: U64, block: U64) -> None:
    """Undo `heap_hold`, and free the block if somebody wanted to meanwhile."""
    heap_lock(heap)
    record = held_record(heap, block)
    freed = 0
    if record != 0:
        freed = load64(record + 8)
        count = load64(heap + HELD_COUNT) - 1
        store64(record, load64(heap + HELD + 16 * count))
        store64(record + 8, load64(heap + HELD + 16 * count + 8))
        store64(heap + HELD_COUNT, count)
    heap_unlock(heap)
    if freed:
        heap_free(heap, block)


def heap_free(heap: U64, block: U64) -> U32:
    """Free a block. Returns 0, or 1 if there is no used block at this address (nothing is changed then)."""
    if not heap_owns(heap, block):
        return 1
    heap_lock(heap)
    if load64(heap + HELD_COUNT) != 0:
        record = held_record(heap, block)
        if record != 0:
            store64(record + 8, 1)
            heap_unlock(heap)
            return 0
    size = heap_size(heap, block)
    page = (block - load64(heap + BASE)) // PAGE
    record = page_record(heap, page)
    kind = load32(record + KIND) & KIND_MASK
    if size == 0:
        heap_unlock(heap)
        return 1
    if kind == KIND_LARGE:
        store64(heap + LIVE_BYTES, load64(heap + LIVE_BYTES) - size)
        run_give(heap, page, load32(record + VALUE))
    else:
        first = load32(record + VALUE)
        record = page_record(heap, first)
        pages = span_pages(size)
        live = load32(record + LIVE)
        if live == 0:
            heap_unlock(heap)
            return 1
        store64(heap + LIVE_BYTES, load64(heap + LIVE_BYTES) - size)
        head = heap + CLASS_LISTS + 8 * (kind - KIND_SPAN)
        if live == pages * PAGE // size:
            list_push(heap, head, first)
        store32(record + LIVE, live - 1)
        store64(block, load64(record + FREE_LIST))
        store64(record + FREE_LIST, block)
        if live == 1 and (load64(head) != first + 1 or load32(record + NEXT) != 0):
            # An empty span stays only as the last of its list, so that a lone block going to and fro stays cheap.
            release_span(heap, head, first, pages)
    heap_unlock(heap)
    return 0


def heap_add(heap: U64, page: U64, pages: U64) -> None:
    """Add a segment's pages, which are zero and never merge with another segment's. The lock is taken."""
    heap_lock(heap)
    store32(page_record(heap, page) + KIND, FLAG_SEGMENT_START)
    store32(page_record(heap, page + pages) + KIND, FLAG_SEGMENT_START)
    run_insert(heap, page, pages)
    end = load64(heap + BASE) + (page + pages) * PAGE
    if end > load64(heap + END):
        store64(heap + END, end)
    heap_unlock(heap)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(heap_allocate, heap_free, heap_size, heap_add, heap_lock, heap_unlock, heap_hold, heap_release),
)


class Heap:
    """Allocates blocks from a session's segments.

    Without `functions` it runs the readable Python under a lock; ``migproxy.jit.heap.Heap`` runs the same compiled.

    Parameters
    ----------
    base, size : int
        The first range; `base` is page-aligned.
    window : int
        Address space from `base` within which further segments will lie.
    """

    def __init__(self, base: int, size: int, window: int = ARENA_WINDOW) -> None:
        if base % PAGE:
            raise ValueError(f"heap at {base:#x} is not page-aligned")
        self.base = base
        self._lock = threading.Lock()
        records = (window // PAGE + 2) * PAGE_RECORD
        self._window_pages = window // PAGE
        self._books = segment.private_memory(STATE_SIZE + records)
        self.state = self._books
        machine.store64(self.state + BASE, base)
        machine.store64(self.state + END, base)
        machine.store64(self.state + PAGES, self.state + STATE_SIZE)
        self._functions = self._bind()
        self.ranges: list[tuple[int, int]] = []
        self.add_segment(base, size)

    def _bind(self) -> dict[str, Callable[..., int]]:
        """Return the heap's functions by name."""

        def locked(function: Callable[..., int]) -> Callable[..., int]:
            def call(*arguments: int) -> int:
                with self._lock:
                    return function(*arguments)

            return call

        return {function.__name__: locked(machine.as_python(function)) for function in FUNCTIONS}

    def add_segment(self, base: int, size: int) -> None:
        """Add a further range; blocks never cross from one into another."""
        page, pages = (base - self.base) // PAGE, size // PAGE
        if base % PAGE or not 0 <= page <= page + pages <= self._window_pages:
            raise ValueError(f"segment of {size:#x} bytes at {base:#x} outside the heap's window")
        if pages:
            self._functions["heap_add"](self.state, page, pages)
            self.ranges.append((base, pages * PAGE))

    def allocate(self, size: int, align: int = MIN_ALIGN) -> int:
        """Return the address of a block of at least `size` bytes, or 0 if there is no room.

        Parameters
        ----------
        align : int
            A power of two up to 4,096; every block is aligned to 64.
        """
        if align > PAGE or align & (align - 1):
            raise ValueError(f"cannot align to {align}")
        return self._functions["heap_allocate"](self.state, size, align)

    def free(self, address: int) -> None:
        """Free a block.

        Raises
        ------
        ValueError
            There is no used block at `address`.
        """
        if self._functions["heap_free"](self.state, address):
            raise ValueError(f"no block at {address:#x}")

    def hold(self, address: int) -> int:
        """Keep the block of `address` from being used again until `release`, even if it is freed; 0 if it cannot be."""
        return self._functions["heap_hold"](self.state, address)

    def release(self, block: int) -> None:
        """Undo `hold`."""
        self._functions["heap_release"](self.state, block)

    def owns(self, address: int) -> bool:
        """Tell whether `address` lies in one of the heap's segments."""
        return machine.load64(self.state + BASE) <= address < machine.load64(self.state + END)

    def usable_size(self, address: int) -> int:
        """Return the bytes of the block at `address`, or 0 if there is none."""
        return self._functions["heap_size"](self.state, address)

    @property
    def capacity(self) -> int:
        """Bytes of all segments."""
        return sum(size for _, size in self.ranges)

    @property
    def live_bytes(self) -> int:
        """Bytes in used blocks."""
        return machine.load64(self.state + LIVE_BYTES)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were used at a time."""
        return machine.load64(self.state + PEAK_BYTES)

    def lock(self) -> None:
        """Keep every other thread out of the heap, for a fork."""
        self._functions["heap_lock"](self.state)

    def unlock(self) -> None:
        """Let the others in again."""
        self._functions["heap_unlock"](self.state)

    def live_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield start and size of every range that holds used blocks (whole spans); the lock must be held."""
        records = machine.load64(self.state + PAGES)
        for base, size in self.ranges:
            page, stop = (base - self.base) // PAGE, (base - self.base + size) // PAGE
            while page < stop:
                record = records + page * PAGE_RECORD
                kind = load32(record + KIND) & KIND_MASK
                if kind in (KIND_FREE, KIND_LARGE):
                    pages = load32(record + VALUE)
                else:
                    pages = span_pages(class_size(kind - KIND_SPAN))
                if kind != KIND_FREE:
                    yield self.base + page * PAGE, pages * PAGE
                page += pages

    def buffer(self, size: int) -> memoryview:
        """Return a block as a buffer that frees it when the last view of it is gone (`mignificient_malloc`).

        Raises
        ------
        MemoryError
            There is no room.
        """
        address = self.allocate(size)
        if not address:
            raise MemoryError(f"the arena has no room for {size} bytes")
        return memoryview(_Block.at(self, address, size)).cast("B")


class _Block:
    """Makes ctypes arrays over heap blocks that free them with the last reference."""

    @staticmethod
    def at(heap: Heap, address: int, size: int) -> ctypes.Array[Any]:
        import weakref

        array = (ctypes.c_ubyte * size).from_address(address)
        weakref.finalize(array, heap.free, address).atexit = False
        return array
