"""Memory that graphs allocate and free, emulated on the session's ledger.

An allocation node takes its address and its memory from the ledger when it is made, so it counts against the quota
then, and the graph's launches use that memory again and again. In the executor the node is an empty one: what it stands
for is only the order. The memory goes when nothing holds it any more: the graph, what was instantiated from it, and a
launch whose allocation has not been freed.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from migproxy_plugins.cuda import status as st

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.session import on_fork

# CUgraphMem_attribute
USED_CURRENT, USED_HIGH, RESERVED_CURRENT, RESERVED_HIGH = range(4)
#: How the driver's graph memory grows.
_CHUNK: Final = 2 << 20


@dataclass(eq=False)
class _Block:
    """One allocation."""

    pointer: int
    size: int
    holders: int = 0
    #: A launch allocated it, and it was not freed since.
    live: bool = False
    #: It has been in use since the last trim.
    touched: bool = False


@dataclass(eq=False)
class _Content:
    """What a graph, or what was instantiated from one, allocates and frees."""

    allocated: list[_Block] = field(default_factory=list)
    freed: list[_Block] = field(default_factory=list)
    free_on_launch: bool = False


_lock = threading.RLock()
_blocks: dict[int, _Block] = {}
_contents: dict[int, _Content] = {}
#: Allocation node → what it allocates with the parameters it was made with; free node → what it frees.
_allocations: dict[int, tuple[_Block, bytes]] = {}
_frees: dict[int, int] = {}
_marks: Counter[int] = Counter()
#: Bytes of blocks that have gone since the last trim: the driver keeps graphs' memory for the next until then.
_untrimmed = 0


def _after_fork() -> None:
    global _untrimmed
    _untrimmed = 0
    for table in (_blocks, _contents, _allocations, _frees, _marks):
        table.clear()


on_fork(_after_fork)


def allocate(size: int) -> int:
    """Take memory for an allocation node that is about to be made."""
    if size <= 0:
        raise CudaError(st.INVALID_VALUE, "an allocation node of 0 bytes")
    pointer = api.mem_alloc(size)
    with _lock:
        _blocks[pointer] = _Block(pointer, size)
    return pointer


def abandon(pointer: int) -> None:
    """The allocation node could not be made."""
    with _lock:
        del _blocks[pointer]
    api.mem_free(pointer)


def add_allocation(graph: int, node: int, pointer: int, parameters: bytes) -> None:
    """Note an allocation node of `graph`."""
    with _lock:
        block = _blocks[pointer]
        block.holders += 1
        _contents.setdefault(graph, _Content()).allocated.append(block)
        _allocations[node] = block, parameters


def block_of_graph(pointer: int) -> bool:
    """Tell whether `pointer` is memory that a graph allocates."""
    return pointer in _blocks


def check_free(graph: int, pointer: int) -> None:
    """Raise CUDA_ERROR_INVALID_VALUE unless a free node of `graph` may free `pointer`."""
    with _lock:
        block = _blocks.get(pointer)
        content = _contents.get(graph)
        if block is None or (content is not None and block in content.freed):
            raise CudaError(st.INVALID_VALUE, f"{pointer:#x} is not allocated by a graph, or freed already")


def add_free(graph: int, node: int, pointer: int) -> None:
    """Note a free node of `graph`."""
    with _lock:
        block = _blocks[pointer]
        block.holders += 1
        _contents.setdefault(graph, _Content()).freed.append(block)
        _frees[node] = pointer


def allocation(node: int) -> tuple[int, bytes] | None:
    """Return address and parameters of an allocation node; None for other nodes."""
    found = _allocations.get(node)
    return None if found is None else (found[0].pointer, found[1])


def freed(node: int) -> int | None:
    """Return what a free node frees; None for other nodes."""
    return _frees.get(node)


def forget_node(node: int) -> None:
    """Forget a node that ended with its graph."""
    with _lock:
        _allocations.pop(node, None)
        _frees.pop(node, None)


def has_memory(graph: int) -> bool:
    """Tell whether a graph has allocation or free nodes."""
    return graph in _contents


def hold(holder: int, graph: int, *, free_on_launch: bool = False) -> None:
    """Make `holder` (instantiated from `graph`, updated from it, or its parent) hold the graph's memory as well."""
    with _lock:
        content = _contents.get(graph)
        if content is None:
            return
        held = _contents.setdefault(holder, _Content())
        held.free_on_launch = held.free_on_launch or free_on_launch
        for mine, others in ((held.allocated, content.allocated), (held.freed, content.freed)):
            for block in others:
                if block not in mine:
                    mine.append(block)
                    block.holders += 1


