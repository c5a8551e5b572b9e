"""Copies and fills.

Each function makes an operation and submits it. Ranges are checked when the call is made, as the driver does, and again
when the operation runs, for by then the memory may be gone: that is a fault of the context, not of this process.

What is asynchronous follows the driver: a copy from or to *pinned* host memory is; one from pageable memory returns
when the host memory may be reused (small ones are staged), one to pageable memory returns when the data is there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.capture import NodeKind
from migproxy.softgpu.state import entry, need
from migproxy.softgpu.textures import TextureApi

_STAGED = 65536
#: Copies and fills up to this size are done before a worker would be awake.
_QUICK = 65536
_COPY_2D = struct.Struct("<QQI4xQQQQQQI4xQQQQQQ")
_COPY_3D = struct.Struct("<QQQQI4xQQQQQQQQQQI4xQQQQQQQQQ")
_HOST, _DEVICE, _ARRAY, _UNIFIED = 1, 2, 3, 4
_LEGACY = 0

Range = tuple[int, int]


class BoxCopy(NamedTuple):
    """What a copy of boxes was asked for."""

    destination: raw.Box
    source: raw.Box
    extent: tuple[int, int, int]


class CopyApi(TextureApi):
    """``cuMemcpy*`` and ``cuMemset*``."""

    # ---- one dimension ------------------------------------------------------------------------------------------

    def device_ranges(self, *ranges: Range) -> tuple[Range, ...]:
        """Of some ranges, those that are the device's, checked; the others are the application's host memory."""
        space = self.space
        found = []
        with space.lock:
            for address, size in ranges:
                if space.accessible(address, size):
                    found.append((address, size))
                elif space.owns(address):
                    space.require(address, size)
        return tuple(found)

    def _copy(
        self, handle: int, destination: int, source: int, size: int, device: tuple[Range, ...], mode: str
    ) -> None:
        """Submit a copy. ``mode`` is ``wait`` (until done), ``queue``, or ``pageable`` (host side not pinned)."""
        stream = self.stream(handle)
        if size == 0:
            return
        need(destination and source, "a null address")
        space = self.space
        staged: bytes | None = None
        if mode == "pageable":
            mode = "queue" if stream.capture is not None else "wait"
            if mode == "wait" and size <= _STAGED and not any(start == source for start, _ in device):
                staged, mode = raw.read_bytes(source, size), "queue"

        def run() -> None:
            with space.touching(*device):
                if staged is not None:
                    raw.write_bytes(destination, staged)
                    written.mark(destination, size)
                else:
                    raw.memmove(destination, source, size)
                    written.carry(destination, source, size)

        stream.submit(
            NodeKind.MEMCPY, run, wait=mode == "wait", quick=size <= _QUICK, params=_line(destination, source, size)
        )

    def _mode(self, *host: Range) -> str:
        """How a copy that the application wants asynchronous goes, by its host sides."""
        space = self.space
        with space.lock:
            for address, size in host:
                if not space.pinned(address, size) and not space.owns(address):
                    return "pageable"
        return "queue"

    def _to_device(self, handle: int, destination: int, source: int, size: int, *, wait: bool) -> None:
        self.space.require(destination, size)
        ranges = ((destination, size), *self.device_ranges((source, size)))
        self._copy(handle, destination, source, size, ranges, "wait" if wait else self._mode((source, size)))

    def _to_host(self, handle: int, destination: int, source: int, size: int, *, wait: bool) -> None:
        self.space.require(source, size)
        ranges = ((source, size), *self.device_ranges((destination, size)))
        self._copy(handle, destination, source, size, ranges, "wait" if wait else self._mode((destination, size)))

    def _within_device(self, handle: int, destination: int, source: int, size: int) -> None:
        self.space.require(destination, size)
        self.space.require(source, size)
        self._copy(handle, destination, source, size, ((destination, size), (source, size)), "queue")

    def _unified(self, handle: int, destination: int, source: int, size: int, *, wait: bool) -> None:
        self.context()
        ranges = self.device_ranges((destination, size), (source, size))
        mode = "wait" if wait and len(ranges) < 2 else self._mode((destination, size), (source, size))
        self._copy(handle, destination, source, size, ranges, mode)

    @entry
    def cuMemcpyHtoD(self, dstDevice: int, srcHost: int, ByteCount: int) -> None:
        self._to_device(_LEGACY, dstDevice, srcHost, ByteCount, wait=True)

    @entry
    def cuMemcpyHtoDAsync(self, dstDevice: int, srcHost: int, ByteCount: int, hStream: int) -> None:
        self._to_device(hStream, dstDevice, srcHost, ByteCount, wait=False)

    @entry
    def cuMemcpyDtoH(self, dstHost: int, srcDevice: int, ByteCount: int) -> None:
        self._to_host(_LEGACY, dstHost, srcDevice, ByteCount, wait=True)

    @entry
    def cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: int) -> None:
        self._to_host(hStream, dstHost, srcDevice, ByteCount, wait=False)

    @entry
    def cuMemcpyDtoD(self, dstDevice: int, srcDevice: int, ByteCount: int) -> None:
        # Within the device even the driver's "synchronous" copy only queues; the default stream orders it.
        self._within_device(_LEGACY, dstDevice, srcDevice, ByteCount)

    @entry
    def cuMemcpyDtoDAsync(self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: int) -> None:
        self._within_device(hStream, dstDevice, srcDevice, ByteCount)

    @entry
    def cuMemcpy(self, dst: int, src: int, ByteCount: int) -> None:
        self._unified(_LEGACY, dst, src, ByteCount, wait=True)

    @entry
    def cuMemcpyAsync(self, dst: int, src: int, ByteCount: int, hStream: int) -> None:
        self._unified(hStream, dst, src, ByteCount, wait=False)

    @entry
    def cuMemcpyPeer(self, dstDevice: int, dstContext: int, srcDevice: int, srcContext: int, ByteCount: int) -> None:
        self._within_device(_LEGACY, dstDevice, srcDevice, ByteCount)

    @entry
    def cuMemcpyPeerAsync(
        self, dstDevice: int, dstContext: int, srcDevice: int, srcContext: int, ByteCount: int, hStream: int
    ) -> None:
        self._within_device(hStream, dstDevice, srcDevice, ByteCount)

    @entry
    def cuMemcpyBatchAsync(self, dsts: int, srcs: int, sizes: int, count: int, *rest: int) -> None:
        # CUDA 12: (…, attributes, their indices, their number, failed index, stream); CUDA 13: without failed index.
        need(len(rest) in (4, 5), "cuMemcpyBatchAsync takes 8 or 9 arguments")
        need(dsts and srcs and sizes and count > 0)
        need(rest[-1] not in (0, 1), "batches do not go to the default stream")
        lists = [raw.read_array_u64(place, count) for place in (dsts, srcs, sizes)]
        for destination, source, size in zip(*lists, strict=True):
            self._unified(rest[-1], destination, source, size, wait=False)

    # ---- two and three dimensions -------------------------------------------------------------------------------

    @entry
    def cuMemcpy2D(self, pCopy: int) -> None:
        self._box(_LEGACY, *self.parse_copy_2d(pCopy), wait=True)

    @entry
    def cuMemcpy2DUnaligned(self, pCopy: int) -> None:
        self._box(_LEGACY, *self.parse_copy_2d(pCopy), wait=True)

    @entry
    def cuMemcpy2DAsync(self, pCopy: int, hStream: int) -> None:
        self._box(hStream, *self.parse_copy_2d(pCopy), wait=False)

    @entry
    def cuMemcpy3D(self, pCopy: int) -> None:
        self._box(_LEGACY, *self.parse_copy_3d(pCopy), wait=True)

    @entry
    def cuMemcpy3DAsync(self, pCopy: int, hStream: int) -> None:
        self._box(hStream, *self.parse_copy_3d(pCopy), wait=False)

    @entry
    def cuMemcpy3DPeer(self, pCopy: int) -> None:
        self._box(_LEGACY, *self.parse_copy_3d(pCopy), wait=True)

    @entry
    def cuMemcpy3DPeerAsync(self, pCopy: int, hStream: int) -> None:
        self._box(hStream, *self.parse_copy_3d(pCopy), wait=False)

    def parse_copy_2d(self, address: int) -> tuple[raw.Box, raw.Box, tuple[int, int, int], bool]:
        """Read a ``CUDA_MEMCPY2D``: destination, source, extent, and whether a side is pageable host memory."""
        need(address)
        sx, sy, stype, shost, sdev, sarray, spitch, dx, dy, dtype, dhost, ddev, darray, dpitch, width, height = (
            raw.unpack(_COPY_2D, address)
        )
        extent = (width, height, 1)
        source = self._side(stype, shost, sdev, sarray, spitch, 0, (sx, sy, 0), extent)
        destination = self._side(dtype, dhost, ddev, darray, dpitch, 0, (dx, dy, 0), extent)
        return destination, source, extent, _HOST in (stype, dtype)

    def parse_copy_3d(self, address: int) -> tuple[raw.Box, raw.Box, tuple[int, int, int], bool]:
        """Read a ``CUDA_MEMCPY3D`` or ``CUDA_MEMCPY3D_PEER``, which differ only in fields that are not used here."""
        need(address)
        fields = raw.unpack(_COPY_3D, address)
        width, height, depth = fields[22:25]
        boxes = []
        for at in (0, 11):
            x, y, z, level, kind, host, device, array, _, pitch, rows = fields[at : at + 11]
            need(level == 0, "levels of a mipmapped array are copied as arrays")
            need(rows >= height or depth == 1 or kind == _ARRAY, "a plane's height is below the copy's")
            boxes.append(self._side(kind, host, device, array, pitch, rows, (x, y, z), (width, height, depth)))
        return boxes[1], boxes[0], (width, height, depth), _HOST in (fields[4], fields[15])

    def _side(
        self,
        kind: int,
        host: int,
        device: int,
        array: int,
        pitch: int,
        rows: int,
        at: tuple[int, int, int],
        extent: tuple[int, int, int],
    ) -> raw.Box:
        x, y, z = at
        width = extent[0]
        if kind == _ARRAY:
            memory = self.array(array)
            base, pitch, plane = memory.address, memory.pitch, memory.plane
            shape = (memory.width * memory.element, max(memory.height, 1), max(memory.depth, 1))
            inside = all(first + size <= most for first, size, most in zip(at, extent, shape, strict=True))
            need(inside, f"{extent} at {at} of an array of {shape} (bytes, rows, planes)")
            need(x % memory.element == 0 and width % memory.element == 0, "not whole elements of the array")
        elif kind in (_HOST, _DEVICE, _UNIFIED):
            base = host if kind == _HOST else device
            pitch = pitch or width + x
            plane = pitch * rows
        else:
            raise CudaError(status.INVALID_VALUE, f"memory type {kind}")
        need(pitch >= width + x, "a pitch is below the copied width")
        return raw.Box(base + z * plane + y * pitch + x, pitch, plane)

    def _box(
        self,
        handle: int,
        destination: raw.Box,
        source: raw.Box,
        extent: tuple[int, int, int],
        host: bool,
        *,
        wait: bool,
    ) -> None:
        run = self.box_copy(destination, source, extent)
        stream = self.stream(handle)
        if not wait and host:
            sides = [(box.address, box.span(*extent)) for box in (destination, source)]
            wait = self._mode(*sides) == "pageable" and stream.capture is None
        stream.submit(NodeKind.MEMCPY, run, wait=wait, params=BoxCopy(destination, source, extent))

    def box_copy(self, destination: raw.Box, source: raw.Box, extent: tuple[int, int, int]) -> Callable[[], None]:
        """Check a box copy and make its operation."""
        if 0 in extent:
            return lambda: None
        need(destination.address and source.address, "a null address")
        space = self.space
        ranges = self.device_ranges(*[(box.address, box.span(*extent)) for box in (destination, source)])

        def run() -> None:
            with space.touching(*ranges):
                raw.copy_box(destination, source, *extent)
                _carry_box(destination, source, *extent)

        return run

    # ---- fills --------------------------------------------------------------------------------------------------

    def _fill(self, handle: int, address: int, value: int, width: int, count: int) -> None:
        stream = self.stream(handle)
        if count == 0:
            return
        run = self.fill_operation(address, 0, value, width, count, 1)
        params = (address, 0, value, width, count, 1)
        stream.submit(NodeKind.MEMSET, run, quick=count * width <= _QUICK, params=params)

    def fill_operation(
        self, address: int, pitch: int, value: int, width: int, count: int, height: int
    ) -> Callable[[], None]:
        """Check a fill of ``height`` rows of ``count`` elements and make its operation."""
        need(address % width == 0, f"{address:#x} is not aligned to {width}")
        if height == 1 or pitch == count * width:
            size = count * height * width
        else:
            need(pitch % width == 0 and pitch >= count * width, f"pitch {pitch} of rows of {count * width} bytes")
            size = pitch * (height - 1) + count * width
        self.space.require(address, size)
        space = self.space
        whole = size == count * height * width

        def run() -> None:
            with space.touching((address, size)):
                if whole:
                    raw.fill(address, value, width, count * height)
                else:
                    raw.fill_box(address, pitch, value, width, count, height)
                for row in range(1 if whole else height):
                    written.mark(address + row * pitch, size if whole else count * width)

        return run

    def _fill_2d(self, handle: int, address: int, pitch: int, value: int, width: int, count: int, height: int) -> None:
        stream = self.stream(handle)
        if count and height:
            run = self.fill_operation(address, pitch, value, width, count, height)
            stream.submit(NodeKind.MEMSET, run, params=(address, pitch, value, width, count, height))

    @entry
    def cuMemsetD8(self, dstDevice: int, uc: int, N: int) -> None:
        self._fill(_LEGACY, dstDevice, uc, 1, N)

    @entry
    def cuMemsetD16(self, dstDevice: int, us: int, N: int) -> None:
        self._fill(_LEGACY, dstDevice, us, 2, N)

    @entry
    def cuMemsetD32(self, dstDevice: int, ui: int, N: int) -> None:
        self._fill(_LEGACY, dstDevice, ui, 4, N)

    @entry
    def cuMemsetD8Async(self, dstDevice: int, uc: int, N: int, hStream: int) -> None:
        self._fill(hStream, dstDevice, uc, 1, N)

    @entry
    def cuMemsetD16Async(self, dstDevice: int, us: int, N: int, hStream: int) -> None:
        self._fill(hStream, dstDevice, us, 2, N)

    @entry
    def cuMemsetD32Async(self, dstDevice: int, ui: int, N: int, hStream: int) -> None:
        self._fill(hStream, dstDevice, ui, 4, N)

    @entry
    def cuMemsetD2D8(self, dstDevice: int, dstPitch: int, uc: int, Width: int, Height: int) -> None:
        self._fill_2d(_LEGACY, dstDevice, dstPitch, uc, 1, Width, Height)

    @entry
    def cuMemsetD2D16(self, dstDevice: int, dstPitch: int, us: int, Width: int, Height: int) -> None:
        self._fill_2d(_LEGACY, dstDevice, dstPitch, us, 2, Width, Height)

    @entry
    def cuMemsetD2D32(self, dstDevice: int, dstPitch: int, ui: int, Width: int, Height: int) -> None:
        self._fill_2d(_LEGACY, dstDevice, dstPitch, ui, 4, Width, Height)

    @entry
    def cuMemsetD2D8Async(self, dstDevice: int, dstPitch: int, uc: int, Width: int, Height: int, hStream: int) -> None:
        self._fill_2d(hStream, dstDevice, dstPitch, uc, 1, Width, Height)

    @entry
    def cuMemsetD2D16Async(self, dstDevice: int, dstPitch: int, us: int, Width: int, Height: int, hStream: int) -> None:
        self._fill_2d(hStream, dstDevice, dstPitch, us, 2, Width, Height)

    @entry
    def cuMemsetD2D32Async(self, dstDevice: int, dstPitch: int, ui: int, Width: int, Height: int, hStream: int) -> None:
        self._fill_2d(hStream, dstDevice, dstPitch, ui, 4, Width, Height)


def _carry_box(destination: raw.Box, source: raw.Box, width: int, height: int, depth: int) -> None:
    if not written.enabled():
        return
    for plane in range(depth):
        for row in range(height):
            to, fro = (box.address + plane * box.plane + row * box.pitch for box in (destination, source))
            written.carry(to, fro, width)


def _line(destination: int, source: int, size: int) -> BoxCopy:
    return BoxCopy(raw.Box(destination, size, 0), raw.Box(source, size, 0), (size, 1, 1))
