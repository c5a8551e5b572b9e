"""Copies between CUDA arrays and linear memory, batches of memory operations, and what is known of managed ranges."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.arrays import Array, channel_bytes
from migproxy.softgpu.capture import NodeKind
from migproxy.softgpu.copies import CopyApi
from migproxy.softgpu.state import entry, need

_LEGACY = 0
_BATCH_OPERATION = struct.Struct("<IxxxxQQIxxxxQQ")  # operation, address, value, flags, alias, padding
_WAIT_32, _WRITE_32, _WAIT_64, _WRITE_64, _BARRIER, _FLUSH = 1, 2, 4, 5, 6, 3
_RANGE_READ_MOSTLY, _RANGE_PREFERRED, _RANGE_ACCESSED_BY, _RANGE_PREFETCH = 1, 2, 3, 4
_NO_DEVICE = -2

Piece = tuple[int, int]


class ArrayCopyApi(CopyApi):
    """``cuMemcpyAtoH`` and its kin, ``cuStreamBatchMemOp``, ``cuMemRangeGetAttribute``."""

    @entry
    def cuMemcpyAtoH(self, dstHost: int, srcArray: int, srcOffset: int, ByteCount: int) -> None:
        self._linear(_LEGACY, [(dstHost, ByteCount)], self._pieces(srcArray, srcOffset, ByteCount), wait=True)

    @entry
    def cuMemcpyHtoA(self, dstArray: int, dstOffset: int, srcHost: int, ByteCount: int) -> None:
        self._linear(_LEGACY, self._pieces(dstArray, dstOffset, ByteCount), [(srcHost, ByteCount)], wait=True)

    @entry
    def cuMemcpyAtoHAsync(self, dstHost: int, srcArray: int, srcOffset: int, ByteCount: int, hStream: int) -> None:
        self._linear(hStream, [(dstHost, ByteCount)], self._pieces(srcArray, srcOffset, ByteCount), wait=False)

    @entry
    def cuMemcpyHtoAAsync(self, dstArray: int, dstOffset: int, srcHost: int, ByteCount: int, hStream: int) -> None:
        self._linear(hStream, self._pieces(dstArray, dstOffset, ByteCount), [(srcHost, ByteCount)], wait=False)

    @entry
    def cuMemcpyAtoD(self, dstDevice: int, srcArray: int, srcOffset: int, ByteCount: int) -> None:
        self._linear(_LEGACY, [(dstDevice, ByteCount)], self._pieces(srcArray, srcOffset, ByteCount), wait=False)

    @entry
    def cuMemcpyDtoA(self, dstArray: int, dstOffset: int, srcDevice: int, ByteCount: int) -> None:
        self._linear(_LEGACY, self._pieces(dstArray, dstOffset, ByteCount), [(srcDevice, ByteCount)], wait=False)

    @entry
    def cuMemcpyAtoA(self, dstArray: int, dstOffset: int, srcArray: int, srcOffset: int, ByteCount: int) -> None:
        source = self._pieces(srcArray, srcOffset, ByteCount)
        self._linear(_LEGACY, self._pieces(dstArray, dstOffset, ByteCount), source, wait=False)

    def _pieces(self, handle: int, offset: int, size: int) -> list[Piece]:
        """The parts of an array's rows that ``size`` bytes from ``offset`` on lie in."""
        array = self.array(handle)
        return list(_rows(array, offset, size))

    def _linear(self, handle: int, destination: list[Piece], source: list[Piece], *, wait: bool) -> None:
        stream = self.stream(handle)
        ranges = self.device_ranges(*destination, *source)
        space = self.space
        moves = list(_matched(destination, source))
        need(all(to and fro for to, fro, _ in moves), "a null address")
        host = [piece for piece in (*destination, *source) if piece not in ranges]
        pageable = any(not space.pinned(*piece) for piece in host)

        def run() -> None:
            with space.touching(*ranges):
                for to, fro, size in moves:
                    raw.memmove(to, fro, size)
                    written.carry(to, fro, size)

        stream.submit(NodeKind.MEMCPY, run, wait=stream.capture is None and (wait or pageable))

    # ---- batches of memory operations ---------------------------------------------------------------------------

    @entry
    def cuStreamBatchMemOp(self, stream: int, count: int, paramArray: int, flags: int) -> None:
        need(count == 0 or paramArray)
        need(count <= 256 and flags == 0, f"{count} operations, flags {flags}")
        operations = [raw.unpack(_BATCH_OPERATION, paramArray + 48 * index) for index in range(count)]
        for kind, _, _, _, _, _ in operations:
            known = (_WAIT_32, _WRITE_32, _WAIT_64, _WRITE_64, _BARRIER, _FLUSH)
            need(kind in known, f"memory operation {kind}")
            need(kind != _FLUSH, "remote writes cannot be flushed", status.NOT_SUPPORTED)
        for kind, address, value, how, _, _ in operations:
            if kind in (_WAIT_32, _WAIT_64):
                self.wait_value(stream, address, value, how, 4 if kind == _WAIT_32 else 8)
            elif kind in (_WRITE_32, _WRITE_64):
                self.write_value(stream, address, value, how, 4 if kind == _WRITE_32 else 8)
            # A barrier is what the order of the operations is already.

    # ---- managed memory -----------------------------------------------------------------------------------------

    @entry
    def cuMemRangeGetAttribute(self, data: int, dataSize: int, attribute: int, devPtr: int, count: int) -> None:
        self.managed(devPtr, count)
        _range_attribute(data, dataSize, attribute)

    @entry
    def cuMemRangeGetAttributes(
        self, data: int, dataSizes: int, attributes: int, numAttributes: int, devPtr: int, count: int
    ) -> None:
        self.managed(devPtr, count)
        need(data and dataSizes and attributes and numAttributes > 0)
        places, sizes = raw.read_array_u64(data, numAttributes), raw.read_array_u64(dataSizes, numAttributes)
        kinds = raw.read_array_u32(attributes, numAttributes)
        for place, size, kind in zip(places, sizes, kinds, strict=True):
            _range_attribute(place, size, kind)


