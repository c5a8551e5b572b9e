"""The public names of CuPy's compiled library modules, as facts recorded from the modules themselves.

``data/*.json`` holds what ``tests/gpu_data/record_library_names.py`` read from CuPy 14.2: enumeration values, functions
with their signatures, classes. ``data/older.json`` holds the functions that only older versions, from 13.4 on, have:
nearly all of them belong to interfaces that CUDA 12 removed. A library module of the software GPU takes its constants
from there and calls `complete` at its end, so that each real name that it does not implement exists and is refused by
name.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn, TypedDict

import numpy as np

from .status import TableError, UnsupportedCall
from .views_unsafe import InvalidLayout


class Facts(TypedDict):
    """What is recorded of one module."""

    module: str
    cupy: str
    constants: dict[str, int]
    functions: dict[str, str]
    classes: dict[str, str]


@cache
def facts(library: str) -> Facts:
    """Return the recorded facts of a library, by its short name (``"cublas"``)."""
    text = files(__package__).joinpath("data", f"{library}.json").read_text(encoding="utf-8")
    loaded: Facts = json.loads(text)
    return loaded


@cache
def older(library: str) -> dict[str, str]:
    """Return the functions of a library that only older versions of CuPy have, with their signatures."""
    text = files(__package__).joinpath("data", "older.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text).get(library, {})
    return found


def parameters(signature: str) -> list[str]:
    """Return the argument names in a Cython docstring signature, in order; ``*`` stays where it is."""
    inner = signature[signature.index("(") + 1 : signature.rindex(")", 0, (signature + " ->").index(" ->"))]
    depth, parts, part = 0, [], ""
    for character in inner:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    parts.append(part)
    names = []
    for text in parts:
        word = re.split(r"\s", text.split("=")[0].strip())[-1]
        if word:
            names.append(word)
    return names


def refusal(library: str, function: str, error: type[TableError] | None) -> Callable[..., NoReturn]:
    """Return a function that refuses every call with the library's not-supported status, naming itself."""

    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        detail = f"{library}.{function} is not supported by the software GPU"
        if error is None:
            raise UnsupportedCall(library, detail)
        raise error(error.NOT_SUPPORTED, detail)

    refused.__name__ = refused.__qualname__ = function
    return refused


def _quiet(function: Callable[..., Any], error: type[TableError] | None) -> Callable[..., Any]:
    """Return a function that computes as a GPU does: divisions by zero and overflows give their values, no warnings.

    A layout that no library accepts becomes the library's own invalid-value error.
    """

    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            try:
                return function(*args, **kwargs)
            except InvalidLayout as invalid:
                if error is None:
                    raise
                raise error(error.INVALID_VALUE, str(invalid)) from invalid

    return quiet


def complete(namespace: dict[str, Any], library: str, error: type[TableError] | None) -> frozenset[str]:
    """Give a module its constants and, for each real function that it lacks, a refusal; silence the others' arithmetic.

    Parameters
    ----------
    namespace : dict
        The module's ``globals()``.
    library : str
        Its short name.
    error : type or None
        The error class whose not-supported status a refusal carries.

    Returns
    -------
    frozenset of str
        The functions that are refused by name.
    """
    known = facts(library)
    for name, value in known["constants"].items():
        namespace.setdefault(name, value)
    functions = [*known["functions"], *older(library)]
    missing = frozenset(name for name in functions if name not in namespace)
    for name in functions:
        if name in namespace:
            namespace[name] = _quiet(namespace[name], error)
    for name in missing:
        namespace[name] = refusal(library, name, error)
    return missing
