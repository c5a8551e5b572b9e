"""Host memory that graphs copy from and to.

A graph copies when it is launched, not when it is made. Arena memory is copied in place. Other memory has a block of
the arena beside it for as long as a graph names it: a launch is preceded by a host function that fills the blocks, and
followed by one that empties them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from migproxy.errors import CudaError
from migproxy.session.api.boxes import Box, Extent, move
from migproxy.session.api.callbacks import stream_add_host_function
from migproxy.session.api.calls import driver_call
from migproxy.session.session import current, on_fork

CUDA_ERROR_NOT_SUPPORTED = 801


@dataclass(eq=False)
class Staged:
    """One side of a copy in a graph: memory outside the arena, and the block that stands for it."""

    original: Box
    block: Box
    extent: Extent
    to_host: bool
    holders: int = 0

    def fill(self) -> None:
        """Copy the original's content to the block."""
        move(self.block, self.original, self.extent)

    def empty(self) -> None:
        """Copy the block's content to the original."""
        move(self.original, self.block, self.extent)


@dataclass
class _Table:
    lock: threading.Lock = field(default_factory=threading.Lock)
    by_holder: dict[int, list[Staged]] = field(default_factory=dict)
    by_block: dict[int, Staged] = field(default_factory=dict)


_table = _Table()


def _after_fork() -> None:
    global _table
    _table = _Table()


on_fork(_after_fork)


def captured_graph(stream: int) -> int:
    """Return the graph that a stream (as the executor knows it) is captured into."""
    status, outs = driver_call("cuStreamGetCaptureInfo", [stream])
    if status:
        raise CudaError(status)
    return int(outs[2])


def place(holder: int, side: Box, extent: Extent, *, to_host: bool) -> Box:
    """Return where a graph (or what was instantiated from one) may copy from or to instead of host memory.

    Parameters
    ----------
    holder : int
        The graph.
    side : Box
        A linear side in host memory.
    extent : tuple of int
    to_host : bool
        Whether the graph writes there.

    Raises
    ------
    CudaError
        801 when the graph would read what it has written to memory outside the arena, which is there after its launch
        only.
    """
    session = current()
    length = side.length(*extent)
    if session.heap.owns(side.at) and session.heap.owns(side.at + length - 1):
        return side
    width, height, depth = extent
    with _table.lock:
        for other in _table.by_holder.get(holder, ()):
            start, size = other.original.at, other.original.length(*other.extent)
            if other.to_host != to_host and start < side.at + length and side.at < start + size:
                why = "a graph that writes pageable memory outside the arena cannot read it; allocate it page-locked"
                raise CudaError(CUDA_ERROR_NOT_SUPPORTED, why)
        block = Box(session.allocate(width * height * depth), width, height)
        staged = Staged(replace(side), block, extent, to_host, holders=1)
        _table.by_holder.setdefault(holder, []).append(staged)
        _table.by_block[block.at] = staged
    return block


def original(block: int) -> Box | None:
    """Return the memory that a block of `place` stands for; None for other addresses."""
    found = _table.by_block.get(block)
    return None if found is None else found.original


def inherit(holder: int, graph: int) -> None:
    """Make `holder` (instantiated or cloned from `graph`, or its parent) use its blocks as well."""
    with _table.lock:
        for staged in _table.by_holder.get(graph, ()):
            staged.holders += 1
            _table.by_holder.setdefault(holder, []).append(staged)


def drop(holder: int) -> None:
    """A graph, or what was instantiated from one, ended; nothing it launched still runs."""
    with _table.lock:
        for staged in _table.by_holder.pop(holder, ()):
            staged.holders -= 1
            if not staged.holders:
                del _table.by_block[staged.block.at]
                current().heap.free(staged.block.at)


def uses(holder: int) -> bool:
    """Tell whether a graph copies from or to memory outside the arena."""
    return holder in _table.by_holder


def launch(executable: int, stream: int, submit: Callable[[], None]) -> None:
    """Submit a launch between what fills and what empties the blocks."""
    staged = _table.by_holder.get(executable, ())
    before = [each for each in staged if not each.to_host]
    after = [each for each in staged if each.to_host]
    if before:
        stream_add_host_function(stream, lambda: _each(Staged.fill, before))
    submit()
    if after:
        stream_add_host_function(stream, lambda: _each(Staged.empty, after))


def _each(action: Callable[[Staged], None], staged: list[Staged]) -> None:
    for one in staged:
        action(one)
