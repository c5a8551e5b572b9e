"""C values with addresses, for adapters that write through pointers."""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

#: Tests write ``string(b"x").at``: the values stay alive beyond the expression, as C callers' variables do.
_kept: deque[object] = deque(maxlen=1000)


class Out:
    """An output parameter: ``Out(ctypes.c_int)``; ``.at`` is its address, ``.value`` what was written."""

    def __init__(self, kind: Any = ctypes.c_uint64, value: int = 0) -> None:
        self._cell = kind(value)
        self.at = ctypes.addressof(self._cell)
        _kept.append(self._cell)

    @property
    def value(self) -> Any:
        return self._cell.value


class Bytes:
    """A buffer with an address."""

    def __init__(self, data: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(data, max(1, len(data)))
        self.at = ctypes.addressof(self._buffer)
        _kept.append(self._buffer)

    @property
    def data(self) -> bytes:
        return self._buffer.raw


def string(text: bytes) -> Bytes:
    """A C string."""
    return Bytes(text + b"\0")


def pointers(*addresses: int) -> Bytes:
    """An array of pointers."""
    return Bytes(b"".join(a.to_bytes(8, "little") for a in addresses))
