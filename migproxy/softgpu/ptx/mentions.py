"""What a function's body mentions, found in one walk: several questions are asked of each function of a module."""

from __future__ import annotations

from collections.abc import Iterable

from migproxy.softgpu.ptx.ast import Addr, Function, Instr, Mentions, Operand, Reg, Special, Sym


def mentions(function: Function) -> Mentions:
    """The names in a function's body, which must be complete: they are kept with the function."""
    found = function.mentions
    if found is None:
        found = function.mentions = _walk(function)
    return found


def _walk(function: Function) -> Mentions:
    found = Mentions()
    for item in function.body or ():
        if not isinstance(item, Instr):
            continue
        _add(item.ops, found)
        if item.name == "call":
            _add(item.args, found)
            if isinstance(item.callee, Reg):
                found.calls_pointers = True
            elif isinstance(item.callee, Sym):
                found.called.add(item.callee.name)
    return found


def _add(operands: Iterable[Operand], found: Mentions) -> None:
    for operand in operands:
        if isinstance(operand, Reg):  # nearly all are
            continue
        if isinstance(operand, Sym):
            found.named.add(operand.name)
        elif isinstance(operand, Addr):
            if isinstance(operand.base, Sym):
                found.named.add(operand.base.name)
        elif isinstance(operand, Special):
            found.specials.add(operand.name)
