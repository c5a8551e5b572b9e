"""Reading compiled objects and host memory by address.

Preconditions are stated per function; a wrong address ends the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

_OBJECT_HEADER = 16


def trailing_ints(value: object, count: int) -> tuple[int, ...]:
    """Return the ``count`` C ints that follow an extension object's header.

    Precondition: `value` is an instance of an extension class without C methods whose first fields are these ints.
    """
    size = type(value).__basicsize__
    if size < _OBJECT_HEADER + 4 * count:
        raise TypeError(f"{type(value).__name__} is too small for {count} ints")
    return tuple((ctypes.c_int * count).from_address(id(value) + _OBJECT_HEADER))


def read_host(address: int, size: int) -> bytes:
    """Copy host memory. Precondition: the range is readable."""
    return ctypes.string_at(address, size)


def write_host(address: int, data: bytes) -> None:
    """Write host memory. Precondition: the range is writable."""
    ctypes.memmove(address, data, len(data))


def buffer(size: int) -> Any:
    """Return zeroed host memory; it lives as long as the object."""
    return (ctypes.c_ubyte * max(size, 1))()


def buffer_of(data: bytes) -> Any:
    """Return host memory that holds a copy of the bytes; it lives as long as the object."""
    return (ctypes.c_ubyte * len(data)).from_buffer_copy(data)


def address_of(memory: Any) -> int:
    """Return a buffer's address."""
    return ctypes.addressof(memory)


def c_function(module: ModuleType, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Return a callable for a C function that a module exports; it is called with the GIL.

    Precondition: `result` and `arguments` are the ctypes types of the capsule's signature.
    """
    capsule = module.__pyx_capi__[name]
    # Not `ctypes.pythonapi`: the types set on its functions are everybody's.
    api = ctypes.PyDLL(None)
    get_name = api.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = api.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.PYFUNCTYPE(result, *arguments)(get_pointer(capsule, get_name(capsule)))


@cache
def _stream_functions() -> tuple[Callable[..., int], Callable[..., Any]]:
    import cupy_backends.cuda.stream as stream

    return (
        c_function(stream, "get_current_stream_ptr", ctypes.c_ssize_t),
        c_function(stream, "set_current_stream_ptr", ctypes.py_object, ctypes.c_ssize_t, ctypes.c_void_p),
    )


def current_stream() -> int:
    """Return the calling thread's current CuPy stream, from the thread-local that the library modules use."""
    return _stream_functions()[0]()


def set_current_stream(stream: int) -> None:
    """Set the calling thread's current stream for the library modules."""
    _stream_functions()[1](stream, None)
