"""The broker's part of the arena: it makes the memfds, seals them, and can tell both sides that a session is lost.

The broker never maps a segment for reading: whatever lies in one is the tenant's to change at any time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from migproxy.abi import layout
from migproxy.abi.protocol import ARENA_MAGIC, PROTOCOL_VERSION
from migproxy.arena import segment

#: Segments are multiples of this.
SEGMENT_ALIGN = 2 << 20

_SYS_FUTEX = 202
_FUTEX_WAKE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def round_up(size: int, align: int = SEGMENT_ALIGN) -> int:
    """Return `size` rounded up to a multiple of `align`."""
    return -(-size // align) * align


def create_control_segment(session_id: str, heap_bytes: int) -> tuple[int, int]:
    """Make a session's first segment, with its constants; returns descriptor and size."""
    size = round_up(layout.HEAP_OFFSET + heap_bytes)
    fd = segment.create(f"migproxy-{session_id}-0", size)
    for offset, value in (
        (layout.MAGIC_OFFSET, ARENA_MAGIC),
        (layout.SIZE_OFFSET, size),
        (layout.SLOT_COUNT_OFFSET, layout.SLOT_COUNT),
    ):
        os.pwrite(fd, struct.pack("<Q", value), offset)
    os.pwrite(fd, struct.pack("<I", PROTOCOL_VERSION), layout.VERSION_OFFSET)
    return fd, size


class ExecutorBell:
    """Wakes a session's executor from its sleep.

    Parameters
    ----------
    fd : int
        The control segment.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._page = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._page)) + layout.EXECUTOR_BELL_OFFSET

    def ring(self) -> None:
        """Wake it if it sleeps. The store goes through pwrite, see `mark_lost`; waking reads nothing and writes
        nothing."""
        os.pwrite(self._fd, bytes(4), layout.EXECUTOR_BELL_OFFSET)
        wake(self._address)


def wake(address: int) -> None:
    """Wake everyone who sleeps on the futex at an address that is mapped here."""
    _libc.syscall(
        ctypes.c_long(_SYS_FUTEX),
        ctypes.c_void_p(address),
        ctypes.c_int(_FUTEX_WAKE),
        ctypes.c_int(0x7FFFFFFF),
        None,
        None,
        ctypes.c_int(0),
    )


def read_word(fd: int, offset: int) -> int:
    """Return a u64 of the header page as it is now: for display only, the tenant may have written anything there."""
    value: int = struct.unpack("<Q", os.pread(fd, 8, offset))[0]
    return value


def mark_lost(fd: int) -> None:
    """Store `STATE_LOST` in the header and wake every thread that sleeps on the function's bell.

    Stores go through pwrite, not through a mapping: a tenant can punch the page out of a full memory cgroup, and then
    a store to a mapping would be a SIGBUS in the broker.
    """
    os.pwrite(fd, struct.pack("<I", layout.STATE_LOST), layout.STATE_OFFSET)
    bell = struct.unpack("<I", os.pread(fd, 4, layout.FUNCTION_BELL_OFFSET))[0]
    os.pwrite(fd, struct.pack("<I", (bell + 1) & 0xFFFFFFFF), layout.FUNCTION_BELL_OFFSET)
    with mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as page:
        anchor = ctypes.c_char.from_buffer(page)
        wake(ctypes.addressof(anchor) + layout.FUNCTION_BELL_OFFSET)
        del anchor
