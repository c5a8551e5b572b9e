"""Calls of the compilers' own C functions through their addresses.

Preconditions: the address is a function that takes `arity` integers or pointers and returns an ``int``, and the
arguments are what it expects.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence


class CFunction:
    """A C function of integers that returns an ``int``; it runs without the GIL, for compiling takes long."""

    def __init__(self, address: int, arity: int) -> None:
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * arity)(address)

    def __call__(self, *arguments: int) -> int:
        status: int = self._function(*arguments)
        return status


class Buffer:
    """A buffer of our own whose address a C function gets."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._buffer)

    @property
    def data(self) -> bytes:
        """All its bytes."""
        return self._buffer.raw


class CStrings:
    """A ``const char *[]``."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._array = (ctypes.c_char_p * max(1, len(texts)))(*texts)
        self.count = len(texts)
        self.address = ctypes.addressof(self._array)
