"""The plugins that are installed beside this migproxy."""

from __future__ import annotations

from collections.abc import Iterator

from migproxy.errors import PluginError
from migproxy.interpose.plugin import Plugin
from migproxy.interpose.wake import installed, load_plugin


def names() -> list[str]:
    """Return their names; nothing of them is imported."""
    return list(installed())


def find(name: str) -> Plugin:
    """Return an installed plugin's declaration.

    Raises
    ------
    PluginError
        There is none of this name, or it cannot be used.
    """
    entries = installed()
    if name not in entries:
        raise PluginError(f"no plugin {name!r} is installed; there are {', '.join(entries) or 'none'}")
    return load_plugin(entries[name])


def lines() -> Iterator[tuple[bool, str]]:
    """Yield for each plugin whether it can be used, and a line about it."""
    for name, entry in installed().items():
        try:
            plugin = load_plugin(entry)
        except PluginError as error:
            yield False, f"{name}: BAD: {error}"
            continue
        modules = ", ".join([*plugin.after_import, *plugin.replace])
        yield True, f"{name}: interface {plugin.interface}, {entry.value}; {modules}"
