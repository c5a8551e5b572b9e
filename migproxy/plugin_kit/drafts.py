"""``migproxy plugin inspect``: drafts a table of operations from what a module tells of its functions.

A compiled module tells the C types of its capsules, and Cython's docstrings tell argument names; a plain module tells
its signatures. What cannot be told (whether an integer is an address, how long host memory is) is guessed from names
and marked, for the author to decide.
"""

from __future__ import annotations

import importlib
import inspect
import keyword
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from migproxy.errors import UsageError
from migproxy.interpose import capsules

_C_INTEGERS = {
    "int": "int32", "unsigned int": "uint32", "long": "int64", "unsigned long": "uint64", "long long": "int64",
    "unsigned long long": "uint64", "size_t": "uint64", "ssize_t": "int64", "Py_ssize_t": "int64", "bint": "int32",
    "int32_t": "int32", "uint32_t": "uint32", "int64_t": "int64", "uint64_t": "uint64", "short": "int16",
    "intptr_t": "int64", "uintptr_t": "uint64", "uintmax_t": "uint64", "char": "int8", "bool": "int32",
}  # fmt: skip
_ADDRESS_TYPES = ("intptr_t", "uintptr_t", "size_t", "uintmax_t")
_SIZES = re.compile(
    r"n|m|k|size|bytes|count|num|l(work|d\w*)|.*(size|bytes|count|Size|Bytes|Count|_len)|work_?space_?size.*"
)
_HANDLES = re.compile(r"handle|plan|desc\w*|.*_(desc|handle|params)|generator|params|\w*[dD]escr?\w*", re.IGNORECASE)
_HOST = re.compile(r"alpha|beta|result|info|.*_(host|out)|h_.*")
_MAKES = re.compile(r"(sp|dn)?_?create_?(\w*)", re.IGNORECASE)
_ENDS = re.compile(r"(sp|dn)?_?(destroy|free)_?(\w*)", re.IGNORECASE)
_STREAMS = re.compile(r"(set|get)_?[sS]tream")


@dataclass(frozen=True, slots=True)
class Drafted:
    """One function as its module tells it: arguments are (C type or "", name, default or None)."""

    name: str
    arguments: tuple[tuple[str, str, str | None], ...]
    result: str
    told_by: str


def functions(module: ModuleType) -> list[Drafted]:
    """Return the functions of a module, by what tells most of each."""
    found: dict[str, Drafted] = {}
    table = capsules.read(module) if hasattr(module, "__pyx_capi__") else {}
    for name, text in table.items():
        found[name] = _from_prototype(name, text)
    for name, value in sorted(vars(module).items()):
        if name[0] == "_" or inspect.isclass(value) or not callable(value):
            continue
        if getattr(value, "__module__", module.__name__) not in (module.__name__, None):
            continue
        told = _from_docstring(name, value) or _from_signature(name, value)
        if told is not None:
            found[name] = told
    return [found[name] for name in sorted(found)]


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _from_prototype(name: str, text: str) -> Drafted:
    """Read a capsule's name: the C function's type, without argument names."""
    result, _, inside = text.partition("(")
    kept = [part for part in _split(inside.rstrip(")")) if part not in ("void",) and "__pyx" not in part]
    arguments = tuple((ctype.removesuffix("const").strip(), f"a{at}", None) for at, ctype in enumerate(kept))
    return Drafted(name, arguments, result.strip(), "capsule")


def _from_docstring(name: str, value: Any) -> Drafted | None:
    """Read the signature that Cython puts on a docstring's first line."""
    first = (getattr(value, "__doc__", None) or "").strip().partition("\n")[0]
    match = re.match(rf"{re.escape(name)}\((.*)\)(?:\s*->\s*(.+))?$", first)
    if match is None:
        return None
    arguments = []
    for part in _split(match[1]):
        if part in ("*", "/", "self"):
            continue
        declared, _, default = part.partition("=")
        ctype, _, argument = declared.strip().rpartition(" ")
        if ":" in declared:
            argument, _, ctype = (each.strip() for each in declared.partition(":"))
        arguments.append((ctype.strip(), argument.strip("* "), default.strip() or None))
    return Drafted(name, tuple(arguments), (match[2] or "").strip(), "docstring")


