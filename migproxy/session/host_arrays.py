"""NumPy arrays of a function live in its session's arena, so that the executor's GPU copies from and to them in place.

NumPy's allocator is replaced when NumPy is imported. The first large array opens the session; a full arena grows. A
forked child takes ordinary memory until it has a session of its own.
"""

from __future__ import annotations

import logging
import time
from types import ModuleType

from migproxy.arena import fork_unsafe
from migproxy.errors import CudaError, MigproxyError
from migproxy.jit import numpy_memory
from migproxy.session import session as sessions

log = logging.getLogger("migproxy.session")

#: An array of this size is worth opening the session for, if there is none yet.
OPEN_FROM = 1 << 20
#: At most this much more is asked for at a time, unless one array needs more.
GROW_BY = 1 << 30
#: After a refusal nobody is asked again for a while: allocations must stay cheap when the broker has no more to give.
PATIENCE_SECONDS = 5.0

_refused_until = 0.0


def install(numpy: ModuleType) -> None:
    """Replace NumPy's data allocator; called right after NumPy was imported."""
    if numpy_memory.install(numpy):
        numpy_memory.on_full(_make_room)
        session = sessions.opened()
        if session is not None:
            numpy_memory.use_heap(session.heap)


def take_small() -> None:
    """Have small arrays in the arena too, as soon as there is a session: called where a program may map them."""
    numpy_memory.take_small()


def _make_room(size: int) -> bool:
    """Open the session, or add a segment to its arena; returns whether a request of `size` bytes should be tried
    again."""
    global _refused_until
    if time.monotonic() < _refused_until:
        return False
    session = sessions.opened()
    try:
        if session is None:
            if size < OPEN_FROM:
                return False
            sessions.current()
            return True
        if session.closed:
            return False
        if session.grow(max(size, min(session.heap.capacity, GROW_BY))) or session.grow(size):
            return True
    except (MigproxyError, CudaError, OSError) as error:
        log.info("NumPy arrays stay in ordinary memory: %s", error)
    _refused_until = time.monotonic() + PATIENCE_SECONDS
    return False


def _use(session: sessions.Session) -> None:
    numpy_memory.use_heap(session.heap)


sessions.on_new_session(_use)
fork_unsafe.in_child(lambda: numpy_memory.use_heap(None))
