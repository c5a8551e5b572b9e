"""cuSOLVER's factorisations and solvers on LAPACK: LU, Cholesky, QR, LDLᵀ, and the solvers with refinement.

Matrices are column-major; each function writes LAPACK's ``info`` to the address that cuSOLVER calls ``devInfo``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from . import views_unsafe as raw
from .cublas_batched import lu_without_pivoting, row_numbers

Array = npt.NDArray[Any]

LOWER, LEFT = 0, 0
# What a solver with iterative refinement returns when the factorisation met a zero pivot.
SINGULAR_IN_LOW_PRECISION = -3


def routine(name: str, dtype: Any) -> Any:
    """Return SciPy's LAPACK routine for a dtype."""
    return lapack.get_lapack_funcs(name, dtype=np.dtype(dtype))


def report(address: int, info: int) -> None:
    """Write ``info``; a null address is not wanted."""
    if address:
        raw.write(address, info, np.int32)


def orthogonal(dtype: Any, kind: str) -> str:
    """Return LAPACK's name of a routine on orthogonal or, for complex types, unitary matrices: ``"gqr"``, ``"mqr"``."""
    return ("un" if np.dtype(dtype).kind == "c" else "or") + kind


# --- LU --------------------------------------------------------------------------------------------------------------


def getrf(dtype: type, handle: int, m: int, n: int, A: int, lda: int, work: int, devIpiv: int, devInfo: int) -> None:
    """P·A = L·U in place; a null pivot array means no pivoting."""
    a = raw.matrix(A, m, n, lda, dtype)
    if a.size == 0:
        report(devInfo, 0)
    elif devIpiv == 0:
        report(devInfo, lu_without_pivoting(a))
    else:
        a[...], pivots, info = routine("getrf", dtype)(a)
        raw.array(devIpiv, min(m, n), np.int32)[...] = pivots + 1
        report(devInfo, info)


def getrs(
    dtype: type, handle: int, trans: int, n: int, nrhs: int, A: int, lda: int, devIpiv: int, B: int, ldb: int,
    devInfo: int,
) -> None:  # fmt: skip
    """Solve op(A)·X = B from `getrf`'s factors."""
    info = 0
    if n > 0 and nrhs > 0:
        pivots = row_numbers(devIpiv, n) if devIpiv else np.arange(n, dtype=np.int32)
        b = raw.matrix(B, n, nrhs, ldb, dtype)
        b[...], info = routine("getrs", dtype)(raw.matrix(A, n, n, lda, dtype), pivots, b, trans=trans)
    report(devInfo, info)


# --- Cholesky --------------------------------------------------------------------------------------------------------


def _cholesky(dtype: type, uplo: int, n: int, address: int, lda: int) -> int:
    if n <= 0:
        return 0
    a = raw.matrix(address, n, n, lda, dtype)
    a[...], info = routine("potrf", dtype)(a, lower=uplo == LOWER, clean=0)
    return int(info)


def potrf(dtype: type, handle: int, uplo: int, n: int, A: int, lda: int, work: int, lwork: int, devInfo: int) -> None:
    """Cholesky factor of one triangle, in place; the other triangle stays."""
    report(devInfo, _cholesky(dtype, uplo, n, A, lda))


def potrf_batched(
    dtype: type, handle: int, uplo: int, n: int, Aarray: int, lda: int, infoArray: int, batchSize: int
) -> None:
    """Cholesky factors of matrices behind an array of pointers."""
    if batchSize > 0:
        infos = [_cholesky(dtype, uplo, n, address, lda) for address in raw.pointers(Aarray, batchSize)]
        raw.array(infoArray, batchSize, np.int32)[...] = infos


def _cholesky_solve(dtype: type, uplo: int, n: int, nrhs: int, a: int, lda: int, b: int, ldb: int) -> int:
    if n <= 0 or nrhs <= 0:
        return 0
    right = raw.matrix(b, n, nrhs, ldb, dtype)
    right[...], info = routine("potrs", dtype)(raw.matrix(a, n, n, lda, dtype), right, lower=uplo == LOWER)
    return int(info)


def potrs(
    dtype: type, handle: int, uplo: int, n: int, nrhs: int, A: int, lda: int, B: int, ldb: int, devInfo: int
) -> None:
    """Solve from a Cholesky factor."""
    report(devInfo, _cholesky_solve(dtype, uplo, n, nrhs, A, lda, B, ldb))


def potrs_batched(
    dtype: type, handle: int, uplo: int, n: int, nrhs: int, Aarray: int, lda: int, Barray: int, ldb: int,
    devInfo: int, batchSize: int,
) -> None:  # fmt: skip
    """Solve from Cholesky factors behind an array of pointers; one ``devInfo`` for all."""
    if batchSize > 0:
        for a, b in zip(raw.pointers(Aarray, batchSize), raw.pointers(Barray, batchSize), strict=True):
            _cholesky_solve(dtype, uplo, n, nrhs, a, lda, b, ldb)
    report(devInfo, 0)


# --- QR --------------------------------------------------------------------------------------------------------------


