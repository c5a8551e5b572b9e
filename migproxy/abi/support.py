"""Which versions of which libraries migproxy is made for. The only such table: doctor, admission and the plugins
read it."""

from __future__ import annotations

from typing import NamedTuple


class Supported(NamedTuple):
    """One distribution: versions from `least` on and below `below` (empty: no upper end is known)."""

    distribution: str
    module: str
    least: str
    below: str
    why: str


SUPPORTED: tuple[Supported, ...] = (
    Supported("cupy-cuda12x", "cupy", "13.4", "15", "capsule tables and library signatures recorded per release"),
    Supported("cupy-cuda13x", "cupy", "13.6", "15", "capsule tables and library signatures recorded per release"),
    Supported("cuda-bindings", "cuda.bindings", "12.6", "14", "capsule tables of cydriver and cyruntime"),
    Supported("cuda-core", "cuda.core", "1.0", "2", "reaches CUDA through cuda.bindings' capsules"),
    Supported("numba-cuda", "numba_cuda", "0.20", "0.31", "the driver object that find_driver makes"),
    Supported("numba", "numba", "0.62", "", "numba-cuda's compiler"),
    Supported("numpy", "numpy", "1.26", "", "NEP 49 allocator"),
)

PYTHON_LEAST = (3, 11)
PYTHON_LAST = (3, 14)
