"""Driver API: copies and memsets; copies along an array's rows are in `driver_arrays`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from migproxy_plugins.cuda import arrays
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_arrays import check_device_memory
from migproxy_plugins.cuda.driver_context import check_context, need_context
from migproxy_plugins.cuda.mapped import fill, on_device, to_device, to_host
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_u64_array
from migproxy_plugins.cuda.registry import serves

from migproxy.errors import CudaError
from migproxy.session import api

# CUmemorytype
HOST, DEVICE, ARRAY, UNIFIED = 1, 2, 3, 4


@serves()
def cuMemcpy(destination: int, source: int, size: int) -> None:
    need_context()
    api.memcpy(destination, source, size)


@serves()
def cuMemcpyAsync(destination: int, source: int, size: int, stream: int) -> None:
    need_context()
    api.memcpy(destination, source, size, stream)


@serves()
def cuMemcpyHtoD(destination: int, source: int, size: int) -> None:
    need_context()
    to_device(destination, source, size)


@serves()
def cuMemcpyHtoDAsync(destination: int, source: int, size: int, stream: int) -> None:
    need_context()
    to_device(destination, source, size, stream)


@serves()
def cuMemcpyDtoH(destination: int, source: int, size: int) -> None:
    need_context()
    to_host(destination, source, size)


@serves()
def cuMemcpyDtoHAsync(destination: int, source: int, size: int, stream: int) -> None:
    need_context()
    to_host(destination, source, size, stream)


@serves()
def cuMemcpyDtoD(destination: int, source: int, size: int) -> None:
    need_context()
    on_device(destination, source, size)


@serves()
def cuMemcpyDtoDAsync(destination: int, source: int, size: int, stream: int) -> None:
    need_context()
    on_device(destination, source, size, stream)


@serves()
def cuMemcpyPeer(destination: int, to_context: int, source: int, from_context: int, size: int) -> None:
    check_context(to_context)
    check_context(from_context)
    on_device(destination, source, size)


@serves()
def cuMemcpyPeerAsync(
    destination: int, to_context: int, source: int, from_context: int, size: int, stream: int
) -> None:
    check_context(to_context)
    check_context(from_context)
    on_device(destination, source, size, stream)


@serves()
def cuMemcpyBatchAsync(destinations: int, sources: int, sizes: int, count: int, *rest: int) -> None:
    # 12.x has failIdx before the stream, which comes last in both.
    if not count or rest[-1] in (0, 1):
        raise CudaError(st.INVALID_VALUE, "cuMemcpyBatchAsync needs copies and a stream of its own")
    rows = zip(
        get_u64_array(destinations, count), get_u64_array(sources, count), get_u64_array(sizes, count), strict=True
    )
    for destination, source, size in rows:
        api.memcpy(destination, source, size, rest[-1])


@serves()
def cuMemcpyWithAttributesAsync(destination: int, source: int, size: int, attributes: int, stream: int) -> None:
    need_context()
    api.memcpy(destination, source, size, stream)


def _set(width: int, pointer: int, value: int, count: int, stream: int | None) -> None:
    need_context()
    if pointer % width:
        raise CudaError(st.INVALID_VALUE, "misaligned memset")
    if count:
        fill(width, pointer, value & ((1 << 8 * width) - 1), count, stream)


def _set_2d(width: int, pointer: int, pitch: int, value: int, columns: int, rows: int, stream: int | None) -> None:
    need_context()
    if (rows > 1 and pitch < columns * width) or pointer % width or pitch % width:
        raise CudaError(st.INVALID_VALUE, "misaligned memset or rows that overlap")
    if columns and rows:
        api.memset_2d(pointer, pitch, value & ((1 << 8 * width) - 1), width, columns, rows, stream)


@serves()
def cuMemsetD8(pointer: int, value: int, count: int) -> None:
    _set(1, pointer, value, count, None)


@serves()
def cuMemsetD16(pointer: int, value: int, count: int) -> None:
    _set(2, pointer, value, count, None)


@serves()
def cuMemsetD32(pointer: int, value: int, count: int) -> None:
    _set(4, pointer, value, count, None)


@serves()
def cuMemsetD8Async(pointer: int, value: int, count: int, stream: int) -> None:
    _set(1, pointer, value, count, stream)


@serves()
def cuMemsetD16Async(pointer: int, value: int, count: int, stream: int) -> None:
    _set(2, pointer, value, count, stream)


@serves()
def cuMemsetD32Async(pointer: int, value: int, count: int, stream: int) -> None:
    _set(4, pointer, value, count, stream)


@serves()
def cuMemsetD2D8(pointer: int, pitch: int, value: int, columns: int, rows: int) -> None:
    _set_2d(1, pointer, pitch, value, columns, rows, None)


@serves()
def cuMemsetD2D16(pointer: int, pitch: int, value: int, columns: int, rows: int) -> None:
    _set_2d(2, pointer, pitch, value, columns, rows, None)


@serves()
def cuMemsetD2D32(pointer: int, pitch: int, value: int, columns: int, rows: int) -> None:
    _set_2d(4, pointer, pitch, value, columns, rows, None)


@serves()
def cuMemsetD2D8Async(pointer: int, pitch: int, value: int, columns: int, rows: int, stream: int) -> None:
    _set_2d(1, pointer, pitch, value, columns, rows, stream)


@serves()
def cuMemsetD2D16Async(pointer: int, pitch: int, value: int, columns: int, rows: int, stream: int) -> None:
    _set_2d(2, pointer, pitch, value, columns, rows, stream)


@serves()
def cuMemsetD2D32Async(pointer: int, pitch: int, value: int, columns: int, rows: int, stream: int) -> None:
    _set_2d(4, pointer, pitch, value, columns, rows, stream)


@dataclass(slots=True)
class Side:
    """One side of a 2-D or 3-D copy: where it starts and how its rows and slices lie."""

    kind: int
    address: int
    array: int
    x: int
    y: int
    z: int
    pitch: int
    rows: int

    @property
    def start(self) -> int:
        """Address of the first byte of a linear side."""
        return self.address + (self.z * self.rows + self.y) * self.pitch + self.x

    def box(self, extent: tuple[int, int, int]) -> api.Box:
        """Return the side for `extent`, checked against the array's edges if it is one."""
        if self.kind == ARRAY:
            return arrays.box(self.array, self.x, self.y, self.z, extent)
        return api.Box(self.start, self.pitch, self.rows)


