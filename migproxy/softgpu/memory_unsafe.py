"""The one place where the software GPU's driver touches raw addresses.

Every function trusts its addresses: the caller must have checked that ``[address, address + size)`` is mapped with the
access that the function needs. A wrong address kills the process.
"""

from __future__ import annotations

import ctypes
import mmap as _mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)

PAGE = _mmap.PAGESIZE
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
_MAP_SHARED = 0x01
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE, _MAP_FIXED_NOREPLACE = 0x02, 0x10, 0x20, 0x4000, 0x100000
_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4
_MADV_HUGEPAGE = 14
_MAP_FAILED = ctypes.c_void_p(-1).value

#: ``memset(destination, byte, size)``, which releases the GIL.
memset = ctypes.memset
_memmove_small: Any = ctypes.PyDLL(None).memmove
_memmove_small.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memmove_small.restype = None
_SMALL = 16384


def memmove(destination: int, source: int, size: int) -> None:
    """Copy ``size`` bytes; outside the GIL when that takes longer than giving the GIL up and getting it back."""
    if size <= _SMALL:
        _memmove_small(destination, source, size)
    else:
        ctypes.memmove(destination, source, size)


_u8 = ctypes.c_uint8.from_address
_u16 = ctypes.c_uint16.from_address
_u32 = ctypes.c_uint32.from_address
_i32 = ctypes.c_int32.from_address
_u64 = ctypes.c_uint64.from_address
_f32 = ctypes.c_float.from_address


def read_u32(address: int) -> int:
    return _u32(address).value


def read_i32(address: int) -> int:
    return _i32(address).value


def read_u64(address: int) -> int:
    return _u64(address).value


def write_u8(address: int, value: int) -> None:
    _u8(address).value = value


def write_u16(address: int, value: int) -> None:
    _u16(address).value = value


def write_u32(address: int, value: int) -> None:
    _u32(address).value = value


def write_i32(address: int, value: int) -> None:
    _i32(address).value = value


def write_u64(address: int, value: int) -> None:
    _u64(address).value = value


def write_f32(address: int, value: float) -> None:
    _f32(address).value = value


