"""The data files that ``tools/make_cupy_tables.py`` records from CuPy's compiled modules."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from migproxy import distributions
from migproxy.errors import UnsupportedVersion

_DATA = os.path.join(os.path.dirname(__file__), "data")
#: Module → the short name under which roles and messages know it.
SHORT_NAMES = {
    "cupy_backends.cuda.libs.cublas": "cublas",
    "cupy_backends.cuda.libs.cusolver": "cusolver",
    "cupy_backends.cuda.libs.cusparse": "cusparse",
    "cupy_backends.cuda.libs.curand": "curand",
    "cupy_backends.cuda.libs.cutensor": "cutensor",
    "cupy_backends.cuda.libs.nccl": "nccl",
    "cupy.cuda.cufft": "cufft",
    "cupy.cuda.cub": "cub",
    "cupy.cuda.thrust": "thrust",
    "cupy.random._generator_api": "generator_api",
    "cupyx._cusolver": "cupyx_cusolver",
    # before CuPy 14.1
    "cupyx.cusolver": "cupyx_cusolver",
}


@cache
def installed_version() -> str:
    """Return the version of CuPy in this process, without importing the package."""
    for distribution in ("cupy-cuda12x", "cupy-cuda13x", "cupy"):
        if version := distributions.version(distribution):
            return version
    raise UnsupportedVersion("CuPy is not installed as cupy-cuda12x or cupy-cuda13x")


@cache
def recorded_versions() -> tuple[str, ...]:
    """Return the CuPy versions that have tables, oldest first."""
    found = [name for name in os.listdir(_DATA) if name[:1].isdigit()]
    return tuple(sorted(found, key=_key))


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def table_version(version: str) -> str:
    """Return the recorded version that describes `version`: the same, or the newest one of the same minor release.

    Raises
    ------
    UnsupportedVersion
        When there is none; the message names the range.
    """
    recorded = recorded_versions()
    if version in recorded:
        return version
    fitting = [candidate for candidate in recorded if _key(candidate)[:2] == _key(version)[:2]]
    if not fitting:
        raise UnsupportedVersion(
            f"CuPy {version} is not supported: tables exist for {recorded[0]} to {recorded[-1]} ({', '.join(recorded)})"
        )
    return fitting[-1]


@cache
def ever(module: str, function: str) -> bool:
    """Whether a module of any recorded version has a function."""
    return any(
        recorded(module, version) and function in table(module, version)["functions"] for version in recorded_versions()
    )


def recorded(module: str, version: str | None = None) -> bool:
    """Whether this CuPy has the module as compiled code."""
    chosen = table_version(version or installed_version())
    return os.path.isfile(os.path.join(_DATA, chosen, f"{module}.json"))


@cache
def table(module: str, version: str | None = None) -> dict[str, Any]:
    """Return what is recorded of a module of this process's CuPy (or of another recorded version)."""
    chosen = table_version(version or installed_version())
    with open(os.path.join(_DATA, chosen, f"{module}.json"), encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded
