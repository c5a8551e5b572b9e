"""Python functions with the argument names, defaults and checks that a compiled function has.

Cython embeds a function's signature as the first line of its docstring: ``memcpy(intptr_t dst, intptr_t src, size_t
size, int kind)``. From it we make a Python function that accepts the same calls, positional and by keyword, converts
each argument as the C type asks, and hands plain values to a handler.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from types import FunctionType
from typing import Any

#: C integer types: bits, signed.
INTEGERS: dict[str, tuple[int, bool]] = {
    "bint": (32, True),
    "bool": (32, True),
    "char": (8, True),
    "short": (16, True),
    "int": (32, True),
    "unsigned int": (32, False),
    "long": (64, True),
    "unsigned long": (64, False),
    "long long": (64, True),
    "unsigned long long": (64, False),
    "size_t": (64, False),
    "Py_ssize_t": (64, True),
    "ssize_t": (64, True),
    "intptr_t": (64, True),
    "uintptr_t": (64, False),
    "uintmax_t": (64, False),
    "int32_t": (32, True),
    "uint32_t": (32, False),
    "int64_t": (64, True),
    "uint64_t": (64, False),
    "Device": (32, True),
}
_EXACT: dict[str, type] = {"str": str, "unicode": str, "bytes": bytes, "tuple": tuple, "list": list, "dict": dict}
_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a compiled function.

    Attributes
    ----------
    name : str
    ctype : str
        The C type, or ``""`` for a Python object.
    default : str or None
        The default's text; None if the argument is required.
    keyword_only : bool
    """

    name: str
    ctype: str
    default: str | None = None
    keyword_only: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """A compiled function's signature, as its docstring tells it."""

    name: str
    arguments: tuple[Argument, ...]
    result: str = ""


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def parse(line: str) -> Signature:
    """Read a docstring signature.

    Raises
    ------
    ValueError
        When the line is none.
    """
    match = re.match(r"^([A-Za-z_]\w*)\(", line.strip())
    if match is None:
        raise ValueError(f"not a signature: {line!r}")
    text, depth, end = line.strip(), 0, 0
    for end in range(match.end() - 1, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            break
    rest = text[end + 1 :].strip()
    if depth or (rest and not rest.startswith("->")):
        raise ValueError(f"not a signature: {line!r}")
    name, inside, result = match.group(1), text[match.end() : end], rest[2:].strip()
    arguments, keyword_only = [], False
    for part in _split(inside):
        if part == "*":
            keyword_only = True
            continue
        declared, _, default = part.partition("=")
        words = declared.strip().rsplit(" ", 1)
        ctype, argument = (words[0], words[1]) if len(words) == 2 else ("", words[0])
        arguments.append(Argument(argument, ctype, default.strip() or None, keyword_only))
    return Signature(name, tuple(arguments), result or "")


def converter(ctype: str, argument: str) -> Callable[[Any], Any] | None:
    """Return the function that checks and converts a value as the C type asks; None for Python objects."""
    if ctype in _EXACT:
        wanted = _EXACT[ctype]

        def exact(value: Any) -> Any:
            if value is not None and type(value) is not wanted:
                raise TypeError(
                    f"Argument '{argument}' has incorrect type (expected {wanted.__name__}, got {type(value).__name__})"
                )
            return value

        return exact
    if ctype in ("float", "double"):
        return float
    facts = INTEGERS.get(ctype)
    if facts is None:
        # An enumeration (`MemoryKind`) is an int; a class or an untyped argument is left alone.
        if ctype in ("", "object") or "ndarray" in ctype or ctype[:1] == "_" or "[" in ctype or ctype[:1].isupper():
            return None
        facts = INTEGERS["int"]
    bits, signed = facts
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if ctype in ("bint", "bool"):
        return bool

    def integer(value: Any) -> int:
        number = index(value)
        if low <= number <= high:
            return number
        if number < 0 and not signed:
            raise OverflowError(f"can't convert negative value to {ctype}")
        raise OverflowError(
            f"value too large to convert to {ctype}" if bits < 64 else "Python int too large to convert to C long"
        )

    return integer


def default_value(text: str, namespace: Mapping[str, Any]) -> Any:
    """Evaluate a default as it stands in a docstring: a number, a literal, or a name (perhaps dotted) of the module."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    return namespace[text.rsplit(".", 1)[-1]]


def python_function(
    signature: Signature,
    handler: Callable[..., Any],
    namespace: Mapping[str, Any],
    *,
    doc: str | None = None,
    module: str = "",
    plain: bool = False,
    releases: bool = False,
) -> Callable[..., Any]:
    """Make the Python-level function of a signature.

    Parameters
    ----------
    signature : Signature
    handler : callable
        Called with the converted arguments, all of them, in order.
    namespace : mapping
        Where names used as defaults are looked up.
    doc : str, optional
        The docstring to carry.
    module : str
        The module it pretends to come from.
    plain : bool
        Convert nothing.
    releases : bool
        Do nothing once the interpreter finalizes: destructors call this function, when the globals it needs may be
        gone.
    """
    heads, scope = parameters(signature, namespace)
    scope["_handler"] = handler
    values = []
    for position, argument in enumerate(signature.arguments):
        convert = None if plain else converter(argument.ctype, argument.name)
        if convert is None:
            values.append(argument.name)
        else:
            scope[f"_c{position}"] = convert
            values.append(f"_c{position}({argument.name})")
    guard = ""
    if releases:
        scope["_finalizing"] = sys.is_finalizing
        guard = "    if _finalizing(): return None\n"
    source = f"def {signature.name}({heads}):\n{guard}    return _handler({', '.join(values)})\n"
    return compiled(signature, source, scope, doc=doc, module=module)


def function_of_line(
    line: str, handler: Callable[..., Any], namespace: Mapping[str, Any], *, doc: str, name: str
) -> Callable[..., Any]:
    """Make the Python-level function of a docstring signature, as `python_function` does, when it is first needed.

    A module has a hundred functions, and a script calls five. Until its first call the function is a shell that takes
    anything; then it gets the code, and the defaults, that `python_function` makes.

    Parameters
    ----------
    line : str
        The signature.
    handler, namespace, doc
        As for `python_function`.
    name : str
        The function's name; its module is the namespace's.
    """
    module = str(namespace["__name__"])

    def fill() -> Callable[..., Any]:
        made = python_function(parse(line), handler, namespace, doc=doc, module=module)
        scope.update(made.__globals__)
        function.__defaults__, function.__kwdefaults__ = made.__defaults__, made.__kwdefaults__
        function.__code__ = made.__code__
        return function

    scope: dict[str, Any] = {"_fill": fill, "__builtins__": builtins}
    function = FunctionType(_SHELL, scope, name)
    function.__doc__, function.__module__, function.__qualname__ = doc, module, name
    return function


def _shell(*args: Any, **kwargs: Any) -> Any:
    return _fill()(*args, **kwargs)  # type: ignore[name-defined] # noqa: F821 (in the globals of each function)


_SHELL = _shell.__code__


def parameters(signature: Signature, namespace: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a signature's parameters as source text, and the defaults that it names.

    Parameters
    ----------
    signature : Signature
    namespace : mapping
        Where names used as defaults are looked up.
    """
    scope: dict[str, Any] = {}
    heads, starred = [], False
    for position, argument in enumerate(signature.arguments):
        if argument.keyword_only and not starred:
            heads.append("*")
            starred = True
        if argument.default is None:
            heads.append(argument.name)
        else:
            scope[f"_d{position}"] = default_value(argument.default, namespace)
            heads.append(f"{argument.name}=_d{position}")
    return ", ".join(heads), scope


def compiled(
    signature: Signature, source: str, scope: dict[str, Any], *, doc: str | None = None, module: str = ""
) -> Callable[..., Any]:
    """Return the function of a signature that `source` defines, looking as if it came from a module."""
    exec(compile(source, f"<migproxy {module}.{signature.name}>", "exec"), scope)
    function: Callable[..., Any] = scope[signature.name]
    function.__doc__ = doc
    function.__module__ = module
    function.__qualname__ = signature.name
    return function
