"""Segments of an arena: sealed memfds, and where they are mapped.

Every segment lies at the same address in function and executor. Both sides first reserve the whole window without
access, so that
nothing else gets into it, and then map segments over the reservation one after another.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import random

from migproxy.abi.protocol import WINDOW_ALIGN, WINDOW_BASE, WINDOW_END

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_mmap.restype = ctypes.c_void_p
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def create(name: str, size: int) -> int:
    """Make a memfd of `size` bytes, sealed against shrinking and growing; returns its descriptor.

    Whoever holds it can still write and punch holes: contents are never trusted.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def _map(address: int, size: int, protection: int, flags: int, fd: int) -> int:
    result = _mmap(address, size, protection, flags, fd, 0)
    if result == _FAILED or result is None:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap of {size} bytes at {address:#x}: {os.strerror(number)}")
    if address and result != address:
        # Kernels before 4.17 ignore MAP_FIXED_NOREPLACE and take the address for a hint.
        _munmap(result, size)
        raise OSError(17, f"mmap of {size} bytes at {address:#x}: the range is in use")
    return int(result)


def private_memory(size: int) -> int:
    """Return the address of fresh zero pages of this process alone; pages that are never touched cost nothing."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return _map(0, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)


def map_private_over(address: int, size: int) -> None:
    """Replace whatever this process has mapped there by zero pages of its own."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    _map(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)


def reserve_at(address: int, size: int) -> None:
    """Reserve address space without access at a fixed address.

    Raises
    ------
    OSError
        Part of the range is in use.
    """
    if size:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
        _map(address, size, 0, flags, -1)


def release(address: int, size: int) -> None:
    """Give address space back."""
    if size:
        _munmap(address, size)


def map_over(fd: int, address: int, size: int) -> None:
    """Map a segment over address space that this process reserved before.

    Raises
    ------
    OSError
        The mapping failed, or `fd` holds fewer than `size` bytes.
    """
    if os.fstat(fd).st_size < size:
        raise OSError(22, f"a segment of {size} bytes was announced, its descriptor holds {os.fstat(fd).st_size}")
    _map(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd)


def find_window(size: int, attempts: int = 64) -> int:
    """Return the start of `size` bytes of free address space among the windows; they are *not* reserved on return.

    Raises
    ------
    OSError
        No free window was found.
    """
    spots = (WINDOW_END - WINDOW_BASE - size) // WINDOW_ALIGN
    chooser = random.SystemRandom()
    for _ in range(attempts):
        address = WINDOW_BASE + chooser.randrange(spots) * WINDOW_ALIGN
        try:
            reserve_at(address, size)
        except OSError:
            continue
        release(address, size)
        return address
    raise OSError(12, f"no {size} bytes of free address space between {WINDOW_BASE:#x} and {WINDOW_END:#x}")
