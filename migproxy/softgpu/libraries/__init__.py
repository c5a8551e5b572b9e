"""CUDA's math libraries on NumPy and SciPy, for the software GPU.

Each module mirrors the Python-level API of one compiled module of CuPy: names, argument order and names, return values,
statuses. The executor serves a library call by ``getattr(module, function)(*args)``. Pointers are integer addresses of
the executor's process, device and host alike; the modules that take arrays (`cufft`, `cub`, `generator_api`,
`cupyx_cusolver`) get NumPy views of device memory. What is missing is refused by name: ``module.REFUSED`` lists it.

A call works at once, on the caller's thread: ordering on a stream is the executor's business.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

#: CuPy's module → the module here that stands for it.
MODULES = {
    "cupy_backends.cuda.libs.cublas": "cublas",
    "cupy_backends.cuda.libs.curand": "curand",
    "cupy_backends.cuda.libs.cusolver": "cusolver",
    "cupy_backends.cuda.libs.cusparse": "cusparse",
    "cupy_backends.cuda.libs.cutensor": "cutensor",
    "cupy.cuda.cufft": "cufft",
    "cupy.cuda.cub": "cub",
    "cupy.cuda.thrust": "thrust",
    "cupy.random._generator_api": "generator_api",
    "cupyx._cusolver": "cupyx_cusolver",
    "cupyx.cusolver": "cupyx_cusolver",  # before CuPy 14.1
}


def library(name: str) -> ModuleType:
    """Return the module that stands for one of CuPy's, by CuPy's name for it.

    Raises
    ------
    KeyError
        For a module that has no counterpart here.
    """
    return import_module(f"{__name__}.{MODULES[name]}")
