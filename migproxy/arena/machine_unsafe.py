"""Words for code that runs twice: as Python here, and as machine code through ``migproxy.jit.language``.

The hot paths (heap, submission, pump, trampolines) are written once, in a small part of Python: integer variables,
``if``, ``while``, ``for … in range``, calls of each other and of the words below. Run as Python they are readable and
testable; compiled, they need no interpreter and no GIL. Every value is an unsigned 64-bit integer; arithmetic wraps,
comparison is unsigned. `as_python` gives the Python twin exactly these semantics.

Preconditions of every word that takes an address: the bytes there are mapped, and stay mapped during the call.
Nothing is checked here; callers check.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

#: Types of parameters and results, by their C names: uint8_t … uint64_t, int32_t, int64_t; F64 and F32 carry the bits
#: of a double or float.
U8 = int
U16 = int
U32 = int
U64 = int
I32 = int
I64 = int
F64 = int
F32 = int

MASK64 = (1 << 64) - 1
_SIGNED = {"I8": 8, "I16": 16, "I32": 32, "I64": 64}
_UNSIGNED = {"U8": 8, "U16": 16, "U32": 32, "U64": 64}


def normalise(value: int, kind: str) -> int:
    """Return `value` as a parameter of type `kind` sees it: cut to its width, then extended to 64 bits."""
    if kind in _UNSIGNED:
        return value & ((1 << _UNSIGNED[kind]) - 1)
    if kind in _SIGNED:
        bits = _SIGNED[kind]
        value &= (1 << bits) - 1
        return (value - (1 << bits)) & MASK64 if value >> (bits - 1) else value
    return value & MASK64


def signed(value: int) -> int:
    """Return the two's complement reading of a 64-bit value; only for Python code, not for compiled code."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


# -- loads and stores -------------------------------------------------------------------------------------------------
def load8(address: int) -> int:
    return ctypes.c_uint8.from_address(address).value


def load16(address: int) -> int:
    return ctypes.c_uint16.from_address(address).value


def load32(address: int) -> int:
    return ctypes.c_uint32.from_address(address).value


