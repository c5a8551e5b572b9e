"""SIMD video instructions: two or four lanes of a 32-bit register, without lane masks and selectors."""

from __future__ import annotations

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Instr
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower.common import check_mods, intrinsic, kinds_of

_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_NAMES = [f"v{name}{count}" for name in ("add", "sub", "avrg", "absdiff", "min", "max", "set") for count in (2, 4)]


def _lane_value(e: Emitter, name: str, a: str, b: str, compare: str) -> str:
    """One lane on sign- or zero-extended i32 values."""
    if name in ("add", "sub"):
        return e.op(f"{name} i32 {a}, {b}")
    if name == "absdiff":
        return e.call("i32", "llvm.abs.i32", f"i32 {e.op(f'sub i32 {a}, {b}')}", "i1 false")
    if name in ("min", "max"):
        return intrinsic(e, f"s{name}", "i32", a, b)
    if name == "avrg":  # halves go away from zero
        total = e.op(f"add i32 {a}, {b}")
        positive = e.op(f"zext i1 {e.op(f'icmp sge i32 {total}, 0')} to i32")
        return e.op(f"ashr i32 {e.op(f'add i32 {total}, {positive}')}, 1")
    return e.op(f"zext i1 {e.op(f'icmp {_COMPARE[compare]} i32 {a}, {b}')} to i32")


@lowers(*_NAMES)
def video(e: Emitter, i: Instr) -> None:
    check_mods(e, i, "sat", "add", *_COMPARE)
    name, count = i.name[1:-1], int(i.name[-1])
    bits = 32 // count
    kinds = kinds_of(i)
    if len(kinds) != (2 if name == "set" else 3):
        raise e.fail(f"{i.name} with {len(kinds)} types")
    signs = [types.signed(kind) for kind in kinds[-2:]]
    to_signed = types.signed(kinds[0])
    compare = next((mod for mod in i.mods if mod in _COMPARE), "")
    if (name == "set") != bool(compare):
        raise e.fail(f"{i.name} with or without a comparison")
    a, b = e.get(i.ops[1], "b32"), e.get(i.ops[2], "b32")
    out = e.get(i.ops[3], "b32") if "add" in i.mods else "0"
    for lane in range(count):
        parts = []
        for value, sign in zip((a, b), signs, strict=True):
            piece = e.op(f"trunc i32 {e.op(f'lshr i32 {value}, {bits * lane}')} to i{bits}")
            parts.append(e.op(f"{'sext' if sign else 'zext'} i{bits} {piece} to i32"))
        value = _lane_value(e, name, parts[0], parts[1], compare)
        if "sat" in i.mods:
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if to_signed else (0, (1 << bits) - 1)
            value = intrinsic(e, "smin", "i32", intrinsic(e, "smax", "i32", value, str(low)), str(high))
        if "add" in i.mods:
            out = e.op(f"add i32 {out}, {value}")
        else:
            kept = e.op(f"and i32 {value}, {(1 << bits) - 1}")
            out = e.op(f"or i32 {out}, {e.op(f'shl i32 {kept}, {bits * lane}')}")
    e.put(i.ops[0], "b32", out)
