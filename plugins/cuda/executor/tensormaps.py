"""The executor's half of tensor maps: the driver encodes them; kernels reach through them what their context maps."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from migproxy.errors import CudaError, ProtocolError

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_SIZE, _ALIGNMENT = 128, 64  # CUtensorMap
_INVALID_VALUE = 1
_RANKS = range(1, 6)
_U64 = (1 << 64) - 1
#: How many arrays of 32-bit integers, and how many integers after them, come before the element strides, and how many
#: integers after those.
_SHAPES: Final = {
    "cuTensorMapEncodeTiled": ((3,), 0, 4),
    "cuTensorMapEncodeIm2col": ((1, 2), 2, 4),
    "cuTensorMapEncodeIm2colWide": ((), 4, 5),
}
TENSOR_MAP_FUNCTIONS: Final = frozenset({*_SHAPES, "cuTensorMapReplaceAddress"})


class _Map:
    """Memory for one tensor map, aligned as the driver wants it."""

    def __init__(self, data: bytes = bytes(_SIZE)) -> None:
        self._buffer = ctypes.create_string_buffer(_SIZE + _ALIGNMENT)
        self._offset = -ctypes.addressof(self._buffer) % _ALIGNMENT
        self.address = ctypes.addressof(self._buffer) + self._offset
        self._buffer[self._offset : self._offset + _SIZE] = data

    @property
    def data(self) -> bytes:
        return bytes(self._buffer[self._offset : self._offset + _SIZE])


def _array(values: Any, count: int, kind: Any) -> Any:
    if not isinstance(values, list) or len(values) != count or not all(isinstance(value, int) for value in values):
        raise ProtocolError(f"{count} integers were expected")
    return (kind * max(count, 1))(*values)


def serve_tensor_map(
    driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]
) -> tuple[int, tuple[Any, ...]]:
    """Carry out one of `TENSOR_MAP_FUNCTIONS`; see `executor.serve`."""
    if name == "cuTensorMapReplaceAddress":
        if len(packed) != 2 or not isinstance(packed[0], bytes) or len(packed[0]) != _SIZE:
            raise ProtocolError("a tensor map and an address were expected")
        changed = _Map(packed[0])
        status = driver.status(name, changed.address, _array([packed[1]], 1, ctypes.c_uint64)[0])
        return (status, ()) if status else (0, (changed.data,))
    if len(packed) != 9:
        raise ProtocolError(f"{name}: {len(packed)} arguments")
    kind, rank, address = _array(packed[0], 3, ctypes.c_uint64)
    if rank not in _RANKS:
        raise CudaError(_INVALID_VALUE, f"a tensor of {rank} dimensions")
    arrays, before, after = _SHAPES[name]
    kept = [_array(packed[1], rank, ctypes.c_uint64), _array(packed[2], rank - 1, ctypes.c_uint64)]
    corners = max(rank - 2, 0)
    for place in arrays:
        box = place == 3
        kept.append(_array(packed[5 if box else 2 + place], rank if box else corners, ctypes.c_int32))
    numbers = [value & 0xFFFFFFFF for value in _array(packed[6], before, ctypes.c_int32)[:before]]
    strides = _array(packed[7], rank, ctypes.c_uint32)
    rest = [value & 0xFFFFFFFF for value in _array(packed[8], after, ctypes.c_int32)[:after]]
    made = _Map()
    pointers = [ctypes.addressof(array) for array in kept]
    status = driver.status(
        name, made.address, kind, rank, address & _U64, *pointers, *numbers, ctypes.addressof(strides), *rest
    )
    return (status, ()) if status else (0, (made.data,))
