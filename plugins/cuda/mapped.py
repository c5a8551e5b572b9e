"""Copies and memsets at device addresses that are host memory: page-locked and managed memory has one address on
both sides.

The session's copies distinguish host from device memory; here a device address may be either, as for the driver.
"""

from __future__ import annotations

from migproxy_plugins.cuda.memory_unsafe import put_bytes

from migproxy.errors import CudaError
from migproxy.session import api


def _is_mapped(pointer: int) -> bool:
    """Whether `pointer` is page-locked host memory, which the device sees at the same address."""
    facts = api.pointer_facts(pointer)
    return facts.memory_type == 1 or facts.managed


def to_device(destination: int, source: int, size: int, stream: int | None = None) -> None:
    """Copy from the host to a device address, which may be that of page-locked host memory."""
    try:
        api.memcpy_htod(destination, source, size, stream)
    except CudaError:
        if not _is_mapped(destination):
            raise
        api.memcpy(destination, source, size, stream or 0)


def to_host(destination: int, source: int, size: int, stream: int | None = None) -> None:
    """Copy to the host from a device address, which may be that of page-locked host memory."""
    try:
        api.memcpy_dtoh(destination, source, size, stream)
    except CudaError:
        if not _is_mapped(source):
            raise
        api.memcpy(destination, source, size, stream or 0)


def on_device(destination: int, source: int, size: int, stream: int | None = None) -> None:
    """Copy between device addresses, which may be those of page-locked host memory."""
    try:
        api.memcpy_dtod(destination, source, size, stream)
    except CudaError:
        if not _is_mapped(destination) and not _is_mapped(source):
            raise
        api.memcpy(destination, source, size, stream or 0)


def fill(width: int, pointer: int, value: int, count: int, stream: int | None) -> None:
    """Set `count` elements of `width` bytes at a device address, which may be that of page-locked host memory."""
    try:
        api.memset(pointer, value, width, count, stream)
    except CudaError:
        if not _is_mapped(pointer):
            raise
        api.stream_synchronize(stream or 0)
        put_bytes(pointer, value.to_bytes(width, "little") * count)
