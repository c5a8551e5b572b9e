"""How migproxy's errors become CuPy's own: same type, same status, same message."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from migproxy_plugins.cuda.status import NOT_SUPPORTED, driver_status, runtime_status
from migproxy_plugins.cupy import calls

from migproxy.errors import CudaError, MigproxyError, SessionLost
from migproxy.session import api
from migproxy.session.late import pending
from migproxy.session.session import LibraryCallError
from migproxy.softgpu.errors_table import ERRORS

__all__ = [
    "NOT_SUPPORTED",
    "driver_error_init",
    "driver_status",
    "refuse",
    "releasing",
    "runtime_status",
    "translated",
]


def translated(
    handler: Callable[..., Any], error: Callable[[int], Exception], status_of: Callable[[BaseException], int]
) -> Callable[..., Any]:
    """Wrap a handler so that it raises a library's error class in place of ours.

    Natively a call of one of CuPy's libraries fails at once. Here one that waits for nothing has returned by then, and
    CuPy's next call of the runtime or the driver tells its error, unless it is one that gives something back.

    Parameters
    ----------
    handler : callable
        Raises errors of migproxy.
    error : callable
        Makes the library's exception from a status, e.g. ``CUDARuntimeError``.
    status_of : callable
        `driver_status` or `runtime_status`.
    """

    tells = not getattr(handler, "releases", False)

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            result = handler(*args)
            if pending and tells:
                api.raise_deferred(calls.PACKAGE)
            return result
        except CudaError as reason:
            # The status is all that CUDA would have told; natively there is no cause to show.
            raise error(status_of(reason)) from reason.__cause__
        except LibraryCallError as reason:
            raise calls.failure(reason) from None
        except MigproxyError as reason:
            raise error(status_of(reason)) from reason

    return call


def releasing(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler that gives something back: when the session is over, so is what it would give back.

    Destructors call these, also after the session was closed at exit, and could only print what they get.
    """

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except SessionLost:
            return None
        except CudaError as reason:
            if isinstance(reason.__cause__, SessionLost):
                return None
            raise

    call.releases = True  # type: ignore[attr-defined]
    return call


def refuse(name: str, why: str) -> CudaError:
    """Return the error that refuses an operation by name."""
    return CudaError(NOT_SUPPORTED, f"{name}: {why}")


def driver_error_init(self: Any, status: int) -> None:
    """``CUDADriverError.__init__`` without libcuda: the driver's names and texts come from our table."""
    name, text = ERRORS.get(int(status), ("CUDA_ERROR_UNKNOWN", "unknown error"))
    self.status = int(status)
    RuntimeError.__init__(self, f"{name}: {text}")
