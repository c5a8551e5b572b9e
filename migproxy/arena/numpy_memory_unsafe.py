"""NumPy's data allocator over the arena's heap: the functions that replace those of NumPy's default handler (NEP 49).

In the small language; ``migproxy.jit.numpy_memory`` compiles and installs them. Requests below the threshold, and
those that the arena has no room for, go to NumPy's own functions, and a block goes back to whoever made it: what was
allocated before the functions were replaced is freed by NumPy, and blocks of an ended or inherited session by its heap.

Preconditions: the cells are what their comments say; the arguments are what NumPy passes.
"""

from __future__ import annotations

import ctypes

from migproxy.arena.heap_unsafe import MIN_ALIGN, heap_free, heap_owns, heap_size, heap_take
from migproxy.arena.machine_unsafe import U32, U64, External, Indirect, Symbol, copy, fill, load64, store64

MAX_HEAPS = 8
_CELLS = (ctypes.c_uint64 * 32)()
CURRENT = Symbol(
    "migproxy_numpy_cells", ctypes.addressof(_CELLS)
)  # state of the heap that new blocks come from, 0 = none
THRESHOLD = CURRENT + 8  # smallest request that goes to the arena
HEAP_COUNT = CURRENT + 16
HEAPS = CURRENT + 24  # MAX_HEAPS states of heaps whose blocks may be about
MALLOC = CURRENT + 88  # NumPy's own functions
CALLOC = CURRENT + 96
REALLOC = CURRENT + 104
FREE = CURRENT + 112
GROW = CURRENT + 120  # asked for more room with the size; answers whether to try again. 0 = nobody
GROW_FROM = CURRENT + 128  # smallest request for which it is asked
ALLOCATED = CURRENT + 136  # blocks taken from the arena
PASSED_ON = CURRENT + 144  # requests at or above the threshold that the arena had no room for

#: NumPy's domain in tracemalloc.
_TRACE_DOMAIN = 389047

own_malloc = Indirect("U64(U64, U64)")
own_calloc = Indirect("U64(U64, U64, U64)")
own_realloc = Indirect("U64(U64, U64, U64)")
own_free = Indirect("None(U64, U64, U64)")
grow = Indirect("U32(U64)")
trace = External("PyTraceMalloc_Track", "I32(U32, U64, U64)")
forget_trace = External("PyTraceMalloc_Untrack", "I32(U32, U64)")


def arena_take(size: U64) -> U64:
    """A block of the arena, with bit 0 set if it is zero; 0 if there is no room."""
    heap = load64(CURRENT)
    block = heap_take(heap, size, MIN_ALIGN) if heap else 0
    if block == 0 and size >= load64(GROW_FROM):
        asked = load64(GROW)
        if asked != 0 and grow(asked, size) != 0:
            heap = load64(CURRENT)
            block = heap_take(heap, size, MIN_ALIGN) if heap else 0
    if block == 0:
        store64(PASSED_ON, load64(PASSED_ON) + 1)
        return 0
    store64(ALLOCATED, load64(ALLOCATED) + 1)
    trace(_TRACE_DOMAIN, block & ~1, size)
    return block


def owner(block: U64) -> U64:
    """The state of the heap in which a block lies; 0 if it is NumPy's own."""
    for i in range(load64(HEAP_COUNT)):
        heap = load64(HEAPS + 8 * i)
        if heap_owns(heap, block):
            return heap
    return 0


def numpy_malloc(context: U64, size: U64) -> U64:
    if size >= load64(THRESHOLD):
        block = arena_take(size)
        if block != 0:
            return block & ~1
    return own_malloc(load64(MALLOC), context, size)


def numpy_calloc(context: U64, count: U64, width: U64) -> U64:
    """Zeroed memory; pages of the arena that were never used are zero already."""
    size = count * width
    if size >= load64(THRESHOLD) and (width == 0 or size // width == count):
        block = arena_take(size)
        if block != 0:
            if block & 1 == 0:
                fill(block, 0, size)
            return block & ~1
    return own_calloc(load64(CALLOC), context, count, width)


def numpy_free(context: U64, block: U64, size: U64) -> None:
    heap = owner(block)
    if heap != 0:
        forget_trace(_TRACE_DOMAIN, block)
        heap_free(heap, block)
    else:
        own_free(load64(FREE), context, block, size)


def numpy_realloc(context: U64, block: U64, size: U64) -> U64:
    heap = owner(block)
    if heap == 0:
        if block == 0:
            return numpy_malloc(context, size)
        return own_realloc(load64(REALLOC), context, block, size)
    room = heap_size(heap, block)
    if size <= room and size > room // 2:
        forget_trace(_TRACE_DOMAIN, block)
        trace(_TRACE_DOMAIN, block, size)
        return block
    fresh = numpy_malloc(context, size)
    if fresh != 0:
        copy(fresh, block, size if size < room else room)
        forget_trace(_TRACE_DOMAIN, block)
        heap_free(heap, block)
    return fresh


def owned_by_arena(block: U64) -> U32:
    """Whether a block lies in one of the heaps; for tests and statistics."""
    return owner(block) != 0


FUNCTIONS = (numpy_malloc, numpy_calloc, numpy_realloc, numpy_free)
