"""Raw copies between addresses and bytes. Precondition of every function: the ranges named are mapped in this
process."""

from __future__ import annotations

import ctypes

copy = ctypes.memmove  # (destination, source, bytes); releases the GIL while it copies


def copy_in(address: int, data: bytes) -> None:
    """Write `data` at `address`."""
    ctypes.memmove(address, data, len(data))


def copy_out(address: int, size: int) -> bytes:
    """Return the `size` bytes at `address`."""
    return ctypes.string_at(address, size)


def read_u64(address: int) -> int:
    """Return the unsigned 64-bit integer at `address`."""
    return ctypes.c_uint64.from_address(address).value


def read_u32(address: int) -> int:
    """Return the unsigned 32-bit integer at `address`."""
    return ctypes.c_uint32.from_address(address).value
