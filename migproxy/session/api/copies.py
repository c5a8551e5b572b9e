"""Copies and memsets, with CUDA's semantics of pageable and page-locked memory.

Page-locked memory (`host_alloc`) is copied by the executor in place and truly asynchronously. Everything else
behaves as pageable
memory: when a copy from it returns, it may be overwritten; when a copy to it returns, it is complete. Arena memory
(NumPy arrays of the
function) is copied in place, foreign memory through staging blocks of the arena.
"""

from __future__ import annotations

from collections import deque

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena.memory_unsafe import copy
from migproxy.errors import CudaError, MigproxyError
from migproxy.jit.copying import copy_large
from migproxy.jit.fast_path import keep_until_replied
from migproxy.session.api.memory import find_host_block, is_managed, is_page_locked
from migproxy.session.api.streams import LEGACY, capturing, is_captured, resolve
from migproxy.session.session import Session, current

CUDA_ERROR_INVALID_VALUE = 1
#: Up to this size a host-to-device copy is staged and returns at once, as CUDA's own does up to 64 KiB.
STAGE_AT_ONCE = 64 << 10
#: Chunk of a large staged copy, and how many may be on their way.
CHUNK = 4 << 20
CHUNKS_IN_FLIGHT = 4


def memcpy_htod(dst: int, src: int, size: int, stream: int | None = None) -> None:
    """Copy host memory to the device.

    Parameters
    ----------
    dst, src : int
        Device and host address.
    size : int
        Bytes.
    stream : int, optional
        None for the synchronous function.
    """
    if size == 0:
        return
    if is_managed(dst):
        _host_to_host(dst, src, size, stream)
        return
    session = current()
    session.device.check_range(dst, size)
    wire = resolve(stream or 0)
    pinned = find_host_block(src) is not None
    if pinned and stream is not None:
        session.post(Op.COPY_HTOD, layout.COPY.pack(dst, src, size), stream=wire)
    elif stream is not None and is_captured(stream):
        _capture(session, Op.COPY_HTOD, dst, src, size, wire)
    elif (pinned or session.heap.owns(src)) and size > STAGE_AT_ONCE:
        check_may_wait(stream)
        _copy_and_wait(session, Op.COPY_HTOD, dst, src, size, wire)
    else:
        _stage_in(session, dst, src, size, wire)


def memcpy_dtoh(dst: int, src: int, size: int, stream: int | None = None) -> None:
    """Copy device memory to the host; see `memcpy_htod`."""
    if size == 0:
        return
    if is_managed(src):
        _host_to_host(dst, src, size, stream)
        return
    session = current()
    session.device.check_range(src, size)
    wire = resolve(stream or 0)
    pinned = find_host_block(dst) is not None
    if pinned and stream is not None:
        session.post(Op.COPY_DTOH, layout.COPY.pack(dst, src, size), stream=wire)
    elif stream is not None and is_captured(stream):
        _capture(session, Op.COPY_DTOH, dst, src, size, wire)
    elif pinned or session.heap.owns(dst):
        check_may_wait(stream)
        _copy_and_wait(session, Op.COPY_DTOH, dst, src, size, wire)
    else:
        _stage_out(session, dst, src, size, wire)


def memcpy_dtod(dst: int, src: int, size: int, stream: int | None = None) -> None:
    """Copy device memory to device memory; even the synchronous function does not wait, as in CUDA."""
    if size == 0:
        return
    if is_managed(dst) or is_managed(src):
        memcpy(dst, src, size, stream)
        return
    session = current()
    session.device.check_range(dst, size)
    session.device.check_range(src, size)
    session.post(Op.COPY_DTOD, layout.COPY.pack(dst, src, size), stream=resolve(stream or 0))


def memcpy(dst: int, src: int, size: int, stream: int | None = None) -> None:
    """Copy between any two addresses; the direction follows from the pointers."""
    if size == 0:
        return
    device = current().device
    to_device = device.find(dst) is not None
    from_device = device.find(src) is not None
    if to_device and from_device:
        memcpy_dtod(dst, src, size, stream)
    elif to_device:
        memcpy_htod(dst, src, size, stream)
    elif from_device:
        memcpy_dtoh(dst, src, size, stream)
    else:
        _host_to_host(dst, src, size, stream)


