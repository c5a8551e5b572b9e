"""Typed reads and writes at raw addresses, for the parameters of C functions.

Precondition of every function: the address is 0 or was passed by the caller of a CUDA function as a pointer to an
object of that type.
Writes to address 0 do nothing, because CUDA's optional outputs may be NULL.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence

from migproxy.errors import CudaError

_INVALID_VALUE = 1
_I32, _U32, _U64, _F32, _U8 = ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_float, ctypes.c_uint8


def put_i32(address: int, value: int) -> None:
    """Write an ``int``."""
    if address:
        _I32.from_address(address).value = value


def put_u32(address: int, value: int) -> None:
    """Write an ``unsigned int``."""
    if address:
        _U32.from_address(address).value = value


def put_u64(address: int, value: int) -> None:
    """Write a pointer, handle or ``size_t``."""
    if address:
        _U64.from_address(address).value = value


def put_u8(address: int, value: int) -> None:
    """Write one byte."""
    if address:
        _U8.from_address(address).value = value


def put_f32(address: int, value: float) -> None:
    """Write a ``float``."""
    if address:
        _F32.from_address(address).value = value


def put_bytes(address: int, data: bytes) -> None:
    """Write `data`."""
    if address:
        ctypes.memmove(address, data, len(data))


def put_string(address: int, capacity: int, text: bytes) -> None:
    """Write a C string into a buffer of `capacity` bytes, cut to fit, always terminated."""
    if address and capacity > 0:
        data = text[: capacity - 1] + b"\0"
        ctypes.memmove(address, data, len(data))


def _given(address: int) -> int:
    """Return a pointer that must not be NULL."""
    if not address:
        raise CudaError(_INVALID_VALUE, "a pointer is NULL")
    return address


def member(structure: int, offset: int) -> int:
    """Return the address of a member of a struct that must be given."""
    return _given(structure) + offset


def get_i32(address: int) -> int:
    """Read an ``int``."""
    return _I32.from_address(_given(address)).value


def get_u32(address: int) -> int:
    """Read an ``unsigned int``."""
    return _U32.from_address(_given(address)).value


def get_u64(address: int) -> int:
    """Read a pointer, handle or ``size_t``."""
    return _U64.from_address(_given(address)).value


def get_bytes(address: int, size: int) -> bytes:
    """Read `size` bytes."""
    return ctypes.string_at(_given(address), size) if size else b""


def get_string(address: int) -> bytes:
    """Read a C string; the null pointer is the empty string."""
    return ctypes.string_at(address) if address else b""


def get_u64_array(address: int, count: int) -> list[int]:
    """Read an array of pointers, handles or ``size_t``."""
    return list((_U64 * count).from_address(_given(address))) if count else []


def put_u64_array(address: int, values: Sequence[int]) -> None:
    """Write an array of pointers or handles."""
    if address and values:
        (_U64 * len(values)).from_address(address)[:] = list(values)


class Strings:
    """C strings that live as long as the process, for functions that return ``const char *``."""

    def __init__(self) -> None:
        self._buffers: dict[bytes, ctypes.Array[ctypes.c_char]] = {}

    def address(self, text: bytes) -> int:
        """Return the address of a terminated copy of `text`, always the same one."""
        buffer = self._buffers.get(text)
        if buffer is None:
            buffer = self._buffers.setdefault(text, ctypes.create_string_buffer(text))
        return ctypes.addressof(buffer)


class LentArrays:
    """Arrays of handles that callers read through an address; the last ones stay valid."""

    def __init__(self, kept: int = 64) -> None:
        self._arrays: deque[ctypes.Array[ctypes.c_uint64]] = deque(maxlen=kept)

    def address(self, values: Sequence[int]) -> int:
        """Return the address of an array of `values`, 0 for an empty one."""
        if not values:
            return 0
        array = (_U64 * len(values))(*values)
        self._arrays.append(array)
        return ctypes.addressof(array)


class Cell:
    """A 64-bit word that C functions write to."""

    def __init__(self) -> None:
        self._word = _U64()
        self.address = ctypes.addressof(self._word)

    @property
    def value(self) -> int:
        """What was written."""
        return self._word.value


class Buffer:
    """Bytes that C functions write to."""

    def __init__(self, size: int) -> None:
        self._bytes = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._bytes)


class KernelArguments:
    """A kernel's packed parameters with the ``void *[]`` that points at them."""

    def __init__(self, packed: bytes, parameters: Sequence[tuple[int, int]]) -> None:
        self._data = ctypes.create_string_buffer(packed, max(1, len(packed)))
        base = ctypes.addressof(self._data)
        self._pointers = (_U64 * max(1, len(parameters)))(*[base + offset for offset, _ in parameters])
        self.address = ctypes.addressof(self._pointers) if parameters else 0


def call_stream_callback(function: int, stream: int, status: int, user_data: int) -> None:
    """Call a C ``void (CUstream, CUresult, void *)``. Precondition: `function` is such a function's address."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(function)(stream, status, user_data)


def call_host_function(function: int, user_data: int) -> None:
    """Call a C ``void (void *)``. Precondition: `function` is such a function's address."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(user_data)


def call_size_function(function: int, block_size: int) -> int:
    """Call a C ``size_t (int)``. Precondition: `function` is such a function's address."""
    result: int = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)(function)(block_size)
    return result


_FunctionPointer = ctypes.CDLL(None)._FuncPtr


def c_library_function(address: int) -> object:
    """Return what ``ctypes.CDLL(...).name`` would be for a function at `address`."""
    return _FunctionPointer(address)
