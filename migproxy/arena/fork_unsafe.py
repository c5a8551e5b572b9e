"""What a fork means for an arena: shared memory is not copied on write, so it is copied here.

Before the fork, the locks of ring and heap are taken, so that no block is half allocated in the child. The child puts
a private copy of every live block at the block's own address, and forgets the ring; until it has, the parent is held,
so that neither sees what the other writes afterwards. The executor goes on: a copy that was on its way to the host at
the fork may be whole, partial or absent in the child, as with any memory that a device writes while a process forks.

Children made by ``subprocess`` and ``posix_spawn`` write nothing before they execute something else, and run no hooks.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from migproxy.arena import segment
from migproxy.arena.heap_unsafe import Heap
from migproxy.arena.memory_unsafe import copy

#: How long a parent is held for its child's copying.
DEADLINE_SECONDS = 60.0
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


class Ring(Protocol):
    """A producer whose lock can be held over a fork."""

    def hold(self) -> None:
        """Keep every thread from submitting."""

    def let_go(self) -> None:
        """Undo `hold`."""


@dataclass(eq=False)
class Protected:
    """One session's arena.

    Attributes
    ----------
    segments : callable
        Returns address and size of every mapped segment.
    heap : Heap
        Whose blocks lie in them.
    ring : Ring
    """

    segments: Callable[[], list[tuple[int, int]]]
    heap: Heap
    ring: Ring


_protected: weakref.WeakSet[Protected] = weakref.WeakSet()
_private: weakref.WeakSet[Protected] = weakref.WeakSet()
_in_child: list[Callable[[], None]] = []
_held: list[Protected] = []
_pipe: tuple[int, int] | None = None


def protect(arena: Protected) -> None:
    """Copy `arena` into every forked child, as long as somebody keeps it."""
    _protected.add(arena)


def in_child(action: Callable[[], None]) -> None:
    """Run `action` in every forked child once its memory is its own; actions run in order, and must not raise."""
    _in_child.append(action)


def _before() -> None:
    global _pipe
    _held.extend(arena for arena in _protected if arena not in _private)
    if not _held:
        return
    try:
        _pipe = os.pipe2(os.O_CLOEXEC)
    except OSError:  # no descriptors left: the parent waits for nobody
        _pipe = None
    for arena in _held:
        arena.ring.hold()
        arena.heap.lock()


def _release() -> None:
    for arena in reversed(_held):
        arena.heap.unlock()
        arena.ring.let_go()
    _held.clear()


def _after_in_parent() -> None:
    global _pipe
    pipe, _pipe = _pipe, None
    try:
        if pipe is not None:
            os.close(pipe[1])
            _wait_for_end(pipe[0])
    finally:
        if pipe is not None:
            os.close(pipe[0])
        _release()


def _wait_for_end(fd: int) -> None:
    """Wait until the child has closed its end: it has copied, or is gone, or the fork failed."""
    end = time.monotonic() + DEADLINE_SECONDS
    poll = select.poll()  # unlike select, it takes any descriptor number
    poll.register(fd, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            return


def _after_in_child() -> None:
    global _pipe
    pipe, _pipe = _pipe, None
    try:
        for arena in _held:
            make_private(arena)
    except OSError:
        # Without a copy the child would write into its parent's arrays.
        os._exit(71)
    _private.update(_held)
    _release()
    if pipe is not None:
        os.close(pipe[0])
        os.close(pipe[1])
    for action in _in_child:
        action()


def make_private(arena: Protected) -> None:
    """Replace the mapped segments by private memory with a copy of the live blocks. The heap's lock is held.

    Raises
    ------
    OSError
        There is no memory for the copy.
    """
    live = list(arena.heap.live_ranges())
    for start, size in arena.segments():
        fresh = segment.private_memory(size)
        for address, length in live:
            if start <= address < start + size:
                copy(fresh + address - start, address, length)
        if _libc.mremap(fresh, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, start) != start:
            raise OSError(ctypes.get_errno(), "cannot replace the arena by a copy")


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
