"""Streams: handles are chosen here, so that creating and destroying one needs no reply."""

from __future__ import annotations

import itertools
import threading

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.session.session import Session, current, on_fork

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_INVALID_HANDLE = 400
LEGACY = 1
PER_THREAD = 2

_numbers = itertools.count(1)
_flags: dict[int, int] = {}
_priorities: dict[int, int] = {}
_capturing: dict[int, int] = {}
_inherited: set[int] = set()


class _ThreadStream(threading.local):
    session: Session | None = None
    handle = 0


_thread_stream = _ThreadStream()


def resolve(stream: int) -> int:
    """Return the handle the executor knows for a user's stream value.

    0 and 1 are the legacy default stream (0 on the wire); 2 is the calling thread's own default stream, made on first
    use.

    Raises
    ------
    CudaError
        400 for a handle this process did not create.
    """
    if stream <= LEGACY:
        return 0
    if stream == PER_THREAD:
        session = current()
        if _thread_stream.session is not session:
            _thread_stream.handle = stream_create()
            _thread_stream.session = session
        return _thread_stream.handle
    if stream not in _flags:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"stream {stream:#x}")
    if stream in _inherited:
        _inherited.discard(stream)
        current().post(Op.STREAM_CREATE, layout.CREATE.pack(stream, _flags[stream], _priorities[stream]))
        current().ring.note_handle(stream, True)
    return stream


def _after_fork() -> None:
    """A child's streams are its own: each that it inherited is made again when it is first used."""
    _inherited.update(_flags)
    _capturing.clear()


on_fork(_after_fork)


def stream_create(flags: int = 0, priority: int = 0) -> int:
    """Create a stream; `flags` 1 is non-blocking, `priority` is clamped to the device's range."""
    if flags not in (0, 1):
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    session = current()
    least, greatest = session.facts.stream_priorities
    priority = max(greatest, min(least, priority))
    handle = layout.make_handle(layout.KIND_STREAM, next(_numbers))
    session.post(Op.STREAM_CREATE, layout.CREATE.pack(handle, flags, priority))
    _flags[handle] = flags
    session.ring.note_handle(handle, True)
    _priorities[handle] = priority
    return handle


def stream_destroy(stream: int) -> None:
    """Destroy a stream; work submitted to it still completes."""
    if _flags.pop(stream, None) is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE)
    if _capturing.pop(stream, None) is not None:
        # The capture ends with the stream that it was begun on, without a graph.
        current().ring.note_capturing(len(_capturing))
    _priorities.pop(stream, None)
    if stream in _inherited:
        _inherited.discard(stream)
        return
    current().ring.note_handle(stream, False)
    current().device.end_stream(stream)
    current().post(Op.STREAM_DESTROY, layout.HANDLE.pack(stream))


def stream_synchronize(stream: int) -> None:
    """Wait for the work submitted to `stream`."""
    current().call(Op.STREAM_SYNC, b"", stream=resolve(stream))


def stream_query(stream: int) -> None:
    """Return when all work is done, raise CudaError(600) when it is not."""
    current().call(Op.STREAM_QUERY, b"", stream=resolve(stream))


def stream_wait_event(stream: int, event: int, flags: int = 0) -> None:
    """Make later work of `stream` wait for `event`."""
    current().post(Op.STREAM_WAIT_EVENT, layout.EVENT.pack(event, flags), stream=resolve(stream))


def stream_flags(stream: int) -> int:
    """Return the creation flags."""
    return _flags.get(resolve(stream), 0)


def stream_priority(stream: int) -> int:
    """Return the priority."""
    return _priorities.get(resolve(stream), 0)


def stream_capture_status(stream: int) -> int:
    """Return the ``CUstreamCaptureStatus``: 0 none, 1 active.

    Raises
    ------
    CudaError
        906 for the legacy stream while a stream that synchronises with it is captured.
    """
    if stream <= LEGACY and any(_flags.get(captured, 1) == 0 for captured in _capturing):
        raise CudaError(906)
    return _capturing.get(stream, 0)


def capturing() -> bool:
    """Tell whether any stream of this process is being captured."""
    return bool(_capturing)


def is_captured(stream: int) -> bool:
    """Tell whether work on `stream` becomes part of a graph, begun there or joined by an event of another stream."""
    if not _capturing or stream <= PER_THREAD:
        return False
    if stream in _capturing:
        return True
    payload = msgspec.msgpack.encode(("cuStreamIsCapturing", [resolve(stream)]))
    status, outs = msgspec.msgpack.decode(current().call(Op.DRIVER_CALL, payload))
    return not status and outs[0] != 0


def stream_begin_capture(stream: int, mode: int) -> None:
    """Begin to record the work submitted to `stream` into a graph; the legacy stream cannot be captured (900)."""
    wire = resolve(stream)
    if wire == 0:
        raise CudaError(900)
    current().call(Op.CAPTURE_BEGIN, msgspec.msgpack.encode(mode), stream=wire)
    note_capture(stream)


def note_capture(stream: int) -> None:
    """Note that `stream` is being captured."""
    _capturing[stream] = 1
    current().ring.note_capturing(len(_capturing))


def stream_end_capture(stream: int) -> int:
    """End the recording; returns the graph's handle."""
    wire = resolve(stream)
    _capturing.pop(stream, None)
    current().ring.note_capturing(len(_capturing))
    reply = current().call(Op.CAPTURE_END, b"", stream=wire)
    return msgspec.msgpack.decode(reply, type=int)
