"""Host functions on streams: they run in the function's process, on one thread of ours, while their stream stalls."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import SessionError
from migproxy.session.api.streams import capturing, resolve
from migproxy.session.session import Session, current

_numbers = itertools.count(1)
_waiting: dict[int, Callable[[], object]] = {}
_repeated: set[int] = set()
_served: WeakSet[Session] = WeakSet()


def stream_add_host_function(stream: int, function: Callable[[], object]) -> None:
    """Run `function` in this process once all work submitted to `stream` before is done; later work waits for it.

    An exception of `function` goes to `sys.unraisablehook`, as for a native host callback.
    """
    resolve(stream)
    # A graph calls it each time it runs, and nothing tells when a captured graph is gone.
    stream_call_host_function(stream, host_function_token(function, repeated=capturing()))


def stream_call_host_function(stream: int, token: int) -> None:
    """Call the function of a token once all work submitted to `stream` before is done."""
    current().post(Op.HOST_CALLBACK, layout.HANDLE.pack(token), stream=resolve(stream))


def host_function_token(function: Callable[[], object], *, repeated: bool) -> int:
    """Return the number under which the device calls `function`: once, or until `release_host_function`."""
    session = current()
    token = next(_numbers)
    _waiting[token] = function
    if repeated:
        _repeated.add(token)
    if session not in _served:
        _served.add(session)
        _thread.start_new_thread(_serve, (session,))
    return token


def release_host_function(token: int) -> None:
    """Forget a repeated function; nothing calls it any more."""
    _waiting.pop(token, None)
    _repeated.discard(token)


def _serve(session: Session) -> None:
    """Run the functions that the executor says are due, one by one, and tell it of each."""
    while True:
        try:
            token = session.ring.wait_called()
        except SessionError:
            return
        function = _waiting.get(token) if token in _repeated else _waiting.pop(token, None)
        try:
            if function is not None:
                function()
        except BaseException as error:
            _report(function, error)
        finally:
            session.ring.note_ran()


def _report(function: object, error: BaseException) -> None:
    """Tell of an exception as Python does where nobody can catch it."""
    report: Any = SimpleNamespace(
        exc_type=type(error),
        exc_value=error,
        exc_traceback=error.__traceback__,
        err_msg="Exception ignored in CUDA host function",
        object=function,
    )
    with contextlib.suppress(Exception):  # the hook may be the program's own
        sys.unraisablehook(report)
