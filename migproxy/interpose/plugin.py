"""The plugin interface: what a package declares so that its GPU library becomes remote.

A plugin is an entry point of the group ``migproxy.plugins`` that names a package with an attribute ``PLUGIN``. It
has a function
half (which modules are patched or replaced in the function) and an executor half (how the executor serves library
calls). Nothing of it is
imported until a function imports one of its modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

#: Version of this interface; a plugin made for another one is refused by name with both versions.
INTERFACE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Plugin:
    """One GPU library's plugin.

    Attributes
    ----------
    name : str
        Short name, used in messages, statistics and the broker's allow-list.
    interface : int
        The interface version it was written for.
    after_import : mapping of str to callable
        Module name → function that is called with the module right after it executed and before anyone imports from it.
    replace : mapping of str to callable
        Module name → factory of a stand-in module, called with the module's name instead of importing the real one.
    executor : str
        Dotted name of the executor half; empty if the executor needs nothing.
    """

    name: str
    interface: int
    after_import: Mapping[str, Callable[[ModuleType], None]] = field(default_factory=dict)
    replace: Mapping[str, Callable[[str], ModuleType]] = field(default_factory=dict)
    executor: str = ""
