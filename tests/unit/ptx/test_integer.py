"""Integer, bit and comparison instructions against models in Python integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import kit

EDGES = [0, 1, 2, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF]  # fmt: skip


def s(value: int, bits: int) -> int:
    """As a signed integer."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def clamp(value: int, bits: int) -> int:
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, value))


def quotient(a: int, b: int, bits: int, *, signed: bool) -> int:
    if b == 0:
        return -1
    if not signed:
        return a // b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int, bits: int, *, signed: bool) -> int:
    return -1 if b == 0 else a - b * quotient(a, b, bits, signed=signed)


def field(pos: int, length: int, bits: int) -> tuple[int, int]:
    """A bit field's operands: their low bytes in 32 bits, all of them in 64 (recorded on an H100)."""
    return (pos, length) if bits == 64 else (pos & 255, length & 255)


def bfe(a: int, b: int, c: int, bits: int, *, signed: bool) -> int:
    pos, length = field(b, c, bits)
    sign = 0 if not signed or length == 0 else a >> min(pos + length - 1, bits - 1) & 1
    out = 0
    for i in range(bits):
        bit = a >> (pos + i) & 1 if i < length and pos + i < bits else sign
        out |= bit << i
    return out


def bfi(a: int, b: int, c: int, d: int, bits: int) -> int:
    pos, length = field(c, d, bits)
    out = b
    for i in range(min(length, bits)):
        if pos + i < bits:
            out = out & ~(1 << pos + i) | (a >> i & 1) << pos + i if i < bits else out & ~(1 << pos + i)
    return out


