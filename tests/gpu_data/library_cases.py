"""The same library calls for a real GPU and for the software GPU.

`record_libraries.py` runs them through CuPy where a GPU is; a unit test runs them on the software GPU's libraries and
compares. Each case returns arrays; where results are unique up to a sign or an order, it returns what is unique. The
cases look for what documentation leaves open: NaN, zeros of two signs, ties, singular and empty inputs, statuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Array = Any
Result = dict[str, Array]


class Machine(Protocol):
    """What a case needs of the machine it runs on."""

    def device(self, array: Array) -> int:
        """Copy an array to device memory as it is laid out; return the address."""

    def read(self, address: int) -> Array:
        """Return what is now at the address of an array that `device` copied."""

    def host(self, array: Array) -> int:
        """Return the address of an array in host memory; what is written there shows in the array."""

    def module(self, name: str) -> Any:
        """Return a library module by its short name."""

    def handle(self, name: str) -> int:
        """Return a context of a library."""


Case = Callable[[Machine, np.random.Generator], Result]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its function's name."""
    CASES[function.__name__] = function
    return function


def status(call: Callable[[], Any]) -> Array:
    """Return the status with which a call fails, or 0."""
    try:
        call()
    except Exception as error:
        return np.array(getattr(error, "status", getattr(error, "result", -1)))
    return np.array(0)


def matrix(rng: np.random.Generator, rows: int, columns: int, dtype: Any = np.float64) -> Array:
    """Return a column-major matrix of normal values."""
    values = rng.standard_normal((rows, columns))
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal((rows, columns))
    return np.asfortranarray(values.astype(dtype))


# --- cuBLAS ----------------------------------------------------------------------------------------------------------


@case
def blas_extremes(m: Machine, rng: np.random.Generator) -> Result:
    blas, handle = m.module("cublas"), m.handle("cublas")
    x = np.array([1, -7, 3, 7, 0.5, 0.5], np.float32)
    z = np.array([3 + 4j, 5, -5j, 1 + 1j], np.complex64)
    result = np.zeros(6, np.int32)
    at = m.host(result)
    for index, (name, values) in enumerate([("isamax", x), ("isamin", x), ("icamax", z), ("icamin", z)]):
        getattr(blas, name)(handle, len(values), m.device(values), 1, at + 4 * index)
    blas.isamax(handle, 0, m.device(x), 1, at + 16)
    blas.isamax(handle, 3, m.device(x), 2, at + 20)
    return {"index": result}


@case
def blas_gemm_scalars(m: Machine, rng: np.random.Generator) -> Result:
    blas, handle = m.module("cublas"), m.handle("cublas")
    a, b, c = matrix(rng, 3, 3), matrix(rng, 3, 3), matrix(rng, 3, 3)
    nan = np.full((3, 3), np.nan, order="F")
    out: Result = {}
    for name, (left, target, alpha, beta, k) in {
        "beta zero ignores NaN": (a, nan, 1.0, 0.0, 3),
        "alpha zero ignores NaN": (nan, c, 0.0, 2.0, 3),
        "inner dimension zero": (a, c, 1.0, 2.0, 0),
    }.items():
        at = m.device(target)
        factors = m.host(np.array([alpha])), m.host(np.array([beta]))
        blas.dgemm(handle, 0, 0, 3, 3, k, factors[0], m.device(left), 3, m.device(b), 3, factors[1], at, 3)
        out[name] = m.read(at)
    return out


@case
def blas_half_products(m: Machine, rng: np.random.Generator) -> Result:
    blas, handle = m.module("cublas"), m.handle("cublas")
    a, b = matrix(rng, 16, 64, np.float16), matrix(rng, 64, 16, np.float16)
    at = m.device(np.zeros((16, 16), np.float16, order="F"))
    one, zero = m.host(np.ones(1, np.float32)), m.host(np.zeros(1, np.float32))
    blas.gemmEx(handle, 0, 0, 16, 16, 64, one, m.device(a), 2, 16, m.device(b), 2, 64, zero, at, 2, 16, 68, -1)
    return {"product": m.read(at).astype(np.float32)}


