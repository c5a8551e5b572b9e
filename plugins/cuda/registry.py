"""The driver functions this plugin serves in the function, by C name.

An adapter takes the C function's arguments as integers (pointers as addresses), does its work through
``migproxy.session.api``, writes
its outputs, and returns nothing; a failure is an exception. `status_of` makes it a C function that returns a
``CUresult``.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from migproxy_plugins.cuda.status import NOT_SUPPORTED, driver_status

from migproxy.errors import CudaError, MigproxyError

log = logging.getLogger("migproxy.cuda")

Adapter = Callable[..., None]

#: Every adapter of the driver API, by unversioned C name.
DRIVER: dict[str, Adapter] = {}

_FAMILIES = (
    "any_node",
    "arrays",
    "context",
    "copies",
    "device",
    "edges",
    "entry",
    "graphs",
    "ipc",
    "launch",
    "link",
    "managed",
    "memory",
    "modules",
    "nodes",
    "pools",
    "streams",
    "tensormap",
    "virtual",
)


def serves(*names: str) -> Callable[[Adapter], Adapter]:
    """Register the decorated adapter under its own name and `names` (versions that take the same arguments)."""

    def register(adapter: Adapter) -> Adapter:
        for name in (adapter.__name__, *names):
            if name in DRIVER:
                raise ValueError(f"{name} has two adapters")
            DRIVER[name] = adapter
        return adapter

    return register


def load() -> dict[str, Adapter]:
    """Import every family of adapters and return `DRIVER`."""
    for family in _FAMILIES:
        importlib.import_module(f"migproxy_plugins.cuda.driver_{family}")
    return DRIVER


def refuse(what: str, why: str) -> CudaError:
    """Return the error of a refused operation, and log it once a call."""
    log.warning("refused: %s: %s", what, why)
    return CudaError(NOT_SUPPORTED, f"{what}: {why}")


def status_of(adapter: Adapter) -> Callable[..., int]:
    """Return `adapter` as a function that answers with a ``CUresult``.

    Exceptions that are no failure of the operation (errors in an adapter) go on to the caller.
    """
    name = adapter.__name__

    def call(*arguments: Any) -> int:
        try:
            adapter(*arguments)
        except CudaError as error:
            if error.detail:
                log.info("%s: %s", name, error)
            return error.status
        except (MigproxyError, MemoryError) as error:
            log.warning("%s: %s", name, error)
            return driver_status(error)
        return 0

    call.__name__ = call.__qualname__ = name
    return call
