"""Events: handles are chosen here, so that creating, recording and destroying need no reply."""

from __future__ import annotations

import itertools
import struct

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.session.api.streams import resolve
from migproxy.session.session import current

CUDA_ERROR_INVALID_HANDLE = 400
_PAIR = struct.Struct("<QQ")
_FLOAT = struct.Struct("<f")

_numbers = itertools.count(1)
_live: set[int] = set()


def _known(event: int) -> int:
    if event not in _live:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    return event


def event_create(flags: int = 0) -> int:
    """Create an event with ``CUevent_flags``."""
    handle = layout.make_handle(layout.KIND_EVENT, next(_numbers))
    current().post(Op.EVENT_CREATE, layout.CREATE.pack(handle, flags, 0))
    _live.add(handle)
    return handle


def event_destroy(event: int) -> None:
    """Destroy an event."""
    _live.discard(_known(event))
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
