"""What the executor half finds of nvmath on a GPU, asked without one: this must not run where a driver is, since
its objects are NULL. With `confined`, after an executor's confinement.

One line for each library: its functions' answers to arguments that the table sends, counted. No argument may be one
that nvmath cannot take, and what is loaded and answered must not depend on the confinement.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

from migproxy.abi.tables import HOST_KINDS, Kind, Operation, size_of
from migproxy.executor.dispatch import LibraryError, Refused
from migproxy.executor.sandbox import confine

#: Kind of object → its number here; the object itself is NULL.
NUMBERS: dict[str, int] = {}


def sample(operation: Operation) -> list[Any]:
    """Return arguments as they arrive."""
    plain = {each.name: 1 for each in operation.arguments if each.kind is Kind.INTEGER}
    found: list[Any] = []
    for each in operation.arguments:
        if each.kind in HOST_KINDS:
            size = size_of(each.size, plain)
            found.append(bytes(size) if each.kind in (Kind.READ, Kind.UPDATE) else size)
        elif each.kind is Kind.VALUE:
            found.append(bytes(4) if each.name in ("alpha", "beta") else [16])
        else:
            found.append(
                {
                    Kind.HANDLE: 0 if each.optional else NUMBERS.setdefault(each.of, 0x50 + 0x10 * len(NUMBERS)),
                    Kind.DEVICE: 4096,
                    Kind.STREAM: None,
                    Kind.INTEGER: 1,
                    Kind.NUMBER: 1.0,
                    Kind.COMPLEX: [1.0, 0.0],
                }[each.kind]
            )
    return [0x10, *found] if operation.makes else found


def answer(serve: Any, library: str, name: str, arguments: list[Any]) -> str:
    """Return what the library says, in a word."""
    context = SimpleNamespace(kind="gpu", stream=0, check_range=lambda address, size: None)
    try:
        serve(context, library, name, arguments)
    except LibraryError as error:
        return str(error.facts["type"])
    except Refused as error:
        return f"Refused: {error}"
    return "result"


def main() -> None:
    if "confined" in sys.argv:
        confine()
    from migproxy_nvmath.executor import HALF

    for library, server in HALF.servers.items():
        counts: Counter[str] = Counter()
        for operation in server.table.operations.values():
            if operation.refused or operation.local or operation.stream_role:
                continue
            arguments = sample(operation)
            server.objects = {number: (kind, 0) for kind, number in NUMBERS.items()}
            counts[answer(HALF.serve, library, operation.name, arguments)] += 1
        print(library, dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
