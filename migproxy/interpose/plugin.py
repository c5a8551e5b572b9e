"""The plugin interface: what a package declares so that its GPU library becomes remote.

A plugin is an entry point of the group ``migproxy.plugins`` that names a package with an attribute ``PLUGIN``. It has a
function half (which modules are patched or replaced in the function) and an executor half (how the executor serves
library calls). The declaration is read when a function starts, so it imports nothing but this module; the halves, the
tables and the library itself are imported when a function imports one of the library's modules, or calls it.

``docs/plugins.md`` is the guide; ``migproxy plugin new`` makes a package to start from.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from migproxy.abi.interface import ENTRY_POINT_GROUP, INTERFACE_VERSION

if TYPE_CHECKING:
    from migproxy.abi.tables import (
        Argument,
        Kind,
        Operation,
        Table,
        array,
        complex_number,
        device,
        ended,
        handle,
        integer,
        number,
        read,
        scratch,
        stream,
        struct,
        table,
        text,
        updated,
        value,
        written,
    )


@dataclass(frozen=True, slots=True)
class Plugin:
    """One GPU library's plugin.

    Attributes
    ----------
    name : str
        Short name, used in messages, statistics and the broker's allow-list; the same as the entry point's.
    interface : int
        The interface version it was written for.
    after_import : mapping of str to callable
        Module name → function that is called with the module right after it executed and before anyone imports from it:
        for capsule tables, attributes, driver objects.
    replace : mapping of str to callable
        Module name → factory of a stand-in module, called with the module's name instead of importing the real one.
    executor : str
        Dotted name of the executor half; empty if the executor needs nothing.
    libraries : tuple of str
        Names on the wire of what the executor half serves; it is loaded when one of them is first called.
    tables : str
        ``"module:attribute"`` of the plugin's tables (a sequence of `Table`, or a function that returns one); empty
        if it has no operations of its own.
    check : str
        Dotted name of the module that helps ``migproxy plugin check``; see `migproxy.plugin_kit.samples`.
    """

    name: str
    interface: int
    after_import: Mapping[str, Callable[[ModuleType], None]] = field(default_factory=dict)
    replace: Mapping[str, Callable[[str], ModuleType]] = field(default_factory=dict)
    executor: str = ""
    libraries: tuple[str, ...] = ()
    tables: str = ""
    check: str = ""


def __getattr__(name: str) -> Any:
    """Words of tables, imported when a plugin's tables are: a declaration needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from migproxy.abi import tables

    return getattr(tables, name)


def load_tables(plugin: Plugin) -> tuple[Table, ...]:
    """Import and return a plugin's tables."""
    if not plugin.tables:
        return ()
    module, _, attribute = plugin.tables.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    return tuple(found() if callable(found) else found)


def later(target: str) -> Callable[[Any], Any]:
    """Return a function that imports ``"module:function"`` when it is first called, and calls it: for `Plugin`'s
    callables, so that a declaration imports nothing.
    """
    module, _, attribute = target.partition(":")

    def call(argument: Any) -> Any:
        return getattr(importlib.import_module(module), attribute)(argument)

    call.__name__ = call.__qualname__ = attribute
    return call


__all__ = [
    "ENTRY_POINT_GROUP",
    "INTERFACE_VERSION",
    "Argument",
    "Kind",
    "Operation",
    "Plugin",
    "Table",
    "array",
    "complex_number",
    "device",
    "ended",
    "handle",
    "integer",
    "later",
    "load_tables",
    "number",
    "read",
    "scratch",
    "stream",
    "struct",
    "table",
    "text",
    "updated",
    "value",
    "written",
]