@case
def blas_batched_lu(m: Machine, rng: np.random.Generator) -> Result:
    blas, handle = m.module("cublas"), m.handle("cublas")
    batch = [matrix(rng, 3, 3), np.zeros((3, 3), order="F"), np.asfortranarray(np.diag([1.0, 2.0, 0.0]))]
    addresses = [m.device(item) for item in batch]
    table, pivots, info = (
        m.device(item) for item in (np.array(addresses, np.uint64), np.zeros(9, np.int32), np.zeros(3, np.int32))
    )
    blas.dgetrfBatched(handle, 3, table, 3, pivots, info, 3)
    inverses = [m.device(np.zeros((3, 3), order="F")) for _ in batch]
    out = {"info": m.read(info), "pivots": m.read(pivots)[:3], "factors": m.read(addresses[0])}
    blas.dgetriBatched(handle, 3, table, 3, pivots, m.device(np.array(inverses, np.uint64)), 3, info, 3)
    return {**out, "inverse info": m.read(info), "inverse": m.read(inverses[0])}


# --- cuSOLVER --------------------------------------------------------------------------------------------------------


@case
def solver_infos(m: Machine, rng: np.random.Generator) -> Result:
    solver, handle = m.module("cusolver"), m.handle("cusolver")
    out: Result = {}
    singular, indefinite = np.diag([1.0, 0.0, 2.0]), np.diag([4.0, -1.0, 2.0])
    at, pivots, info = m.device(singular), m.device(np.zeros(3, np.int32)), m.device(np.zeros(1, np.int32))
    work = m.device(np.zeros(4096))
    solver.dgetrf(handle, 3, 3, at, 3, work, pivots, info)
    out["singular LU"], out["pivots"] = m.read(info), m.read(pivots)
    solver.dpotrf(handle, 0, 3, m.device(indefinite), 3, work, 4096, info)
    out["indefinite Cholesky"] = m.read(info)
    b, x, n = m.device(np.ones((3, 1))), m.device(np.zeros((3, 1))), 3
    size = solver.ddgesv_bufferSize(handle, n, 1, at, 3, pivots, b, 3, x, 3, 0)
    again = m.device(singular)
    out["refined steps"] = np.array(
        solver.ddgesv(handle, n, 1, again, 3, pivots, b, 3, x, 3, m.device(np.zeros(size, np.int8)), size, info) < 0
    )
    out["wide gesvd"] = status(lambda: solver.dgesvd_bufferSize(handle, 2, 3))
    return out


def workspace(m: Machine, elements: int) -> tuple[int, int]:
    """Return doubles for a function's work, exactly as many as it said, and their number."""
    return m.device(np.zeros(max(1, elements))), elements


@case
def solver_qr(m: Machine, rng: np.random.Generator) -> Result:
    solver, handle = m.module("cusolver"), m.handle("cusolver")
    at, tau, info = m.device(matrix(rng, 5, 3)), m.device(np.zeros(3)), m.device(np.ones(1, np.int32))
    work = workspace(m, solver.dgeqrf_bufferSize(handle, 5, 3, at, 5))
    solver.dgeqrf(handle, 5, 3, at, 5, tau, *work, info)
    return {"qr": m.read(at), "tau": m.read(tau), "info": m.read(info)}


@case
def solver_singular_values(m: Machine, rng: np.random.Generator) -> Result:
    solver, handle = m.module("cusolver"), m.handle("cusolver")
    a, info = matrix(rng, 5, 3), m.device(np.ones(1, np.int32))
    out: Result = {}
    for job, columns in (("A", 5), ("S", 3)):
        at, w = m.device(a), m.device(np.zeros(3))
        u, vt = m.device(np.zeros((5, columns), order="F")), m.device(np.zeros((3, 3), order="F"))
        work = workspace(m, solver.dgesvd_bufferSize(handle, 5, 3))
        superdiagonal = m.device(np.zeros(2))
        solver.dgesvd(handle, ord(job), ord(job), 5, 3, at, 5, w, u, 5, vt, 3, *work, superdiagonal, info)
        out[f"{job} values"], out[f"{job} info"] = m.read(w), m.read(info)
        out[f"{job} product"] = m.read(u)[:, :3] * m.read(w) @ m.read(vt)
    return out


@case
def solver_eigenvalues(m: Machine, rng: np.random.Generator) -> Result:
    solver, handle = m.module("cusolver"), m.handle("cusolver")
    a = matrix(rng, 5, 3)
    at, w, info = m.device(np.asfortranarray(a.T @ a)), m.device(np.zeros(3)), m.device(np.ones(1, np.int32))
    work = workspace(m, solver.dsyevd_bufferSize(handle, 1, 1, 3, at, 3, w))
    solver.dsyevd(handle, 1, 1, 3, at, 3, w, *work, info)
    values, vectors = m.read(w), m.read(at)
    return {"values": values, "product": vectors * values @ vectors.T, "info": m.read(info)}