def _from_signature(name: str, value: Any) -> Drafted | None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    arguments = tuple(
        (_annotation(each.annotation), each.name, None if each.default is each.empty else repr(each.default))
        for each in signature.parameters.values()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    )
    return Drafted(name, arguments, _annotation(signature.return_annotation), "signature")


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _kind(text: str) -> str:
    """Return a kind of handle from the rest of a maker's or ender's name."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", text).lower().strip("_") or "handle"


def _argument(function: Drafted, at: int, kinds: set[str]) -> tuple[str, str]:
    """Return the draft of one argument, and what the author must decide, if anything."""
    ctype, name, default = function.arguments[at]
    quoted = f'"{name}"'
    otherwise = f".otherwise({default})" if default is not None else ""
    end = _ENDS.fullmatch(function.name)
    if end is not None and at == len(function.arguments) - 1:
        return f'ended({quoted}, "{_kind(end[3])}"){otherwise}', ""
    if name in ("stream", "s") or ctype in ("cudaStream_t", "Stream"):
        return f"stream({quoted}){otherwise}", ""
    if ctype in ("float", "double", "float64"):
        wide = "float32" if ctype == "float" and function.told_by != "signature" else "float64"
        return f'number({quoted}, "{wide}"){otherwise}', ""
    if ctype in ("str", "bytes", "unicode"):
        return f"text({quoted}){otherwise}", ""
    if _HANDLES.fullmatch(name) or ctype.lower().endswith(("handle", "handle_t")):
        guess = next((kind for kind in sorted(kinds) if kind == name.lower()), "handle")
        return f'handle({quoted}, "{guess}"){otherwise}', "" if guess in kinds else "of which kind?"
    address = ctype in _ADDRESS_TYPES or ctype.endswith("*")
    if _HOST.fullmatch(name) and (address or not ctype):
        return f"read({quoted}, 8){otherwise}", "host memory: read() or written(), of how many bytes?"
    if address and not _SIZES.fullmatch(name):
        return f"device({quoted}){otherwise}", "how many bytes are touched?"
    if ctype in _C_INTEGERS or _SIZES.fullmatch(name):
        return f'integer({quoted}, "{_C_INTEGERS.get(ctype, "int64")}"){otherwise}', ""
    if not ctype:
        return f"device({quoted}){otherwise}", "nothing tells its type"
    return f"integer({quoted}){otherwise}", f"a {ctype}: an enumeration, or a struct?"


def _result(function: Drafted) -> str:
    ctype = function.result.removesuffix("except *").strip()
    if ctype in ("", "void", "None"):
        return ""
    if ctype in ("float", "double"):
        return "number"
    if ctype in ("str", "bytes", "list", "tuple"):
        return {"str": "text", "tuple": "list"}.get(ctype, ctype)
    return "integer"


def draft(name: str) -> str:
    """Return Python source: a module with a table of operations for the functions of module `name`.

    Raises
    ------
    UsageError
        The module cannot be imported, or has no functions.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{name} cannot be imported here: {error}") from error
    found = functions(module)
    if not found:
        raise UsageError(f"{name} has no functions that tell anything")
    kinds = {_kind(match[2]) for each in found if (match := _MAKES.fullmatch(each.name))}
    entries, words = [], {"Operation", "table"}
    for function in found:
        entries.append(_entry(function, kinds, words))
    lines = [
        f'"""The operations of {name}: a draft by ``migproxy plugin inspect``; lines with a question are guesses."""',
        "",
        "from __future__ import annotations",
        "",
        f"from migproxy.interpose.plugin import {', '.join(sorted(words, key=str.lower))}",
        "",
        f'TABLE = table("{name}", [',
        *(line for entry in entries for line in entry),
        "])",
    ]
    return "\n".join(lines) + "\n"


def _entry(function: Drafted, kinds: set[str], words: set[str]) -> list[str]:
    """Return the lines of one operation."""
    if not function.name.isidentifier() or keyword.iskeyword(function.name):
        return [f"    # {function.name}: no Python name"]
    drafted = [_argument(function, at, kinds) for at in range(len(function.arguments))]
    words |= {text.partition("(")[0] for text, _ in drafted}
    facts = ""
    made = _MAKES.fullmatch(function.name)
    role = _STREAMS.fullmatch(function.name)
    if made is not None and _result(function):
        facts = f', makes="{_kind(made[2])}"'
    elif role is not None:
        facts = f', stream_role="{role[1]}"'
    elif result := _result(function):
        facts = f', result="{result}"'
    questions = "; ".join(
        f"{argument[1]}: {why}" for argument, (_, why) in zip(function.arguments, drafted, strict=True) if why
    )
    arguments = ", ".join(text for text, _ in drafted)
    arguments = f"({arguments},)" if drafted else "()"
    lines = [f"    # {questions}"] if questions else []
    return [*lines, f'    Operation("{function.name}", {arguments}{facts}),']
