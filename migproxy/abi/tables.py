"""What a plugin says of its library's functions: the table of operations that both halves, the statistics and the
documentation are derived from.

Facts only. The function half makes its Python functions from a table (`migproxy.session.library`), the executor half
checks every argument by the same one (`migproxy.executor.table_server`), and neither believes the other.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from typing import Any

from migproxy.abi.interface import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP
from migproxy.abi.interface import INTERFACE_VERSION as INTERFACE_VERSION

Values = Mapping[str, Any]
#: Bytes of a piece of memory: a number, an expression over the names of integer arguments (``"4 * n"``), or a
#: function of the arguments' values by name.
SizeRule = int | str | Callable[[Values], int]

#: Integer types → bytes, signed.
INTEGER_TYPES: dict[str, tuple[int, bool]] = {
    f"{sign}int{bits}": (bits // 8, not sign) for bits in (8, 16, 32, 64) for sign in ("", "u")
}
FLOAT_TYPES = {"float32": 4, "float64": 8}
#: No piece of host memory of one call is longer.
MOST_HOST_BYTES = 1 << 30
#: What a call may return, beside handles and host memory.
RESULTS = frozenset({"", "integer", "number", "text", "bytes", "list"})


class Kind(Enum):
    """What an argument is, and so how it travels and what the executor checks."""

    INTEGER = "integer"
    NUMBER = "number"
    COMPLEX = "complex"
    TEXT = "text"
    HANDLE = "handle"  #: an object that an operation of the table, or another plugin, made
    DEVICE = "device pointer"
    READ = "host buffer, read"
    WRITE = "host buffer, written"
    UPDATE = "host buffer, read and written"
    SCRATCH = "host buffer, scratch"
    STRUCT = "struct"  #: passed by its address
    STREAM = "stream"
    VALUE = "value"  #: anything plain; the function that serves the operation by hand checks it
    ARRAY = "device array"  #: anything that the plugin's function half describes by address, shape, strides and type


HOST_KINDS = frozenset({Kind.READ, Kind.WRITE, Kind.UPDATE, Kind.SCRATCH})
RETURNED_KINDS = frozenset({Kind.WRITE, Kind.UPDATE})


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; made by the functions below.

    Attributes
    ----------
    name : str
    kind : Kind
    type : str
        Of integers and numbers: a key of `INTEGER_TYPES` or `FLOAT_TYPES`.
    of : str
        The kind of handle.
    ends : bool
        The operation ends the object.
    size : SizeRule, optional
        Bytes of host memory, or bytes of device memory that the operation touches; a device pointer without one is
        checked at its first byte only.
    optional : bool
        NULL is allowed.
    default : object
        What the function's caller may leave out; `REQUIRED` if it may not.
    fields : tuple of Argument
        Of a struct: integers, numbers, handles and device pointers, laid out as C does.
    """

    name: str
    kind: Kind
    type: str = ""
    of: str = ""
    ends: bool = False
    size: SizeRule | None = None
    optional: bool = False
    default: Any = ...
    fields: tuple[Argument, ...] = ()

    def otherwise(self, default: Any) -> Argument:
        """Return the argument with a default."""
        return replace(self, default=default)

    def shown(self) -> str:
        """Return the kind in words, for the generated pages."""
        detail = {
            Kind.INTEGER: self.type,
            Kind.NUMBER: self.type,
            Kind.HANDLE: f"handle of {self.of}" + (", ended" if self.ends else ""),
            Kind.STRUCT: "struct of " + ", ".join(field.shown() for field in self.fields),
        }.get(self.kind, self.kind.value)
        size = (
            f", {self.size if isinstance(self.size, int | str) else 'by rule'} bytes" if self.size is not None else ""
        )
        return detail + size + (" or NULL" if self.optional else "")


REQUIRED = ...


def integer(name: str, type: str = "int32") -> Argument:
    """An integer of a C type."""
    return Argument(name, Kind.INTEGER, type)


def number(name: str, type: str = "float64") -> Argument:
    """A floating-point number by value."""
    return Argument(name, Kind.NUMBER, type)


def complex_number(name: str) -> Argument:
    """A complex number by value."""
    return Argument(name, Kind.COMPLEX)


def text(name: str) -> Argument:
    """A string."""
    return Argument(name, Kind.TEXT)


def handle(name: str, of: str, *, optional: bool = False) -> Argument:
    """An object of kind `of`."""
    return Argument(name, Kind.HANDLE, of=of, optional=optional)


def ended(name: str, of: str) -> Argument:
    """An object of kind `of` that the operation ends."""
    return Argument(name, Kind.HANDLE, of=of, ends=True)


