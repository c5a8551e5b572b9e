"""Events: handles are chosen here, so that creating, recording and destroying need no reply."""

from __future__ import annotations

import struct

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.session.api.streams import resolve
from migproxy.session.session import current, on_fork, parent_session

CUDA_ERROR_INVALID_HANDLE = 400
#: CU_EVENT_INTERPROCESS
INTERPROCESS = 4
_PAIR = struct.Struct("<QQ")
_FLOAT = struct.Struct("<f")

_inherited: dict[int, int] = {}


def _known(event: int) -> int:
    """Return `event` if it is one; an event that a forked child inherited is made again when it is first used."""
    session = current()
    if session.ring.event_flags(event) is not None:
        return event
    flags = _inherited.pop(event, None)
    if flags is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    session.post(Op.EVENT_CREATE, layout.CREATE.pack(event, flags, 0))
    session.ring.adopt_event(event, flags)
    return event


def _after_fork() -> None:
    parent = parent_session()
    if parent is not None:
        _inherited.update(parent.ring.live_events())


on_fork(_after_fork)


def event_create(flags: int = 0) -> int:
    """Create an event with ``CUevent_flags``."""
    session = current()
    # One that other sessions may record is not for the hot path, which would wait for it with the lease in hand.
    interprocess = flags & INTERPROCESS
    handle = session.ring.reserve_slow_event(flags) if interprocess else session.ring.reserve_event(flags)
    session.post(Op.EVENT_CREATE, layout.CREATE.pack(handle, flags, 0))
    return handle


def event_destroy(event: int) -> None:
    """Destroy an event."""
    if _inherited.pop(event, None) is not None:
        return
    session = current()
    if session.ring.event_flags(event) is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    session.post(Op.EVENT_DESTROY, layout.HANDLE.pack(event))
    session.ring.release_event(event)


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
