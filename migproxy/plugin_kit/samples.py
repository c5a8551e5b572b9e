"""What the conformance kit needs to know of a plugin, and what it does where the plugin says nothing.

`Plugin.check` names a module that may have any of these functions; each replaces the default of the same name here:

``installed(table)``
    Names of the installed library's functions, or None if it is not installed. By default the module is imported in a
    process that is not interposed: its capsule table if it has one, else its public functions.
``in_other_releases(table)``
    Names of entries that the installed library may lack, because it is one of several releases; none by default.
``missing(table)``
    Names that the table says are served and the executor half does not have.
``call(table, operation)``
    What a function calls; by default the function of that name in the table's module.
``handle(table, operation, argument)``
    A handle for an argument whose kind nothing in the table makes; None: the operation is not called.
``arguments(table, operation, defaults)``
    The arguments to call an operation with, by name; `defaults` fit the table. None: it is not called.
``travels(table, operation, values)``
    What travels for these values, one for each argument, if it is not what `migproxy.executor.table_server` reads.
``smoke()``
    Uses the library once, checks its result, and keeps nothing.
``CALLS_ON_GPU``
    False: operations are called with sample arguments on the software GPU only.
``INHERITS``
    True: the library keeps objects over a fork, so its use in a forked child may fail, as it does natively.
``HUGE_INTEGERS``
    False: the executor half is not sent the largest integers that fit; for libraries that would really work as long.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

from migproxy.abi.tables import HOST_KINDS, Argument, Kind, Operation, Table, size_of
from migproxy.interpose.plugin import Plugin

CHILD_SECONDS = 60.0
#: Where sample pointers point to: no operation with integers of 1 touches more.
SAMPLE_BYTES = 1 << 20

_NAMES_OF_MODULE = """
import importlib, inspect, json, sys
module = importlib.import_module(sys.argv[1])
table = {name for name in getattr(module, "__pyx_capi__", ()) if name[0] != "_"}
compiled = bool(table)
for name, value in vars(module).items():
    if name[0] == "_" or not callable(value) or inspect.isclass(value):
        continue
    # Of a compiled module, what is none of its own C functions is one if Cython put a signature on it.
    told = (value.__doc__ or "").startswith(name + "(") if compiled else True
    if told and getattr(value, "__module__", sys.argv[1]) in (sys.argv[1], None):
        table.add(name)
print(json.dumps(sorted(table)))
"""


def plain_environment() -> dict[str, str]:
    """Return this process's environment without anything that would interpose a child."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY_")}


class Samples:
    """A plugin's helpers for the kit, with the defaults.

    Parameters
    ----------
    plugin : Plugin
    """

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.module: ModuleType | None = importlib.import_module(plugin.check) if plugin.check else None

    def _own(self, name: str) -> Any:
        return getattr(self.module, name, None)

    @property
    def calls_on_gpu(self) -> bool:
        """Whether operations may be called with sample arguments on a real GPU."""
        return self._own("CALLS_ON_GPU") is not False

    @property
    def inherits(self) -> bool:
        """Whether use in a forked child may fail."""
        return bool(self._own("INHERITS"))

    @property
    def huge_integers(self) -> bool:
        """Whether the executor half may be sent the largest integers that fit."""
        return self._own("HUGE_INTEGERS") is not False

    def installed(self, table: Table) -> set[str] | None:
        """Return the names of the installed library's functions; None if it is not installed."""
        own = self._own("installed")
        if own is not None:
            found: set[str] | None = own(table)
            return found
        run = subprocess.run(
            [sys.executable, "-c", _NAMES_OF_MODULE, table.module],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
            env=plain_environment(),
        )
        if run.returncode:
            return None
        return set(json.loads(run.stdout))

    def in_other_releases(self, table: Table) -> set[str]:
        """Return names that a release of the library has which need not be the installed one."""
        own = self._own("in_other_releases")
        return set(own(table)) if own is not None else set()

    def missing(self, table: Table) -> list[str]:
        """Return what the table says is served and the executor half lacks."""
        own = self._own("missing")
        if own is not None:
            return list(own(table))
        if not self.plugin.executor:
            return []
        module = importlib.import_module(self.plugin.executor)
        servers = getattr(getattr(module, "HALF", module), "servers", {})
        if table.library not in servers:
            return [f"a server for {table.library}"]
        source = servers[table.library].software_source()
        return [
            operation.name
            for operation in table.operations.values()
            if source is not None and operation.served == "by the library" and not hasattr(source, operation.name)
        ]

    def call(self, table: Table, operation: Operation) -> Any:
        """Return what a function calls."""
        own = self._own("call")
        if own is not None:
            return own(table, operation)
        return getattr(importlib.import_module(table.module), operation.name)

    def handle(self, table: Table, operation: Operation, argument: Argument) -> Any:
        """Return a handle that nothing in the table makes; None if there is none."""
        own = self._own("handle")
        return None if own is None else own(table, operation, argument)

    def arguments(self, table: Table, operation: Operation, defaults: dict[str, Any]) -> dict[str, Any] | None:
        """Return the arguments for a call; None if it is not called."""
        own = self._own("arguments")
        if own is not None:
            found: dict[str, Any] | None = own(table, operation, defaults)
            return found
        return defaults

    def travels(self, table: Table, operation: Operation, values: list[Any]) -> list[Any]:
        """Return what travels for these values."""
        own = self._own("travels")
        return values if own is None else list(own(table, operation, values))

    @property
    def has_smoke(self) -> bool:
        """Whether the plugin says how its library is used."""
        return self._own("smoke") is not None

    def smoke(self) -> None:
        """Use the library once."""
        self._own("smoke")()


def plain_sample(argument: Argument) -> Any:
    """Return a value for an argument that is no handle, pointer or host memory."""
    return {
        Kind.INTEGER: 1,
        Kind.NUMBER: 1.0,
        Kind.COMPLEX: 1.0 + 0.0j,
        Kind.TEXT: "sample",
        Kind.STREAM: 0,
        Kind.VALUE: 1,
    }[argument.kind]


def host_bytes(operation: Operation, argument: Argument) -> int:
    """Return the bytes of a host argument when every integer is 1."""
    assert argument.kind in HOST_KINDS
    assert argument.size is not None
    values = {each.name: 1 for each in operation.arguments if each.kind is Kind.INTEGER}
    return size_of(argument.size, values)


def makers(table: Table) -> dict[str, Operation]:
    """Return an operation that makes each kind of handle, the one with the fewest arguments."""
    found: dict[str, Operation] = {}
    for operation in table.operations.values():
        if operation.makes and not operation.refused:
            known = found.get(operation.makes)
            if known is None or len(operation.arguments) < len(known.arguments):
                found[operation.makes] = operation
    return found


def enders(table: Table) -> dict[str, Operation]:
    """Return the operation that ends each kind of handle."""
    return {
        argument.of: operation
        for operation in table.operations.values()
        for argument in operation.arguments
        if argument.ends and not operation.refused
    }
