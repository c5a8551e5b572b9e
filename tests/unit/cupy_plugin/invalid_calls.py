"""Valid and invalid arguments of library functions, made from the rules in the plugin's `checks`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from migproxy_plugins.cupy import checks, signatures, tables

_WORDS = re.compile(r"[A-Za-z_]\w*")
_TRIED = (2, 1, 0, 3, -1, 9)
LIBRARIES = {short: name for name, short in tables.SHORT_NAMES.items() if short in checks.INVALID_VALUE}
_GENERATOR = {"rng_type": 100, "lam": 1.0, "order": 1}


def checked_functions(short: str) -> Iterator[signatures.Signature]:
    """Every function of a library that has rules besides the one about its handle."""
    facts = tables.table(LIBRARIES[short], "14.2.0")
    for doc in facts["functions"].values():
        signature = signatures.parse(doc)
        if any(" == 0" not in condition for condition, _ in checks.conditions(short, signature)):
            yield signature


def valid(signature: signatures.Signature, addresses: int, handle: int = 1) -> dict[str, Any]:
    """Arguments that pass: every size and leading dimension is 2, every mode 0, every address the given one."""
    found: dict[str, Any] = {}
    for argument in signature.arguments:
        if argument.name in ("handle", "generator"):
            found[argument.name] = handle
        elif argument.name in _GENERATOR and "order" not in argument.name:
            found[argument.name] = _GENERATOR[argument.name]
        elif argument.name == "lwork":
            found[argument.name] = 1 << 10
        elif argument.ctype in ("size_t", "intptr_t"):
            found[argument.name] = addresses
        elif re.fullmatch(
            r"ld\w+|[mnk]|mb|rows|cols|size|nnz\w*|n?rhs|batch\w+|incx?y?|inc[xy]|blockDim|ld", argument.name
        ):
            found[argument.name] = 2
        else:
            found[argument.name] = 1 if argument.name == "order" else 0
    return found


def violations(
    short: str, signature: signatures.Signature, arguments: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], int, str]]:
    """For each rule arguments that break it and none before it, the status, and the rule."""
    rules = checks.conditions(short, signature)
    for place, (condition, status) in enumerate(rules):
        names = sorted({word for word in _WORDS.findall(condition) if word in arguments})
        for values in itertools.product(_TRIED, repeat=len(names)):
            broken = {**arguments, **dict(zip(names, values, strict=True))}
            if eval(condition, {"min": min}, broken) and not any(
                eval(earlier, {"min": min}, broken) for earlier, _ in rules[:place]
            ):
                yield broken, status, condition
                break
