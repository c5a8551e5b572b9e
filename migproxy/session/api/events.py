"""Events: handles are chosen here, so that creating, recording and destroying need no reply."""

from __future__ import annotations

import itertools
import struct

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.session.api.streams import resolve
from migproxy.session.session import current, on_fork

CUDA_ERROR_INVALID_HANDLE = 400
_PAIR = struct.Struct("<QQ")
_FLOAT = struct.Struct("<f")

_numbers = itertools.count(1)
_live: dict[int, int] = {}
_inherited: set[int] = set()


def _known(event: int) -> int:
    if event not in _live:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    if event in _inherited:
        _inherited.discard(event)
        current().post(Op.EVENT_CREATE, layout.CREATE.pack(event, _live[event], 0))
        current().ring.note_handle(event, True)
    return event


def _after_fork() -> None:
    """A child's events are its own: each that it inherited is made again when it is first used."""
    _inherited.update(_live)


on_fork(_after_fork)


def event_create(flags: int = 0) -> int:
    """Create an event with ``CUevent_flags``."""
    handle = layout.make_handle(layout.KIND_EVENT, next(_numbers))
    current().post(Op.EVENT_CREATE, layout.CREATE.pack(handle, flags, 0))
    _live[handle] = flags
    current().ring.note_handle(handle, True)
    return handle


def event_destroy(event: int) -> None:
    """Destroy an event."""
    if _live.pop(event, None) is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    if event in _inherited:
        _inherited.discard(event)
        return
    current().ring.note_handle(event, False)
    current().post(Op.EVENT_DESTROY, layout.HANDLE.pack(event))


def event_record(event: int, stream: int = 0, flags: int = 0) -> None:
    """Record the event behind the work submitted to `stream`."""
    current().post(Op.EVENT_RECORD, layout.EVENT.pack(_known(event), flags), stream=resolve(stream))


def event_query(event: int) -> None:
    """Return when the event is done, raise CudaError(600) when it is not."""
    current().call(Op.EVENT_QUERY, layout.HANDLE.pack(_known(event)))


def event_synchronize(event: int) -> None:
    """Wait for the event."""
    current().call(Op.EVENT_SYNC, layout.HANDLE.pack(_known(event)))


def event_elapsed_time(start: int, end: int) -> float:
    """Return the milliseconds between two recorded events."""
    reply = current().call(Op.EVENT_ELAPSED, _PAIR.pack(_known(start), _known(end)))
    elapsed: float = _FLOAT.unpack_from(reply)[0]
    return elapsed
