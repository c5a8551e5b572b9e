"""Integer arithmetic, with and without carry."""

from __future__ import annotations

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Imm, Instr, Reg
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower import floating, half
from migproxy.softgpu.ptx.lower.common import check_mods, intrinsic, kind_of

_HALVES = ("f16", "f16x2", "bf16", "bf16x2")


def _elsewhere(e: Emitter, i: Instr, kind: str) -> bool:
    """Hand floating types to their modules."""
    if kind in _HALVES:
        half.arithmetic(e, i, kind)
        return True
    if types.floating(kind):
        floating.arithmetic(e, i, kind)
        return True
    return False


@lowers("add", "sub")
def add(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i, "sat", "cc")
    ty = types.llvm(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    if "sat" in i.mods:
        e.put(i.ops[0], kind, intrinsic(e, f"s{i.name}.sat", ty, a, b))
        return
    if i.name == "add" and ty == "i64" and "cc" not in i.mods:
        first, second = (isinstance(operand, Reg) and operand.name in e.addresses for operand in i.ops[1:3])
        if first != second:  # as pointer arithmetic, see `pointers`
            base, offset = (a, b) if first else (b, a)
            pointer = e.op(f"getelementptr i8, ptr {e.op(f'inttoptr i64 {base} to ptr')}, i64 {offset}")
            e.put(i.ops[0], kind, e.op(f"ptrtoint ptr {pointer} to i64"))
            return
    result = e.op(f"{i.name} {ty} {a}, {b}")
    if "cc" in i.mods:
        _set_carry(e, e.op(f"icmp ult {ty} {result if i.name == 'add' else a}, {a if i.name == 'add' else b}"))
    e.put(i.ops[0], kind, result)


def _set_carry(e: Emitter, flag: str) -> None:
    e.carry = True
    e.emit(f"store i1 {flag}, ptr %carry")


@lowers("addc", "subc")
def addc(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "cc")
    ty = types.llvm(kind)
    wide = f"i{types.width(kind) * 2}"
    a = e.op(f"zext {ty} {e.get(i.ops[1], kind)} to {wide}")
    b = e.op(f"zext {ty} {e.get(i.ops[2], kind)} to {wide}")
    e.carry = True
    carry = e.op(f"zext i1 {e.op('load i1, ptr %carry')} to {wide}")
    name = "add" if i.name == "addc" else "sub"
    total = e.op(f"{name} {wide} {e.op(f'{name} {wide} {a}, {b}')}, {carry}")
    if "cc" in i.mods:
        shifted = e.op(f"lshr {wide} {total}, {types.width(kind)}")
        _set_carry(e, e.op(f"trunc {wide} {shifted} to i1"))
    e.put(i.ops[0], kind, e.op(f"trunc {wide} {total} to {ty}"))


def _product(e: Emitter, i: Instr, kind: str) -> tuple[str, str]:
    """The product that ``.lo/.hi/.wide`` selects, and its PTX type."""
    bits = types.width(kind)
    ty = types.llvm(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    if "lo" in i.mods:
        return e.op(f"mul {ty} {a}, {b}"), kind
    if "hi" not in i.mods and "wide" not in i.mods:
        raise e.fail(f"{i.name} of integers needs .lo, .hi or .wide")
    ext = "sext" if types.signed(kind) else "zext"
    wide = f"i{bits * 2}"
    nowrap = "nsw" if ext == "sext" else "nuw"
    product = e.op(f"mul {nowrap} {wide} {e.op(f'{ext} {ty} {a} to {wide}')}, {e.op(f'{ext} {ty} {b} to {wide}')}")
    if "wide" in i.mods:
        return product, f"{kind[0]}{bits * 2}"
    return e.op(f"trunc {wide} {e.op(f'lshr {wide} {product}, {bits}')} to {ty}"), kind


@lowers("mul")
def mul(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i, "lo", "hi", "wide")
    value, out = _product(e, i, kind)
    e.put(i.ops[0], out, value)


@lowers("mad", "madc")
def mad(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i, "lo", "hi", "wide", "sat", "cc")
    value, out = _product(e, i, kind)
    ty = types.llvm(out)
    c = e.get(i.ops[3], out)
    if "sat" in i.mods:
        e.put(i.ops[0], out, intrinsic(e, "sadd.sat", ty, value, c))
        return
    if i.name == "mad" and "cc" not in i.mods:
        e.put(i.ops[0], out, e.op(f"add {ty} {value}, {c}"))
        return
    wide = f"i{types.width(out) * 2}"
    total = e.op(f"add {wide} {e.op(f'zext {ty} {value} to {wide}')}, {e.op(f'zext {ty} {c} to {wide}')}")
    if i.name == "madc":
        e.carry = True
        carry = e.op(f"zext i1 {e.op('load i1, ptr %carry')} to {wide}")
        total = e.op(f"add {wide} {total}, {carry}")
    if "cc" in i.mods:
        _set_carry(e, e.op(f"trunc {wide} {e.op(f'lshr {wide} {total}, {types.width(out)}')} to i1"))
    e.put(i.ops[0], out, e.op(f"trunc {wide} {total} to {ty}"))


@lowers("mul24", "mad24")
def mul24(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "lo", "hi", "sat")
    ext = "ashr" if types.signed(kind) else "lshr"
    factors = []
    for operand in i.ops[1:3]:
        value = e.op(f"shl i32 {e.get(operand, kind)}, 8")
        value = e.op(f"{ext} i32 {value}, 8")
        factors.append(e.op(f"{'sext' if types.signed(kind) else 'zext'} i32 {value} to i64"))
    product = e.op(f"mul i64 {factors[0]}, {factors[1]}")
    if "hi" in i.mods:
        product = e.op(f"lshr i64 {product}, 16")
    result = e.op(f"trunc i64 {product} to i32")
    if i.name == "mad24":
        c = e.get(i.ops[3], kind)
        result = intrinsic(e, "sadd.sat", "i32", result, c) if "sat" in i.mods else e.op(f"add i32 {result}, {c}")
    e.put(i.ops[0], kind, result)


@lowers("sad")
def sad(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty = types.llvm(kind)
    sign = "s" if types.signed(kind) else "u"
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    high = intrinsic(e, f"{sign}max", ty, a, b)
    low = intrinsic(e, f"{sign}min", ty, a, b)
    e.put(i.ops[0], kind, e.op(f"add {ty} {e.op(f'sub {ty} {high}, {low}')}, {e.get(i.ops[3], kind)}"))


@lowers("div", "rem")
def div(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i)
    ty = types.llvm(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    divisor = i.ops[2]
    sign = "s" if types.signed(kind) else "u"
    if isinstance(divisor, Imm) and divisor.value not in (0, -1):
        e.put(i.ops[0], kind, e.op(f"{sign}{i.name} {ty} {a}, {b}"))
        return
    # a GPU does not trap: x/0 and x%0 are all ones, as its division sequence leaves them (recorded on an H100)
    zero = e.op(f"icmp eq {ty} {b}, 0")
    bad = zero
    if sign == "s":
        minus = e.op(f"icmp eq {ty} {b}, -1")
        bad = e.op(f"or i1 {zero}, {minus}")
    safe = e.op(f"select i1 {bad}, {ty} 1, {ty} {b}")
    value = e.op(f"{sign}{i.name} {ty} {a}, {safe}")
    if sign == "s":
        other = e.op(f"sub {ty} 0, {a}") if i.name == "div" else "0"
        value = e.op(f"select i1 {minus}, {ty} {other}, {ty} {value}")
    value = e.op(f"select i1 {zero}, {ty} -1, {ty} {value}")
    e.put(i.ops[0], kind, value)


@lowers("abs", "neg")
def unary(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i)
    ty = types.llvm(kind)
    a = e.get(i.ops[1], kind)
    if i.name == "neg":
        e.put(i.ops[0], kind, e.op(f"sub {ty} 0, {a}"))
    else:
        e.put(i.ops[0], kind, e.call(ty, f"llvm.abs.{ty}", f"{ty} {a}", "i1 false"))


@lowers("min", "max")
def minmax(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if _elsewhere(e, i, kind):
        return
    check_mods(e, i, "relu")
    ty = types.llvm(kind)
    sign = "s" if types.signed(kind) else "u"
    value = intrinsic(e, f"{sign}{i.name}", ty, e.get(i.ops[1], kind), e.get(i.ops[2], kind))
    if "relu" in i.mods:
        value = intrinsic(e, "smax", ty, value, "zeroinitializer" if ty[0] == "<" else "0")
    e.put(i.ops[0], kind, value)
