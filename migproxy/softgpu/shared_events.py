"""Events that several processes have: a page that says which record was the last, and which one was reached.

A record is named by a number that grows, and the event has happened when the last one was reached. Numbers are taken
without a lock, which a process could keep: the clock makes those of two processes differ, and of two that record at the
same time either may count as the last, as on a GPU. A record of a process that has ended counts as reached, since
nobody is left to reach it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import shared

_WORD = struct.Struct("<Q")
_RECORDED, _REACHED, _RECORDER = 0, 8, 16
#: A thread that waits looks again after so long, at first and at most.
_FIRST_LOOK, _LONGEST_LOOK = 50e-6, 2e-3
#: It looks after the process that recorded after so many looks.
_LOOKS = 16


class SharedEvent:
    """One event's page.

    Parameters
    ----------
    fd : int
        The page's file, -1 to make one. The object keeps a descriptor of its own only of what it made.

    Raises
    ------
    CudaError
        1: the file is no page of an event.
    """

    def __init__(self, fd: int = -1) -> None:
        self._fd = -1
        if fd < 0:
            self._fd = fd = shared.create("migproxy-event", mmap.PAGESIZE)
        elif shared.size_of(fd) != mmap.PAGESIZE:
            raise CudaError(status.INVALID_VALUE, "the descriptor is of no event")
        self._page = mmap.mmap(fd, mmap.PAGESIZE)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def export(self) -> int:
        """Return a descriptor for another process; the caller closes it."""
        if self._fd < 0:
            raise CudaError(status.INVALID_HANDLE, "an event of another process is passed on by that process")
        return os.dup(self._fd)

    def _read(self, place: int) -> int:
        word: int = _WORD.unpack_from(self._page, place)[0]
        return word

    def record(self) -> int:
        """Begin a record; returns its number."""
        number = max(self._read(_RECORDED) + 1, time.monotonic_ns())
        _WORD.pack_into(self._page, _RECORDER, os.getpid())
        _WORD.pack_into(self._page, _RECORDED, number % (1 << 64))
        return number

    def reach(self, number: int) -> None:
        """The record `number` was reached."""
        if number > self._read(_REACHED):
            _WORD.pack_into(self._page, _REACHED, number % (1 << 64))

    def last(self) -> int:
        """Return the number of the last record."""
        return self._read(_RECORDED)

    def reached(self, number: int | None = None) -> bool:
        """Whether a record, the last one if none is given, was reached or never will be."""
        if self._read(_REACHED) >= (self.last() if number is None else number):
            return True
        return not _alive(self._read(_RECORDER))

    def wait(self, number: int) -> None:
        """Return once `reached`."""
        pause, looks = _FIRST_LOOK, 0
        while self._read(_REACHED) < number:
            looks += 1
            if looks % _LOOKS == 0 and self.reached(number):
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0
