"""cvt: conversions between all types, with rounding, saturation and flushing."""

from __future__ import annotations

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Instr
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower import half, helpers, narrow8
from migproxy.softgpu.ptx.lower.common import check_mods, flush, intrinsic, kinds_of, saturate

_INTEGRAL = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
_ROUND = ("rn", "rz", "rm", "rp", "rna")
_HALF = ("f16", "bf16")


@lowers("cvt")
def cvt(e: Emitter, i: Instr) -> None:
    kinds = kinds_of(i)
    if any(mod in narrow8.FORMS for mod in i.mods):
        narrow8.cvt(e, i)
        return
    for mod in i.mods:
        if mod.startswith(("e2m1", "e2m3", "e3m2", "ue8m0")):
            raise e.fail(f"not supported: cvt with .{mod} (narrow tensor-core formats)")
    check_mods(e, i, *_ROUND, *_INTEGRAL, "ftz", "sat", "relu", "satfinite", "pack")
    if "pack" in i.mods:
        _pack(e, i, kinds)
        return
    if len(kinds) != 2:
        raise e.fail("cvt needs two types")
    dest, source = kinds
    if dest in ("f16x2", "bf16x2"):
        form = dest.removesuffix("x2")
        high, low = (_to_half(e, i, form, source, e.get(operand, source)) for operand in i.ops[1:3])
        half.store(e, i.ops[0], [low, high])
        return
    if dest == "tf32":
        _tf32(e, i)
        return
    if types.floating(source):
        if types.floating(dest):
            _float_to_float(e, i, dest, source)
        else:
            _float_to_int(e, i, dest, source)
    elif types.floating(dest):
        _int_to_float(e, i, dest, source)
    else:
        _int_to_int(e, i, dest, source)


def _int_to_int(e: Emitter, i: Instr, dest: str, source: str) -> None:
    a = e.get(i.ops[1], source)
    from_ty, to_ty = types.llvm(source), types.llvm(dest)
    if "sat" in i.mods:
        a = _clamp(e, a, dest, source)
    e.put(i.ops[0], dest, e.coerce(a, from_ty, to_ty, sign=types.signed(source)))


def _clamp(e: Emitter, a: str, dest: str, source: str) -> str:
    """Clamp a value of type `source` to the range of `dest`, still in `source`'s width."""
    ty = types.llvm(source)
    wide, narrow = types.width(source), types.width(dest)
    if types.signed(source):
        low, high = (-(1 << narrow - 1), (1 << narrow - 1) - 1) if types.signed(dest) else (0, (1 << narrow) - 1)
        if high < (1 << wide - 1) - 1:
            a = intrinsic(e, "smin", ty, a, str(high))
        if low > -(1 << wide - 1):
            a = intrinsic(e, "smax", ty, a, str(low))
        return a
    high = (1 << narrow - 1) - 1 if types.signed(dest) else (1 << narrow) - 1
    return intrinsic(e, "umin", ty, a, str(high)) if high < (1 << wide) - 1 else a


def _pack(e: Emitter, i: Instr, kinds: list[str]) -> None:
    """cvt.pack.sat.dtype.s32{.b32}: two saturated integers, above what c already holds."""
    dest, source = kinds[0], kinds[1]
    bits = types.width(dest)
    a, b = (_clamp(e, e.get(operand, source), dest, source) for operand in i.ops[1:3])
    mask = (1 << bits) - 1
    high = e.op(f"shl i32 {e.op(f'and i32 {a}, {mask}')}, {bits}")
    value = e.op(f"or i32 {high}, {e.op(f'and i32 {b}, {mask}')}")
    if len(kinds) == 3 and bits < 16:
        rest = e.op(f"shl i32 {e.get(i.ops[3], 'b32')}, {2 * bits}")
        value = e.op(f"or i32 {value}, {rest}")
    e.put(i.ops[0], "b32", value)


def _wide_source(e: Emitter, i: Instr, source: str) -> tuple[str, str]:
    """A floating source as a float or double value with its PTX type."""
    if source in _HALF:
        return half.widen(e, e.get(i.ops[1], "b16"), source), "f32"
    value = e.get(i.ops[1], source)
    if "ftz" in i.mods and source == "f32":
        value = flush(e, value)
    return value, source


def _float_to_int(e: Emitter, i: Instr, dest: str, source: str) -> None:
    value, kind = _wide_source(e, i, source)
    ty = types.llvm(kind)
    mode = next((mod for mod in i.mods if mod in _INTEGRAL), "rzi")
    if mode != "rzi":
        value = intrinsic(e, _INTEGRAL[mode], ty, value)
    to_ty = types.llvm(dest)
    sign = "s" if types.signed(dest) else "u"
    name = f"llvm.fpto{sign}i.sat.{to_ty}.{'f32' if ty == 'float' else 'f64'}"
    result = e.call(to_ty, name, f"{ty} {value}")
    if kind == "f64" or types.width(dest) == 64:
        # NaN gives 0 where 32-bit hardware converts, the top bit alone where its 64-bit half does (recorded on an H100)
        nan = e.op(f"fcmp uno {ty} {value}, {value}")
        result = e.op(f"select i1 {nan}, {to_ty} {-(1 << types.width(dest) - 1)}, {to_ty} {result}")
    e.put(i.ops[0], dest, result)


