"""Copies within the arena behind a stream's work, by the device's callback thread.

The driver itself copies from host memory to host memory, which waits for the stream there and then; managed memory is
the arena's here, and copies of it must not wait. So the stream calls a function in machine code, which needs no
interpreter and copies.
"""

from __future__ import annotations

import ctypes
from collections import deque
from functools import cache

from migproxy.arena.machine_unsafe import U64, copy, load64, store64

TARGET, SOURCE, SIZE, DONE = 0, 8, 16, 24
#: So many places are looked at for one that is done before another is made.
LOOKS = 4


def copy_within(place: U64) -> None:
    """Copy what the four words at `place` say, and mark them as done.

    Precondition: they were written by `HostCopies.place`, and both ranges stay mapped until they are marked.
    """
    copy(load64(place + TARGET), load64(place + SOURCE), load64(place + SIZE))
    store64(place + DONE, 1)


@cache
def compiled_copy() -> int:
    """Return the address of `copy_within` as machine code, a C function ``void (void *place)``."""
    from migproxy.jit import language

    return language.compile_functions(copy_within)["copy_within"]


class HostCopies:
    """The words that copies on their way are told by; used again once a copy is done. Used by one thread."""

    def __init__(self) -> None:
        #: Oldest first, but for those of streams that stood still when they were looked at.
        self._places: deque[ctypes.Array[ctypes.c_uint64]] = deque()

    def abandon(self) -> None:
        """The last copy was not given to a stream after all."""
        self._places[-1][DONE // 8] = 1

    def place(self, target: int, source: int, size: int) -> tuple[int, int]:
        """Return function and argument of a copy, for ``cuLaunchHostFunc``.

        Precondition: both ranges stay mapped until the stream has called the function.
        """
        words = None
        for _ in range(min(LOOKS, len(self._places))):
            oldest = self._places.popleft()
            if oldest[DONE // 8]:
                words = oldest
                break
            self._places.append(oldest)
        words = words or (ctypes.c_uint64 * 4)()
        self._places.append(words)
        words[:] = [target, source, size, 0]
        return compiled_copy(), ctypes.addressof(words)
