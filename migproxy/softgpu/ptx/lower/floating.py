"""f32 and f64 arithmetic: rounding modes, flushing, approximations."""

from __future__ import annotations

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Instr
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower import half, helpers
from migproxy.softgpu.ptx.lower.common import check_mods, flush, intrinsic, kind_of, kinds_of, rounding, saturate

_ROUND = ("rn", "rz", "rm", "rp", "approx", "full", "ftz", "sat")
_LL = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def arithmetic(e: Emitter, i: Instr, kind: str) -> None:
    """Instructions that exist for integers too: add sub mul mad div abs neg min max."""
    if kind == "f32x2":
        raise e.fail(f"not supported: {i.name}.f32x2 (packed single precision of sm_100)")
    if i.name in ("abs", "neg"):
        _sign(e, i, kind)
    elif i.name in ("min", "max"):
        _minmax(e, i, kind)
    elif i.name == "mad":
        fma(e, i)
    elif i.name in _LL:
        _binary(e, i, kind)
    else:
        raise e.fail(f"{i.name} has no type .{kind}")


def inputs(e: Emitter, i: Instr, kind: str, count: int) -> list[str]:
    """The source operands, flushed under ``.ftz``."""
    values = [e.get(operand, kind) for operand in i.ops[1 : 1 + count]]
    if "ftz" in i.mods and kind == "f32":
        values = [flush(e, value) for value in values]
    return values


def finish(e: Emitter, i: Instr, kind: str, value: str) -> None:
    """Flush and saturate as written, then store."""
    if "ftz" in i.mods and kind == "f32":
        value = flush(e, value)
    if "sat" in i.mods:
        value = saturate(e, value, types.llvm(kind))
    e.put(i.ops[0], kind, value)


def _binary(e: Emitter, i: Instr, kind: str) -> None:
    check_mods(e, i, *_ROUND)
    ty = types.llvm(kind)
    a, b = inputs(e, i, kind, 2)
    mode = rounding(i)
    nearest = mode == "rn"
    finish(
        e, i, kind, e.op(f"{_LL[i.name]} {ty} {a}, {b}") if nearest else helpers.rounded(e, i.name, mode, ty, [a, b])
    )


@lowers("fma")
def fma(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if kind in ("f16", "f16x2", "bf16", "bf16x2"):
        half.arithmetic(e, i, kind)
        return
    if kind == "f32x2":
        raise e.fail("not supported: fma.f32x2 (packed single precision of sm_100)")
    check_mods(e, i, *_ROUND)
    ty = types.llvm(kind)
    args = inputs(e, i, kind, 3)
    mode = rounding(i)
    value = intrinsic(e, "fma", ty, *args) if mode == "rn" else helpers.rounded(e, "fma", mode, ty, args)
    finish(e, i, kind, value)


def _sign(e: Emitter, i: Instr, kind: str) -> None:
    check_mods(e, i, "ftz")
    ty = types.llvm(kind)
    (a,) = inputs(e, i, kind, 1)
    value = intrinsic(e, "fabs", ty, a) if i.name == "abs" else e.op(f"fneg {ty} {a}")
    e.put(i.ops[0], kind, value)


def minmax_value(e: Emitter, name: str, ty: str, a: str, b: str, *, nan: bool) -> str:
    """min/max with PTX's rules: a NaN loses (or wins with ``.NaN``), and −0 is below +0."""
    bits = "i32" if ty == "float" else "i64"
    first = e.op(f"fcmp {'olt' if name == 'min' else 'ogt'} {ty} {a}, {b}")
    value = e.op(f"select i1 {first}, {ty} {a}, {ty} {b}")
    # equal values differ at most in the sign of zero: or-ing the bits keeps −0, and-ing keeps +0
    x, y = e.op(f"bitcast {ty} {a} to {bits}"), e.op(f"bitcast {ty} {b} to {bits}")
    merge = "or" if name == "min" else "and"
    both = e.op(f"bitcast {bits} {e.op(f'{merge} {bits} {x}, {y}')} to {ty}")
    value = e.op(f"select i1 {e.op(f'fcmp oeq {ty} {a}, {b}')}, {ty} {both}, {ty} {value}")
    if nan:
        return e.op(f"select i1 {e.op(f'fcmp uno {ty} {a}, {b}')}, {ty} 0x7FF8000000000000, {ty} {value}")
    # here an unordered comparison has left b: right when a is the NaN
    return e.op(f"select i1 {e.op(f'fcmp uno {ty} {b}, 0.0')}, {ty} {a}, {ty} {value}")


def _minmax(e: Emitter, i: Instr, kind: str) -> None:
    check_mods(e, i, "ftz", "NaN", "xorsign", "abs")
    ty = types.llvm(kind)
    args = inputs(e, i, kind, len(i.ops) - 1)
    sign = ""
    if "xorsign" in i.mods:
        bits = f"i{types.width(kind)}"
        x, y = (e.op(f"bitcast {ty} {v} to {bits}") for v in args[:2])
        sign = e.op(f"bitcast {bits} {e.op(f'xor {bits} {x}, {y}')} to {ty}")
    if "abs" in i.mods:
        args = [intrinsic(e, "fabs", ty, value) for value in args]
    value = args[0]
    for other in args[1:]:
        value = minmax_value(e, i.name, ty, value, other, nan="NaN" in i.mods)
    if sign:
        value = intrinsic(e, "copysign", ty, value, sign)
    e.put(i.ops[0], kind, value)


@lowers("rcp", "sqrt", "rsqrt")
def roots(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, *_ROUND)
    ty = types.llvm(kind)
    (a,) = inputs(e, i, kind, 1)
    mode = rounding(i)
    if i.name == "rcp":
        value = e.op(f"fdiv {ty} 1.0, {a}") if mode == "rn" else helpers.rounded(e, "div", mode, ty, ["1.0", a])
    elif i.name == "sqrt":
        value = intrinsic(e, "sqrt", ty, a) if mode == "rn" else helpers.rounded(e, "sqrt", mode, ty, [a])
    else:
        value = e.op(f"fdiv {ty} 1.0, {intrinsic(e, 'sqrt', ty, a)}")
    finish(e, i, kind, value)


@lowers("sin", "cos", "lg2", "ex2", "tanh")
def transcendental(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "approx", "ftz")
    if kind in ("f16", "f16x2", "bf16", "bf16x2"):
        half.transcendental(e, i, kind)
        return
    if kind != "f32":
        raise e.fail(f"{i.name} has no type .{kind}")
    (a,) = inputs(e, i, kind, 1)
    finish(e, i, kind, helpers.transcendental(e, i.name, a))


@lowers("testp")
def testp(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    classes = {"finite": 0x1F8, "infinite": 0x204, "number": 0x3FC, "notanumber": 0x003, "normal": 0x168,
               "subnormal": 0x090}  # fmt: skip
    # .normal holds for zeros of both signs, says the PTX manual
    check_mods(e, i, *classes)
    mask = next(classes[mod] for mod in i.mods if mod in classes)
    ty = types.llvm(kind)
    suffix = "f32" if kind == "f32" else "f64"
    result = e.call("i1", f"llvm.is.fpclass.{suffix}", f"{ty} {e.get(i.ops[1], kind)}", f"i32 {mask}")
    e.put(i.ops[0], "pred", result)


@lowers("copysign")
def copysign(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    # PTX: the sign of the first source onto the second
    e.put(i.ops[0], kind, intrinsic(e, "copysign", types.llvm(kind), e.get(i.ops[2], kind), e.get(i.ops[1], kind)))


__all__ = ["arithmetic", "finish", "inputs", "kinds_of", "minmax_value"]
