"""What ``migproxy plugin check nvmath`` uses nvmath by."""

from __future__ import annotations

from typing import Any

from migproxy.interpose.plugin import Operation, Table

#: A sample argument of 1 means an enumeration's member to one function and a size to the next: harmless in software.
CALLS_ON_GPU = False
HUGE_INTEGERS = False
#: nvmath keeps the handles of its libraries.
INHERITS = True


def missing(table: Table) -> list[str]:
    """The software GPU has a part of the libraries: what it lacks is refused by name."""
    from migproxy_nvmath.executor import HALF

    return [] if table.library in HALF.LIBRARIES else [f"a server for {table.library}"]


def arguments(table: Table, operation: Operation, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Leave out what takes arrays of device pointers or sequences: sample memory holds none."""
    strange = any(name.endswith("array") for name in defaults) or "batched" in operation.name or operation.by_hand
    return None if strange else defaults


def smoke() -> None:
    """A product, a solution and a transform, on CuPy's arrays."""
    import cupy
    import numpy as np
    import nvmath

    a = cupy.asarray([[4.0, 1.0], [1.0, 3.0]])
    assert np.allclose(nvmath.linalg.matmul(a, a).get(), [[17, 7], [7, 10]])
    assert np.allclose(abs(nvmath.fft.fft(cupy.ones(8, dtype=cupy.complex64))).get(), [8, *[0] * 7])