# --- cuSPARSE --------------------------------------------------------------------------------------------------------

SPARSE = np.array([[4.0, 0, 1, 0], [0, 0.5, 0, 2], [1, 0, 0, 0], [0, 3, -0.5, 5]])


def csr(m: Machine, dense: Array) -> tuple[int, int, int, int]:
    """Put a matrix into device memory as CSR; return the addresses of values, offsets and columns, and the count."""
    rows, columns = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int32)
    return m.device(dense[rows, columns]), m.device(offsets), m.device(columns.astype(np.int32)), len(rows)


@case
def sparse_product(m: Machine, rng: np.random.Generator) -> Result:
    sparse, handle = m.module("cusparse"), m.handle("cusparse")
    cancelling = np.array([[1.0, 0, 2, 0], [0, 0, 0, 0], [-4, 0, 0, 1], [0, 1, 0, 0]])
    descs = []
    for dense in (SPARSE, cancelling):
        values, offsets, columns, nnz = csr(m, dense)
        descs.append(sparse.createCsr(4, 4, nnz, offsets, columns, values, 2, 2, 0, 1))
    c_offsets = m.device(np.zeros(5, np.int32))
    descs.append(sparse.createCsr(4, 4, 0, c_offsets, 0, 0, 2, 2, 0, 1))
    work, one, zero = sparse.spGEMM_createDescr(), m.host(np.ones(1)), m.host(np.zeros(1))
    arguments = (handle, 0, 0, one, descs[0], descs[1], zero, descs[2], 1, 0, work)
    size = sparse.spGEMM_workEstimation(*arguments, 0, 0)
    first = m.device(np.zeros(max(size, 1), np.int8))
    sparse.spGEMM_workEstimation(*arguments, size, first)
    size = sparse.spGEMM_compute(*arguments, 0, 0)
    second = m.device(np.zeros(max(size, 1), np.int8))
    sparse.spGEMM_compute(*arguments, size, second)
    extents = np.zeros(3, np.int64)
    at = m.host(extents)
    sparse.spMatGetSize(descs[2], at, at + 8, at + 16)
    nnz = int(extents[2])
    columns, values = m.device(np.zeros(nnz, np.int32)), m.device(np.zeros(nnz))
    sparse.csrSetPointers(descs[2], c_offsets, columns, values)
    sparse.spGEMM_copy(*arguments)
    return {"offsets": m.read(c_offsets), "columns": m.read(columns), "values": m.read(values)}


@case
def sparse_factorisation(m: Machine, rng: np.random.Generator) -> Result:
    sparse, handle = m.module("cusparse"), m.handle("cusparse")
    descr = sparse.createMatDescr()
    out: Result = {}
    zero_pivot = SPARSE + np.diag([0, 0, 1.0, 0])
    zero_pivot[2, 2] = 0.25  # becomes zero: 0.25 - 1·1/4
    for name, dense in {"missing": SPARSE, "numeric": zero_pivot, "fine": zero_pivot + 2 * np.eye(4)}.items():
        values, offsets, columns, nnz = csr(m, dense)
        info, position = sparse.createCsrilu02Info(), np.full(1, -9, np.int32)
        arguments = (handle, 4, nnz, descr, values, offsets, columns, info)
        size = sparse.dcsrilu02_bufferSize(*arguments)
        buffer = m.device(np.zeros(max(size, 1), np.int8))
        sparse.dcsrilu02_analysis(*arguments, 0, buffer)
        at = m.host(position)
        out[name + " structural"] = status(lambda info=info, at=at: sparse.xcsrilu02_zeroPivot(handle, info, at))
        out[name + " structural position"] = position.copy()
        if name != "missing":
            sparse.dcsrilu02(*arguments, 0, buffer)
            out[name] = status(lambda info=info, at=at: sparse.xcsrilu02_zeroPivot(handle, info, at))
            out[name + " position"] = position.copy()
        if name == "fine":
            out["factors"] = m.read(values)
    return out


@case
def sparse_compression(m: Machine, rng: np.random.Generator) -> Result:
    sparse, handle, descr = m.module("cusparse"), m.handle("cusparse"), m.module("cusparse").createMatDescr()
    values, offsets, columns, nnz = csr(m, SPARSE)
    per_row = m.device(np.zeros(4, np.int32))
    total = sparse.dnnz_compress(handle, 4, descr, values, offsets, per_row, 0.5)  # two values lie on the bound
    kept, places, rows = (m.device(np.zeros(total, t)) for t in (np.float64, np.int32, np.int32))
    rows = m.device(np.zeros(5, np.int32))
    sparse.dcsr2csr_compress(handle, 4, 4, descr, values, columns, offsets, nnz, per_row, kept, places, rows, 0.5)
    return {
        "per row": m.read(per_row), "kept": m.read(kept), "columns": m.read(places), "offsets": m.read(rows),
    }  # fmt: skip


