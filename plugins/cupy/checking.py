"""What the conformance kit needs to know of CuPy: `migproxy.plugin_kit.samples` says how it is used."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from migproxy_plugins.cupy import tables

from migproxy.abi.tables import Argument, Kind, Operation, Table

#: A sample argument of 1 means an enumeration's member to one function and a size to the next: harmless in software.
CALLS_ON_GPU = False
#: CuPy keeps the handles of its libraries by thread, and a plan cache.
INHERITS = True
#: Batches are loops in software.
HUGE_INTEGERS = False
#: A docstring that Cython made from a signature: a C string of its own.
_DOCSTRING = re.compile(rb"(?<![A-Za-z0-9_.])([A-Za-z_]\w{2,})\([^\0\n]*\)")


def installed(table: Table) -> set[str] | None:
    """Read the names out of the compiled module, which cannot be imported without CUDA's libraries: of the functions
    that the table knows, those whose signature stands in it.
    """
    package, _, name = table.module.rpartition(".")
    spec = find_spec(package.partition(".")[0])
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]).joinpath(*package.split(".")[1:])
    found = sorted(folder.glob(f"{name}.*.so"))
    if not found:
        return None
    names = {match.decode() for match in _DOCSTRING.findall(found[0].read_bytes())}
    # Methods and helpers have such docstrings too; tests/meta/test_cupy_tables.py compares every signature.
    return names & set(tables.table(table.module)["functions"])


def missing(table: Table) -> list[str]:
    """Return what is served and has no function in the executor half, on either kind of device."""
    from migproxy_plugins.cupy.executor import EXTRA

    from migproxy.softgpu import libraries

    software = libraries.library(table.module)
    lacking = []
    for name, operation in table.operations.items():
        if operation.by_hand and (table.module, name) not in EXTRA:
            lacking.append(name)
        refused = name in getattr(software, "REFUSED", ())
        if operation.served == "by the library" and not refused and not hasattr(software, name):
            lacking.append(f"{name} on the software GPU")
    lacking += [
        f"an entry for {name}" for module, name in EXTRA if module == table.module and name not in table.operations
    ]
    return lacking


def handle(table: Table, operation: Operation, argument: Argument) -> Any:
    """Make the object that an argument of this name stands for."""
    maker = _MAKERS.get((tables.SHORT_NAMES[table.module], argument.name))
    if maker is None:
        return None
    name = maker(operation.name)
    key = table.module, name
    if argument.ends or key not in _made:
        made = getattr(importlib.import_module(table.module), name)()
        if argument.ends:
            return made
        _made[key] = made
    return _made[key]


_made: dict[tuple[str, str], Any] = {}
_SPARSE = re.compile(r"sp[DSG]|[sdcz]csr|sp")
#: Library and argument → what makes the object, by the name of the function that takes it. The others are not called.
_MAKERS: dict[tuple[str, str], Callable[[str], str]] = {
    ("cublas", "handle"): lambda name: "create",
    ("cusolver", "handle"): lambda name: "spCreate" if _SPARSE.match(name) else "create",
    ("cusolver", "params"): lambda name: "createParams",
    ("cusparse", "handle"): lambda name: "create",
    ("cusparse", "descr"): lambda name: "createMatDescr",
    ("cusparse", "descrA"): lambda name: "createMatDescr",
    ("cusparse", "descrB"): lambda name: "createMatDescr",
    ("cusparse", "descrC"): lambda name: "createMatDescr",
}


def call(table: Table, operation: Operation) -> Any:
    """Return the stand-in's function; what is served by hand is called through CuPy itself (`smoke`)."""
    if operation.by_hand:
        raise LookupError(operation.name)
    return getattr(importlib.import_module(table.module), operation.name)


def arguments(table: Table, operation: Operation, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what takes arrays of device pointers: sample memory holds none."""
    return None if any(name.endswith("rray") for name in defaults) else defaults


def travels(table: Table, operation: Operation, values: list[Any]) -> list[Any]:
    """Return sample values as this plugin's halves send them."""
    sent = []
    for argument, value in zip(operation.arguments, values, strict=False):
        if argument.kind is Kind.WRITE and type(value) is int:
            sent.append({"__out__": value})
        elif argument.kind is Kind.SCRATCH and type(value) is int:
            sent.append({"__scratch__": value})
        elif argument.kind is Kind.COMPLEX and isinstance(value, list):
            sent.append({"__complex__": value})
        else:
            sent.append(value)
    return sent + values[len(operation.arguments) :]


def smoke() -> None:
    """A kernel, a reduction, a product, a decomposition, a transform, random numbers, a sort and a sparse product."""
    import cupy
    import numpy as np
    from cupyx.scipy import sparse

    x = cupy.arange(12, dtype=cupy.float32).reshape(3, 4)
    assert float((x + 1).sum()) == 78
    a = cupy.asarray([[4.0, 1.0], [1.0, 3.0]])
    assert np.allclose(cupy.linalg.solve(a, a).get(), np.eye(2))
    assert np.allclose((a @ a).get(), [[17, 7], [7, 10]])
    assert np.allclose(abs(cupy.fft.fft(cupy.ones(8))).get(), [8, *[0] * 7])
    assert float(cupy.random.default_rng(1).random(100).max()) < 1
    assert cupy.sort(cupy.asarray([3, 1, 2])).get().tolist() == [1, 2, 3]
    assert (sparse.csr_matrix(a) @ cupy.ones(2)).get().tolist() == [5, 4]
