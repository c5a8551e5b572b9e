"""One function's quota, shared by the sessions of its process tree: a page with a place for each of them.

Each executor writes what its session uses into its own place of each column: bytes of device memory, and how many
handles, modules and kernels it keeps. All read all places. The broker makes the page, hands out the places and clears
that of a session that ended. A function gets the page read-only, so that its allocations fail in the call.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator

#: Sessions of one function, at most.
PLACES = 512
_COLUMN = struct.Struct(f"<{PLACES}Q")
BYTES, HANDLES, MODULES, KERNELS = range(4)
PAGE_SIZE = 4 * _COLUMN.size


class QuotaAccount:
    """A function's account as one of its sessions sees it.

    Parameters
    ----------
    fd : int
        The page's descriptor; this object owns it.
    place : int
        The session's line.
    quota : int
        Bytes that the function may use in all.
    writable : bool
        This is the executor's.
    """

    def __init__(self, fd: int, place: int, quota: int, *, writable: bool) -> None:
        if not 0 <= place < PLACES:
            raise ValueError(f"place {place} is not on the account's page")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(fd, PAGE_SIZE, mmap.MAP_SHARED, protection)
        self._fd = fd if writable else -1
        if not writable:
            os.close(fd)
        self._place = place
        self.quota = quota

    def others(self, column: int = BYTES) -> int:
        """Return what the function's other sessions use of something; 0 for nearly every function."""
        places: tuple[int, ...] = _COLUMN.unpack_from(self._memory, column * _COLUMN.size)
        return sum(places) - places[self._place]

    def count(self, column: int, number: int) -> None:
        """Enter how many handles, modules or kernels this session keeps."""
        struct.pack_into("<Q", self._memory, column * _COLUMN.size + 8 * self._place, number)

    def charge(self, total: int) -> bool:
        """Enter that this session uses `total` bytes now; False, and nothing entered, if the quota does not allow
        it."""
        with self._locked():
            if total + self.others() > self.quota:
                return False
            self._enter(total)
            return True

    def settle(self, total: int) -> None:
        """Enter that this session uses `total` bytes now, allowed or not: it has them already, or gave some back."""
        self._enter(total)

    def _enter(self, total: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * self._place, total)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A record lock: the kernel drops it with its process, so a killed executor leaves nothing locked.
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1)


def clear_line(fd: int, place: int) -> None:
    """Clear the place of a session that has ended."""
    for column in (BYTES, HANDLES, MODULES, KERNELS):
        os.pwrite(fd, bytes(8), column * _COLUMN.size + 8 * place)
