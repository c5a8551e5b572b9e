"""Copies of boxes (rows and slices at a pitch) between linear memory and CUDA arrays, one command a box.

Host memory keeps CUDA's semantics as in `copies`: page-locked memory is used in place and asynchronously, other memory
has been read, or is complete, when the call returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError, MigproxyError
from migproxy.jit.copying import copy_large
from migproxy.jit.fast_path import keep_until_replied
from migproxy.session.api.copies import CHUNK, CHUNKS_IN_FLIGHT, STAGE_AT_ONCE, check_may_wait, memcpy
from migproxy.session.api.memory import find_host_block
from migproxy.session.api.streams import is_captured, resolve
from migproxy.session.session import Session, current

CUDA_ERROR_INVALID_VALUE = 1


@dataclass(frozen=True, slots=True)
class Box:
    """One side of a copy.

    Attributes
    ----------
    at : int
        A linear side's first byte, or an array's handle.
    pitch, rows : int
        Bytes from row to row and rows from slice to slice of a linear side.
    array : bool
        `at` is an array's handle; then `x` (bytes), `y` and `z` say where in it the box starts.
    """

    at: int
    pitch: int = 0
    rows: int = 0
    array: bool = False
    x: int = 0
    y: int = 0
    z: int = 0

    def length(self, width: int, height: int, depth: int) -> int:
        """Bytes from the first to the last of a box in linear memory."""
        return self.pitch * (self.rows * (depth - 1) + height - 1) + width


Extent = tuple[int, int, int]


def copy_box(destination: Box, source: Box, extent: Extent, stream: int | None = None) -> None:
    """Copy a box of `extent` (bytes of a row, rows, slices).

    Parameters
    ----------
    destination, source : Box
    extent : tuple of int
    stream : int, optional
        None for the synchronous function.

    Raises
    ------
    CudaError
        1 for memory that is not the session's, and rows or slices that overlap; 900 for a copy that waits during a
        capture.
    """
    width, height, depth = extent
    if not (width and height and depth):
        return
    for side in (destination, source):
        if not side.array and (
            (side.pitch < width and (height > 1 or depth > 1)) or (side.rows < height and depth > 1)
        ):
            raise CudaError(CUDA_ERROR_INVALID_VALUE, "rows or slices that overlap")
    session = current()
    to_host, from_host = (_is_host(session, side, extent) for side in (destination, source))
    wire = resolve(stream or 0)
    if not to_host and not from_host:
        session.post(Op.COPY_BOX_DEVICE, _packed(destination, source, extent), stream=wire)
    elif to_host and from_host:
        session.call(Op.STREAM_SYNC, b"", stream=wire)
        move(destination, source, extent)
    else:
        _copy_with_host(session, destination, source, extent, stream, wire, to_host)


def memcpy_2d(dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, stream: int | None = None) -> None:
    """Copy `height` rows of `width` bytes between pitched regions."""
    if width > dpitch or width > spitch:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    if width == dpitch == spitch or height == 1:
        memcpy(dst, src, width * height, stream)
    else:
        copy_box(Box(dst, dpitch, height), Box(src, spitch, height), (width, height, 1), stream)


def _is_host(session: Session, side: Box, extent: Extent) -> bool:
    """Tell whether a side lies in host memory; checks its range where it is device memory."""
    if side.array:
        return False
    if session.device.find(side.at) is None:
        return True
    session.device.check_range(side.at, side.length(*extent))
    return False


def _packed(destination: Box, source: Box, extent: Extent, *, to_host: bool = False, from_host: bool = False) -> bytes:
    fields: list[int] = []
    for side, on_host in ((destination, to_host), (source, from_host)):
        kind = layout.BOX_ARRAY if side.array else layout.BOX_HOST if on_host else layout.BOX_DEVICE
        fields += (kind, side.x, side.y, side.z, side.at, side.pitch, side.rows)
    return layout.BOX.pack(*fields, *extent)


def move(destination: Box, source: Box, extent: Extent) -> None:
    """Copy a box within this process's memory."""
    width, height, depth = extent
    if destination.pitch == source.pitch == width and (depth == 1 or destination.rows == source.rows == height):
        copy_large(destination.at, source.at, width * height * depth)
        return
    for k in range(depth):
        for j in range(height):
            copy_large(
                destination.at + (k * destination.rows + j) * destination.pitch,
                source.at + (k * source.rows + j) * source.pitch,
                width,
            )


