"""What every runtime API call does besides its work: the implicit context, status numbers, the thread's last error."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.status import CudaRuntimeStatus, runtime_status

from migproxy.errors import CudaError, MigproxyError
from migproxy.session import api

P = ParamSpec("P")
R = TypeVar("R")


class _Thread(threading.local):
    """The runtime API's state of one thread."""

    last_error: int = 0


thread = _Thread()


def failure(error: BaseException) -> CudaRuntimeStatus:
    """Record `error` as the thread's last error and return it as a runtime status."""
    status = runtime_status(error)
    thread.last_error = status
    if isinstance(error, CudaRuntimeStatus):
        return error
    return CudaRuntimeStatus(status, getattr(error, "detail", "") or str(error))


def runtime_call(function: Callable[P, R]) -> Callable[P, R]:
    """Make `function` a runtime API call that needs no context."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (CudaError, MigproxyError, MemoryError) as error:
            result = failure(error)
            if result is error:
                raise
            raise result from error

    return call


def context_call(function: Callable[P, R]) -> Callable[P, R]:
    """Make `function` a runtime API call that first makes the device's primary context current, as the real one
    does."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            api.ensure_context()
            return function(*args, **kwargs)
        except (CudaError, MigproxyError, MemoryError) as error:
            result = failure(error)
            if result is error:
                raise
            raise result from error

    return call


def get_last_error() -> int:
    """Return the thread's last error (``cudaError_t``) and reset it."""
    status, thread.last_error = thread.last_error, 0
    return status


def peek_at_last_error() -> int:
    """Return the thread's last error (``cudaError_t``)."""
    return thread.last_error


def check_device(device: int) -> None:
    """Raise ``cudaErrorInvalidDevice`` unless `device` exists."""
    if not 0 <= device < api.device_count():
        raise CudaRuntimeStatus(st.INVALID_DEVICE, f"no device {device}")
