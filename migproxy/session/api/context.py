"""Contexts: the session has one, the primary context of its only device; each thread has CUDA's stack of current
contexts."""

from __future__ import annotations

import itertools
import threading

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.jit import fast_path
from migproxy.session.session import current

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_INVALID_DEVICE = 101
CUDA_ERROR_INVALID_CONTEXT = 201
PRIMARY_CONTEXT = layout.make_handle(layout.KIND_CONTEXT, 1)


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.stack: list[int] = []


_thread = _ThreadState()
_limits: dict[int, int] = {}
_numbers = itertools.count(2)
_created: set[int] = set()


def init() -> None:
    """Connect, if this process has no session yet."""
    current()


def primary_context_retain(device: int = 0) -> int:
    """Return the handle of the primary context."""
    if device != 0:
        raise CudaError(CUDA_ERROR_INVALID_DEVICE)
    current()
    return PRIMARY_CONTEXT


def primary_context_release(device: int = 0) -> None:
    """Accepted: the context lives as long as the session."""
    if device != 0:
        raise CudaError(CUDA_ERROR_INVALID_DEVICE)


def context_create() -> int:
    """Return the handle of a further context: another name of the session's one, which addresses and objects share."""
    current()
    handle = layout.make_handle(layout.KIND_CONTEXT, next(_numbers))
    _created.add(handle)
    return handle


def context_destroy(context: int) -> None:
    """Forget a handle of `context_create`."""
    if context not in _created:
        raise CudaError(CUDA_ERROR_INVALID_CONTEXT)
    _created.discard(context)
    if context_get_current() == context:
        _thread.stack.pop()


def _known(context: int) -> int:
    if context not in (0, PRIMARY_CONTEXT) and context not in _created:
        raise CudaError(CUDA_ERROR_INVALID_CONTEXT)
    return context


def context_get_current() -> int:
    """Return the calling thread's current context, 0 if it has none."""
    stack = _thread.stack
    return stack[-1] if stack else 0


def is_primary_current() -> bool:
    """Tell whether the calling thread's current context is the primary one."""
    stack = _thread.stack
    return bool(stack) and stack[-1] == PRIMARY_CONTEXT


def context_set_current(context: int) -> None:
    """Replace the top of the calling thread's stack; 0 pops it."""
    stack = _thread.stack
    _known(context)
    fast_path.context_changed()
    if stack:
        stack.pop()
    if context:
        current()
        stack.append(context)


def context_push(context: int) -> None:
    """Push `context` on the calling thread's stack."""
    if not context:
        raise CudaError(CUDA_ERROR_INVALID_CONTEXT)
    _thread.stack.append(_known(context))
    fast_path.context_changed()


def context_pop() -> int:
    """Pop the calling thread's stack and return what was on top."""
    if not _thread.stack:
        raise CudaError(CUDA_ERROR_INVALID_CONTEXT)
    fast_path.context_changed()
    return _thread.stack.pop()


def context_device() -> int:
    """Return the current context's device."""
    if not _thread.stack:
        raise CudaError(CUDA_ERROR_INVALID_CONTEXT)
    return 0


def ensure_context() -> None:
    """Make the primary context current if the calling thread has none, as the runtime API does."""
    if not _thread.stack:
        current()
        _thread.stack.append(PRIMARY_CONTEXT)


def context_synchronize() -> None:
    """Wait for everything the session submitted; raises the error of work that failed."""
    current().call(Op.CONTEXT_SYNC, b"")


def context_get_limit(limit: int) -> int:
    """Return a ``CUlimit`` in its own unit."""
    facts = current().facts
    if limit not in facts.limits:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    return _limits.get(limit, facts.limits[limit])


def context_set_limit(limit: int, value: int) -> None:
    """Set a ``CUlimit``; the executor caps what would cost more memory than the quota allows."""
    if limit not in current().facts.limits:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    reply = current().call(Op.CONTEXT_SET_LIMIT, msgspec.msgpack.encode((limit, value)))
    _limits[limit] = msgspec.msgpack.decode(reply, type=int)


def stream_priority_range() -> tuple[int, int]:
    """Return (least, greatest) stream priority."""
    return current().facts.stream_priorities
