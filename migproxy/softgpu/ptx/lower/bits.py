"""Logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Imm, Instr, Operand
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower.common import check_mods, intrinsic, kind_of, kinds_of


@lowers("and", "or", "xor")
def logic(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    e.put(i.ops[0], kind, e.op(f"{i.name} {types.llvm(kind)} {e.get(i.ops[1], kind)}, {e.get(i.ops[2], kind)}"))


@lowers("not")
def invert(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    e.put(i.ops[0], kind, e.op(f"xor {types.llvm(kind)} {e.get(i.ops[1], kind)}, -1"))


@lowers("cnot")
def cnot(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty = types.llvm(kind)
    e.put(i.ops[0], kind, e.op(f"zext i1 {e.op(f'icmp eq {ty} {e.get(i.ops[1], kind)}, 0')} to {ty}"))


@lowers("shl", "shr")
def shift(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty = types.llvm(kind)
    bits = types.width(kind)
    a = e.get(i.ops[1], kind)
    arithmetic = i.name == "shr" and types.signed(kind)
    op = "shl" if i.name == "shl" else "ashr" if arithmetic else "lshr"
    amount = i.ops[2]
    if isinstance(amount, Imm):
        count = amount.value & 0xFFFFFFFF
        if count >= bits and not arithmetic:
            e.put(i.ops[0], kind, "0")
            return
        e.put(i.ops[0], kind, e.op(f"{op} {ty} {a}, {min(count, bits - 1)}"))
        return
    count_ = e.get(amount, "u32")
    if arithmetic:
        count_ = intrinsic(e, "umin", "i32", count_, str(bits - 1))
        e.put(i.ops[0], kind, e.op(f"{op} {ty} {a}, {e.coerce(count_, 'i32', ty)}"))
        return
    over = e.op(f"icmp uge i32 {count_}, {bits}")
    masked = e.op(f"and i32 {count_}, {bits - 1}")
    value = e.op(f"{op} {ty} {a}, {e.coerce(masked, 'i32', ty)}")
    e.put(i.ops[0], kind, e.op(f"select i1 {over}, {ty} 0, {ty} {value}"))


@lowers("shf")
def funnel(e: Emitter, i: Instr) -> None:
    check_mods(e, i, "l", "r", "wrap", "clamp")
    low, high, count = (e.get(operand, "b32") for operand in i.ops[1:4])
    left = "l" in i.mods
    value = intrinsic(e, "fshl" if left else "fshr", "i32", high, low, e.op(f"and i32 {count}, 31"))
    if "clamp" in i.mods:
        over = e.op(f"icmp uge i32 {count}, 32")
        value = e.op(f"select i1 {over}, i32 {low if left else high}, i32 {value}")
    e.put(i.ops[0], "b32", value)


_TWO_INPUT: dict[int, Callable[[Emitter, str, str], str]] = {
    0: lambda e, a, b: "0",
    15: lambda e, a, b: "-1",
    8: lambda e, a, b: e.op(f"and i32 {a}, {b}"),
    14: lambda e, a, b: e.op(f"or i32 {a}, {b}"),
    6: lambda e, a, b: e.op(f"xor i32 {a}, {b}"),
    12: lambda e, a, b: a,
    10: lambda e, a, b: b,
    4: lambda e, a, b: e.op(f"and i32 {a}, {e.op(f'xor i32 {b}, -1')}"),
    2: lambda e, a, b: e.op(f"and i32 {e.op(f'xor i32 {a}, -1')}, {b}"),
}


def _two_input(e: Emitter, table: int, a: str, b: str) -> str:
    """A function of two inputs by its truth table (bit ``2a+b``)."""
    make = _TWO_INPUT.get(table)
    if make is not None:
        return make(e, a, b)
    inverse = _TWO_INPUT[15 - table](e, a, b)
    return e.op(f"xor i32 {inverse}, -1")


def lop3_value(e: Emitter, a: str, b: str, c: str, table: int) -> str:
    """The three-input function whose truth table has bit ``4a+2b+c``."""
    when_0 = sum((table >> (2 * n) & 1) << n for n in range(4))
    when_1 = sum((table >> (2 * n + 1) & 1) << n for n in range(4))
    if when_0 == when_1:
        return _two_input(e, when_0, a, b)
    if when_0 == 15 - when_1:
        return e.op(f"xor i32 {_two_input(e, when_0, a, b)}, {c}")
    off = e.op(f"and i32 {_two_input(e, when_0, a, b)}, {e.op(f'xor i32 {c}, -1')}")
    on = e.op(f"and i32 {_two_input(e, when_1, a, b)}, {c}")
    return e.op(f"or i32 {on}, {off}")


@lowers("lop3")
def lop3(e: Emitter, i: Instr) -> None:
    check_mods(e, i, "or", "and")
    table = i.ops[4]
    if not isinstance(table, Imm):
        raise e.fail("lop3 needs a constant table")
    a, b, c = (e.get(operand, "b32") for operand in i.ops[1:4])
    value = lop3_value(e, a, b, c, table.value & 0xFF)
    dest, flag = e.split(i.ops[0])
    e.put(dest, "b32", value)
    if flag is not None:
        other = e.get(i.ops[5], "pred")
        nonzero = e.op(f"icmp ne i32 {value}, 0")
        e.put(flag, "pred", e.op(f"{'or' if 'or' in i.mods else 'and'} i1 {nonzero}, {other}"))


@lowers("popc", "clz")
def count(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty = types.llvm(kind)
    a = e.get(i.ops[1], kind)
    name, more = ("ctpop", []) if i.name == "popc" else ("ctlz", ["i1 false"])
    value = e.call(ty, f"llvm.{name}.{ty}", f"{ty} {a}", *more)
    e.put(i.ops[0], "u32", e.coerce(value, ty, "i32"))


@lowers("brev")
def brev(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    e.put(i.ops[0], kind, intrinsic(e, "bitreverse", types.llvm(kind), e.get(i.ops[1], kind)))


@lowers("bfind")
def bfind(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "shiftamt")
    ty = types.llvm(kind)
    a = e.get(i.ops[1], kind)
    if types.signed(kind):
        a = e.op(f"xor {ty} {a}, {e.op(f'ashr {ty} {a}, {types.width(kind) - 1}')}")
    leading = e.call(ty, f"llvm.ctlz.{ty}", f"{ty} {a}", "i1 false")
    value = leading if "shiftamt" in i.mods else e.op(f"sub {ty} {types.width(kind) - 1}, {leading}")
    none = e.op(f"icmp eq {ty} {a}, 0")
    e.put(i.ops[0], "u32", e.coerce(e.op(f"select i1 {none}, {ty} -1, {ty} {value}"), ty, "i32"))


def _low_mask(e: Emitter, length: str, bits: int) -> str:
    """``length`` (an i32) one bits from the bottom, all for lengths of the width and more."""
    ty = f"i{bits}"
    over = e.op(f"icmp uge i32 {length}, {bits}")
    masked = e.coerce(e.op(f"and i32 {length}, {bits - 1}"), "i32", ty)
    ones = e.op(f"sub {ty} {e.op(f'shl {ty} 1, {masked}')}, 1")
    return e.op(f"select i1 {over}, {ty} -1, {ty} {ones}")


def _field(e: Emitter, bits: int, position: Operand, length: Operand) -> tuple[str, str]:
    """Position and length of a bit field, as i32.

    The manual restricts both to 0..255. Beyond, an H100 looks at the low byte in its 32-bit instruction, and at
    all bits in the sequence that stands for the 64-bit one.
    """
    values = (e.get(position, "u32"), e.get(length, "u32"))
    if bits == 64:
        return values
    return e.op(f"and i32 {values[0]}, 255"), e.op(f"and i32 {values[1]}, 255")


@lowers("bfe")
def bfe(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty, bits = types.llvm(kind), types.width(kind)
    a = e.get(i.ops[1], kind)
    position, length = _field(e, bits, i.ops[2], i.ops[3])
    if not types.signed(kind):
        over = e.op(f"icmp uge i32 {position}, {bits}")
        shifted = e.op(f"lshr {ty} {a}, {e.coerce(e.op(f'and i32 {position}, {bits - 1}'), 'i32', ty)}")
        shifted = e.op(f"select i1 {over}, {ty} 0, {ty} {shifted}")
        e.put(i.ops[0], kind, e.op(f"and {ty} {shifted}, {_low_mask(e, length, bits)}"))
        return
    at = e.coerce(intrinsic(e, "umin", "i32", position, str(bits - 1)), "i32", ty)
    shifted = e.op(f"ashr {ty} {a}, {at}")
    empty = e.op(f"icmp eq i32 {length}, 0")
    used = intrinsic(e, "umin", "i32", length, str(bits))
    used = e.op(f"select i1 {empty}, i32 1, i32 {used}")
    spare = e.coerce(e.op(f"sub i32 {bits}, {used}"), "i32", ty)
    value = e.op(f"ashr {ty} {e.op(f'shl {ty} {shifted}, {spare}')}, {spare}")
    e.put(i.ops[0], kind, e.op(f"select i1 {empty}, {ty} 0, {ty} {value}"))


@lowers("bfi")
def bfi(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i)
    ty, bits = types.llvm(kind), types.width(kind)
    a, b = e.get(i.ops[1], kind), e.get(i.ops[2], kind)
    position, length = _field(e, bits, i.ops[3], i.ops[4])
    over = e.op(f"icmp uge i32 {position}, {bits}")
    at = e.coerce(e.op(f"and i32 {position}, {bits - 1}"), "i32", ty)
    mask = e.op(f"shl {ty} {_low_mask(e, length, bits)}, {at}")
    mask = e.op(f"select i1 {over}, {ty} 0, {ty} {mask}")
    field = e.op(f"and {ty} {e.op(f'shl {ty} {a}, {at}')}, {mask}")
    rest = e.op(f"and {ty} {b}, {e.op(f'xor {ty} {mask}, -1')}")
    e.put(i.ops[0], kind, e.op(f"or {ty} {field}, {rest}"))


@lowers("bmsk")
def bmsk(e: Emitter, i: Instr) -> None:
    check_mods(e, i, "clamp", "wrap")
    a, b = e.get(i.ops[1], "u32"), e.get(i.ops[2], "u32")
    if "wrap" in i.mods:
        a, b = e.op(f"and i32 {a}, 31"), e.op(f"and i32 {b}, 31")
    over = e.op(f"icmp uge i32 {a}, 32")
    mask = e.op(f"shl i32 {_low_mask(e, b, 32)}, {e.op(f'and i32 {a}, 31')}")
    e.put(i.ops[0], "b32", e.op(f"select i1 {over}, i32 0, i32 {mask}"))


@lowers("szext")
def szext(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    check_mods(e, i, "clamp", "wrap")
    a, n = e.get(i.ops[1], kind), e.get(i.ops[2], "u32")
    if "wrap" in i.mods:
        n = e.op(f"and i32 {n}, 31")
    whole = e.op(f"icmp uge i32 {n}, 32")
    empty = e.op(f"icmp eq i32 {n}, 0")
    spare = e.op(f"and i32 {e.op(f'sub i32 32, {n}')}, 31")
    up = e.op(f"shl i32 {a}, {spare}")
    value = e.op(f"{'ashr' if types.signed(kind) else 'lshr'} i32 {up}, {spare}")
    value = e.op(f"select i1 {empty}, i32 0, i32 {value}")
    e.put(i.ops[0], kind, e.op(f"select i1 {whole}, i32 {a}, i32 {value}"))


@lowers("fns")
def fns(e: Emitter, i: Instr) -> None:
    from migproxy.softgpu.ptx.lower.helpers import need

    check_mods(e, i)
    args = [f"i32 {e.get(operand, 'b32')}" for operand in i.ops[1:4]]
    e.put(i.ops[0], "b32", e.call("i32", need(e, "fns"), *args))


@lowers("prmt")
def prmt(e: Emitter, i: Instr) -> None:
    modes = ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    check_mods(e, i, *modes)
    mode = next((mod for mod in i.mods if mod in modes), "")
    a, b = e.get(i.ops[1], "b32"), e.get(i.ops[2], "b32")
    both = e.op(f"zext i32 {a} to i64")
    upper = e.op(f"shl i64 {e.op(f'zext i32 {b} to i64')}, 32")
    both = e.op(f"or i64 {both}, {upper}")
    out = "0"
    for n in range(4):
        byte = _selected_byte(e, i.ops[3], mode, n, both)
        wide = e.op(f"zext i8 {byte} to i32")
        out = e.op(f"or i32 {out}, {e.op(f'shl i32 {wide}, {8 * n}')}") if n else wide
    e.put(i.ops[0], "b32", out)


def _selected_byte(e: Emitter, control: Operand, mode: str, n: int, both: str) -> str:
    """Byte `n` of a permutation, from the 8 source bytes in `both`."""
    if isinstance(control, Imm) and not mode:
        nibble = control.value >> (4 * n) & 15
        byte = e.op(f"trunc i64 {e.op(f'lshr i64 {both}, {8 * (nibble & 7)}')} to i8")
        return e.op(f"ashr i8 {byte}, 7") if nibble & 8 else byte
    c = e.get(control, "b32")
    if not mode:
        nibble_ = e.op(f"lshr i32 {c}, {4 * n}")
        select = e.op(f"and i32 {nibble_}, 7")
    else:
        low = e.op(f"and i32 {c}, 3")
        if mode == "f4e":
            select = e.op(f"add i32 {low}, {n}")
        elif mode == "b4e":
            select = e.op(f"and i32 {e.op(f'sub i32 {low}, {n}')}, 7")
        elif mode == "rc8":
            select = low
        elif mode == "ecl":
            select = intrinsic(e, "umax", "i32", low, str(n))
        elif mode == "ecr":
            select = intrinsic(e, "umin", "i32", low, str(n))
        else:
            pair = e.op(f"shl i32 {e.op(f'and i32 {c}, 1')}, 1")
            select = e.op(f"add i32 {pair}, {n & 1}")
    shift_ = e.op(f"zext i32 {e.op(f'shl i32 {select}, 3')} to i64")
    byte = e.op(f"trunc i64 {e.op(f'lshr i64 {both}, {shift_}')} to i8")
    if mode:
        return byte
    sign = e.op(f"icmp ne i32 {e.op(f'and i32 {nibble_}, 8')}, 0")
    return e.op(f"select i1 {sign}, i8 {e.op(f'ashr i8 {byte}, 7')}, i8 {byte}")


@lowers("dp4a", "dp2a")
def dot(e: Emitter, i: Instr) -> None:
    check_mods(e, i, "lo", "hi")
    first, second = kinds_of(i)
    a, b = e.get(i.ops[1], "b32"), e.get(i.ops[2], "b32")
    total = e.get(i.ops[3], "b32")
    wide = i.name == "dp2a"
    for n in range(2 if wide else 4):
        part_a = _lane(e, a, 16 if wide else 8, n, types.signed(first))
        at = n + (2 if wide and "hi" in i.mods else 0)
        part_b = _lane(e, b, 8, at, types.signed(second))
        total = e.op(f"add i32 {total}, {e.op(f'mul i32 {part_a}, {part_b}')}")
    e.put(i.ops[0], "b32", total)


def _lane(e: Emitter, value: str, bits: int, n: int, sign: bool) -> str:
    part = e.op(f"trunc i32 {e.op(f'lshr i32 {value}, {bits * n}')} to i{bits}")
    return e.op(f"{'sext' if sign else 'zext'} i{bits} {part} to i32")
