"""What each argument of a launch becomes: a part of the key that selects a plan, and bytes of the kernel's parameters.

Numba decides both in Python at every launch. Here they are decided once: for an array of Numba's when it is first seen
(`device_words`), for CuPy's once for a data type, shape and strides (`Layouts`), for a scalar once for its class and
the kernel's type (`scalar_converter`). Whoever makes a plan holds the bytes against Numba's own (`plans.learn`).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Convert = Callable[[Any], bytes]

#: Words of an array's parameters before its shape: meminfo, parent, items, bytes of an item, address.
_POINTER_WORD = 4
_WORD = 8
_MOST_LAYOUTS = 1024
_DOUBLE = struct.Struct("<d")
_FLOATS: dict[type, type] = {float: float, np.float64: float, np.float32: float, np.float16: float}
_INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
#: Classes of scalars whose Numba type follows from the class alone.
PLAIN_SCALARS = frozenset({int, float, complex, bool, np.bool_, np.complex64, np.complex128, *_FLOATS, *_INTEGERS})
#: Those whose type has a unit, which their data type tells.
TIMES = frozenset({np.datetime64, np.timedelta64})


class Words(NamedTuple):
    """An array as a launch needs it.

    Attributes
    ----------
    code : int
        Number of its Numba type.
    data : bytes
        Its parameters.
    """

    code: int
    data: bytes


class Layout(NamedTuple):
    """What arrays of one data type, shape and strides have in common: `Words` without the address."""

    code: int
    before: bytes
    after: bytes


def device_words(array: Any) -> Words | None:
    """Return the parameters of one of Numba's own device arrays; None for those that are left to Numba.

    The array's type and its view are kept by the array itself from the first launch on, so that changing its
    attributes later changes nothing there either.
    """
    view = array._strided_memory_view_shim
    strides = view._layout.strides_in_bytes
    if not view.ptr or len(strides) != len(view.shape):
        return None  # empty arrays have no address
    words = (0, 0, view.size, view.dtype.itemsize, view.ptr, *view.shape, *strides)
    return Words(array._numba_type_._code, b"".join(word.to_bytes(_WORD, "little", signed=word < 0) for word in words))


class Layouts:
    """The layouts of CuPy's arrays that a launch has met; which parameters they come to, Numba said then."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Layout] = {}

    def learn(self, array: Any, code: int, parts: list[bytes]) -> None:
        """Note what Numba made of an array; `parts` are its parameters one by one."""
        address = array.data.ptr
        if not address or len(parts) != _POINTER_WORD + 1 + 2 * array.ndim or any(len(part) != _WORD for part in parts):
            return
        if int.from_bytes(parts[_POINTER_WORD], "little") != address:
            return
        if len(self.known) >= _MOST_LAYOUTS:
            self.known.clear()
        layout = Layout(code, b"".join(parts[:_POINTER_WORD]), b"".join(parts[_POINTER_WORD + 1 :]))
        self.known[array.dtype, array.shape, array.strides] = layout


def encode(value: object) -> bytes | None:
    """Return the bytes that cuda.core passes for what Numba gives it; None for what is left to them."""
    if type(value) is int:
        return value.to_bytes(_WORD, "little", signed=value < 0) if -(1 << 63) <= value < 1 << 64 else None
    if type(value) is bool or isinstance(value, np.bool_):
        return bytes([bool(value)])
    return bytes(value) if isinstance(value, ctypes._SimpleCData) else None


def scalar_converter(types: Any, kind: type, wanted: Any) -> Convert | None:
    """Return what makes a scalar of class `kind` the bytes of a parameter of Numba type `wanted`.

    Parameters
    ----------
    types : ModuleType
        ``numba.cuda.types``.
    kind : type
    wanted : numba.cuda.types.Type

    Returns
    -------
    callable or None
        None for conversions that are left to Numba. What it raises means the same for one value.
    """
    if isinstance(wanted, types.Integer) and (kind is int or kind in _INTEGERS):
        return _integer(wanted.bitwidth // 8, kind)
    if wanted == types.float64 and kind in _FLOATS:
        return _DOUBLE.pack
    if wanted == types.float32 and kind in _FLOATS:
        return lambda value: bytes(ctypes.c_float(value))
    if wanted == types.float16 and kind in _FLOATS:
        return lambda value: np.float16(value).tobytes()
    if wanted == types.boolean and kind in (bool, np.bool_):
        return lambda value: b"\1" if value else b"\0"
    if wanted in (types.complex64, types.complex128) and kind in (complex, np.complex64, np.complex128):
        single = wanted == types.complex64
        part = ctypes.c_float if single else ctypes.c_double
        return lambda value: bytes(part(value.real)) + bytes(part(value.imag))
    if isinstance(wanted, (types.NPDatetime, types.NPTimedelta)) and kind in TIMES:
        return lambda value: value.view(np.int64).tobytes()
    return None


def _integer(size: int, kind: type) -> Convert:
    if kind is int and size == _WORD:
        # Beyond 64 bits with a sign Numba takes another type: OverflowError says so.
        return lambda value: value.to_bytes(_WORD, "little", signed=True)
    if kind is int:
        return lambda value: value.to_bytes(_WORD, "little", signed=True)[:size]
    mask = (1 << 8 * size) - 1
    return lambda value: (int(value) & mask).to_bytes(size, "little")


def padded(convert: Convert, size: int) -> Convert:
    """Return `convert` with zeros behind its bytes, up to the next parameter."""
    return lambda value: convert(value).ljust(size, b"\0")