def _int_to_float(e: Emitter, i: Instr, dest: str, source: str) -> None:
    a = e.get(i.ops[1], source)
    from_ty = types.llvm(source)
    op = "sitofp" if types.signed(source) else "uitofp"
    mode = next((mod for mod in i.mods if mod in _ROUND), "rn")
    if dest in _HALF:
        # exact in a double up to 53 bits; beyond, f16 overflows anyway and bf16 sees the value rounded to odd
        if types.width(source) == 64 and dest == "bf16":
            value = e.call("double", helpers.need(e, f"int64odd_{op[0]}"), f"i64 {a}")
        else:
            value = e.op(f"{op} {from_ty} {a} to double")
        e.put(i.ops[0], "b16", half.narrow_double(e, value, dest, mode))
        return
    ty = types.llvm(dest)
    if mode == "rn" or (dest == "f64" and types.width(source) < 64):
        value = e.op(f"{op} {from_ty} {a} to {ty}")
    else:
        wide = e.coerce(a, from_ty, "i64", sign=op == "sitofp")
        value = e.call(ty, helpers.need(e, f"int_{op[0]}_{mode}_{ty}"), f"i64 {wide}")
    if "sat" in i.mods:
        value = saturate(e, value, ty)
    e.put(i.ops[0], dest, value)


def _to_half(e: Emitter, i: Instr, form: str, kind: str, value: str) -> str:
    """A float or double to i16 bits, with the instruction's rounding and ``.relu``."""
    from migproxy.softgpu.ptx.lower.floating import minmax_value

    ty = types.llvm(kind)
    if "ftz" in i.mods and kind == "f32":
        value = flush(e, value)
    if "relu" in i.mods:
        value = minmax_value(e, "max", ty, value, "0.0", nan=True)
    mode = next((mod for mod in i.mods if mod in _ROUND), "rn")
    bits = half.narrow_double(e, value, form, mode) if kind == "f64" else half.narrow(e, value, form, mode)
    if "satfinite" in i.mods:
        limit, infinite = ("31743", "31744") if form == "f16" else ("32639", "32640")
        magnitude = e.op(f"and i16 {bits}, 32767")
        sign = e.op(f"and i16 {bits}, -32768")
        over = e.op(f"icmp eq i16 {magnitude}, {infinite}")
        bits = e.op(f"select i1 {over}, i16 {e.op(f'or i16 {sign}, {limit}')}, i16 {bits}")
    return bits


def _float_to_float(e: Emitter, i: Instr, dest: str, source: str) -> None:
    value, kind = _wide_source(e, i, source)
    ty = types.llvm(kind)
    integral = next((_INTEGRAL[mod] for mod in i.mods if mod in _INTEGRAL), "")
    if integral:
        value = intrinsic(e, integral, ty, value)
    if dest in _HALF:
        if "sat" in i.mods:
            value = saturate(e, value, ty)
        e.put(i.ops[0], "b16", _to_half(e, i, dest, kind, value))
        return
    mode = next((mod for mod in i.mods if mod in _ROUND), "rn")
    to_ty = types.llvm(dest)
    if to_ty == "double" and ty == "float":
        value = e.op(f"fpext float {value} to double")
    elif to_ty == "float" and ty == "double":
        if mode == "rn":
            value = e.op(f"fptrunc double {value} to float")
        else:
            value = e.call("float", helpers.need(e, f"trunc_{mode}"), f"double {value}")
        if "ftz" in i.mods:
            value = flush(e, value)
    if "sat" in i.mods:
        value = saturate(e, value, to_ty)
    e.put(i.ops[0], dest, value)


def _tf32(e: Emitter, i: Instr) -> None:
    """To a float with 10 significand bits kept: ties away (rna), to even (rn), or cut (rz)."""
    bits = e.get(i.ops[1], "b32")
    if "rna" in i.mods:
        moved = e.op(f"add i32 {bits}, 4096")
    elif "rn" in i.mods:
        odd = e.op(f"and i32 {e.op(f'lshr i32 {bits}, 13')}, 1")
        moved = e.op(f"add i32 {bits}, {e.op(f'add i32 {odd}, 4095')}")
    else:
        moved = bits
    cut = e.op(f"and i32 {moved}, -8192")
    magnitude = e.op(f"and i32 {bits}, 2147483647")
    special = e.op(f"icmp uge i32 {magnitude}, 2139095040")
    e.put(i.ops[0], "b32", e.op(f"select i1 {special}, i32 {bits}, i32 {cut}"))
