"""CUDA IPC: device memory and events that other processes of this function's owner use too.

What the executors pass each other are the driver's own descriptors and handles. A function sees a token only: the
broker knows what it stands for and who may have it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from migproxy.abi import layout, sharing
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.session.api.events import INTERPROCESS
from migproxy.session.session import Session, current, inherited_address, on_fork, on_new_session, unknown_object

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_OUT_OF_MEMORY = 2
CUDA_ERROR_NOT_INITIALIZED = 3
CUDA_ERROR_INVALID_HANDLE = 400


@dataclass
class _Opened:
    """Memory of another session, and how often it was opened here."""

    token: bytes
    base: int
    size: int
    count: int


_lock = threading.Lock()
_by_token: dict[bytes, _Opened] = {}
_by_base: dict[int, _Opened] = {}


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _by_token.clear()
    _by_base.clear()


def _new_session(_: Session) -> None:
    _forget()


on_fork(_forget)
on_new_session(_new_session)


def _handle(kind: str, token: bytes) -> bytes:
    return sharing.HANDLE.pack(sharing.HANDLE_MARK, kind.encode(), token)


def _token(kind: str, handle: bytes) -> bytes:
    """Return the token in a handle of a kind.

    Raises
    ------
    CudaError
        1 when it is none.
    """
    if len(handle) == sharing.HANDLE.size:
        mark, of_kind, token = sharing.HANDLE.unpack(handle)
        if mark == sharing.HANDLE_MARK and of_kind.rstrip(b"\0") == kind.encode():
            return bytes(token)
    raise CudaError(CUDA_ERROR_INVALID_VALUE, f"no IPC handle of {kind}")


def ipc_memory_handle(pointer: int) -> bytes:
    """Return the 64-byte handle of the allocation that holds `pointer`.

    Raises
    ------
    CudaError
        1 for memory that this session did not allocate, 2 when too much is shared, 801 where the driver cannot share.
    """
    session = current()
    base, size = session.device.own_range(pointer)
    # First, so that a free in another thread is told to the executor behind this.
    session.device.note_shared(base)
    return _handle(sharing.MEMORY, session.call(Op.IPC_GIVE_MEMORY, layout.RANGE.pack(base, size)))


def ipc_open_memory(handle: bytes) -> int:
    """Map the allocation of another session of this owner; returns its base address. A further call counts up.

    Raises
    ------
    CudaError
        1 for a handle that is none, or nothing that this function may have; 2 beyond the quota, to which all of the
        allocation counts; 201 for memory of this very process.
    """
    token = _token(sharing.MEMORY, handle)
    with _lock:
        opened = _by_token.get(token)
        if opened is None:
            session = current()
            try:
                reply = session.call(Op.IPC_TAKE_MEMORY, token)
            except CudaError as error:
                if error.status != CUDA_ERROR_OUT_OF_MEMORY:
                    raise
                session.device.make_room()
                reply = session.call(Op.IPC_TAKE_MEMORY, token)
            base, size = layout.RANGE.unpack_from(reply)
            session.device.adopt(base, size)
            opened = _by_token[token] = _by_base[base] = _Opened(token, base, size, 0)
        opened.count += 1
        return opened.base


def ipc_close_memory(pointer: int) -> None:
    """Undo one `ipc_open_memory`; the last one unmaps the memory, once the work submitted before is done.

    Raises
    ------
    CudaError
        1 when nothing was opened there.
    """
    with _lock:
        opened = _by_base.get(pointer)
        if opened is None:
            status = CUDA_ERROR_NOT_INITIALIZED if inherited_address(pointer) else CUDA_ERROR_INVALID_VALUE
            raise CudaError(status, f"{pointer:#x} is not memory of an IPC handle")
        opened.count -= 1
        if opened.count:
            return
        del _by_base[pointer], _by_token[opened.token]
        session = current()
        session.device.disown(pointer)
        session.call(Op.IPC_CLOSE_MEMORY, layout.HANDLE.pack(pointer))


def ipc_event_handle(event: int) -> bytes:
    """Return the 64-byte handle of an event that was made with the flag for interprocess use.

    Raises
    ------
    CudaError
        400 for another one.
    """
    session = current()
    flags = session.ring.event_flags(event)
    if flags is None:
        raise unknown_object(CUDA_ERROR_INVALID_HANDLE, f"event {event:#x}")
    if not flags & INTERPROCESS:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, "the event was not made for other processes")
    return _handle(sharing.EVENT, session.call(Op.IPC_GIVE_EVENT, layout.HANDLE.pack(event)))


def ipc_open_event(handle: bytes) -> int:
    """Return a handle of another session's event; `event_destroy` ends it here.

    Raises
    ------
    CudaError
        As `ipc_open_memory`.
    """
    token = _token(sharing.EVENT, handle)
    session = current()
    event = session.ring.reserve_slow_event(INTERPROCESS | 2)
    try:
        session.call(Op.IPC_TAKE_EVENT, layout.HANDLE.pack(event) + token)
    except BaseException:
        session.ring.release_event(event)
        raise
    return event
