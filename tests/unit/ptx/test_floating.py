"""Floating instructions against NumPy, exact rational arithmetic, and the C library's rounding."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import kit

EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3.4e38, 1e-45, 65504.0,
         65520.0, 1e10, -3e9, 2.0**31, 2.0**63, 2.0**64, 255.5, 1.0 + 2.0**-23, 6e-8, 1e-310, 1.7e308]  # fmt: skip
DTYPES: dict[str, Any] = {"f32": np.float32, "f64": np.float64, "b16": np.float16}


def draw(seed: int, dtype: Any, count: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        wide = rng.standard_normal(count) * 10.0 ** rng.integers(-12, 12, count)
        near = rng.standard_normal(count)
        bits = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize - 1), count, dtype=np.uint64)
        raw = bits.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
        pool = np.concatenate([np.array(EDGES).astype(dtype), wide.astype(dtype), near.astype(dtype), raw])
    return rng.choice(pool, count)


def flush(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def unsigned(x: np.ndarray) -> np.ndarray:
    """Zeros without their sign."""
    return np.where(x == 0, np.zeros_like(x), x)


def same(got: np.ndarray, want: np.ndarray, *sources: np.ndarray) -> None:
    """Equal, bit for bit except for which NaN."""
    bad = ~((got == want) & (np.signbit(got) == np.signbit(want)) | np.isnan(got) & np.isnan(want))
    assert not bad.any(), [*(x[bad][:3] for x in sources), got[bad][:3], want[bad][:3]]


BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div.rn": lambda a, b: a / b,
    "min": lambda a, b: np.where(
        np.isnan(a), b, np.where(np.isnan(b), a, np.where(a == b, np.where(np.signbit(a), a, b), np.fmin(a, b)))
    ),
    "max": lambda a, b: np.where(
        np.isnan(a), b, np.where(np.isnan(b), a, np.where(a == b, np.where(np.signbit(a), b, a), np.fmax(a, b)))
    ),
    "max.NaN": np.maximum,
    "copysign": lambda a, b: np.copysign(b, a),
}


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_binary(name: str, kind: str, seed: int) -> None:
    if name == "max.NaN" and kind == "f64":
        return
    a, b = draw(seed, DTYPES[kind]), draw(seed + 1, DTYPES[kind])
    got = kit.apply(f"{name}.{kind} {{d}}, {{0}}, {{1}}", kind, DTYPES[kind], [(kind, a), (kind, b)])
    with np.errstate(all="ignore"):
        want = BINARY[name](a, b).astype(DTYPES[kind])
    if name == "max.NaN":  # signs of zero are NumPy's business
        got, want = unsigned(got), unsigned(want)
    same(got, want, a, b)


@pytest.mark.parametrize("name", ["add", "mul", "div.rn"])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_flush(name: str, seed: int) -> None:
    a, b = draw(seed, np.float32), draw(seed + 1, np.float32)
    got = kit.apply(f"{name}.ftz.f32 {{d}}, {{0}}, {{1}}", "f32", np.float32, [("f32", a), ("f32", b)])
    with np.errstate(all="ignore"):
        want = flush(BINARY[name](flush(a), flush(b)).astype(np.float32))
    same(got, want, a, b)


@pytest.mark.parametrize("name", ["add.sat", "mul.sat"])
def test_saturate(name: str) -> None:
    a, b = draw(1, np.float32), draw(2, np.float32)
    got = kit.apply(f"{name}.f32 {{d}}, {{0}}, {{1}}", "f32", np.float32, [("f32", a), ("f32", b)])
    with np.errstate(all="ignore"):
        x = BINARY[name[:3]](a, b)
    same(got, np.where(x > 0, np.minimum(x, np.float32(1)), np.float32(0)).astype(np.float32), a, b)


def exact(name: str, args: list[float]) -> Fraction | None:
    """The exact result, where it is rational and finite."""
    if not all(np.isfinite(args)):
        return None
    values = [Fraction(x) for x in args]
    if name == "add":
        return values[0] + values[1]
    if name == "mul":
        return values[0] * values[1]
    if name == "fma":
        return values[0] * values[1] + values[2]
    return values[0] / values[1] if values[1] else None


def directed(value: Fraction, mode: str, dtype: Any) -> Any:
    """The neighbour of an exact value that a rounding mode picks; None where it overflows."""
    if abs(value) > Fraction(float(np.finfo(dtype).max)):
        return None
    with np.errstate(all="ignore"):
        near = dtype(float(value)) if dtype is np.float64 else dtype(np.float64(float(value)))
    limit = np.finfo(dtype)
    if not np.isfinite(near):
        near = np.copysign(limit.max, float(value)) if abs(value) < Fraction(float(limit.max)) * 2 else near
    if not np.isfinite(near):
        return None
    below = near
    while Fraction(float(below)) > value:
        below = np.nextafter(below, dtype(-np.inf))
    while (
        np.isfinite(np.nextafter(below, dtype(np.inf))) and Fraction(float(np.nextafter(below, dtype(np.inf)))) <= value
    ):
        below = np.nextafter(below, dtype(np.inf))
    above = below if Fraction(float(below)) == value else np.nextafter(below, dtype(np.inf))
    if not np.isfinite(below) or not np.isfinite(above):
        return None
    down = mode == "rm" or (mode == "rz" and value > 0)
    return below if down else above


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["add", "mul", "fma", "div"])
def test_directed_rounding(name: str, mode: str, kind: str) -> None:
    dtype = DTYPES[kind]
    count = 3 if name == "fma" else 2
    columns = [draw(10 + n, dtype, 96) for n in range(count)]
    operands = ", ".join(f"{{{n}}}" for n in range(count))
    got = kit.apply(f"{name}.{mode}.{kind} {{d}}, {operands}", kind, dtype, [(kind, c) for c in columns])
    checked = 0
    for row, x in zip(zip(*columns, strict=True), got, strict=True):
        value = exact(name, [float(item) for item in row])
        want = directed(value, mode, dtype) if value else None
        if want is not None:
            assert x == want, (row, x, want)
            checked += 1
    assert checked > 20


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_fma_is_fused(seed: int) -> None:
    a, b = draw(seed, np.float32), draw(seed + 1, np.float32)
    with np.errstate(all="ignore"):
        c = (-(a * b)).astype(np.float32)
    got = kit.apply("fma.rn.f32 {d}, {0}, {1}, {2}", "f32", np.float32, [("f32", a), ("f32", b), ("f32", c)])
    for x, y, z, r in zip(a, b, c, got, strict=True):
        value = exact("fma", [float(x), float(y), float(z)])
        if value and np.isfinite(r) and abs(value) > Fraction(2) ** -126:
            assert Fraction(float(r)) == Fraction(float(np.float32(float(value)))), (x, y, z, r)


INTEGER = {"s32": np.int32, "u32": np.uint32, "s64": np.int64, "u64": np.uint64, "s16": np.int16, "u16": np.uint16}
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("dest", INTEGER)
@pytest.mark.parametrize("mode", ROUND)
def test_float_to_integer(mode: str, dest: str, source: str) -> None:
    x = draw(3, DTYPES[source])
    width = dest[1:]
    got = kit.apply(f"cvt.{mode}.{dest}.{source} {{d}}, {{0}}", f"b{width}", INTEGER[dest], [(source, x)])
    info = np.iinfo(INTEGER[dest])
    for value, r in zip(x, got, strict=True):
        if np.isnan(value):  # as an H100 does it: in its 32-bit half zero, in its 64-bit half the top bit alone
            wide = source == "f64" or width == "64"
            assert int(r) & (1 << int(width)) - 1 == (1 << int(width) - 1 if wide else 0)
        elif np.isinf(value):
            assert r == (info.max if value > 0 else info.min)
        else:
            assert int(r) == max(info.min, min(info.max, int(ROUND[mode](value)))), value


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("dest", ["f32", "f64"])
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_integer_to_float(source: str, dest: str, mode: str) -> None:
    rng = np.random.default_rng(5)
    info = np.iinfo(INTEGER[source])
    x = np.concatenate([
        rng.integers(info.min, info.max, 100, dtype=INTEGER[source]),
        np.array([0, 1, info.max, info.min, info.max - 1, 16777217, 33554431], INTEGER[source]),
    ])  # fmt: skip
    got = kit.apply(f"cvt.{mode}.{dest}.{source} {{d}}, {{0}}", dest, DTYPES[dest], [(f"b{source[1:]}", x)])
    for value, r in zip(x, got, strict=True):
        if mode == "rn":
            assert r == DTYPES[dest](int(value)) if dest == "f64" else Fraction(float(r)) == nearest32(int(value))
        elif value:
            assert r == directed(Fraction(int(value)), mode, DTYPES[dest]), value
        else:
            assert r == 0


def nearest32(value: int) -> Fraction:
    low = directed(Fraction(value), "rm", np.float32)
    high = directed(Fraction(value), "rp", np.float32)
    a, b = Fraction(float(low)), Fraction(float(high))
    if value - a != b - value:
        return a if value - a < b - value else b
    return a if int(low.view(np.uint32)) % 2 == 0 else b


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_double_to_float(mode: str) -> None:
    x = draw(8, np.float64)
    got = kit.apply(f"cvt.{mode}.f32.f64 {{d}}, {{0}}", "f32", np.float32, [("f64", x)])
    with np.errstate(all="ignore"):
        near = x.astype(np.float32)
    if mode == "rn":
        same(got, near, x)
        return
    for value, r in zip(x, got, strict=True):
        want = directed(Fraction(float(value)), mode, np.float32) if np.isfinite(value) and value else None
        assert want is None or r == want, (value, r, want)


def test_half_conversions() -> None:
    every = np.arange(65536, dtype=np.uint16)
    for start in range(0, 65536, 1024):
        part = every[start : start + 1024]
        got = kit.apply("cvt.f32.f16 {d}, {0}", "f32", np.float32, [("b16", part)])
        same(got, part.view(np.float16).astype(np.float32), part)
        bf = kit.apply("cvt.f32.bf16 {d}, {0}", "f32", np.float32, [("b16", part)])
        same(bf, (part.astype(np.uint32) << 16).view(np.float32), part)
    x = draw(4, np.float32, 1000)
    with np.errstate(all="ignore"):
        want = x.astype(np.float16)
    same(kit.apply("cvt.rn.f16.f32 {d}, {0}", "b16", np.uint16, [("f32", x)]).view(np.float16), want, x)
    y = draw(6, np.float64, 1000)
    with np.errstate(all="ignore"):
        want = y.astype(np.float16)
    same(kit.apply("cvt.rn.f16.f64 {d}, {0}", "b16", np.uint16, [("f64", y)]).view(np.float16), want, y)
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    got16 = kit.apply("cvt.rn.bf16.f32 {d}, {0}", "b16", np.uint16, [("f32", x)])
    ok = np.isnan(x) | (got16 == rounded)
    assert ok.all(), x[~ok]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "min", "max", "fma.rn"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_half_arithmetic(kind: str, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = [rng.integers(0, 65536, 512, dtype=np.uint16) for _ in range(3 if name == "fma.rn" else 2)]
    operands = ", ".join(f"{{{n}}}" for n in range(len(raw)))
    got = kit.apply(f"{name}.{kind} {{d}}, {operands}", "b16", np.uint16, [("b16", r) for r in raw])
    with np.errstate(all="ignore"):
        if kind == "f16":
            wide = [r.view(np.float16).astype(np.float64) for r in raw]
        else:
            wide = [(r.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for r in raw]
        op = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.fmin, "max": np.fmax}.get(name)
        value = op(wide[0], wide[1]) if op else wide[0] * wide[1] + wide[2]
        if kind == "f16":
            same(unsigned(got.view(np.float16)), unsigned(value.astype(np.float16)), *wide)
            return
        out = (got.astype(np.uint32) << 16).view(np.float32)
        for args, r in zip(zip(*wide, strict=True), out, strict=True):
            if not np.isfinite(args).all() or not np.isfinite(r) or r == 0:
                continue
            if op in (np.fmin, np.fmax):
                assert r == op(args[0], args[1])
                continue
            exact_value = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}.get(
                name, lambda a, b, c=Fraction(0): a * b + c)(*[Fraction(a) for a in args])  # fmt: skip
            error = abs(Fraction(float(r)) - exact_value)
            step = Fraction(float(np.ldexp(1.0, max(int(np.floor(np.log2(abs(r)))), -126) - 7)))
            assert error <= step / 2, (args, r)


@pytest.mark.parametrize(("name", "model", "bound"), [
    ("sqrt.rn.f32", np.sqrt, 0), ("sqrt.approx.f32", np.sqrt, 1), ("rcp.approx.f32", lambda x: 1 / x, 1),
    ("rcp.rn.f32", lambda x: 1 / x, 0), ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x), 2),
    ("ex2.approx.f32", np.exp2, 2), ("lg2.approx.f32", np.log2, 2), ("tanh.approx.f32", np.tanh, 16),
    ("sin.approx.f32", np.sin, 64), ("cos.approx.f32", np.cos, 64),
])  # fmt: skip
def test_functions(name: str, model: Callable[[Any], Any], bound: int) -> None:
    """Within the documented error, in units of the last place (of one, for functions bounded absolutely)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 3.0, 500).astype(np.float32)
    got = kit.apply(f"{name} {{d}}, {{0}}", "f32", np.float32, [("f32", x)]).astype(np.float64)
    want = model(x.astype(np.float64))
    unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    if bound > 2:
        unit = np.full_like(unit, 2.0**-24)
    assert (np.abs(got - want) / unit).max() <= bound + 0.51


