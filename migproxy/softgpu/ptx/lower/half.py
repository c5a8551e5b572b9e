"""f16 and bf16 arithmetic, one rounding per operation.

f32 has more than twice f16's (and bf16's) significand plus two bits, so that add, sub, mul, div and sqrt in f32 and
one rounding to half give the correctly rounded result. fma goes through f64 rounded to odd, then f32 rounded to odd.
"""

from __future__ import annotations

from collections.abc import Callable

from migproxy.softgpu.ptx.ast import Instr, Operand
from migproxy.softgpu.ptx.emitter import Emitter
from migproxy.softgpu.ptx.lower import floating, helpers
from migproxy.softgpu.ptx.lower.common import check_mods, intrinsic, saturate

_FORMATS = ("f16", "bf16")
#: The one NaN that arithmetic in halves and conversion to them gives on a GPU.
CANONICAL_NAN = 0x7FFF


def widen(e: Emitter, value: str, form: str) -> str:
    """i16 bits of a half format to float."""
    if form == "f16":
        return e.op(f"fpext half {e.op(f'bitcast i16 {value} to half')} to float")
    shifted = e.op(f"shl i32 {e.op(f'zext i16 {value} to i32')}, 16")
    return e.op(f"bitcast i32 {shifted} to float")


def narrow(e: Emitter, value: str, form: str, mode: str = "rn") -> str:
    """A float to the i16 bits of a half format."""
    if form == "f16":
        if mode == "rn":
            bits = e.op(f"bitcast half {e.op(f'fptrunc float {value} to half')} to i16")
        else:
            bits = e.call("i16", helpers.need(e, f"f16_{mode}"), f"float {value}")
        nan = e.op(f"fcmp uno float {value}, {value}")
        return e.op(f"select i1 {nan}, i16 {CANONICAL_NAN}, i16 {bits}")
    return e.call("i16", helpers.need(e, f"bf16_{mode}"), f"float {value}")


def narrow_double(e: Emitter, value: str, form: str, mode: str = "rn") -> str:
    """A double to the i16 bits of a half format, rounded once."""
    odd = e.call("float", helpers.need(e, "odd"), f"double {value}")
    return narrow(e, odd, form, mode)


def lanes(e: Emitter, operand: Operand, kind: str) -> list[str]:
    """An operand as i16 bit patterns: one for f16, two for f16x2."""
    if not kind.endswith("x2"):
        return [e.get(operand, "b16")]
    whole = e.get(operand, "b32")
    return [e.op(f"trunc i32 {whole} to i16"), e.op(f"trunc i32 {e.op(f'lshr i32 {whole}, 16')} to i16")]


def store(e: Emitter, dest: Operand, values: list[str]) -> None:
    """Write one or two i16 patterns."""
    if len(values) == 1:
        e.put(dest, "b16", values[0])
        return
    low = e.op(f"zext i16 {values[0]} to i32")
    high = e.op(f"shl i32 {e.op(f'zext i16 {values[1]} to i32')}, 16")
    e.put(dest, "b32", e.op(f"or i32 {low}, {high}"))


def flush16(e: Emitter, bits: str) -> str:
    """f16 subnormals to zero of the same sign."""
    tiny = e.op(f"icmp eq i16 {e.op(f'and i16 {bits}, 31744')}, 0")
    return e.op(f"select i1 {tiny}, i16 {e.op(f'and i16 {bits}, -32768')}, i16 {bits}")


def _value(e: Emitter, i: Instr, form: str, args: list[str]) -> str:
    """One lane of an arithmetic instruction: i16 patterns in and out."""
    name = i.name
    if name == "neg":
        return e.op(f"xor i16 {args[0]}, -32768")
    if name == "abs":
        return e.op(f"and i16 {args[0]}, 32767")
    wide = [widen(e, arg, form) for arg in args]
    if name in ("fma", "mad"):
        doubles = [e.op(f"fpext float {value} to double") for value in wide]
        total = e.call("double", helpers.need(e, "fmaodd"), *[f"double {value}" for value in doubles])
        result = narrow_double(e, total, form)
    elif name in ("min", "max"):
        sign = ""
        if "xorsign" in i.mods:
            sign = e.op(f"and i16 {e.op(f'xor i16 {args[0]}, {args[1]}')}, -32768")
            wide = [intrinsic(e, "fabs", "float", value) for value in wide]
        elif "abs" in i.mods:
            wide = [intrinsic(e, "fabs", "float", value) for value in wide]
        result = narrow(e, floating.minmax_value(e, name, "float", wide[0], wide[1], nan="NaN" in i.mods), form)
        if sign:
            result = e.op(f"or i16 {e.op(f'and i16 {result}, 32767')}, {sign}")
    else:
        op = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}.get(name)
        if op is None:
            raise e.fail(f"{name} has no type .{form}")
        result = narrow(e, e.op(f"{op} float {wide[0]}, {wide[1]}"), form)
    if "sat" in i.mods:
        result = narrow(e, saturate(e, widen(e, result, form), "float"), form)
    if "relu" in i.mods:
        value = widen(e, result, form)
        result = narrow(e, floating.minmax_value(e, "max", "float", value, "0.0", nan=True), form)
    return result


def arithmetic(e: Emitter, i: Instr, kind: str) -> None:
    """add sub mul fma min max abs neg on f16, f16x2, bf16, bf16x2."""
    check_mods(e, i, "rn", "ftz", "sat", "relu", "NaN", "xorsign", "abs")
    form = kind.removesuffix("x2")
    operands = [lanes(e, operand, kind) for operand in i.ops[1:]]
    ftz = "ftz" in i.mods and form == "f16"
    out = []
    for lane in range(len(operands[0])):
        args = [values[lane] for values in operands]
        if ftz:
            args = [flush16(e, arg) for arg in args]
        value = _value(e, i, form, args)
        out.append(flush16(e, value) if ftz else value)
    store(e, i.ops[0], out)


def each(e: Emitter, i: Instr, kind: str, compute: Callable[[str], str]) -> None:
    """Apply a float function to each lane."""
    form = kind.removesuffix("x2")
    ftz = "ftz" in i.mods and form == "f16"
    out = []
    for bits in lanes(e, i.ops[1], kind):
        value = narrow(e, compute(widen(e, flush16(e, bits) if ftz else bits, form)), form)
        out.append(flush16(e, value) if ftz else value)
    store(e, i.ops[0], out)


def transcendental(e: Emitter, i: Instr, kind: str) -> None:
    """ex2 and tanh on halves."""
    each(e, i, kind, lambda value: helpers.transcendental(e, i.name, value))
