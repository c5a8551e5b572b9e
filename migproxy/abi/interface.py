"""Names and version of the plugin interface, for who needs no more of it than that."""

from __future__ import annotations

#: Version of the plugin interface; a plugin made for another one is refused by name with both versions.
#: 1: declarations. 2: tables of operations, names of libraries, what the conformance kit needs.
INTERFACE_VERSION = 2
ENTRY_POINT_GROUP = "migproxy.plugins"
