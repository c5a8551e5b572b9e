"""The driver and runtime API as tables of the plugin interface: each function's treatment, and the arguments of those
that are marshalled by rule.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from migproxy_plugins.cuda import treatment
from migproxy_plugins.cuda.rules import KINDS, RULES

from migproxy.abi import tables as words
from migproxy.abi.tables import Argument, Kind, Operation, Table

NEWEST = 13
_C = {"i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64"}


def operations() -> tuple[Table, ...]:
    """Return the tables of the installed release's driver and runtime API."""
    return driver_table(), runtime_table()


def _major() -> int:
    try:
        return int(version("cuda-bindings").partition(".")[0])
    except PackageNotFoundError:
        return NEWEST


def driver_table() -> Table:
    """Return the driver API: what is marshalled by rule, with its arguments, what adapters serve, what is refused."""
    entries = {name: Operation(name, local=True) for name in treatment.table("driver", _major())["functions"]}
    for name in entries:
        treated, why = treatment.driver_treatment(name)
        if treated == "refused":
            entries[name] = Operation(name, refused=why)
        elif treated == "rule":
            entries[name] = rule_operation(name)
    # A rule may serve what an adapter prepares: the executor still takes it by this name.
    entries |= {name: rule_operation(name) for name in RULES}
    return Table(
        "cuda.driver",
        "cuda.bindings.cydriver",
        entries,
        foreign=frozenset(name.lower() for name in KINDS),
        bad_handle=400,
        not_supported=801,
    )


def runtime_table() -> Table:
    """Return the runtime API: it is the function's own semantics over the driver API, so nothing of it is a call."""
    from migproxy_plugins.cuda.runtime_entries import runtime_treatment

    entries = {}
    for name in treatment.table("runtime", _major())["functions"]:
        treated, why = runtime_treatment(name)
        entries[name] = Operation(name, refused=why) if treated == "refused" else Operation(name, local=True)
    return Table("cuda.runtime", "cuda.bindings.cyruntime", entries, bad_handle=400, not_supported=801)


def rule_operation(name: str) -> Operation:
    """Return a rule as an entry of a table; its arguments are the C function's."""
    arguments = tuple(_argument(kind, position) for position, kind in enumerate(RULES[name]))
    return Operation(name, arguments, lease=False, waits=True, by_hand=True)


def _argument(rule: str, position: int) -> Argument:
    name, _, detail = rule.partition(":")
    shown = f"a{position}_{name.rstrip('?')}"
    if name in ("h", "dh"):
        return Argument(shown, Kind.HANDLE, of=detail.lower(), ends=name == "dh", optional=True)
    if name == "p":
        return words.device(shown, int(detail))
    if name in _C:
        return words.integer(shown, _C[name])
    if name == "device":
        return words.integer(shown, "int32")
    if name == "oi":
        return words.written(shown, 4 if detail.endswith("32") else 8)
    if name in ("oh", "oh?", "oa"):
        return words.written(shown, 8)
    # Arrays and their lengths: by address, as C passes them.
    return words.value(shown)
