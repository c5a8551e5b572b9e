"""Which device functions may end up in themselves: their calls could go on for ever."""

from __future__ import annotations

from collections.abc import Iterable

from migproxy.softgpu.ptx.ast import Addr, Function, Instr, Module, Operand, Reg, Sym


def _named(operands: Iterable[Operand]) -> set[str]:
    out = set()
    for operand in operands:
        if isinstance(operand, Sym):
            out.add(operand.name)
        elif isinstance(operand, Addr) and isinstance(operand.base, Sym):
            out.add(operand.base.name)
    return out


def recursive(module: Module) -> set[str]:
    """Names of the functions that can be reached from themselves.

    A call by pointer may reach any function whose address is used.
    """
    graph: dict[str, set[str]] = {}
    by_pointer = {name for variable in module.variables.values() for name in _initial(variable.init)}
    indirect: set[str] = set()
    for name, function in module.functions.items():
        direct, taken, pointers = _calls(function)
        graph[name] = direct
        by_pointer |= taken
        if pointers:
            indirect.add(name)
    by_pointer &= graph.keys()
    for name in indirect:
        graph[name] |= by_pointer
    return {name for name in graph if _returns(graph, name)}


def _initial(init: list[int | tuple[str, int, int]] | None) -> set[str]:
    return {value[0] for value in init or () if isinstance(value, tuple)}


def _calls(function: Function) -> tuple[set[str], set[str], bool]:
    """Callees, names mentioned otherwise, whether there are calls by pointer."""
    direct: set[str] = set()
    taken: set[str] = set()
    pointers = False
    for item in function.body or ():
        if isinstance(item, Instr):
            if item.name == "call":
                pointers |= isinstance(item.callee, Reg)
                direct |= _named([item.callee])
            taken |= _named((*item.ops, *item.args))
    return direct, taken, pointers


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