def load64(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def load32_signed(address: int) -> int:
    return ctypes.c_int32.from_address(address).value & MASK64


def load16_signed(address: int) -> int:
    return ctypes.c_int16.from_address(address).value & MASK64


def load8_signed(address: int) -> int:
    return ctypes.c_int8.from_address(address).value & MASK64


def store8(address: int, value: int) -> None:
    ctypes.c_uint8.from_address(address).value = value & 0xFF


def store16(address: int, value: int) -> None:
    ctypes.c_uint16.from_address(address).value = value & 0xFFFF


def store32(address: int, value: int) -> None:
    ctypes.c_uint32.from_address(address).value = value & 0xFFFFFFFF


def store64(address: int, value: int) -> None:
    ctypes.c_uint64.from_address(address).value = value & MASK64


# -- words shared between threads or processes: one access each, ordered as named. CPython's own accesses through
# ctypes are single moves, which
#    x86-64 orders like acquire loads and release stores; read-modify-write words are atomic only when compiled.
load32_acquire = load32
load64_acquire = load64
store32_release = store32
store64_release = store64


def exchange32(address: int, value: int) -> int:
    """Store `value`, return what was there (atomic and sequentially consistent when compiled)."""
    old = load32(address)
    store32(address, value)
    return old


def compare_exchange32(address: int, expected: int, value: int) -> int:
    """Store `value` if the word equals `expected`; return what was there."""
    old = load32(address)
    if old == expected & 0xFFFFFFFF:
        store32(address, value)
    return old


def compare_exchange64(address: int, expected: int, value: int) -> int:
    """Store `value` if the word equals `expected`; return what was there."""
    old = load64(address)
    if old == expected & MASK64:
        store64(address, value)
    return old


def add64(address: int, value: int) -> int:
    """Add to a word, return what was there."""
    old = load64(address)
    store64(address, old + value)
    return old


def fence() -> None:
    """A sequentially consistent fence when compiled; between Python bytecodes nothing is needed that is not already
    given."""


def pause() -> None:
    """Tell the core that this is a spin loop."""


def time_stamp() -> int:
    """The core's time-stamp counter when compiled; as Python, a clock that advances."""
    import time

    return time.perf_counter_ns() * 3


# -- bytes ------------------------------------------------------------------------------------------------------------
def copy(target: int, source: int, count: int) -> None:
    ctypes.memmove(target, source, count)


def copy_once(target: int, source: int, count: int) -> None:
    """Copy bytes that another process may be changing: each is read exactly once (never read again from `source`
    later)."""
    ctypes.memmove(target, source, count)


def fill(target: int, value: int, count: int) -> None:
    ctypes.memset(target, value & 0xFF, count)


_STACK: list[Any] = []


def stack(count: int) -> int:
    """The address of `count` bytes (a constant) that live until the function returns; zero only when run as Python."""
    buffer = ctypes.create_string_buffer(count + 16)
    _STACK.append(buffer)
    del _STACK[:-256]  # deeper than any call chain of compiled code
    return (ctypes.addressof(buffer) + 15) & ~15


# -- arithmetic -------------------------------------------------------------------------------------------------------
def leading_zeros(value: int) -> int:
    return 64 - (value & MASK64).bit_length()


def trailing_zeros(value: int) -> int:
    value &= MASK64
    return (value & -value).bit_length() - 1 if value else 64


def less_signed(a: int, b: int) -> bool:
    return signed(a) < signed(b)


def float_to_double(bits: int) -> int:
    """The bits of a float as the bits of the same double."""
    value = ctypes.c_float.from_buffer(ctypes.c_uint32(bits & 0xFFFFFFFF)).value
    return int(ctypes.c_uint64.from_buffer(ctypes.c_double(value)).value)


def double_to_float(bits: int) -> int:
    """The bits of a double as the bits of the nearest float."""
    value = ctypes.c_double.from_buffer(ctypes.c_uint64(bits & MASK64)).value
    return int(ctypes.c_uint32.from_buffer(ctypes.c_float(value)).value)


WORDS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(load8, load16, load32, load64, load32_signed, load16_signed, load8_signed, store8, store16, store32, store64),
        *(
            exchange32,
            compare_exchange32,
            compare_exchange64,
            add64,
            fence,
            pause,
            time_stamp,
            copy,
            copy_once,
            fill,
            stack,
        ),
        *(leading_zeros, trailing_zeros, less_signed, float_to_double, double_to_float),
    }
)

_CTYPES: dict[str, Any] = {
    "U8": ctypes.c_uint8,
    "U16": ctypes.c_uint16,
    "U32": ctypes.c_uint32,
    "U64": ctypes.c_uint64,
    "I32": ctypes.c_int32,
    "I64": ctypes.c_int64,
    "F64": ctypes.c_double,
    "F32": ctypes.c_float,
    "None": None,
}


def parse_signature(signature: str) -> tuple[str, tuple[str, ...]]:
    """Split ``"U64(U64, U32)"`` into result and parameters."""
    result, _, rest = signature.partition("(")
    parameters = tuple(p.strip() for p in rest.rstrip(")").split(",") if p.strip())
    for kind in (result.strip(), *parameters):
        if kind not in _CTYPES:
            raise ValueError(f"unknown type {kind!r} in signature {signature!r}")
    return result.strip(), parameters


class Symbol(int):
    """An address of this process that compiled code refers to by name, so that it can be compiled once and kept in a
    file.

    Parameters
    ----------
    name : str
        Known in the whole process; unique.
    address : int
        Where it is in this process.
    """

    name: str
    offset: int

    def __new__(cls, name: str, address: int, offset: int = 0) -> Symbol:
        self = super().__new__(cls, address + offset)
        self.name = name
        self.offset = offset
        SYMBOLS[name] = address
        return self

    def __add__(self, offset: int) -> Symbol:
        return Symbol(self.name, int(self) - self.offset, self.offset + offset)


#: Every `Symbol` by name.
SYMBOLS: dict[str, int] = {}


