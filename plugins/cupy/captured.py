"""Library calls on a captured stream of the software GPU: they become host functions of the graph.

On a real GPU the libraries launch kernels, and those are captured; here a call is NumPy code, which the device calls
at its place in the stream each time the graph runs.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("migproxy.executor")

CAPTURE_UNSUPPORTED = 900
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

#: What the graphs of this session call, by number. A graph does not tell when it ends, so these live as long as the
#: session.
_actions: dict[int, Callable[[], Any]] = {}
_numbers = itertools.count(1)


@_HOST_FUNCTION
def _entry(number: int | None) -> None:
    """Run on the device's thread at the call's place in the graph."""
    try:
        _actions[number or 0]()
    except Exception:
        # There is nobody to tell: a host function has no status.
        log.exception("a captured library call failed")


def capturing(context: Any) -> bool:
    """Whether the call's stream is being captured."""
    if not context.stream or not hasattr(context, "driver"):
        return False
    status = ctypes.c_int(0)
    context.driver.call("cuStreamIsCapturing", context.stream, ctypes.addressof(status))
    return status.value == 1


def record(context: Any, action: Callable[[], Any]) -> None:
    """Add a host function that runs `action` to the graph that the call's stream is captured into."""
    number = next(_numbers)
    _actions[number] = action
    entry = ctypes.cast(_entry, ctypes.c_void_p).value
    context.driver.call("cuLaunchHostFunc", context.stream, entry, number)
