"""Arena memory for user code: page-locked host memory as a buffer."""

from __future__ import annotations

import ctypes

from migproxy.errors import UsageError
from migproxy.session.api.memory import forget_host_block, note_host_block
from migproxy.session.session import current


def mignificient_malloc(size: int) -> memoryview:
    """Allocate `size` bytes of the session's arena.

    The executor's GPU copies from it and to it directly, asynchronously when asked to; kernels reach it at its own
    address.

    Parameters
    ----------
    size : int
        Bytes, at least 1.

    Returns
    -------
    memoryview
        Writable, one byte an item; ``numpy.frombuffer`` and friends take it. It stays valid until `mignificient_free`.

    Raises
    ------
    UsageError
        `size` is not positive.
    CudaError
        2 when the arena is full and cannot grow.
    """
    if size <= 0:
        raise UsageError(f"mignificient_malloc needs a size of at least 1 byte, not {size}")
    address = current().allocate(size)
    note_host_block(address, size)
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def mignificient_free(buffer: memoryview) -> None:
    """Free what `mignificient_malloc` returned; waits for nothing, so copies from and to it must be done.

    Raises
    ------
    UsageError
        `buffer` is not the start of a block of `mignificient_malloc`.
    """
    address = ctypes.addressof(ctypes.c_ubyte.from_buffer(buffer))
    if forget_host_block(address) is None:
        raise UsageError("mignificient_free takes the buffer that mignificient_malloc returned")
    current().heap.free(address)