def c_symbol(name: str) -> Symbol:
    """Return the address of an object of the C library or CPython, such as ``_Py_NoneStruct``."""
    return Symbol(name, ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name)))


class External:
    """A C function that compiled code calls directly and Python code through ctypes.

    Parameters
    ----------
    name : str
        Symbol of the C library or CPython, or just a name when `address` is given.
    signature : str
        Such as ``"U64(U64, U32)"``; ``None`` as the result for ``void``.
    address : int, optional
        Where the function is; looked up by name when left out.
    """

    def __init__(self, name: str, signature: str, address: int | None = None) -> None:
        self.name = name
        self.signature = signature
        self.result, self.parameters = parse_signature(signature)
        self._address = address
        self.fixed = address is None  # in the C library or CPython, under its name
        self._call: Any = None

    @property
    def address(self) -> int:
        if self._address is None:
            self._address = ctypes.cast(getattr(ctypes.pythonapi, self.name), ctypes.c_void_p).value
            assert self._address is not None
        return self._address

    def __call__(self, *arguments: int) -> int:
        if self._call is None:
            self._call = function_at(self.address, self.signature, holds_gil=self.name.startswith(("Py", "_Py")))
        return int(self._call(*arguments) or 0)


class Indirect:
    """A call through a function pointer: ``indirect(address, …)``; same signatures as `External`."""

    def __init__(self, signature: str) -> None:
        self.signature = signature
        self.result, self.parameters = parse_signature(signature)

    def __call__(self, address: int, *arguments: int) -> int:
        return int(function_at(address, self.signature)(*arguments) or 0)


def function_at(address: int, signature: str, *, holds_gil: bool = False) -> Callable[..., int]:
    """Return a Python callable for the C function at `address`; the GIL is released around it unless `holds_gil`."""
    result, parameters = parse_signature(signature)
    make = ctypes.PYFUNCTYPE if holds_gil else ctypes.CFUNCTYPE
    call: Callable[..., int] = make(_CTYPES[result], *(_CTYPES[p] for p in parameters))(address)
    return call


# -- the Python twin --------------------------------------------------------------------------------------------------
class _Wrap(ast.NodeTransformer):
    """Cut the result of every arithmetic operation to 64 bits."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return ast.BinOp(node, ast.BitAnd(), ast.Constant(MASK64))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.target, ast.Name)
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.Assign([node.target], ast.BinOp(value, ast.BitAnd(), ast.Constant(MASK64)))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            return node
        return ast.BinOp(node, ast.BitAnd(), ast.Constant(MASK64))


def function_tree(function: Callable[..., Any]) -> ast.FunctionDef:
    """Return the syntax tree of a function written in the small language."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def is_compilable(value: object) -> bool:
    """Tell whether `value` is a Python function whose annotations are all types of the small language."""
    return (
        inspect.isfunction(value)
        and "return" in value.__annotations__
        and set(value.__annotations__.values()) <= _CTYPES.keys()
    )


_TWINS: dict[Callable[..., Any], Callable[..., int]] = {}


def as_python(function: Callable[..., Any]) -> Callable[..., int]:
    """Return `function` as Python with the compiled code's arithmetic; functions that it calls likewise."""
    found = _TWINS.get(function)
    if found is not None:
        return found
    kinds = list(function.__annotations__.values())
    inner: list[Callable[..., Any]] = []

    def twin(*arguments: int) -> int:
        result = inner[0](*(normalise(value, kind) for value, kind in zip(arguments, kinds, strict=False)))
        return normalise(int(result or 0), kinds[-1])

    _TWINS[function] = twin
    tree = function_tree(function)
    tree.decorator_list = []
    module = ast.fix_missing_locations(ast.Module([_Wrap().visit(tree)], []))
    scope = dict(function.__globals__)
    for name, value in function.__globals__.items():
        if is_compilable(value) and value not in WORDS and name in function.__code__.co_names:
            scope[name] = as_python(value)
    exec(compile(module, inspect.getfile(function), "exec"), scope)
    inner.append(scope[function.__name__])
    return twin
