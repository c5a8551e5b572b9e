"""Patches of cuda-bindings' modules: their capsules point to our adapters. Run right after each module executed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from migproxy_plugins.cuda import registry
from migproxy_plugins.cuda.driver_entry import ENTRIES
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.rules import RULES
from migproxy_plugins.cuda.status import NOT_SUPPORTED
from migproxy_plugins.cuda.treatment import refused_adapter

from migproxy.interpose import capsules


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
    capsules.replace(module, handlers)
    for name in handlers:
        ENTRIES[name] = capsules.pointer(module, name)


def patch_cyruntime(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cyruntime`` at us."""
    from migproxy_plugins.cuda.runtime_entries import runtime_handler

    handlers = {name: runtime_handler(name) for name in module.__pyx_capi__}
    capsules.replace(module, {name: handler for name, handler in handlers.items() if handler is not None})
