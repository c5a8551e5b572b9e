"""Wakes the interposition in a process: reads the plugins and registers their modules with the import hook.

``migproxy.pth`` calls `wake` at the start of every interpreter; it does nothing unless ``MIGPROXY_ACTIVE`` is set,
which ``migproxy run`` sets and child processes inherit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from migproxy import ending
from migproxy.distributions import Entry, entry_points
from migproxy.errors import MigproxyError, PluginError
from migproxy.interpose import hook
from migproxy.interpose.plugin import ENTRY_POINT_GROUP, INTERFACE_VERSION, Plugin

ACTIVE_VARIABLE = "MIGPROXY_ACTIVE"
log = logging.getLogger("migproxy.plugins")

_active = False


def wake() -> None:
    """Activate the interposition if this process belongs to a function."""
    if os.environ.get(ACTIVE_VARIABLE) == "1":
        activate()


def active() -> bool:
    """Tell whether this process is interposed."""
    return _active


def activate() -> None:
    """Interpose every plugin's modules in this process; calling it again changes nothing.

    A plugin that is broken, or made for another interface version, is left out and named in `migproxy logs`: the
    function does not use its library, or fails in the library's own import, where there is no device.
    """
    global _active
    if _active:
        return
    _active = True
    ending.prepare()
    _keep_quiet()
    # Nothing below the substituted modules may find a device, whatever the machine has.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    plugins, broken = find_plugins()
    for error in broken:
        log.warning("%s", error)
    for plugin in plugins:
        for name, patch in plugin.after_import.items():
            hook.after_import(name, _named(plugin.name, name, patch))
        for name, factory in plugin.replace.items():
            hook.replace_module(name, _named(plugin.name, name, factory))
    hook.install()


def _named(plugin: str, module: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `function` with its failures named: a library that is half patched must not be imported."""

    def call(argument: Any) -> Any:
        try:
            return function(argument)
        except (MigproxyError, ImportError):
            # Made to be read: a version out of range, a library that is refused.
            raise
        except Exception as error:
            log.warning("plugin %r cannot interpose %s: %s: %s", plugin, module, type(error).__name__, error)
            raise PluginError(f"plugin {plugin!r} cannot interpose {module}: {error!r}") from error

    return call


def _keep_quiet() -> None:
    """Keep migproxy's own messages off the script's standard error and out of its logging set-up."""
    quiet = logging.getLogger("migproxy")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False


def installed() -> dict[str, Entry]:
    """Return the entry points of the installed plugins by name, in the order of their names; nothing is imported."""
    found: dict[str, Entry] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, entry)
    return {name: found[name] for name in sorted(found)}


def find_plugins() -> tuple[list[Plugin], list[PluginError]]:
    """Return every plugin's declaration, and what is wrong with those that have none that can be used."""
    plugins: list[Plugin] = []
    broken: list[PluginError] = []
    for entry in installed().values():
        try:
            plugins.append(load_plugin(entry))
        except PluginError as error:
            broken.append(error)
    return plugins, broken


def load_plugins() -> list[Plugin]:
    """Return every installed plugin's declaration, in the order of their names.

    Raises
    ------
    PluginError
        One cannot be loaded or was made for another interface version.
    """
    return [load_plugin(entry) for entry in installed().values()]


def load_plugin(entry: Entry) -> Plugin:
    """Load one plugin's declaration and check its interface version.

    Raises
    ------
    PluginError
        It cannot be used; the message names it and says why.
    """
    try:
        module: ModuleType = entry.load()
    except Exception as error:
        raise PluginError(f"plugin {entry.name!r} ({entry.value}) cannot be imported: {error!r}") from error
    plugin = getattr(module, "PLUGIN", None)
    interface = getattr(plugin, "interface", None)
    if isinstance(interface, int) and interface != INTERFACE_VERSION:
        raise PluginError(
            f"plugin {entry.name!r} was made for plugin interface {interface}; this migproxy has {INTERFACE_VERSION}"
        )
    if not isinstance(plugin, Plugin):
        raise PluginError(
            f"plugin {entry.name!r} ({entry.value}) declares no PLUGIN of type migproxy.interpose.plugin.Plugin"
        )
    if plugin.name != entry.name:
        raise PluginError(f"plugin {entry.name!r} ({entry.value}) calls itself {plugin.name!r}")
    return plugin