def _rows(array: Array, offset: int, size: int) -> Iterator[Piece]:
    row = array.width * channel_bytes(array)
    need(offset + size <= row * max(array.height, 1) * max(array.depth, 1), "outside the array")
    while size > 0:
        line, column = divmod(offset, row)
        step = min(size, row - column)
        yield array.address + line * array.pitch + column, step
        offset += step
        size -= step


def _matched(destination: list[Piece], source: list[Piece]) -> Iterator[tuple[int, int, int]]:
    """Cut two lists of pieces of the same length in all at each other's ends."""
    targets, origins = list(destination), list(source)
    while targets and origins:
        (to, room), (fro, left) = targets[0], origins[0]
        step = min(room, left)
        if step:
            yield to, fro, step
        for pieces, (start, size) in ((targets, (to, room)), (origins, (fro, left))):
            if size == step:
                pieces.pop(0)
            else:
                pieces[0] = (start + step, size - step)


def _range_attribute(out: int, size: int, attribute: int) -> None:
    """Advice changes nothing here, so every range answers as one without advice."""
    need(out and size >= 4 and size % 4 == 0)
    if attribute == _RANGE_READ_MOSTLY:
        need(size == 4)
        raw.write_i32(out, 0)
    elif attribute in (_RANGE_PREFERRED, _RANGE_PREFETCH):
        need(size == 4)
        raw.write_i32(out, _NO_DEVICE)
    elif attribute == _RANGE_ACCESSED_BY:
        for place in range(out, out + size, 4):
            raw.write_i32(place, _NO_DEVICE)
    else:
        raise CudaError(status.INVALID_VALUE, f"range attribute {attribute}")
