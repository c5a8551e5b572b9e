"""Patches of cuda-bindings' modules: their capsules point to our adapters. Run right after each module executed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import ModuleType

from migproxy_plugins.cuda import registry
from migproxy_plugins.cuda.driver_entry import ENTRIES
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.rules import RULES
from migproxy_plugins.cuda.status import NOT_SUPPORTED
from migproxy_plugins.cuda.treatment import refused_adapter

from migproxy.interpose import capsules
from migproxy.jit import fast_path
from migproxy.jit.trampoline import UnsupportedPrototype, make_constant, parse_prototype

log = logging.getLogger("migproxy.cuda")
Handler = Callable[..., int]


def driver_handler(name: str) -> Callable[..., int]:
    """Return what a driver function's capsule calls: served, by rule, or refused by name."""
    adapter = registry.load().get(name)
    if adapter is None and name in RULES:
        adapter = rule_adapter(name)
    if adapter is None:
        return refused_adapter(name, NOT_SUPPORTED)
    return registry.status_of(adapter)


def _callable(module: ModuleType, handlers: Mapping[str, Handler]) -> dict[str, Handler | int]:
    """Return `handlers`, with a constant refusal where a newer release passes a type that is not known yet."""
    entries: dict[str, Handler | int] = dict(handlers)
    for name, text in capsules.read(module).items():
        if name in entries:
            try:
                parse_prototype(text)
            except UnsupportedPrototype as error:
                log.warning("refused: %s: %s", name, error)
                entries[name] = make_constant(NOT_SUPPORTED)
    return entries


def patch_cydriver(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cydriver`` at us."""
    handlers = {name: driver_handler(name) for name in module.__pyx_capi__}
    capsules.replace(module, _callable(module, handlers))
    capsules.accelerate(module, registry.status_of(fast_path.finish))
    for name in handlers:
        ENTRIES[name] = capsules.pointer(module, name)


def patch_cyruntime(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cyruntime`` at us."""
    from migproxy_plugins.cuda.runtime_entries import runtime_handler

    handlers = {name: runtime_handler(name) for name in module.__pyx_capi__}
    served = {name: handler for name, handler in handlers.items() if handler is not None}
    capsules.replace(module, _callable(module, served))
