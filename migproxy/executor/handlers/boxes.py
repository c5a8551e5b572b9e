"""Copies of boxes: rows and slices at a pitch, between linear memory and CUDA arrays."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.dispatch import Result, handles
from migproxy.executor.handlers.copies import finish_copy

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: CUDA_MEMCPY3D: x, y, z, level, memory type, host, device, array, reserved, pitch, rows; twice; width, height, depth
COPY_3D = struct.Struct("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ")
_HOST, _DEVICE, _ARRAY = 1, 2, 3
_INVALID_VALUE = 1


def box_length(pitch: int, rows: int, width: int, height: int, depth: int) -> int:
    """Return the bytes from the first to the last byte of a box in linear memory.

    Raises
    ------
    CudaError
        1 for an empty box, and for rows or slices that overlap.
    """
    if min(width, height, depth) <= 0 or pitch < 0 or rows < 0:
        raise CudaError(_INVALID_VALUE, "a copy's extent")
    if (height > 1 or depth > 1) and pitch < width:
        raise CudaError(_INVALID_VALUE, "rows that overlap")
    if depth > 1 and rows < height:
        raise CudaError(_INVALID_VALUE, "slices that overlap")
    return pitch * (rows * (depth - 1) + height - 1) + width


def side_of_copy(session: SessionState, side: tuple[int, ...], width: int, height: int, depth: int) -> tuple[int, ...]:
    """Check one side of a box and return its fields of a ``CUDA_MEMCPY3D``.

    Parameters
    ----------
    session : SessionState
    side : tuple
        ``layout.BOX_*``, x, y, z, address or handle, pitch, rows. A linear side starts at its address.
    width, height, depth : int
        The box, in bytes and rows and slices.

    Raises
    ------
    CudaError
        1 for a box outside the session's memory, 400 for an array that is not the session's.
    """
    kind, x, y, z, at, pitch, rows = side
    if kind == layout.BOX_ARRAY:
        array = session.handles.real(layout.KIND_ARRAY, at)
        return (x, y, z, 0, _ARRAY, 0, 0, array, 0, 0, 0)
    if x or y or z:
        raise ProtocolError("a linear side of a box starts at its address")
    length = box_length(pitch, rows, width, height, depth)
    if kind == layout.BOX_DEVICE:
        session.memory.check_range(at, length)
        return (0, 0, 0, 0, _DEVICE, 0, at, 0, 0, pitch, rows)
    if kind != layout.BOX_HOST:
        raise ProtocolError(f"memory of kind {kind}")
    if not session.consumer.in_heap(at, length):
        raise CudaError(_INVALID_VALUE, "host memory outside the arena")
    return (0, 0, 0, 0, _HOST, at, 0, 0, 0, pitch, rows)


def _copy(session: SessionState, command: Command, *, with_host: bool) -> int:
    """Submit the copy and return the real stream."""
    values = layout.BOX.unpack_from(command.payload)
    extent = values[14:]
    sides = values[:7], values[7:14]
    if (layout.BOX_HOST in (sides[0][0], sides[1][0])) != with_host:
        raise ProtocolError("a box of the other operation")
    destination, source = (side_of_copy(session, side, *extent) for side in sides)
    stream = session.stream(command.stream)
    packed = ctypes.create_string_buffer(COPY_3D.pack(*source, *destination, *extent), COPY_3D.size)
    session.driver.call("cuMemcpy3DAsync", ctypes.addressof(packed), stream)
    name = "bytes_dtod" if not with_host else "bytes_dtoh" if sides[0][0] == layout.BOX_HOST else "bytes_htod"
    session.counters[name] += extent[0] * extent[1] * extent[2]
    return stream


@handles(Op.COPY_BOX)
def copy_box(state: SessionState, command: Command) -> Result:
    return finish_copy(state, command, _copy(state, command, with_host=True))


@handles(Op.COPY_BOX_DEVICE)
def copy_box_device(state: SessionState, command: Command) -> Result:
    _copy(state, command, with_host=False)
    return None
