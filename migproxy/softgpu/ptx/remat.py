"""Registers that a suspended thread need not keep: computed once, from what never changes during a launch."""

from __future__ import annotations

from migproxy.softgpu.ptx import cfg
from migproxy.softgpu.ptx.ast import Addr, Function, Instr, Operand, Special, Sym, Vec

_PURE = frozenset(
    [
        "mov",
        "cvta",
        "add",
        "sub",
        "mul",
        "mad",
        "and",
        "or",
        "xor",
        "not",
        "shl",
        "shr",
        "cvt",
        "neg",
        "abs",
        "min",
        "max",
        "selp",
        "setp",
        "ld",
        "bfe",
        "bfi",
        "shf",
        "lop3",
        "mul24",
        "mad24",
        "prmt",
    ]
)
_CHANGING = ("%clock", "%globaltimer", "%smid", "%pm")
#: instructions to compute a register again at most; loading it from the frame costs about as much
_LIMIT = 8


def recipes(function: Function, graph: cfg.Graph) -> dict[str, Instr]:
    """The defining instruction of each register that can be computed again anywhere."""
    defined: dict[str, list[Instr]] = {}
    for block in graph.blocks:
        for instr in block.instrs:
            if instr.suspend > 0:
                continue
            for reg in cfg.defs_uses(instr)[0]:
                defined.setdefault(reg, []).append(instr)
    params = {p.name for p in function.params}
    out: dict[str, Instr] = {}
    cost: dict[str, int] = {}
    for reg, found in defined.items():
        instr = found[0]
        defs, uses = cfg.defs_uses(instr)
        if len(found) != 1 or len(defs) != 1 or instr.pred is not None or instr.suspend != -1:
            continue
        if instr.name not in _PURE or any(use not in out for use in uses) or "cc" in instr.mods:
            continue
        if instr.name == "ld" and not ("param" in instr.mods and _of_params(instr, params)):
            continue
        if not all(_steady(operand) for operand in instr.ops[1:]):
            continue
        price = 1 + sum(cost[use] for use in uses)
        if price <= _LIMIT:
            out[reg] = instr
            cost[reg] = 0 if instr.name in ("ld", "cvta") or (not uses and price == 1) else price
    return out


def _of_params(instr: Instr, params: set[str]) -> bool:
    address = instr.ops[1]
    return isinstance(address, Addr) and isinstance(address.base, Sym) and address.base.name in params


def _steady(operand: Operand) -> bool:
    if isinstance(operand, Special):
        return not operand.name.startswith(_CHANGING)
    if isinstance(operand, Vec):
        return all(_steady(item) for item in operand.items)
    return True
