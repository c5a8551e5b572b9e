"""Conversions to and from the 8-bit floats e4m3 and e5m2, two at a time."""

from __future__ import annotations

from typing import NamedTuple

from migproxy.softgpu.ptx.ast import Instr
from migproxy.softgpu.ptx.emitter import Emitter
from migproxy.softgpu.ptx.lower import half
from migproxy.softgpu.ptx.lower.common import check_mods, intrinsic


class _Form(NamedTuple):
    mantissa: int
    bias: int
    largest: int  # the code of the largest finite value


FORMS = {"e4m3x2": _Form(3, 7, 0x7E), "e5m2x2": _Form(2, 15, 0x7B)}
_NAN = 0x7F


def cvt(e: Emitter, i: Instr) -> None:
    """The cvt forms with one of these types."""
    check_mods(e, i, *FORMS, "rn", "satfinite", "relu")
    types = [mod for mod in i.mods if mod in FORMS or mod in ("f32", "f16x2")]
    if len(types) != 2:
        raise e.fail(f"not supported: cvt between {' and '.join(types)}")
    dest, source = types
    if dest == "f16x2":
        bits = e.get(i.ops[1], "b16")
        codes = [bits, e.op(f"lshr i16 {bits}, 8")]
        values = [_widen(e, e.op(f"and i16 {code}, 255"), source) for code in codes]
        if "relu" in i.mods:
            values = [_relu(e, value) for value in values]
        half.store(e, i.ops[0], values)
        return
    if source == "f32":
        low, high = (e.get(operand, "f32") for operand in (i.ops[2], i.ops[1]))
    else:
        low, high = (half.widen(e, value, "f16") for value in half.lanes(e, i.ops[1], "f16x2"))
    codes = [_narrow(e, value, FORMS[dest], relu="relu" in i.mods) for value in (low, high)]
    e.put(i.ops[0], "b16", e.op(f"or i16 {codes[0]}, {e.op(f'shl i16 {codes[1]}, 8')}"))


def _relu(e: Emitter, bits: str) -> str:
    """Negative halves become zero; NaN stays."""
    value = half.widen(e, bits, "f16")
    negative = e.op(f"fcmp olt float {value}, 0.0")
    return e.op(f"select i1 {negative}, i16 0, i16 {bits}")


def _narrow(e: Emitter, value: str, form: _Form, *, relu: bool) -> str:
    """A float's code as i16: to nearest even, beyond the range the largest."""
    drop = 23 - form.mantissa
    magnitude = intrinsic(e, "fabs", "float", value)
    bits = e.op(f"bitcast float {magnitude} to i32")
    odd = e.op(f"and i32 {e.op(f'lshr i32 {bits}, {drop}')}, 1")
    rounded = e.op(f"add i32 {bits}, {e.op(f'add i32 {odd}, {(1 << drop - 1) - 1}')}")
    normal = e.op(f"sub i32 {e.op(f'lshr i32 {rounded}, {drop}')}, {127 - form.bias << form.mantissa}")
    # Below the smallest normal value codes count its 2^mantissa-ths; the last of them is that value's code.
    units = e.op(f"fmul float {magnitude}, {float(1 << form.bias - 1 + form.mantissa):e}")
    small = e.op(f"fptosi float {intrinsic(e, 'roundeven', 'float', units)} to i32")
    tiny = e.op(f"fcmp olt float {units}, {float(1 << form.mantissa):e}")
    code = e.op(f"select i1 {tiny}, i32 {small}, i32 {normal}")
    code = e.call("i32", "llvm.umin.i32", f"i32 {code}", f"i32 {form.largest}")
    negative = e.op(f"icmp slt i32 {e.op(f'bitcast float {value} to i32')}, 0")
    signed = "0" if relu else e.op(f"or i32 {code}, 128")
    code = e.op(f"select i1 {negative}, i32 {signed}, i32 {code}")
    nan = e.op(f"fcmp uno float {value}, {value}")
    return e.op(f"trunc i32 {e.op(f'select i1 {nan}, i32 {_NAN}, i32 {code}')} to i16")


def _widen(e: Emitter, code: str, form: str) -> str:
    """A code as half bits, which hold all of both formats' values."""
    if form == "e5m2x2":
        bits = e.op(f"shl i16 {code}, 8")
        nan = e.op(f"icmp ugt i16 {e.op(f'and i16 {code}, 127')}, 124")
    else:
        # exponent and mantissa moved into a half's place are the value divided by 2^8
        moved = e.op(f"shl i16 {e.op(f'and i16 {code}, 127')}, 7")
        scaled = e.op(f"fmul float {half.widen(e, moved, 'f16')}, 2.560000e+02")
        sign = e.op(f"shl i16 {e.op(f'and i16 {code}, 128')}, 8")
        bits = e.op(f"or i16 {half.narrow(e, scaled, 'f16')}, {sign}")
        nan = e.op(f"icmp eq i16 {e.op(f'and i16 {code}, 127')}, 127")
    return e.op(f"select i1 {nan}, i16 {half.CANONICAL_NAN}, i16 {bits}")