def prmt(a: int, b: int, c: int) -> int:
    data = (b << 32 | a).to_bytes(8, "little")
    out = []
    for i in range(4):
        nibble = c >> 4 * i & 15
        byte = data[nibble & 7]
        out.append((255 if byte & 128 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(out), "little")


def lanes(value: int, bits: int, count: int, *, signed: bool) -> list[int]:
    out = [value >> bits * i & ((1 << bits) - 1) for i in range(count)]
    return [s(x, bits) for x in out] if signed else out


Model = Callable[..., int]
#: instruction text, result width, source widths, model on unsigned integers
CASES: list[tuple[str, int, tuple[int, ...], Model]] = []


def case(text: str, result: int, sources: tuple[int, ...], model: Model) -> None:
    CASES.append((text, result, sources, model))


for n in (16, 32, 64):
    case(f"add.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: a + b)
    case(f"sub.u{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: a - b)
    case(f"mul.lo.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: a * b)
    case(f"mul.hi.u{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: a * b >> n)
    case(f"mul.hi.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: s(a, n) * s(b, n) >> n)
    case(f"mad.lo.s{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, n, n), lambda a, b, c: a * b + c)
    case(f"mad.hi.s{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, n, n), lambda a, b, c, n=n: (s(a, n) * s(b, n) >> n) + c)
    case(f"div.u{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: quotient(a, b, n, signed=False))
    case(f"div.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: quotient(s(a, n), s(b, n), n, signed=True))
    case(f"rem.u{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: remainder(a, b, n, signed=False))
    case(f"rem.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: remainder(s(a, n), s(b, n), n, signed=True))
    case(f"min.s{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b, n=n: min(s(a, n), s(b, n)))
    case(f"max.u{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: max(a, b))
    case(f"abs.s{n} {{d}}, {{0}}", n, (n,), lambda a, n=n: abs(s(a, n)))
    case(f"neg.s{n} {{d}}, {{0}}", n, (n,), lambda a: -a)
    case(f"and.b{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: a & b)
    case(f"xor.b{n} {{d}}, {{0}}, {{1}}", n, (n, n), lambda a, b: a ^ b)
    case(f"not.b{n} {{d}}, {{0}}", n, (n,), lambda a: ~a)
    case(f"cnot.b{n} {{d}}, {{0}}", n, (n,), lambda a: int(a == 0))
    case(f"shl.b{n} {{d}}, {{0}}, {{1}}", n, (n, 32), lambda a, b, n=n: a << b if b < n else 0)
    case(f"shr.u{n} {{d}}, {{0}}, {{1}}", n, (n, 32), lambda a, b: a >> min(b, 99))
    case(f"shr.s{n} {{d}}, {{0}}, {{1}}", n, (n, 32), lambda a, b, n=n: s(a, n) >> min(b, 99))
    case(f"sad.s{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, n, n), lambda a, b, c, n=n: c + abs(s(a, n) - s(b, n)))
    case(f"sad.u{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, n, n), lambda a, b, c: c + abs(a - b))
    case(f"selp.b{n} {{d}}, {{0}}, {{1}}, 1", n, (n, n), lambda a, b: a)
for n in (32, 64):
    case(f"popc.b{n} {{d}}, {{0}}", 32, (n,), lambda a: a.bit_count())
    case(f"clz.b{n} {{d}}, {{0}}", 32, (n,), lambda a, n=n: n - a.bit_length())
    case(f"brev.b{n} {{d}}, {{0}}", n, (n,), lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2))
    case(f"bfind.u{n} {{d}}, {{0}}", 32, (n,), lambda a: a.bit_length() - 1)
    case(f"bfind.s{n} {{d}}, {{0}}", 32, (n,),
         lambda a, n=n: (a if s(a, n) >= 0 else ~a & ((1 << n) - 1)).bit_length() - 1)  # fmt: skip
    case(f"bfind.shiftamt.u{n} {{d}}, {{0}}", 32, (n,), lambda a, n=n: n - a.bit_length() if a else -1)
    case(f"bfe.u{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, 32, 32), lambda a, b, c, n=n: bfe(a, b, c, n, signed=False))
    case(f"bfe.s{n} {{d}}, {{0}}, {{1}}, {{2}}", n, (n, 32, 32), lambda a, b, c, n=n: bfe(a, b, c, n, signed=True))
    case(f"bfi.b{n} {{d}}, {{0}}, {{1}}, {{2}}, {{3}}", n, (n, n, 32, 32), lambda a, b, c, d, n=n: bfi(a, b, c, d, n))
case("mul.wide.s32 {d}, {0}, {1}", 64, (32, 32), lambda a, b: s(a, 32) * s(b, 32))
case("mul.wide.u16 {d}, {0}, {1}", 32, (16, 16), lambda a, b: a * b)
case("mad.wide.s32 {d}, {0}, {1}, {2}", 64, (32, 32, 64), lambda a, b, c: s(a, 32) * s(b, 32) + c)
case("mad.wide.u32 {d}, {0}, {1}, {2}", 64, (32, 32, 64), lambda a, b, c: a * b + c)
case("add.sat.s32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: clamp(s(a, 32) + s(b, 32), 32))
case("sub.sat.s32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: clamp(s(a, 32) - s(b, 32), 32))
case("mad.hi.sat.s32 {d}, {0}, {1}, {2}", 32, (32, 32, 32),
     lambda a, b, c: clamp((s(a, 32) * s(b, 32) >> 32) + s(c, 32), 32))  # fmt: skip
case("mul24.lo.s32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: s(a, 24) * s(b, 24))
case("mul24.hi.u32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16)
case("mad24.lo.u32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c)
case("add.cc.u32 %w0, {0}, {1}; addc.u32 {d}, {2}, {3}", 32, (32,) * 4, lambda a, b, c, d: c + d + (a + b >> 32))
case("sub.cc.u32 %w0, {0}, {1}; subc.u32 {d}, {2}, {3}", 32, (32,) * 4, lambda a, b, c, d: c - d - (a < b))
case("mad.lo.cc.u32 %w0, {0}, {1}, {2}; madc.hi.u32 {d}, {0}, {1}, 0", 32, (32,) * 3,
     lambda a, b, c: (a * b >> 32) + ((a * b & 0xFFFFFFFF) + c >> 32))  # fmt: skip
case("prmt.b32 {d}, {0}, {1}, {2}", 32, (32,) * 3, prmt)
case("prmt.b32 {d}, {0}, {1}, 0x9421", 32, (32,) * 2, lambda a, b: prmt(a, b, 0x9421))
case("prmt.b32.f4e {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (b << 32 | a) >> 8 * (c & 3))
case("prmt.b32.rc16 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (a >> 16 * (c & 1) & 0xFFFF) * 0x10001)
for table in (0x80, 0xFE, 0x96, 0xE8, 0x1B, 0xCA, 0x2D):
    case(f"lop3.b32 {{d}}, {{0}}, {{1}}, {{2}}, {table}", 32, (32,) * 3,
         lambda a, b, c, table=table: sum(
             (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32)))  # fmt: skip
case("shf.l.wrap.b32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (b << 32 | a) << (c & 31) >> 32)
case("shf.r.wrap.b32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (b << 32 | a) >> (c & 31))
case("shf.l.clamp.b32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (b << 32 | a) << min(c, 32) >> 32)
case("shf.r.clamp.b32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: (b << 32 | a) >> min(c, 32))
case("bmsk.clamp.b32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32))
case("szext.wrap.s32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: s(a, b & 31) if b & 31 else 0)
case("szext.clamp.u32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: a & ((1 << min(b, 32)) - 1))
case("dp4a.s32.u32 {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: c + sum(x * y for x, y in zip(lanes(a, 8, 4, signed=True), lanes(b, 8, 4, signed=False),
                                                   strict=True)))  # fmt: skip
case("dp2a.hi.u32.s32 {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: c + sum(x * y for x, y in zip(lanes(a, 16, 2, signed=False), lanes(b, 8, 4, signed=True)[2:],
                                                   strict=True)))  # fmt: skip
case("cvt.s64.s32 {d}, {0}", 64, (32,), lambda a: s(a, 32))
case("cvt.u64.u32 {d}, {0}", 64, (32,), lambda a: a)
case("cvt.s32.s8 {d}, {0}", 32, (32,), lambda a: s(a, 8))
case("cvt.u32.u8 {d}, {0}", 32, (32,), lambda a: a & 255)
case("cvt.sat.s16.s32 {d}, {0}", 16, (32,), lambda a: clamp(s(a, 32), 16))
case("cvt.sat.u16.s32 {d}, {0}", 16, (32,), lambda a: max(0, min(65535, s(a, 32))))
case("cvt.sat.s32.u64 {d}, {0}", 32, (64,), lambda a: min(a, 0x7FFFFFFF))
case("cvt.sat.u8.s16 %w0, {0}; mov.b32 {d}, %w0", 32, (16,), lambda a: max(0, min(255, s(a, 16))))
case("cvt.pack.sat.s16.s32.b32 {d}, {0}, {1}, 0", 32, (32, 32),
     lambda a, b: (clamp(s(a, 32), 16) & 0xFFFF) << 16 | clamp(s(b, 32), 16) & 0xFFFF)  # fmt: skip
case("setp.lt.s32 %q0, {0}, {1}; selp.u32 {d}, 1, 0, %q0", 32, (32, 32), lambda a, b: int(s(a, 32) < s(b, 32)))
case("setp.hs.u32 %q0, {0}, {1}; selp.u32 {d}, 1, 0, %q0", 32, (32, 32), lambda a, b: int(a >= b))
case("setp.gt.u64 %q0|%q1, {0}, {1}; selp.u32 %w0, 2, 0, %q1; selp.u32 %w1, 1, 0, %q0; add.u32 {d}, %w0, %w1", 32,
     (64, 64), lambda a, b: 1 if a > b else 2)  # fmt: skip
case("setp.ne.s32 %q0, {0}, 0; setp.eq.and.s32 %q1, {1}, {2}, %q0; selp.u32 {d}, 1, 0, %q1", 32, (32,) * 3,
     lambda a, b, c: int(b == c and a != 0))  # fmt: skip
case("set.le.u32.s32 {d}, {0}, {1}", 32, (32, 32), lambda a, b: -int(s(a, 32) <= s(b, 32)))
case("slct.u32.s32 {d}, {0}, {1}, {2}", 32, (32,) * 3, lambda a, b, c: a if s(c, 32) >= 0 else b)
case("fns.b32 {d}, {0}, 0, 3", 32, (32,),
     lambda a: next((i for i in range(32) if a >> i & 1 and (a & (2 << i) - 1).bit_count() == 3), -1))  # fmt: skip
case("mov.b64 {{%w0, %w1}}, {0}; mov.b64 {d}, {{%w1, %w0}}", 64, (64,), lambda a: a << 32 | a >> 32)
case("@!%q7 bra X; X: setp.lt.u32 %q0, {0}, 100; mov.u32 {d}, 7; @%q0 add.u32 {d}, {0}, 1", 32, (32,),
     lambda a: a + 1 if a < 100 else 7)  # fmt: skip


def simd(op: Callable[[int, int], int], a: int, b: int, bits: int, *, signed: bool) -> int:
    pairs = zip(lanes(a, bits, 32 // bits, signed=signed), lanes(b, bits, 32 // bits, signed=signed), strict=True)
    return sum((op(x, y) & (1 << bits) - 1) << bits * i for i, (x, y) in enumerate(pairs))


case("vabsdiff4.u32.u32.u32 {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: simd(lambda x, y: abs(x - y), a, b, 8, signed=False))  # fmt: skip
case("vabsdiff4.u32.u32.u32.add {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: c + sum(abs(x - y) for x, y in zip(lanes(a, 8, 4, signed=False), lanes(b, 8, 4, signed=False),
                                                       strict=True)))  # fmt: skip
case("vadd2.s32.s32.s32.sat {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: simd(lambda x, y: clamp(x + y, 16), a, b, 16, signed=True))  # fmt: skip
case("vset4.u32.u32.lt {d}, {0}, {1}, {2}", 32, (32,) * 3,
     lambda a, b, c: simd(lambda x, y: int(x < y), a, b, 8, signed=False))  # fmt: skip
case("max.s16x2 {d}, {0}, {1}", 32, (32, 32), lambda a, b: simd(max, a, b, 16, signed=True))
case("add.u16x2 {d}, {0}, {1}", 32, (32, 32), lambda a, b: simd(lambda x, y: x + y, a, b, 16, signed=False))

DTYPE = {16: np.uint16, 32: np.uint32, 64: np.uint64}


@pytest.mark.parametrize(("text", "result", "sources", "model"), CASES, ids=[c[0].split(" {d}")[0] for c in CASES])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_model(text: str, result: int, sources: tuple[int, ...], model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = []
    for bits in sources:
        pool = [edge & (1 << bits) - 1 for edge in EDGES]
        wild = [int(x) & (1 << bits) - 1 for x in rng.integers(0, 2**63, 40)]
        small = [int(x) for x in rng.integers(0, 70, 20)]
        columns.append([int(x) for x in rng.choice(np.array(pool + wild + small, dtype=object), 64)])
    arrays = [(f"b{bits}", np.array(column, DTYPE[bits])) for bits, column in zip(sources, columns, strict=True)]
    got = kit.apply(text, f"b{result}", DTYPE[result], arrays)
    want = [model(*row) & (1 << result) - 1 for row in zip(*columns, strict=True)]
    for row, x, y in zip(zip(*columns, strict=True), got.tolist(), want, strict=True):
        assert x == y, [hex(item) for item in row]