@case
def sparse_conversion(m: Machine, rng: np.random.Generator) -> Result:
    sparse, handle = m.module("cusparse"), m.handle("cusparse")
    dense = np.asfortranarray(SPARSE.copy())
    dense[2, 3], dense[0, 1] = np.nan, -0.0
    source = sparse.createDnMat(4, 4, 4, m.device(dense), 1, 1)
    offsets = m.device(np.zeros(5, np.int32))
    probe = sparse.createCsr(4, 4, 0, offsets, 0, 0, 2, 2, 0, 1)
    size = sparse.denseToSparse_bufferSize(handle, source, probe, 0)
    buffer = m.device(np.zeros(max(size, 1), np.int8))
    sparse.denseToSparse_analysis(handle, source, probe, 0, buffer)
    extents = np.zeros(3, np.int64)
    at = m.host(extents)
    sparse.spMatGetSize(probe, at, at + 8, at + 16)
    columns, values = m.device(np.zeros(extents[2], np.int32)), m.device(np.zeros(extents[2]))
    target = sparse.createCsr(4, 4, int(extents[2]), offsets, columns, values, 2, 2, 0, 1)
    sparse.denseToSparse_convert(handle, source, target, 0, buffer)
    return {"offsets": m.read(offsets), "columns": m.read(columns), "values": m.read(values)}


# --- Thrust, cuFFT ---------------------------------------------------------------------------------------------------


@case
def sorts(m: Machine, rng: np.random.Generator) -> Result:
    thrust = m.module("thrust")
    out: Result = {}
    inputs = {
        "f": np.array([3, np.nan, -0.0, 0.0, -np.inf, 0.0, -0.0, 1, np.inf], np.float32),
        "e": np.array([3, np.nan, -0.0, 0.0, -1, 0.0], np.float16),
        "F": np.array([1 + 2j, np.nan + 1j, 1 + np.nan * 1j, 1 + 1j, np.nan, 0, -0.0 + 0j], np.complex64),
        "?": np.array([True, False, True, False]),
        "B": rng.integers(0, 5, 12).astype(np.uint8),
    }
    for char, values in inputs.items():
        at = m.device(values)
        thrust.sort(np.dtype(char), at, 0, [len(values)])
        out[char + " sorted"] = m.read(at).view(np.uint8)
        at, index = m.device(values), m.device(np.zeros(len(values), np.int64))
        thrust.argsort(np.dtype(char), index, at, 0, [len(values)])
        out[char + " order"] = m.read(index)
    rows = rng.integers(0, 3, (3, 8)).astype(np.float64)
    at, index, keys = m.device(rows), m.device(np.zeros((3, 8), np.int64)), m.device(np.zeros(24, np.uint64))
    thrust.argsort(np.dtype("d"), index, at, keys, [3, 8])
    out["rows"] = m.read(index)
    index = m.device(np.zeros(8, np.int64))
    thrust.lexsort(np.dtype("d"), index, m.device(rows), 3, 8)
    out["lexsort"] = m.read(index)
    return out


@case
def transforms(m: Machine, rng: np.random.Generator) -> Result:
    cufft = m.module("cufft")
    spectrum = (rng.standard_normal(5) + 1j * rng.standard_normal(5)).astype(np.complex128)  # not Hermitian at 0 and 4
    out: Result = {}
    source, target = m.device(spectrum), m.device(np.zeros(8))
    plan = cufft.Plan1d(8, 108, 1)
    cufft.execZ2D(plan.handle, source, target)
    out["not Hermitian"] = m.read(target)
    a = rng.standard_normal((2, 4, 6)) + 0j
    source, target = m.device(a), m.device(np.zeros_like(a))
    plan = cufft.PlanNd((2, 4), (2, 4), 6, 1, (2, 4), 6, 1, 105, 6, "C", 1, None)
    cufft.execZ2Z(plan.handle, source, target, -1)
    out["outer axes"] = m.read(target)
    out["no length"] = status(lambda: cufft.Plan1d(0, 41, 1))
    out["no type"] = status(lambda: cufft.Plan1d(8, 40, 1))
    return out