def _side(x: int, y: int, z: int, kind: int, host: int, device: int, array: int, pitch: int, rows: int) -> Side:
    if kind not in (HOST, DEVICE, ARRAY, UNIFIED):
        raise CudaError(st.INVALID_VALUE, f"memory type {kind}")
    if kind == DEVICE:
        check_device_memory(device)
    return Side(kind, host if kind == HOST else device, array, x, y, z, pitch, rows)


# srcXInBytes, srcY, srcMemoryType, srcHost, srcDevice, srcArray, srcPitch, the same of dst, WidthInBytes, Height
_COPY_2D = struct.Struct("<QQi4xQQQQ QQi4xQQQQ QQ")
# srcXInBytes, Y, Z, LOD, type, host, device, array, reserved or context, pitch, height, the same of dst, width,
# height, depth
COPY_3D = struct.Struct("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ")


def copy_rows(destination: Side, source: Side, width: int, height: int, depth: int, stream: int | None) -> None:
    """Copy `depth` slices of `height` rows of `width` bytes."""
    need_context()
    if not (width and height and depth):
        return
    if height > 1 or depth > 1:
        for side in (destination, source):
            if side.kind != ARRAY and side.pitch and side.pitch < side.x + width:
                raise CudaError(st.INVALID_VALUE, "a row is wider than its pitch")
    if height == depth == 1 and ARRAY not in (destination.kind, source.kind):
        api.memcpy(destination.start, source.start, width, stream)
        return
    extent = width, height, depth
    api.copy_box(destination.box(extent), source.box(extent), extent, stream)


def _copy_2d(description: int, stream: int | None) -> None:
    f = _COPY_2D.unpack(get_bytes(description, _COPY_2D.size))
    source = _side(f[0], f[1], 0, f[2], f[3], f[4], f[5], f[6], 0)
    destination = _side(f[7], f[8], 0, f[9], f[10], f[11], f[12], f[13], 0)
    # A pitch of 0 means rows without gaps.
    source.pitch = source.pitch or f[14]
    destination.pitch = destination.pitch or f[14]
    copy_rows(destination, source, f[14], f[15], 1, stream)


def read_copy_3d(description: int) -> tuple[Side, Side, int, int, int]:
    """Read a ``CUDA_MEMCPY3D``: destination, source, width, height, depth."""
    f = COPY_3D.unpack(get_bytes(description, COPY_3D.size))
    if f[3] or f[14]:
        raise CudaError(st.INVALID_VALUE, "level of detail must be 0")
    source = _side(f[0], f[1], f[2], f[4], f[5], f[6], f[7], f[9], f[10])
    destination = _side(f[11], f[12], f[13], f[15], f[16], f[17], f[18], f[20], f[21])
    width, height, depth = f[22:25]
    for side in (source, destination):
        side.pitch = side.pitch or width
        side.rows = side.rows or height
    return destination, source, width, height, depth


def _copy_3d(description: int, stream: int | None) -> None:
    copy_rows(*read_copy_3d(description), stream)


@serves("cuMemcpy2DUnaligned")
def cuMemcpy2D(description: int) -> None:
    _copy_2d(description, None)


@serves()
def cuMemcpy2DAsync(description: int, stream: int) -> None:
    _copy_2d(description, stream)


@serves("cuMemcpy3DPeer")
def cuMemcpy3D(description: int) -> None:
    _copy_3d(description, None)


@serves("cuMemcpy3DPeerAsync")
def cuMemcpy3DAsync(description: int, stream: int) -> None:
    _copy_3d(description, stream)
