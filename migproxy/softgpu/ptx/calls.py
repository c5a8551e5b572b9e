"""Which device functions may end up in themselves: their calls could go on for ever."""

from __future__ import annotations

from migproxy.softgpu.ptx.ast import Module
from migproxy.softgpu.ptx.mentions import mentions


def recursive(module: Module) -> set[str]:
    """Names of the functions that can be reached from themselves.

    A call by pointer may reach any function whose address is used.
    """
    graph: dict[str, set[str]] = {}
    by_pointer = {name for variable in module.variables.values() for name in _initial(variable.init)}
    indirect: set[str] = set()
    for name, function in module.functions.items():
        found = mentions(function)
        graph[name] = set(found.called)
        by_pointer |= found.named
        if found.calls_pointers:
            indirect.add(name)
    by_pointer &= graph.keys()
    for name in indirect:
        graph[name] |= by_pointer
    return {name for name in graph if _returns(graph, name)}


def _initial(init: list[int | tuple[str, int, int]] | None) -> set[str]:
    return {value[0] for value in init or () if isinstance(value, tuple)}


def _returns(graph: dict[str, set[str]], start: str) -> bool:
    seen: set[str] = set()
    work = list(graph[start])
    while work:
        name = work.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            work.extend(graph.get(name, ()))
    return False
