"""How migproxy's errors become CuPy's own: same type, same status, same message."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from migproxy_plugins.cuda.status import NOT_SUPPORTED, driver_status, runtime_status
from migproxy_plugins.cupy import calls

from migproxy.errors import CudaError, MigproxyError, SessionLost
from migproxy.session.session import LibraryCallError
from migproxy.softgpu.errors_table import ERRORS

__all__ = [
    "NOT_SUPPORTED",
    "driver_error_init",
    "driver_status",
    "library_failure",
    "refuse",
    "releasing",
    "runtime_status",
    "translated",
]


def translated(
    handler: Callable[..., Any], error: Callable[[int], Exception], status_of: Callable[[BaseException], int]
) -> Callable[..., Any]:
    """Wrap a handler so that it raises a library's error class in place of ours.

    Parameters
    ----------
    handler : callable
        Raises errors of migproxy.
    error : callable
        Makes the library's exception from a status, e.g. ``CUDARuntimeError``.
    status_of : callable
        `driver_status` or `runtime_status`.
    """

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except CudaError as reason:
            late = library_failure(reason)
            if late is not None:
                raise late from None
            # The status is all that CUDA would have told; natively there is no cause to show.
            raise error(status_of(reason)) from reason.__cause__
        except LibraryCallError as reason:
            raise calls.failure(reason) from None
        except MigproxyError as reason:
            raise error(status_of(reason)) from reason

    return call


def library_failure(reason: BaseException) -> Exception | None:
    """Return the library's own error if that is what `reason` comes from: a library call without reply that failed
    shows at the next call that waits, whichever that is.
    """
    found: BaseException | None = reason
    while found is not None and not isinstance(found, LibraryCallError):
        found = found.__cause__
    return None if found is None else calls.failure(found)


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

    return call


def refuse(name: str, why: str) -> CudaError:
    """Return the error that refuses an operation by name."""
    return CudaError(NOT_SUPPORTED, f"{name}: {why}")


def driver_error_init(self: Any, status: int) -> None:
    """``CUDADriverError.__init__`` without libcuda: the driver's names and texts come from our table."""
    name, text = ERRORS.get(int(status), ("CUDA_ERROR_UNKNOWN", "unknown error"))
    self.status = int(status)
    RuntimeError.__init__(self, f"{name}: {text}")
