"""Values of `irkit` functions with operators, for runtime functions that compute a lot.

Only what those functions use: signed integers, floats of 32 bits, truth values. A plain number beside a value takes
the value's type.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from migproxy.softgpu.ptx.irkit import Fn, Var


class Val:
    """One value: the function that it belongs to, its LLVM type, its name."""

    __slots__ = ("fn", "text", "ty")

    def __init__(self, fn: Fn, ty: str, text: str) -> None:
        self.fn = fn
        self.ty = ty
        self.text = text

    def _of(self, other: Val | float) -> str:
        return other.text if isinstance(other, Val) else literal(self.ty, other)

    def _op(self, integer: str, floating: str, other: Val | float) -> Val:
        name = floating if self.ty == "float" else integer
        return Val(self.fn, self.ty, self.fn.op(f"{name} {self.ty} {self.text}, {self._of(other)}"))

    def _compare(self, integer: str, floating: str, other: Val | float) -> Val:
        name = f"fcmp {floating}" if self.ty == "float" else f"icmp {integer}"
        return Val(self.fn, "i1", self.fn.op(f"{name} {self.ty} {self.text}, {self._of(other)}"))

    def __add__(self, other: Val | float) -> Val:
        return self._op("add", "fadd", other)

    def __sub__(self, other: Val | float) -> Val:
        return self._op("sub", "fsub", other)

    def __mul__(self, other: Val | float) -> Val:
        return self._op("mul", "fmul", other)

    def __truediv__(self, other: Val | float) -> Val:
        return self._op("sdiv", "fdiv", other)

    def __mod__(self, other: Val | float) -> Val:
        return self._op("srem", "frem", other)

    def __and__(self, other: Val | int) -> Val:
        return self._op("and", "and", other)

    def __or__(self, other: Val | int) -> Val:
        return self._op("or", "or", other)

    def __xor__(self, other: Val | int) -> Val:
        return self._op("xor", "xor", other)

    def __invert__(self) -> Val:
        return self ^ -1

    def __lshift__(self, other: Val | int) -> Val:
        return self._op("shl", "shl", other)

    def __rshift__(self, other: Val | int) -> Val:
        """A logical shift."""
        return self._op("lshr", "lshr", other)

    def __lt__(self, other: Val | float) -> Val:
        return self._compare("slt", "olt", other)

    def __le__(self, other: Val | float) -> Val:
        return self._compare("sle", "ole", other)

    def __gt__(self, other: Val | float) -> Val:
        return self._compare("sgt", "ogt", other)

    def __ge__(self, other: Val | float) -> Val:
        return self._compare("sge", "oge", other)

    def eq(self, other: Val | float) -> Val:
        """Equality (``==`` stays Python's own)."""
        return self._compare("eq", "oeq", other)

    def ne(self, other: Val | float) -> Val:
        return self._compare("ne", "une", other)

    def below(self, other: Val | int) -> Val:
        """Unsigned less-than: also false for what is negative."""
        return self._compare("ult", "olt", other)

    def choose(self, yes: Val, no: Val | float) -> Val:
        """``yes if self else no``."""
        text = f"select i1 {self.text}, {yes.ty} {yes.text}, {yes.ty} {yes._of(no)}"
        return Val(self.fn, yes.ty, self.fn.op(text))

    def convert(self, how: str, ty: str) -> Val:
        """A conversion instruction: ``zext``, ``sitofp``, ``bitcast`` …"""
        return Val(self.fn, ty, self.fn.op(f"{how} {self.ty} {self.text} to {ty}"))

    def wide(self) -> Val:
        """A non-negative i32 as i64."""
        return self.convert("zext", "i64")

    def floating(self) -> Val:
        """A signed i32 as float."""
        return self.convert("sitofp", "float")

    def bits(self) -> Val:
        """A float's bits, or the float of bits."""
        return self.convert("bitcast", "float" if self.ty == "i32" else "i32")

    def intrinsic(self, name: str, *others: Val | float) -> Val:
        """Call an LLVM intrinsic on this and others of its type."""
        suffix = "f32" if self.ty == "float" else self.ty
        arguments = ", ".join(f"{self.ty} {text}" for text in (self.text, *map(self._of, others)))
        return Val(self.fn, self.ty, self.fn.op(f"call {self.ty} @llvm.{name}.{suffix}({arguments})"))

    def least(self, other: Val | float) -> Val:
        return self.intrinsic("minnum" if self.ty == "float" else "smin", other)

    def most(self, other: Val | float) -> Val:
        return self.intrinsic("maxnum" if self.ty == "float" else "smax", other)

    def floor(self) -> Val:
        return self.intrinsic("floor")

    def whole(self) -> Val:
        """A float as i32; beyond its range the nearest, 0 for NaN."""
        return Val(self.fn, "i32", self.fn.op(f"call i32 @llvm.fptosi.sat.i32.f32(float {self.text})"))


def literal(ty: str, value: float) -> str:
    """A constant's text."""
    if ty == "float":
        single = struct.unpack("<f", struct.pack("<f", value))[0]
        return "0x" + struct.pack(">d", single).hex().upper()
    if ty == "i1":
        return "true" if value else "false"
    return str(int(value))


class Cell:
    """A variable that holds `Val`."""

    def __init__(self, fn: Fn, ty: str, start: Val | float = 0) -> None:
        self.fn = fn
        self.ty = ty
        self.var = Var(fn, ty, start.text if isinstance(start, Val) else literal(ty, start))

    def get(self) -> Val:
        return Val(self.fn, self.ty, self.var.get())

    def set(self, value: Val | float) -> None:
        self.var.set(value.text if isinstance(value, Val) else literal(self.ty, value))


def constant(fn: Fn, ty: str, value: float) -> Val:
    """A constant as a value."""
    return Val(fn, ty, literal(ty, value))


def load(fn: Fn, ty: str, base: str, offset: Val | int = 0) -> Val:
    """Load from a pointer at a byte offset."""
    return Val(fn, ty, fn.op(f"load {ty}, ptr {at(fn, base, offset)}, align {_ALIGN[ty]}"))


_ALIGN = {"i8": 1, "i16": 2, "i32": 4, "float": 4, "i64": 8, "half": 2}


def store(fn: Fn, value: Val, base: str, offset: Val | int = 0) -> None:
    """Store to a pointer at a byte offset."""
    fn.emit(f"store {value.ty} {value.text}, ptr {at(fn, base, offset)}, align {_ALIGN[value.ty]}")


def at(fn: Fn, base: str, offset: Val | int) -> str:
    """A pointer at a byte offset."""
    if isinstance(offset, int):
        return fn.op(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base
    return fn.op(f"getelementptr i8, ptr {base}, {offset.ty} {offset.text}")


def pick(value: Val, cases: dict[int, Callable[[], Val]], otherwise: Val) -> Val:
    """The case of an i32, each evaluated only where it is the one."""
    cell = Cell(value.fn, otherwise.ty, otherwise)
    for number, case in cases.items():
        with value.fn.when(value.eq(number).text):
            cell.set(case())
    return cell.get()