def test_special_values() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0], np.float32)
    with np.errstate(all="ignore"):
        same(kit.apply("rcp.approx.ftz.f32 {d}, {0}", "f32", np.float32, [("f32", x)]), 1 / x)
        same(kit.apply("ex2.approx.ftz.f32 {d}, {0}", "f32", np.float32, [("f32", x)]), np.exp2(x))
        same(kit.apply("lg2.approx.f32 {d}, {0}", "f32", np.float32, [("f32", x)]), np.log2(x))
    kinds = {"finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan, "number": lambda v: ~np.isnan(v)}
    for name, test in kinds.items():
        got = kit.apply(f"testp.{name}.f32 {{d}}, {{0}}", "pred", np.uint32, [("f32", x)])
        assert (got == test(x)).all(), name


@pytest.mark.parametrize(
    "op", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_float_comparison(op: str) -> None:
    a, b = draw(1, np.float32), np.concatenate([draw(1, np.float32)[:64], draw(2, np.float32)[:64]])
    got = kit.apply(f"setp.{op}.f32 {{d}}, {{0}}, {{1}}", "pred", np.uint32, [("f32", a), ("f32", b)])
    unordered = np.isnan(a) | np.isnan(b)
    if op in ("num", "nan"):
        want = unordered if op == "nan" else ~unordered
    else:
        base = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                "ge": np.greater_equal}[op[:2]](a, b)  # fmt: skip
        want = base | unordered if op.endswith("u") else base & ~unordered
    assert (got == want).all()


def eight_bits(form: str) -> np.ndarray:
    """The value of each code of an 8-bit format, by its definition."""
    mantissa, bias = {"e4m3": (3, 7), "e5m2": (2, 15)}[form]
    codes = np.arange(128)
    exponent, fraction = codes >> mantissa, (codes & (1 << mantissa) - 1) / (1 << mantissa)
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if form == "e4m3":
        values[127] = np.nan
    else:
        values[124:] = [np.inf, np.nan, np.nan, np.nan]
    return np.concatenate([values, -values])


@pytest.mark.parametrize("form", ["e4m3", "e5m2"])
def test_eight_bit_floats(form: str) -> None:
    values = eight_bits(form)
    codes = np.arange(256, dtype=np.uint16)
    pairs = codes | (codes[::-1] << 8)
    wide = kit.apply(f"cvt.rn.f16x2.{form}x2 {{d}}, {{0}}", "b32", np.uint32, [("b16", pairs)])
    same((wide & 0xFFFF).astype(np.uint16).view(np.float16), values.astype(np.float16), codes)
    same((wide >> 16).astype(np.uint16).view(np.float16), values[::-1].astype(np.float16), codes)
    finite = np.sort(values[:128][np.isfinite(values[:128])])
    between = (finite[1:] + finite[:-1]) / 2  # ties, and both their sides
    x = np.concatenate([finite, between, np.nextafter(between, 0), np.nextafter(between, 1e9), [1e9, np.inf, np.nan]])
    x = np.concatenate([x, -x]).astype(np.float32)
    for relu in ("", ".relu"):
        got = kit.apply(f"cvt.rn.satfinite{relu}.{form}x2.f32 {{d}}, {{0}}, {{1}}", "b16", np.uint16,
                        [("f32", x), ("f32", np.ones_like(x))])  # fmt: skip
        assert (values[got & 255] == 1).all()
        high = values[got >> 8]
        for value, result in zip(x, high, strict=True):
            if np.isnan(value):
                assert np.isnan(result)
            elif relu and value < 0:
                assert result == 0
            else:
                size = min(abs(float(value)), finite[-1])
                distance = np.abs(finite - size)
                nearest = np.flatnonzero(distance == distance.min())
                best = nearest[0] if len(nearest) == 1 else nearest[nearest % 2 == 0][0]
                assert result == np.copysign(finite[best], value), (value, result)
    halves = np.array([0.1, -3.3, 448, 1e-6], np.float16).view(np.uint16).astype(np.uint32)
    got = kit.apply(f"cvt.rn.satfinite.{form}x2.f16x2 {{d}}, {{0}}", "b16", np.uint16, [("b32", halves)])
    direct = kit.apply(f"cvt.rn.satfinite.{form}x2.f32 {{d}}, {{1}}, {{0}}", "b16", np.uint16,
                       [("f32", halves.astype(np.uint16).view(np.float16).astype(np.float32)),
                        ("f32", np.zeros(4, np.float32))])  # fmt: skip
    assert np.array_equal(got, direct)
