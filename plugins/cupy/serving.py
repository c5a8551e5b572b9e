"""Library functions whose arguments need more than the tables say: arrays, plans, generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from migproxy.errors import MigproxyError, ProtocolError

CUB = "cupy.cuda.cub"
THRUST = "cupy.cuda.thrust"


class UnknownObject(MigproxyError):
    """A number that stands for no object."""


class Serving:
    """What the functions here use of a `Server`."""

    context: Any
    software: bool
    objects: dict[int, tuple[str, Any]]

    def module(self, name: str) -> Any:
        """Return the module that carries out a library's calls."""
        raise NotImplementedError

    def object(self, number: Any) -> Any:
        """Return the real object behind a number of the function.

        Raises
        ------
        UnknownObject
            When there is none: a destroyed handle is the caller's mistake, and the library's error, natively too.
        """
        found = self.objects.get(self.integer(number))
        if found is None:
            raise UnknownObject(f"no object {number:#x}")
        return found[1]

    def lend(self, *buffers: Any) -> None:
        """Say which of the executor's own buffers this call's library function may read and write."""
        raise NotImplementedError

    @staticmethod
    def integer(value: Any) -> int:
        """Return an argument that must be an integer."""
        if not isinstance(value, int):
            raise ProtocolError(f"{value!r} is no integer")
        return value

    def array(self, value: Any) -> Any:
        """Return a view of a device array that a stand-in described, after checking that it lies in the session's
        memory; an array that `prepare` made already is returned as it is.
        """
        if not isinstance(value, dict) and hasattr(value, "strides"):
            return value
        try:
            pointer, shape, strides, kind = value["__array__"]
            dtype = np.dtype(kind)
            extents = [(int(extent), int(stride)) for extent, stride in zip(shape, strides, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"no array: {value!r}") from error
        if dtype.hasobject or any(extent < 0 for extent, _ in extents):
            raise ProtocolError(f"no array: {value!r}")
        low = sum((extent - 1) * stride for extent, stride in extents if stride < 0 and extent)
        high = sum((extent - 1) * stride for extent, stride in extents if stride > 0 and extent)
        empty = any(extent == 0 for extent, _ in extents)
        size = 0 if empty else high - low + dtype.itemsize
        if size:
            self.context.check_range(pointer + low, size)
        if self.software:
            return self._software_view(pointer, low, size, shape, strides, dtype)
        import cupy

        memory = cupy.cuda.UnownedMemory(pointer + low, size, None, 0)
        return cupy.ndarray(tuple(shape), dtype, cupy.cuda.MemoryPointer(memory, -low), tuple(strides))

    @staticmethod
    def _software_view(pointer: int, low: int, size: int, shape: Any, strides: Any, dtype: Any) -> Any:
        from migproxy.softgpu.libraries import views_unsafe

        if not size:
            return np.empty(tuple(shape), dtype)
        memory = views_unsafe.memory(pointer + low, size)
        return np.ndarray(tuple(shape), dtype, memory, -low, tuple(strides))

    def operation(self, value: Any) -> Any:
        """Return CUB's operation of a number."""
        try:
            return self.module(CUB).cupy_cub_op(value)
        except ValueError as error:
            raise ProtocolError(str(error)) from error


Extra = Callable[..., Any]
EXTRA: dict[tuple[str, str], Extra] = {}
#: Functions that touch no device memory: they need not wait for a stream, and may be called while one is captured.
HOST_ONLY: set[tuple[str, str]] = set()


def serves(library: str, *names: str, host_only: bool = False) -> Callable[[Extra], Extra]:
    """Register the decorated function for functions of a library."""

    def register(function: Extra) -> Extra:
        for name in names:
            EXTRA[library, name] = function
            if host_only:
                HOST_ONLY.add((library, name))
        return function

    return register


@serves(CUB, "device_reduce")
def _device_reduce(server: Serving, x: Any, op: Any, reduced: Any, kept: Any, out: Any, keepdims: Any) -> None:
    server.module(CUB).device_reduce(
        server.array(x), server.operation(op), tuple(reduced), tuple(kept), server.array(out), bool(keepdims)
    )


@serves(CUB, "device_segmented_reduce")
def _device_segmented_reduce(
    server: Serving, x: Any, op: Any, reduced: Any, kept: Any, out: Any, keepdims: Any, size: Any
) -> None:
    server.module(CUB).device_segmented_reduce(
        server.array(x), server.operation(op), tuple(reduced), tuple(kept), server.array(out), bool(keepdims), size
    )


@serves(CUB, "device_scan")
def _device_scan(server: Serving, x: Any, op: Any) -> None:
    server.module(CUB).device_scan(server.array(x), server.operation(op))


@serves(CUB, "device_histogram")
def _device_histogram(server: Serving, x: Any, y: Any, bins: Any) -> None:
    edges = server.integer(bins) if isinstance(bins, int) else server.array(bins)
    server.module(CUB).device_histogram(server.array(x), server.array(y), edges)


def _check(server: Serving, pointer: int, dtype: Any, shape: Any) -> None:
    count = 1
    for extent in shape:
        count *= server.integer(extent)
    if count:
        server.context.check_range(pointer, count * np.dtype(dtype).itemsize)


@serves(THRUST, "sort")
def _sort(server: Serving, dtype: str, data: int, keys: int, shape: Any) -> None:
    _check(server, data, dtype, shape)
    if keys:
        _check(server, keys, np.uint64, shape)
    server.module(THRUST).sort(np.dtype(dtype), data, keys, tuple(shape))


@serves(THRUST, "argsort")
def _argsort(server: Serving, dtype: str, index: int, data: int, keys: int, shape: Any) -> None:
    _check(server, data, dtype, shape)
    _check(server, index, np.int64, shape)
    if keys:
        _check(server, keys, np.uint64, shape)
    server.module(THRUST).argsort(np.dtype(dtype), index, data, keys, tuple(shape))


@serves(THRUST, "lexsort")
def _lexsort(server: Serving, dtype: str, index: int, keys: int, k: int, n: int) -> None:
    _check(server, keys, dtype, (k, n))
    _check(server, index, np.int64, (n,))
    server.module(THRUST).lexsort(np.dtype(dtype), index, keys, k, n)