def read_bytes(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def write_bytes(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def read_string(address: int) -> bytes:
    """Read a NUL-terminated string."""
    return ctypes.string_at(address)


def read_array_u64(address: int, count: int) -> list[int]:
    """Read ``count`` 64-bit values, e.g. the ``kernelParams`` of a launch."""
    return list((ctypes.c_uint64 * count).from_address(address))


def read_array_u32(address: int, count: int) -> list[int]:
    return list((ctypes.c_uint32 * count).from_address(address))


def write_array_u64(address: int, values: Sequence[int]) -> None:
    (ctypes.c_uint64 * len(values)).from_address(address)[:] = list(values)


def unpack(layout: struct.Struct, address: int) -> tuple[int, ...]:
    """Read a C struct by its :mod:`struct` layout."""
    return layout.unpack(ctypes.string_at(address, layout.size))


def fill(address: int, value: int, width: int, count: int) -> None:
    """Write ``value`` as ``count`` little-endian elements of ``width`` (1, 2 or 4) bytes, outside the GIL.

    Memory is doubled in place by ``memmove``, so that even gigabytes cost a handful of calls.
    """
    if count <= 0:
        return
    unit = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    if len(set(unit)) == 1:
        memset(address, unit[0], width * count)
        return
    total = width * count
    done = min(total, 65536)
    write_bytes(address, unit * (done // width))
    while done < total:
        step = min(done, total - done)
        memmove(address + done, address, step)
        done += step


class Box:
    """A three-dimensional block of bytes in memory: rows of ``width`` at ``pitch``, planes at ``plane``."""

    __slots__ = ("address", "pitch", "plane")

    def __init__(self, address: int, pitch: int, plane: int) -> None:
        self.address = address
        self.pitch = pitch
        self.plane = plane

    def span(self, width: int, height: int, depth: int) -> int:
        """Bytes from the first to the last one that a copy of this extent touches."""
        return self.plane * (depth - 1) + self.pitch * (height - 1) + width

    def view(
        self, width: int, height: int, depth: int, dtype: str = "u1"
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """The bytes, or elements of ``dtype``, as a NumPy array over the memory."""
        item = np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_uint8 * self.span(width * item, height, depth)).from_address(self.address)
        return np.ndarray((depth, height, width), dtype, memory, 0, (self.plane, self.pitch, item))


def copy_box(destination: Box, source: Box, width: int, height: int, depth: int) -> None:
    """Copy ``depth`` planes of ``height`` rows of ``width`` bytes, outside the GIL."""
    if width <= 0 or height <= 0 or depth <= 0:
        return
    if depth == 1 and (height == 1 or destination.pitch == source.pitch == width):
        memmove(destination.address, source.address, width * height)
        return
    destination.view(width, height, depth)[...] = source.view(width, height, depth)


def fill_box(address: int, pitch: int, value: int, width_bytes: int, width: int, height: int) -> None:
    """Write ``value`` to ``height`` rows of ``width`` elements of ``width_bytes``."""
    if width <= 0 or height <= 0:
        return
    Box(address, pitch, 0).view(width, height, 1, f"<u{width_bytes}")[...] = value & ((1 << 8 * width_bytes) - 1)


#: Array types by length: making one costs more than making an array of it.
_buffer_types: dict[int, type[ctypes.Array[ctypes.c_char]]] = {}


class Buffer:
    """A block of ordinary memory, aligned for vector loads, that lives as long as this object."""

    __slots__ = ("_memory", "address", "size")

    def __init__(self, size: int, alignment: int = 64) -> None:
        kind = _buffer_types.get(size + alignment)
        if kind is None:
            kind = _buffer_types.setdefault(size + alignment, ctypes.c_char * (size + alignment))
        self._memory = kind()
        start = ctypes.addressof(self._memory)
        self.address = -(-start // alignment) * alignment
        self.size = size


class CString:
    """A NUL-terminated string at a fixed address, for functions that hand out ``const char *``."""

    __slots__ = ("_memory", "address")

    def __init__(self, text: str) -> None:
        self._memory = ctypes.create_string_buffer(text.encode())
        self.address = ctypes.addressof(self._memory)


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def reserve(size: int, hint: int = 0) -> int:
    """Reserve address space without access or memory; at ``hint`` when that range is free.

    Raises
    ------
    OSError
        When the kernel refuses.
    """
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    if hint:
        at = _libc.mmap(hint, size, PROT_NONE, flags | _MAP_FIXED_NOREPLACE, -1, 0)
        if at == hint:
            return hint
        if at is not None and at != _MAP_FAILED:
            _libc.munmap(at, size)
    address = _libc.mmap(None, size, PROT_NONE, flags, -1, 0)
    if address is None or address == _MAP_FAILED:
        raise _failed()
    return int(address)


def unreserve(address: int, size: int) -> None:
    """Give address space back; nothing may use it any more."""
    if _libc.munmap(address, size) != 0:
        raise _failed()


def protect(address: int, size: int, protection: int) -> None:
    if _libc.mprotect(address, size, protection) != 0:
        raise _failed()


def advise_huge(address: int, size: int) -> None:
    """Ask for huge pages; a kernel without them ignores it."""
    _libc.madvise(address, size, _MADV_HUGEPAGE)


def discard(address: int, size: int) -> None:
    """Drop the pages and the access of a reserved range in one step: it reads as absent, later as zero."""
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    if _libc.mmap(address, size, PROT_NONE, flags, -1, 0) != address:
        raise _failed()


def map_file(address: int, size: int, fd: int, protection: int) -> None:
    """Map a file over a reserved range; the file is as long and does not shrink."""
    if _libc.mmap(address, size, protection, _MAP_SHARED | _MAP_FIXED, fd, 0) != address:
        raise _failed()


#: Zeros of a file need not be written, so memory that nobody used stays none.
_STEP = 1 << 16
_ZEROS = bytes(_STEP)


def copy_to_file(fd: int, address: int, size: int) -> None:
    """Write memory to an empty file of the same size."""
    for offset in range(0, size, _STEP):
        piece = read_bytes(address + offset, min(_STEP, size - offset))
        if piece != _ZEROS:
            os.pwrite(fd, piece, offset)


def move_pages(source: int, destination: int, size: int) -> None:
    """Move the pages of ``source`` to ``destination``; both are reserved by us, and ``source`` stays reserved.

    ``destination`` has ``source``'s protection afterwards. Where the kernel can't move (another protection in the
    middle, or before Linux 5.7) the bytes are copied.
    """
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP
    if _libc.mremap(source, size, size, flags, destination) != destination:
        discard(destination, size)
        protect(source, size, PROT_READ | PROT_WRITE)
        protect(destination, size, PROT_READ | PROT_WRITE)
        memmove(destination, source, size)
    discard(source, size)
