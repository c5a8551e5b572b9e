"""Pieces that several instruction families share: types from modifiers, flushing, saturation, rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Instr

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.emitter import Emitter

ROUNDING = ("rn", "rz", "rm", "rp", "rna")
_TINY = {"float": "0x3810000000000000", "double": "0x0010000000000000"}


def kind_of(e: Emitter, i: Instr) -> str:
    """The instruction's (last) type modifier."""
    for mod in reversed(i.mods):
        if types.is_type(mod):
            return mod
    raise e.fail(f"{i.name} without a type")


def kinds_of(i: Instr) -> list[str]:
    """All type modifiers in order."""
    return [mod for mod in i.mods if types.is_type(mod)]


def check_mods(e: Emitter, i: Instr, *allowed: str) -> None:
    """Refuse modifiers that the lowering does not know, so that none is ever ignored."""
    for mod in i.mods:
        if mod not in allowed and not types.is_type(mod):
            raise e.fail(f"unknown modifier .{mod} of {i.name}")


def suffix(ty: str) -> str:
    """The LLVM intrinsic suffix of a type."""
    plain = {"float": "f32", "double": "f64", "half": "f16", "<2 x half>": "v2f16", "<2 x float>": "v2f32"}
    if ty.startswith("<2 x i"):
        return "v2" + ty[5:-1]
    return plain.get(ty, ty)


def intrinsic(e: Emitter, name: str, ty: str, *args: str) -> str:
    """Call an LLVM intrinsic overloaded on one type, with all arguments of that type."""
    return e.call(ty, f"llvm.{name}.{suffix(ty)}", *[f"{ty} {arg}" for arg in args])


def flush(e: Emitter, value: str) -> str:
    """A float with subnormal values replaced by zero of the same sign."""
    magnitude = intrinsic(e, "fabs", "float", value)
    tiny = e.op(f"fcmp olt float {magnitude}, {_TINY['float']}")
    zero = intrinsic(e, "copysign", "float", "0.0", value)
    return e.op(f"select i1 {tiny}, float {zero}, float {value}")


def saturate(e: Emitter, value: str, ty: str) -> str:
    """Clamp to [0, 1]; NaN becomes 0."""
    low = e.op(f"fcmp ogt {ty} {value}, 0.0")
    value = e.op(f"select i1 {low}, {ty} {value}, {ty} 0.0")
    high = e.op(f"fcmp olt {ty} {value}, 1.0")
    return e.op(f"select i1 {high}, {ty} {value}, {ty} 1.0")


def rounding(i: Instr) -> str:
    """The rounding modifier, ``rn`` by default."""
    for mod in i.mods:
        if mod in ROUNDING:
            return mod
    return "rn"