def device(name: str, size: SizeRule | None = None, *, optional: bool = False) -> Argument:
    """A device pointer, of which the operation touches `size` bytes."""
    return Argument(name, Kind.DEVICE, size=size, optional=optional)


def read(name: str, size: SizeRule, *, optional: bool = False) -> Argument:
    """Host memory that the operation reads: an address or anything with a buffer."""
    return Argument(name, Kind.READ, size=size, optional=optional)


def written(name: str, size: SizeRule, *, optional: bool = False) -> Argument:
    """Host memory that the operation writes: an address or a writable buffer."""
    return Argument(name, Kind.WRITE, size=size, optional=optional)


def updated(name: str, size: SizeRule, *, optional: bool = False) -> Argument:
    """Host memory that the operation reads and writes."""
    return Argument(name, Kind.UPDATE, size=size, optional=optional)


def scratch(name: str, size: SizeRule, *, optional: bool = False) -> Argument:
    """Host memory that means nothing after the call."""
    return Argument(name, Kind.SCRATCH, size=size, optional=optional)


def struct(name: str, *fields: Argument) -> Argument:
    """A struct by address; in the function a sequence of its fields' values, or the address of one."""
    return Argument(name, Kind.STRUCT, fields=fields)


def stream(name: str = "stream") -> Argument:
    """The stream that the operation works on."""
    return Argument(name, Kind.STREAM)


def value(name: str) -> Argument:
    """Anything plain (numbers, text, bytes, lists): only where a function of the plugin serves the operation."""
    return Argument(name, Kind.VALUE)


def array(name: str, *, optional: bool = False) -> Argument:
    """A device array, described by address, shape, strides and type."""
    return Argument(name, Kind.ARRAY, optional=optional)


@dataclass(frozen=True, slots=True)
class Operation:
    """One function of a library.

    Attributes
    ----------
    name : str
    arguments : tuple of Argument
        In the order of the library's own function.
    result : str
        One of `RESULTS`: what comes back by value.
    makes : str
        The kind of the handle that the operation returns. The function chooses its number, so making one does not wait.
    waits : bool, optional
        The caller waits for the reply; by default, if anything comes back.
    lease : bool
        It uses the multiprocessors, so it needs its slice's compute lease; without it the operation does not wait for
        the work on its stream either.
    by_hand : bool
        A function of the executor half serves it, not the library's own of that name.
    stream_role : str
        ``"set"`` (handle, stream) or ``"get"`` (handle): the function remembers the object's stream, and the executor
        gives it to the library's object before a call; the operation itself is no call.
    local : bool
        The function's half does it by itself; it is no call.
    refused : str
        Why it is refused by name; empty if it is served.
    """

    name: str
    arguments: tuple[Argument, ...] = ()
    result: str = ""
    makes: str = ""
    waits: bool | None = None
    lease: bool = True
    by_hand: bool = False
    stream_role: str = ""
    local: bool = False
    refused: str = ""

    @property
    def must_wait(self) -> bool:
        """Whether the caller waits."""
        if self.waits is not None or self.stream_role:
            return bool(self.waits)
        return bool(self.result) or any(argument.kind in RETURNED_KINDS for argument in self.arguments)

    @property
    def served(self) -> str:
        """How it is served, in words."""
        if self.refused:
            return "refused"
        if self.local or self.stream_role:
            return "in the function"
        return "by hand" if self.by_hand else "by the library"


@dataclass(frozen=True, slots=True)
class Table:
    """All functions of one library.

    Attributes
    ----------
    library : str
        Its name on the wire and in statistics.
    module : str
        The module in the function whose functions these are; also the one that the executor calls on a GPU.
    operations : mapping of str to Operation
    foreign : frozenset of str
        Kinds of handles that something else makes.
    bad_handle, not_supported : int
        The library's own status for a handle that it does not know, and for what it does not support.
    error : str
        Name of the library's exception class.
    partial : bool
        The table names a part of the module's functions on purpose; the rest cannot be reached.
    """

    library: str
    module: str
    operations: Mapping[str, Operation]
    foreign: frozenset[str] = field(default_factory=frozenset)
    bad_handle: int = 1
    not_supported: int = 801
    error: str = ""
    partial: bool = False

    @property
    def kinds(self) -> list[str]:
        """Kinds of handles that the table's operations make."""
        return sorted({operation.makes for operation in self.operations.values() if operation.makes})