def geqrf(
    dtype: type, handle: int, m: int, n: int, A: int, lda: int, tau: int, work: int, lwork: int, devInfo: int
) -> None:
    """QR factors in place: R above, Householder vectors below the diagonal."""
    if m > 0 and n > 0:
        a = raw.matrix(A, m, n, lda, dtype)
        a[...], scales, _, _ = routine("geqrf", dtype)(a)
        raw.array(tau, min(m, n), dtype)[...] = scales
    report(devInfo, 0)


def orgqr(
    dtype: type, handle: int, m: int, n: int, k: int, A: int, lda: int, tau: int, work: int, lwork: int, devInfo: int
) -> None:
    """Form the first ``n`` columns of Q from ``k`` Householder vectors, in place."""
    if m > 0 and n > 0:
        a = raw.matrix(A, m, n, lda, dtype)
        if k > 0:
            a[...], _, _ = routine(orthogonal(dtype, "gqr"), dtype)(a, raw.array(tau, k, dtype))
        else:
            a[...] = np.eye(m, n)
    report(devInfo, 0)


def ormqr(
    dtype: type, handle: int, side: int, trans: int, m: int, n: int, k: int, A: int, lda: int, tau: int, C: int,
    ldc: int, work: int, lwork: int, devInfo: int,
) -> None:  # fmt: skip
    """Multiply C by Q or its transpose, from either side, in place."""
    if m > 0 and n > 0 and k > 0:
        vectors = raw.matrix(A, m if side == LEFT else n, k, lda, dtype)
        c = raw.matrix(C, m, n, ldc, dtype)
        operation = "N" if trans == 0 else "C" if np.dtype(dtype).kind == "c" else "T"
        multiply = routine(orthogonal(dtype, "mqr"), dtype)
        sides = "L" if side == LEFT else "R"
        work_size = max(1, 64 * (n if side == LEFT else m))
        c[...], _, _ = multiply(sides, operation, vectors, raw.array(tau, k, dtype), c, work_size)
    report(devInfo, 0)


def sytrf(
    dtype: type, handle: int, uplo: int, n: int, A: int, lda: int, ipiv: int, work: int, lwork: int, devInfo: int
) -> None:
    """Bunch–Kaufman factors of a symmetric matrix (also for complex types: not Hermitian)."""
    info = 0
    if n > 0:
        a = raw.matrix(A, n, n, lda, dtype)
        factors, pivots, info = routine("sytrf", dtype)(a, lower=uplo == LOWER)
        triangle = np.tri(n, dtype=bool) if uplo == LOWER else np.tri(n, dtype=bool).T
        a[triangle] = factors[triangle]
        if ipiv:
            raw.array(ipiv, n, np.int32)[...] = pivots
    report(devInfo, info)


# --- solvers with iterative refinement -------------------------------------------------------------------------------


def gesv(
    dtype: type, handle: int, n: int, nrhs: int, dA: int, ldda: int, dipiv: int, dB: int, lddb: int, dX: int,
    lddx: int, dwork: int, lwork: int, dInfo: int,
) -> int:  # fmt: skip
    """Solve A·X = B; returns the number of refinement steps: none, since the work is done in full precision."""
    if n <= 0 or nrhs <= 0:
        report(dInfo, 0)
        return 0
    a, b = raw.matrix(dA, n, n, ldda, dtype), raw.matrix(dB, n, nrhs, lddb, dtype)
    _, pivots, solution, info = routine("gesv", dtype)(a, b)
    if dipiv:
        raw.array(dipiv, n, np.int32)[...] = pivots + 1
    report(dInfo, info)
    if info > 0:
        return SINGULAR_IN_LOW_PRECISION
    raw.matrix(dX, n, nrhs, lddx, dtype)[...] = solution
    return 0


def gels(
    dtype: type, handle: int, m: int, n: int, nrhs: int, dA: int, ldda: int, dB: int, lddb: int, dX: int, lddx: int,
    dwork: int, lwork: int, dInfo: int,
) -> int:  # fmt: skip
    """Least squares of full rank, m ≥ n; returns the number of refinement steps."""
    if m <= 0 or n <= 0 or nrhs <= 0:
        report(dInfo, 0)
        return 0
    a, b = raw.matrix(dA, m, n, ldda, dtype), raw.matrix(dB, m, nrhs, lddb, dtype)
    _, solution, info = routine("gels", dtype)(a, b)
    report(dInfo, info)
    if info > 0:
        return SINGULAR_IN_LOW_PRECISION
    raw.matrix(dX, n, nrhs, lddx, dtype)[...] = solution[:n]
    return 0


def gesv_buffer_size(
    handle: int, n: int, nrhs: int, dA: int, ldda: int, dipiv: int, dB: int, lddb: int, dX: int, lddx: int, dwork: int
) -> int:
    """Return the workspace of `gesv` in bytes."""
    return 16


def gels_buffer_size(
    handle: int, m: int, n: int, nrhs: int, dA: int, ldda: int, dB: int, lddb: int, dX: int, lddx: int, dwork: int
) -> int:
    """Return the workspace of `gels` in bytes."""
    return 16