def _copy_with_host(
    session: Session, destination: Box, source: Box, extent: Extent, stream: int | None, wire: int, to_host: bool
) -> None:
    host = destination if to_host else source
    length = host.length(*extent)
    pinned = find_host_block(host.at)
    if pinned is not None and host.at + length > pinned[0] + pinned[1]:
        pinned = None
    if pinned is not None and stream is not None:
        payload = _packed(destination, source, extent, to_host=to_host, from_host=not to_host)
        session.post(Op.COPY_BOX, payload, stream=wire)
        return
    if stream is not None and is_captured(stream):
        from migproxy.session.api import staging

        placed = staging.place(staging.captured_graph(wire), host, extent, to_host=to_host)
        sides = (placed, source) if to_host else (destination, placed)
        session.post(Op.COPY_BOX, _packed(*sides, extent, to_host=to_host, from_host=not to_host), stream=wire)
        return
    check_may_wait(stream)
    in_arena = session.heap.owns(host.at) and session.heap.owns(host.at + length - 1)
    if in_arena and (to_host or length > STAGE_AT_ONCE):
        payload = _packed(destination, source, extent, to_host=to_host, from_host=not to_host)
        number = session.ring.submit(Op.COPY_BOX, payload, stream=wire, flags=layout.FLAG_WAIT)
        _finish(session, number, 0, host.at if to_host else 0)
    elif to_host:
        _stage_out(session, destination, source, extent, wire)
    else:
        _stage_in(session, destination, source, extent, wire)


def _finish(session: Session, number: int, block: int, target: int) -> None:
    """Wait for a copy; an interrupted wait keeps what the copy still uses."""
    try:
        session.finish(number)
    except MigproxyError:
        raise
    except BaseException:
        keep_until_replied(session, number, block, target)
        raise


def _part(side: Box, z: int, y: int) -> Box:
    """The side from slice `z` and row `y` of the box on."""
    if side.array:
        return replace(side, y=side.y + y, z=side.z + z)
    return replace(side, at=side.at + (z * side.rows + y) * side.pitch)


def _parts(destination: Box, source: Box, extent: Extent) -> Iterator[tuple[Box, Box, Extent]]:
    """Cut a box into pieces of about a chunk: whole slices, or rows of one slice."""
    width, height, depth = extent
    slices = min(depth, max(1, CHUNK // (width * height)))
    rows = height if width * height <= CHUNK else max(1, CHUNK // width)
    for z in range(0, depth, slices):
        for y in range(0, height, rows):
            piece = width, min(rows, height - y), min(slices, depth - z)
            yield _part(destination, z, y), _part(source, z, y), piece


def _stage_in(session: Session, destination: Box, source: Box, extent: Extent, wire: int) -> None:
    flying: deque[int] = deque()
    for target, origin, piece in _parts(destination, source, extent):
        width, height, depth = piece
        block = session.allocate(width * height * depth)
        staged = Box(block, width, height)
        move(staged, origin, piece)
        number = session.post(Op.COPY_BOX, _packed(target, staged, piece, from_host=True), stream=wire)
        session.release_when_retired(number, block)
        flying.append(number)
        if len(flying) > CHUNKS_IN_FLIGHT:
            session.ring.wait_host_retired(flying.popleft())
            session.drain()


def _stage_out(session: Session, destination: Box, source: Box, extent: Extent, wire: int) -> None:
    for target, origin, piece in _parts(destination, source, extent):
        width, height, depth = piece
        block = session.allocate(width * height * depth)
        staged = Box(block, width, height)
        payload = _packed(staged, origin, piece, to_host=True)
        number = session.ring.submit(Op.COPY_BOX, payload, stream=wire, flags=layout.FLAG_WAIT)
        try:
            _finish(session, number, block, 0)
        except MigproxyError:
            session.heap.free(block)
            raise
        move(target, staged, piece)
        session.heap.free(block)