def table(library: str, operations: Iterable[Operation], *, module: str = "", **facts: Any) -> Table:
    """Return the table of a library's operations.

    Raises
    ------
    ValueError
        Two entries have one name, or an entry contradicts itself; the message says which.
    """
    entries: dict[str, Operation] = {}
    for operation in operations:
        if operation.name in entries:
            raise ValueError(f"{library} has two entries for {operation.name}")
        entries[operation.name] = operation
    made = Table(library, module or library, entries, **facts)
    wrong = problems(made)
    if wrong:
        raise ValueError("; ".join(wrong))
    return made


def problems(table: Table) -> list[str]:
    """Return what is wrong with a table in itself."""
    known = {*table.kinds, *table.foreign}
    found = []
    for operation in table.operations.values():
        where = f"{table.library}.{operation.name}"
        names = [argument.name for argument in operation.arguments]
        if len(set(names)) != len(names):
            found.append(f"{where} has two arguments of one name")
        if operation.result not in RESULTS:
            found.append(f"{where} returns {operation.result!r}, which is none of {sorted(RESULTS)}")
        if operation.makes and operation.result:
            found.append(f"{where} returns a handle and a value")
        if operation.waits is False and (
            operation.result or any(a.kind in RETURNED_KINDS for a in operation.arguments)
        ):
            found.append(f"{where} does not wait for what it returns")
        if not operation.refused:
            found += _argument_problems(where, operation, names, known)
    return found


def _argument_problems(where: str, operation: Operation, names: list[str], known: set[str]) -> list[str]:
    found = []
    integers = {a.name for a in operation.arguments if a.kind is Kind.INTEGER}
    for argument in operation.arguments:
        here = f"{where}, argument {argument.name}"
        if argument.kind is Kind.HANDLE and argument.of not in known:
            found.append(f"{here}: nothing makes a handle of {argument.of!r}")
        if argument.kind is Kind.INTEGER and argument.type not in INTEGER_TYPES:
            found.append(f"{here}: no integer type {argument.type!r}")
        if argument.kind is Kind.NUMBER and argument.type not in FLOAT_TYPES:
            found.append(f"{here}: no number type {argument.type!r}")
        if argument.kind in HOST_KINDS and argument.size is None:
            found.append(f"{here}: host memory without a size")
        if isinstance(argument.size, str):
            try:
                unknown = _names(argument.size) - integers
            except ValueError as error:
                found.append(f"{here}: {error}")
            else:
                if unknown:
                    found.append(f"{here}: the size {argument.size!r} names {', '.join(sorted(unknown))}")
        if argument.kind is Kind.VALUE and not (operation.by_hand or operation.local):
            found.append(f"{here}: only what is served by hand may take any value")
        for inner in argument.fields:
            if inner.kind not in (Kind.INTEGER, Kind.NUMBER, Kind.HANDLE, Kind.DEVICE):
                found.append(f"{here}: a field cannot be a {inner.kind.value}")
    return found


# -- size rules ---
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"max": max, "min": min, "abs": abs}


@cache
def _parsed(rule: str) -> ast.expr:
    return ast.parse(rule, mode="eval").body


def _names(rule: str) -> set[str]:
    """Return the arguments that a rule names; ValueError for what is no arithmetic."""
    try:
        tree = _parsed(rule)
    except SyntaxError as error:
        raise ValueError(f"the size {rule!r} is no expression") from error
    allowed = (ast.BinOp, ast.Constant, ast.Name, ast.Load, ast.Call, *_ARITHMETIC)
    for node in ast.walk(tree):
        known_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        if not isinstance(node, allowed) or (isinstance(node, ast.Call) and not known_call):
            raise ValueError(f"the size {rule!r} may hold names, integers, + - * // and max, min, abs only")
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(_FUNCTIONS)


def _value(node: ast.expr, values: Values) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return int(values[node.id])
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*(_value(each, values) for each in node.args))
    raise ValueError(f"{ast.dump(node)} is no size")


def size_of(rule: SizeRule, values: Values) -> int:
    """Return the bytes that a rule says, never less than 0.

    Raises
    ------
    ValueError
        The values give none.
    """
    if isinstance(rule, int):
        return rule
    if isinstance(rule, str):
        try:
            return max(0, _value(_parsed(rule), values))
        except ZeroDivisionError as error:
            raise ValueError(f"the size {rule!r} divides by 0") from error
    try:
        return max(0, rule(values))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"these arguments have no size: {error!r}") from error


def integer_fits(type_name: str, value: int) -> bool:
    """Tell whether an integer type holds `value`."""
    size, signed = INTEGER_TYPES[type_name]
    low, high = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << (8 * size)) - 1)
    return low <= value <= high
