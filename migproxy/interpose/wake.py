"""Wakes the interposition in a process: reads the plugins and registers their modules with the import hook.

``migproxy.pth`` calls `wake` at the start of every interpreter; it does nothing unless ``MIGPROXY_ACTIVE`` is set,
which
``migproxy run`` sets and child processes inherit.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from migproxy import ending
from migproxy.errors import PluginError
from migproxy.interpose import hook
from migproxy.interpose.plugin import INTERFACE_VERSION, Plugin

ACTIVE_VARIABLE = "MIGPROXY_ACTIVE"
ENTRY_POINT_GROUP = "migproxy.plugins"

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

    Raises
    ------
    PluginError
        A plugin cannot be loaded or was made for another interface version.
    """
    global _active
    if _active:
        return
    _active = True
    ending.prepare()
    _keep_quiet()
    # Nothing below the substituted modules may find a device, whatever the machine has.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for plugin in load_plugins():
        for name, patch in plugin.after_import.items():
            hook.after_import(name, patch)
        for name, factory in plugin.replace.items():
            hook.replace_module(name, factory)
    hook.install()


def _keep_quiet() -> None:
    """Keep migproxy's own messages off the script's standard error and out of its logging set-up."""
    log = logging.getLogger("migproxy")
    log.addHandler(logging.NullHandler())
    log.propagate = False


def load_plugins() -> list[Plugin]:
    """Return every installed plugin's declaration, in the order of their names."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, entry)
    return [load_plugin(found[name]) for name in sorted(found)]


def load_plugin(entry: EntryPoint) -> Plugin:
    """Load one plugin's declaration and check its interface version."""
    try:
        module: ModuleType = entry.load()
    except Exception as error:
        raise PluginError(f"plugin {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
    plugin = getattr(module, "PLUGIN", None)
    if not isinstance(plugin, Plugin):
        raise PluginError(
            f"plugin {entry.name!r} ({entry.value}) declares no PLUGIN of type migproxy.interpose.plugin.Plugin"
        )
    if plugin.interface != INTERFACE_VERSION:
        raise PluginError(
            f"plugin {entry.name!r} was made for plugin interface {plugin.interface}; "
            f"this migproxy has {INTERFACE_VERSION}"
        )
    return plugin
