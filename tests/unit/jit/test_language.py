"""The small language: compiled and run as Python, the same function gives the same results."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migproxy.arena import machine_unsafe as machine
from migproxy.arena.machine_unsafe import (
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    External,
    Indirect,
    add64,
    as_python,
    compare_exchange32,
    compare_exchange64,
    copy,
    copy_once,
    double_to_float,
    exchange32,
    fence,
    fill,
    float_to_double,
    leading_zeros,
    less_signed,
    load8,
    load8_signed,
    load16,
    load16_signed,
    load32,
    load32_acquire,
    load32_signed,
    load64,
    load64_acquire,
    stack,
    store8,
    store16,
    store32,
    store32_release,
    store64,
    store64_release,
    trailing_zeros,
)
from migproxy.jit import language

CONSTANT = 17
absolute = External("labs", "I64(I64)")
binary = Indirect("U64(U64, U64)")


def arithmetic(a: U64, b: U64) -> U64:
    x = a + b * 3 - (a ^ b)
    x |= a & ~b
    x ^= -a
    if b:
        x += a // b + a % b
    return x + (a << (b & 63)) + (a >> (b & 63)) + CONSTANT + machine.MASK64


def narrow(a: U8, b: U16, c: U32, d: I32, e: I64) -> I32:
    return a + b + c + d + e


def logic(a: U64, b: U64, c: U64) -> U64:
    result = 0
    if a < b and (b < c or not a == 3):  # noqa: SIM201
        result += 1
    elif a in (b, c, 5) or less_signed(a, b):
        result += 2
    else:
        result += 4
    result += 8 * (a >= b and b != c) + 16 * (not a)
    if a not in (1, c):
        result += 128
    return result + (32 if a <= b or c > a else 64)


def loops(n: U64, skip: U64) -> U64:
    total = 0
    for i in range(n):
        if i == skip:
            continue
        for j in range(i, i + 3):
            if j > 40:
                break
            total += i * j
    left = n
    while left:
        left -= 1
        if left == skip:
            break
        total ^= left
    while True:
        total += 1
        if total % 7 == 0:
            return total


def memory(p: U64, v: U64) -> U64:
    store64(p, v)
    store8(p + 8, v)
    store16(p + 10, v)
    store32(p + 12, v)
    store64_release(p + 16, v)
    store32_release(p + 24, v)
    copy(p + 32, p, 16)
    copy_once(p + 48, p + 4, 7)
    fill(p + 56, v, 5)
    buffer = stack(16)
    store64(buffer, v)
    fence()
    total = load8(p) + load16(p + 1) + load32(p + 2) + load64(p + 3) + load64(buffer)
    total += load8_signed(p) + load16_signed(p) * 3 + load32_signed(p) * 5
    total += load32_acquire(p + 4) + load64_acquire(p + 8)
    return total


def atomics(p: U64, v: U64) -> U64:
    a = exchange32(p, v)
    b = compare_exchange32(p, v & 0xFFFFFFFF, 9)
    c = compare_exchange32(p, 1234567, 5)
    d = compare_exchange64(p + 8, 0, v)
    e = compare_exchange64(p + 8, 0, 3)
    f = add64(p + 8, v)
    return a + b * 3 + c * 5 + d * 7 + e * 11 + f * 13 + load64(p) + load64(p + 8)


def bits(a: U64) -> U64:
    return (
        leading_zeros(a)
        + 100 * trailing_zeros(a)
        + 7 * float_to_double(a & 0x7F7FFFFF)
        + double_to_float(a & 0x7FEFFFFFFFFFFFFF)
    )


def fibonacci(n: U8) -> U64:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def calls(f: U64, a: I64, b: U64) -> I64:
    return absolute(a) + binary(f, a, b) + fibonacci(b & 7)


_FUNCTIONS = [arithmetic, narrow, logic, loops, memory, atomics, bits, fibonacci, calls]
_ADDRESSES = language.compile_functions(*_FUNCTIONS)
_NATIVE = {f.__name__: language.bind(f, _ADDRESSES[f.__name__]) for f in _FUNCTIONS}
words = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 70), st.integers(2**64 - 70, 2**64 - 1), st.integers(2**31 - 3, 2**32 + 3)
)


def both(name: str, *arguments: int) -> int:
    function = next(f for f in _FUNCTIONS if f.__name__ == name)
    compiled = _NATIVE[name](*arguments) & machine.MASK64
    assert compiled == as_python(function)(*arguments), name
    return compiled


@given(words, words)
def test_arithmetic_wraps(a: int, b: int) -> None:
    both("arithmetic", a, b)


@given(words, words, words, words, words)
def test_parameters_and_results_are_cut_to_their_types(a: int, b: int, c: int, d: int, e: int) -> None:
    both("narrow", a & 0xFF, b & 0xFFFF, c & 0xFFFFFFFF, d, e)


@given(words, words, words)
def test_conditions(a: int, b: int, c: int) -> None:
    both("logic", a, b, c)
    both("logic", a, a, c)
    both("logic", a, b, b)


@given(st.integers(0, 60), st.integers(0, 60))
def test_loops(n: int, skip: int) -> None:
    both("loops", n, skip)


@given(words, st.binary(min_size=64, max_size=64))
def test_memory(value: int, data: bytes) -> None:
    results = []
    for name in ("memory", "atomics"):
        for function in (_NATIVE[name], as_python(globals()[name])):
            buffer = ctypes.create_string_buffer(data, 64)
            results.append((function(ctypes.addressof(buffer), value), buffer.raw))
    assert results[0] == results[1]
    assert results[2] == results[3]


@given(words)
def test_bits(a: int) -> None:
    both("bits", a)


@settings(max_examples=20)
@given(st.integers(-(2**62), 2**62), words)
def test_calls(a: int, b: int) -> None:
    both("calls", _ADDRESSES["arithmetic"], a, b)


def memcpy(a: U64, b: U64, n: U64) -> U64:
    """Named as what LLVM calls to copy; must neither be called for that nor replace it."""
    copy(a, b, n)
    return 5


def test_names_of_the_c_library_are_not_taken() -> None:
    native = language.bind(memcpy, language.compile_functions(memcpy)["memcpy"])
    source, target = ctypes.create_string_buffer(b"x" * 300, 300), ctypes.create_string_buffer(300)
    assert native(ctypes.addressof(target), ctypes.addressof(source), 300) == 5
    assert target.raw == source.raw


def bad_name() -> U64:
    return undefined_thing  # noqa: F821


def bad_statement() -> U64:
    x = [1, 2]
    return x


def bad_count(a: U64) -> U64:
    return fibonacci(a, a)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bad_name, "unknown name: undefined_thing"),
        (bad_statement, "not in the small language"),
        (bad_count, "takes 1 arguments, 2"),
    ],
)
def test_errors_name_the_line(function: object, message: str) -> None:
    with pytest.raises(language.CompileError, match=message) as caught:
        language.assembly(function)  # type: ignore[arg-type]
    assert "test_language.py:" in str(caught.value)