def launched(executable: int) -> None:
    """Account for a launch; it is about to be submitted.

    Raises
    ------
    CudaError
        1 when it would allocate again what was not freed since its last launch.
    """
    content = _contents.get(executable)
    if content is None:
        return
    with _lock:
        kept = [block for block in content.allocated if block not in content.freed]
        if not content.free_on_launch and any(block.live for block in kept):
            raise CudaError(st.INVALID_VALUE, "the graph's memory was not freed since its last launch")
        for block in (*content.allocated, *content.freed):
            _touch(block)
        for block in kept:
            if not block.live:
                block.live = True
                block.holders += 1
        for block in content.freed:
            _end_life(block)
        _mark()


def _touch(block: _Block) -> None:
    global _untrimmed
    if not block.touched:
        block.touched = True
        # The driver takes what earlier graphs left before it takes more from the device.
        _untrimmed = max(0, _untrimmed - _whole_chunks(block))


def _end_life(block: _Block) -> None:
    if block.live:
        block.live = False
        _release(block)


def free(pointer: int) -> None:
    """Free what a launch allocated (``cuMemFree``, ``cuMemFreeAsync``).

    Raises
    ------
    CudaError
        1 when no launch has, or it is freed already.
    """
    with _lock:
        block = _blocks[pointer]
        if not block.live:
            raise CudaError(st.INVALID_VALUE, f"{pointer:#x} is not allocated")
        _end_life(block)


def _release(block: _Block) -> None:
    global _untrimmed
    block.holders -= 1
    if not block.holders:
        del _blocks[block.pointer]
        _untrimmed += _whole_chunks(block) if block.touched else 0
        # The ledger uses the address again only after all work submitted so far.
        api.mem_free(block.pointer)


def drop(holder: int) -> None:
    """A graph or what was instantiated from it ended."""
    with _lock:
        content = _contents.pop(holder, None)
        if content is not None:
            for block in (*content.allocated, *content.freed):
                _release(block)


def _current() -> tuple[int, int]:
    used = _untrimmed + sum(_whole_chunks(block) for block in _blocks.values() if block.touched)
    return used, used


def _whole_chunks(block: _Block) -> int:
    """The driver gives each graph whole chunks and counts those."""
    return -(-block.size // _CHUNK) * _CHUNK


def _mark() -> None:
    used, reserved = _current()
    _marks[USED_HIGH] = max(_marks[USED_HIGH], used)
    _marks[RESERVED_HIGH] = max(_marks[RESERVED_HIGH], reserved)


def attribute(number: int) -> int:
    """Return a ``CUgraphMem_attribute``: what launches use or have used since the last trim."""
    with _lock:
        _mark()
        used, reserved = _current()
        values = {USED_CURRENT: used, RESERVED_CURRENT: reserved, **_marks}
        if number not in range(4):
            raise CudaError(st.INVALID_VALUE, f"graph memory attribute {number}")
        return values[number]


def reset_mark(number: int, value: int) -> None:
    """Set a high-water mark back; only to 0."""
    if number not in (USED_HIGH, RESERVED_HIGH) or value:
        raise CudaError(st.INVALID_VALUE, "a high-water mark can only be reset to 0")
    with _lock:
        _marks[number] = 0


def trim() -> None:
    """Forget what is no longer in use."""
    global _untrimmed
    with _lock:
        _untrimmed = 0
        for block in _blocks.values():
            block.touched = block.live