def _host_to_host(dst: int, src: int, size: int, stream: int | None) -> None:
    """Copy between addresses in the function's memory, behind the stream's work; managed memory lies there too.

    From host memory to host memory CUDA waits itself. Managed memory counts as the device's: what does not wait there
    must not wait here, for a kernel before it in the stream may wait for this thread.
    """
    session = current()
    wire = resolve(stream or 0)
    between_hosts = not is_managed(dst) and not is_managed(src)
    if stream is None or between_hosts or not is_page_locked(dst, size):
        session.call(Op.STREAM_SYNC, b"", stream=wire)
        copy(dst, src, size)
    elif is_page_locked(src, size):
        session.post(Op.COPY_WITHIN, layout.COPY.pack(dst, src, size), stream=wire)
    elif is_captured(stream):
        _capture(session, Op.COPY_WITHIN, dst, src, size, wire)
    elif size <= STAGE_AT_ONCE:
        block = session.allocate(size)
        copy(block, src, size)
        number = session.post(Op.COPY_WITHIN, layout.COPY.pack(dst, block, size), stream=wire)
        session.release_when_retired(number, block)
    else:
        session.call(Op.STREAM_SYNC, b"", stream=wire)
        copy(dst, src, size)


def _capture(session: Session, op: Op, dst: int, src: int, size: int, wire: int) -> None:
    """Record a copy of pageable memory in the graph that the stream is captured into."""
    from migproxy.session.api import boxes, staging

    to_host = op is Op.COPY_DTOH
    side = boxes.Box(dst if to_host else src, size, 1)
    placed = staging.place(staging.captured_graph(wire), side, (size, 1, 1), to_host=to_host).at
    dst, src = (placed, src) if to_host else (dst, placed)
    session.post(op, layout.COPY.pack(dst, src, size), stream=wire)


def check_may_wait(stream: int | None) -> None:
    """Raise CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED for a copy that waits on a default stream during a capture.

    Such a copy would wait for the captured work. On another stream, which is not captured, it may wait.
    """
    if capturing() and (stream is None or stream <= LEGACY):
        raise CudaError(900, "a copy of pageable memory waits, which a capture does not allow")


def _copy_and_wait(session: Session, op: Op, dst: int, src: int, size: int, wire: int) -> None:
    number = session.ring.submit(op, layout.COPY.pack(dst, src, size), stream=wire, flags=layout.FLAG_WAIT)
    try:
        session.finish(number)
    except MigproxyError:
        raise
    except BaseException:
        if op is Op.COPY_DTOH:
            keep_until_replied(session, number, 0, dst)
        raise


def _stage_in(session: Session, dst: int, src: int, size: int, wire: int) -> None:
    flying: deque[int] = deque()
    for start in range(0, size, CHUNK):
        length = min(CHUNK, size - start)
        block = session.allocate(length)
        copy_large(block, src + start, length)
        number = session.post(Op.COPY_HTOD, layout.COPY.pack(dst + start, block, length), stream=wire)
        session.release_when_retired(number, block)
        flying.append(number)
        if len(flying) > CHUNKS_IN_FLIGHT:
            session.ring.wait_host_retired(flying.popleft())
            session.drain()


def _stage_out(session: Session, dst: int, src: int, size: int, wire: int) -> None:
    flying: deque[tuple[int, int, int, int]] = deque()

    def land() -> None:
        number, block, start, length = flying.popleft()
        try:
            session.finish(number)
        except MigproxyError:
            session.heap.free(block)
            raise
        except BaseException:
            keep_until_replied(session, number, block, dst)
            raise
        copy_large(dst + start, block, length)
        session.heap.free(block)

    try:
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            block = session.allocate(length)
            payload = layout.COPY.pack(block, src + start, length)
            number = session.ring.submit(Op.COPY_DTOH, payload, stream=wire, flags=layout.FLAG_WAIT)
            flying.append((number, block, start, length))
            if len(flying) > CHUNKS_IN_FLIGHT:
                land()
        while flying:
            land()
    except BaseException:
        for number, block, _, _ in flying:
            keep_until_replied(session, number, block, 0)
        raise


def memset(pointer: int, value: int, element_bytes: int, count: int, stream: int | None = None) -> None:
    """Set `count` elements of 1, 2 or 4 bytes."""
    if count == 0:
        return
    session = current()
    if not is_managed(pointer):
        session.device.check_range(pointer, element_bytes * count)
    mask = (1 << (8 * element_bytes)) - 1
    session.post(
        Op.MEMSET, layout.MEMSET.pack(pointer, value & mask, element_bytes, count), stream=resolve(stream or 0)
    )


def memset_2d(
    pointer: int, pitch: int, value: int, element_bytes: int, width: int, height: int, stream: int | None = None
) -> None:
    """Set `height` rows of `width` elements."""
    if width * element_bytes > pitch and height > 1:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    for row in range(height):
        memset(pointer + row * pitch, value, element_bytes, width, stream)
