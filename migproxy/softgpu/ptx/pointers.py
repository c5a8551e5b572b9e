"""Which 64-bit registers hold addresses: a guess that costs nothing when wrong.

LLVM only vectorises accesses whose addresses it can see as base plus offset. PTX computes addresses as integers, so
additions to registers that look like addresses are written as pointer arithmetic, which LLVM folds with the accesses.
A wrong guess still computes the same number.
"""

from __future__ import annotations

from collections.abc import Container

from migproxy.softgpu.ptx.ast import Function, Instr, Label, Operand, Reg, Sym

_SOURCES = ("cvta",)


def address_registers(function: Function, offsets: Container[str]) -> set[str]:
    """Registers that are only ever defined as addresses; symbols in `offsets` (shared variables) are mere numbers."""
    found: set[str] = set()
    instrs = [i for i in function.body or () if isinstance(i, Instr) and not isinstance(i, Label)]
    while True:
        before = len(found)
        for i in instrs:
            if not i.ops or not isinstance(i.ops[0], Reg):
                continue
            dest = i.ops[0].name
            if dest in found or function.regs.get(dest) not in ("b64", "u64", "s64"):
                continue
            if _is_address(i, found, offsets):
                found.add(dest)
        if len(found) == before:
            return found


def _is_address(i: Instr, found: set[str], offsets: Container[str]) -> bool:
    def known(operand: Operand) -> bool:
        if isinstance(operand, Sym):
            return operand.name not in offsets
        return isinstance(operand, Reg) and operand.name in found

    if i.name in _SOURCES:
        return "shared" not in i.mods or "to" not in i.mods
    if i.name == "mov":
        return known(i.ops[1])
    if i.name == "selp":
        return known(i.ops[1]) and known(i.ops[2])
    if i.name == "add" and len(i.ops) == 3:
        return known(i.ops[1]) != known(i.ops[2])
    return False
