"""Comparisons and selections."""

from __future__ import annotations

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Instr
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower import half
from migproxy.softgpu.ptx.lower.common import check_mods, flush, kind_of, kinds_of

_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge",
             "lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}  # fmt: skip
_FLOAT = {"eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge",
          "equ": "ueq", "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge",
          "num": "ord", "nan": "uno"}  # fmt: skip
_OPS = {*_UNSIGNED, *_FLOAT}
_BOOL = ("and", "or", "xor")


def _compare(e: Emitter, i: Instr, kind: str) -> list[str]:
    """The comparison, one i1 for each lane."""
    # the comparison comes first; "lo" and "hi" never clash with the boolean operators
    name = next((mod for mod in i.mods if mod in _OPS), "")
    form = kind.removesuffix("x2")
    if form in ("f16", "bf16"):
        out = []
        for a, b in zip(half.lanes(e, i.ops[1], kind), half.lanes(e, i.ops[2], kind), strict=True):
            if "ftz" in i.mods:
                a, b = half.flush16(e, a), half.flush16(e, b)
            out.append(e.op(f"fcmp {_FLOAT[name]} float {half.widen(e, a, form)}, {half.widen(e, b, form)}"))
        return out
    ty = types.llvm(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    if types.floating(kind):
        if "ftz" in i.mods and kind == "f32":
            a, b = flush(e, a), flush(e, b)
        if name not in _FLOAT:
            raise e.fail(f"unknown comparison of .{kind}")
        return [e.op(f"fcmp {_FLOAT[name]} {ty} {a}, {b}")]
    table = _SIGNED if types.signed(kind) else _UNSIGNED
    if name not in table:
        raise e.fail(f"unknown comparison of .{kind}")
    return [e.op(f"icmp {table[name]} {ty} {a}, {b}")]


def _combine(e: Emitter, i: Instr, flag: str) -> str:
    name = next((mod for mod in i.mods if mod in _BOOL), "")
    if not name:
        return flag
    return e.op(f"{name} i1 {flag}, {e.get(i.ops[3], 'pred')}")


@lowers("setp")
def setp(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "ftz", *_OPS, *_BOOL)
    flags = _compare(e, i, kind)
    first, second = e.split(i.ops[0])
    if len(flags) == 2:  # packed halves: one predicate for each lane
        e.put(first, "pred", _combine(e, i, flags[0]))
        e.put(second, "pred", _combine(e, i, flags[1]))
        return
    result = _combine(e, i, flags[0])
    other = _combine(e, i, e.op(f"xor i1 {flags[0]}, true")) if second is not None else ""
    e.put(first, "pred", result)
    if second is not None:
        e.put(second, "pred", other)


@lowers("set")
def set_(e: Emitter, i: Instr) -> None:
    kinds = kinds_of(i)
    if len(kinds) != 2:
        raise e.fail("set needs two types")
    check_mods(e, i, "ftz", *_OPS, *_BOOL)
    dest, source = kinds
    flags = [_combine(e, i, flag) for flag in _compare(e, i, source)]
    if len(flags) == 2 or dest in ("f16", "bf16", "f16x2", "bf16x2"):
        one = "16256" if dest.startswith("bf") else "15360"
        if dest.startswith(("f16", "bf16")):
            values = [e.op(f"select i1 {flag}, i16 {one}, i16 0") for flag in flags]
        else:
            values = [e.op(f"sext i1 {flag} to i16") for flag in flags]
        half.store(e, i.ops[0], values)
    elif dest == "f32":
        e.put(i.ops[0], "f32", e.op(f"select i1 {flags[0]}, float 1.0, float 0.0"))
    else:
        e.put(i.ops[0], dest, e.op(f"sext i1 {flags[0]} to {types.llvm(dest)}"))


@lowers("selp")
def selp(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty = types.llvm(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    e.put(i.ops[0], kind, e.op(f"select i1 {e.get(i.ops[3], 'pred')}, {ty} {a}, {ty} {b}"))


@lowers("slct")
def slct(e: Emitter, i: Instr) -> None:
    dest, control = kinds_of(i)
    check_mods(e, i, "ftz")
    ty = types.llvm(dest)
    c = e.get(i.ops[3], control)
    if control == "f32":
        if "ftz" in i.mods:
            c = flush(e, c)
        flag = e.op(f"fcmp oge float {c}, 0.0")
    else:
        flag = e.op(f"icmp sge i32 {c}, 0")
    e.put(i.ops[0], dest, e.op(f"select i1 {flag}, {ty} {e.get(i.ops[1], dest)}, {ty} {e.get(i.ops[2], dest)}"))
