"""NumPy views of raw addresses: the one place where the math libraries turn an integer into memory.

Software-GPU memory is ordinary memory of the executor, so a view costs nothing and a result lands where the caller's
pointer says. A wrong address would end the process; therefore every view is announced to a *guard* first, which the
device's memory manager can install and which raises the illegal-address error for a range that lies in the device's
address space but outside of the session's memory. It sees host memory too (alpha, beta, results) and lets it pass.

Preconditions of every function here: the address range is mapped and stays so while the view lives; views must not
outlive the library call that made them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from migproxy.errors import CudaError
from migproxy.softgpu import written_unsafe as written

Array = npt.NDArray[Any]
Guard = Callable[[int, int], None]

ILLEGAL_ADDRESS = 700
# No mapping of a process starts below this: an address that small is a null pointer plus an offset.
LOWEST = 65536


class InvalidLayout(ValueError):
    """A negative extent, or a leading dimension smaller than a column; a library answers with its invalid value."""


_guard: Guard | None = None


def set_guard(guard: Guard | None) -> Guard | None:
    """Install the check ``guard(address, nbytes)`` that every view passes first; returns the one before it."""
    global _guard
    before, _guard = _guard, guard
    return before


def memory(address: int, nbytes: int) -> Any:
    """Return a writable ctypes buffer over ``[address, address + nbytes)``.

    Raises
    ------
    CudaError
        Illegal address, for a null pointer or by the guard's word.
    """
    if address < LOWEST:
        raise CudaError(ILLEGAL_ADDRESS, f"a library was given address {address:#x}")
    if _guard is not None:
        _guard(address, nbytes)
    written.mark(address, nbytes)  # a library may write whatever it looks at
    return (ctypes.c_ubyte * nbytes).from_address(address)


def array(address: int, shape: Sequence[int] | int, dtype: npt.DTypeLike) -> Array:
    """Return a C-contiguous view; an empty shape product touches no memory."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for extent in shape:
        count *= extent
    if count <= 0:
        return np.empty(shape, dtype)
    return np.frombuffer(memory(address, count * dtype.itemsize), dtype).reshape(shape)


def strided(address: int, shape: Sequence[int], strides: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return a view with non-negative byte strides, touching exactly the bytes that the shape reaches."""
    dtype = np.dtype(dtype)
    if any(extent < 0 for extent in shape) or any(stride < 0 for stride in strides):
        raise InvalidLayout(f"shape {tuple(shape)}, strides {tuple(strides)}")
    if any(extent == 0 for extent in shape):
        return np.empty(tuple(shape), dtype)
    span = dtype.itemsize + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    return np.ndarray(tuple(shape), dtype, memory(address, span), 0, tuple(strides))


def _check_leading_dimension(rows: int, ld: int) -> None:
    if ld < max(rows, 1):
        raise InvalidLayout(f"leading dimension {ld} for {rows} rows")


def matrix(address: int, rows: int, columns: int, ld: int, dtype: npt.DTypeLike) -> Array:
    """Return a column-major matrix of the given leading dimension."""
    _check_leading_dimension(rows, ld)
    size = np.dtype(dtype).itemsize
    return strided(address, (rows, columns), (size, ld * size), dtype)


def matrices(address: int, count: int, stride: int, rows: int, columns: int, ld: int, dtype: npt.DTypeLike) -> Array:
    """Return a batch ``(count, rows, columns)`` of column-major matrices, ``stride`` elements apart."""
    _check_leading_dimension(rows, ld)
    size = np.dtype(dtype).itemsize
    return strided(address, (count, rows, columns), (stride * size, size, ld * size), dtype)


def vector(address: int, n: int, increment: int, dtype: npt.DTypeLike) -> Array:
    """Return a BLAS vector; a negative increment runs backwards from the far end, as BLAS defines it."""
    size = np.dtype(dtype).itemsize
    if increment < 0:
        return strided(address, (n,), (-increment * size,), dtype)[::-1]
    return strided(address, (n,), (increment * size,), dtype)


def read(address: int, dtype: npt.DTypeLike) -> Any:
    """Return the scalar at an address as a NumPy scalar."""
    return array(address, 1, dtype)[0]


def write(address: int, value: Any, dtype: npt.DTypeLike) -> None:
    """Store a scalar at an address."""
    array(address, 1, dtype)[0] = value


def pointers(address: int, count: int) -> list[int]:
    """Return the addresses in an array of pointers."""
    return [int(value) for value in array(address, count, np.uint64)]


def address_of(view: Array) -> int:
    """Return the address of an array's first element."""
    return int(view.__array_interface__["data"][0])
