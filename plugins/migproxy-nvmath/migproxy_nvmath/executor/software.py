"""nvmath's bindings on the software GPU: its libraries mirror CuPy's modules, whose names are in camel case."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import lapack

from migproxy.softgpu import libraries
from migproxy.softgpu.libraries import views_unsafe
from migproxy_nvmath.executor import software_lt

_CUPY = {
    "cublas": "cupy_backends.cuda.libs.cublas",
    "cufft": "cupy.cuda.cufft",
    "cusolver": "cupy_backends.cuda.libs.cusolver",
    "cusolverDn": "cupy_backends.cuda.libs.cusolver",
}
_DTYPES = {0: np.float32, 1: np.float64, 4: np.complex64, 5: np.complex128}


def camel(name: str) -> str:
    """Return a function's name as CuPy's modules have it."""
    name = re.sub(r"_buffer_size$", "_bufferSize", name)
    head, _, tail = name.partition("_bufferSize")
    head = re.sub(r"_([a-z])", lambda match: match[1].upper(), head)
    return head + ("_bufferSize" if name.endswith("_bufferSize") else tail)


class Renamed:
    """A library under nvmath's names, with what differs."""

    def __init__(self, library: Any, own: dict[str, Callable[..., Any]]) -> None:
        self._library = library
        self._own = own

    def __getattr__(self, name: str) -> Any:
        found = self._own.get(name)
        return found if found is not None else getattr(self._library, camel(name))


class Plan:
    """What ``cufft.create`` returns: filled in when the plan is made."""

    made: Any = None


def _make_plan_many(
    plan: Plan, rank: int, n: list[int], inembed: Any, istride: int, idist: int, inputtype: int, onembed: Any,
    ostride: int, odist: int, outputtype: int, batch: int, executiontype: int,
) -> int:  # fmt: skip
    module = libraries.library(_CUPY["cufft"])
    kinds = {0: "f", 1: "d", 2: "e", 4: "F", 5: "D", 6: "E"}  # cudaDataType → NumPy's letter, and CuPy's for half
    source, target = kinds[inputtype], kinds[outputtype]
    # CuPy's module names the complex type of an execution, cuFFT takes the real one as well.
    execution = kinds[executiontype].upper()
    plan.made = module.XtPlanNd(
        tuple(n), inembed or None, istride, idist, source, onembed or None, ostride, odist, target, batch,
        execution, order="C", last_axis=-1, last_size=None,
    )  # fmt: skip
    return 0


def _execute(plan: Plan, source: int, target: int, direction: int) -> None:
    libraries.library(_CUPY["cufft"]).XtExec(plan.made.handle, source, target, direction)


def _nothing(*arguments: Any) -> None:
    """A setting without meaning in software."""


def _getrf(
    handle: Any, params: Any, m: int, n: int, data_type_a: int, a: int, lda: int, ipiv: int, compute_type: int,
    device_buffer: int, device_bytes: int, host_buffer: int, host_bytes: int, info: int,
) -> None:  # fmt: skip
    matrix = views_unsafe.matrix(a, m, n, lda, _DTYPES[data_type_a])
    matrix[...], pivots, status = lapack.get_lapack_funcs("getrf", dtype=matrix.dtype)(matrix)
    if ipiv:
        views_unsafe.array(ipiv, min(m, n), np.int64)[...] = pivots + 1
    views_unsafe.array(info, 1, np.int32)[0] = status


def _getrs(
    handle: Any, params: Any, trans: int, n: int, nrhs: int, data_type_a: int, a: int, lda: int, ipiv: int,
    data_type_b: int, b: int, ldb: int, info: int,
) -> None:  # fmt: skip
    dtype = _DTYPES[data_type_a]
    factors, right = views_unsafe.matrix(a, n, n, lda, dtype), views_unsafe.matrix(b, n, nrhs, ldb, dtype)
    rows = views_unsafe.array(ipiv, n, np.int64) - 1
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise views_unsafe.InvalidLayout("a pivot is no row")
    solve = lapack.get_lapack_funcs("getrs", dtype=np.dtype(dtype))
    right[...], status = solve(factors, rows.astype(np.int32), right, trans=trans)
    views_unsafe.array(info, 1, np.int32)[0] = status


def _no_workspace(*arguments: Any) -> tuple[int, int]:
    return 0, 0


_OWN: dict[str, dict[str, Callable[..., Any]]] = {
    "cublas": {
        "set_atomics_mode": _nothing,
        "get_atomics_mode": lambda handle: 0,
        "set_workspace": _nothing,
        "get_property": lambda kind: 0,
    },
    "cufft": {
        "create": Plan,
        "destroy": _nothing,
        "set_auto_allocation": _nothing,
        "set_work_area": _nothing,
        "xt_set_work_area": _nothing,
        "get_size": lambda plan: 0,
        "xt_make_plan_many": _make_plan_many,
        "xt_get_size_many": _make_plan_many,
        "xt_exec": _execute,
        "estimate_many": lambda *arguments: 0,
    },
    "cusolver": {"get_property": lambda kind: (12, 0, 0)[kind], "get_version": lambda: 12000},
    "cusolverDn": {
        "create_params": object,
        "destroy_params": _nothing,
        "set_adv_options": _nothing,
        "xgetrf_buffer_size": _no_workspace,
        "xgetrf": _getrf,
        "xgetrs": _getrs,
    },
}
_made: dict[str, Any] = {}


def source(name: str) -> Any:
    """Return what has a binding's functions."""
    found = _made.get(name)
    if found is None:
        found = software_lt if name == "cublasLt" else Renamed(libraries.library(_CUPY[name]), _OWN[name])
        _made[name] = found
    return found
