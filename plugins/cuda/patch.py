"""Patches of cuda-bindings' modules: their capsules point to our adapters. Run right after each module executed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType

from migproxy.interpose import capsules
from migproxy_plugins.cuda import registry
from migproxy_plugins.cuda.driver_entry import ENTRIES
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.rules import RULES
from migproxy_plugins.cuda.status import NOT_SUPPORTED
from migproxy_plugins.cuda.treatment import refused_adapter

log = logging.getLogger("migproxy.cuda")

#: ``except ?`` values of the modules' functions.
CYDRIVER_EXCEPTION = 500
CYRUNTIME_EXCEPTION = 36


def driver_handler(name: str) -> Callable[..., int]:
    """Return what a driver function's capsule calls: served, by rule, or refused by name."""
    adapter = registry.load().get(name)
    if adapter is None and name in RULES:
        adapter = rule_adapter(name)
    if adapter is None:
        return refused_adapter(name, NOT_SUPPORTED)
    return registry.status_of(adapter)


def patch_cydriver(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cydriver`` at us."""
    handlers = {name: driver_handler(name) for name in module.__pyx_capi__}
    capsules.replace(module, handlers, holds_gil=False, on_error=CYDRIVER_EXCEPTION)
    for name in handlers:
        ENTRIES[name] = capsules.address(module, name)


def patch_cyruntime(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cyruntime`` at us."""
    from migproxy_plugins.cuda.runtime_entries import runtime_handler

    handlers = {name: runtime_handler(name) for name in module.__pyx_capi__}
    capsules.replace(module, handlers, holds_gil=False, on_error=CYRUNTIME_EXCEPTION)
