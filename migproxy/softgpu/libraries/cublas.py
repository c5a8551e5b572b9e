"""cuBLAS on NumPy and SciPy: the counterpart of ``cupy_backends.cuda.libs.cublas``.

Matrices are column-major, scalars (alpha, beta, results) are addresses in either pointer mode, index results are
1-based: as in cuBLAS. Products in half precision and bfloat16 accumulate in float32, as the real library does with its
default compute types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from . import views_unsafe as raw
from .cublas_batched import getrf_batched, getri_batched, getrs_batched
from .cublas_gemm import gemm, gemm_batched, gemm_ex, gemm_strided, gemm_strided_ex, sgemm_ex
from .handles import Context, Handles, typed
from .names import complete
from .status import CUBLASError

Array = npt.NDArray[Any]

LOWER = 0
TYPES: dict[str, type] = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}
REAL: dict[str, type] = {"s": np.float32, "d": np.float64}
COMPLEX: dict[str, type] = {"c": np.complex64, "z": np.complex128}

_contexts: Handles[Context] = Handles(lambda handle: CUBLASError(1, f"no cuBLAS handle {handle:#x}"))


def check_status(status: int) -> None:
    """Raise `CUBLASError` for a status other than success."""
    if status != 0:
        raise CUBLASError(status)


def create() -> int:
    """Make a context and return its handle."""
    return _contexts.add(Context())


def destroy(handle: int) -> None:
    """Forget a context."""
    _contexts.pop(handle)


def getVersion(handle: int) -> int:
    """Return the version of cuBLAS that this module follows (12.9)."""
    return 120903 if _contexts[handle] else 0


def getPointerMode(handle: int) -> int:
    """Return where scalars lie; both places are the same memory here."""
    return _contexts[handle].pointer_mode


def setPointerMode(handle: int, mode: int) -> None:
    """Remember where scalars lie."""
    _contexts[handle].pointer_mode = mode


def setStream(handle: int, stream: int) -> None:
    """Remember the stream; the executor orders the calls."""
    _contexts[handle].stream = stream


def getStream(handle: int) -> int:
    """Return the stream that was set."""
    return _contexts[handle].stream


def setMathMode(handle: int, mode: int) -> None:
    """Remember the math mode; it changes nothing here."""
    _contexts[handle].math_mode = mode


def getMathMode(handle: int) -> int:
    """Return the math mode that was set."""
    return _contexts[handle].math_mode


def operate(matrix: Array, operation: int) -> Array:
    """Apply N (0), T (1) or C (2) to the last two axes."""
    if operation == 0:
        return matrix
    swapped = matrix.swapaxes(-1, -2)
    return swapped if operation == 1 else swapped.conj()


# --- level 1 ---------------------------------------------------------------------------------------------------------


def _amax(dtype: type, handle: int, n: int, x: int, incx: int, result: int) -> None:
    raw.write(result, _extreme(np.argmax, dtype, n, x, incx), np.int32)


def _amin(dtype: type, handle: int, n: int, x: int, incx: int, result: int) -> None:
    raw.write(result, _extreme(np.argmin, dtype, n, x, incx), np.int32)


def _extreme(choose: Any, dtype: type, n: int, x: int, incx: int) -> int:
    if n <= 0 or incx <= 0:
        return 0
    return int(choose(_absolute(raw.vector(x, n, incx, dtype)))) + 1


def _absolute(values: Array) -> Array:
    """|re| + |im|: what BLAS calls the absolute value of a complex number in asum, amax and amin."""
    if np.iscomplexobj(values):
        values = np.abs(values.real) + np.abs(values.imag)
    magnitude: Array = np.abs(values)
    return magnitude


def _asum(dtype: type, handle: int, n: int, x: int, incx: int, result: int) -> None:
    values = _absolute(raw.vector(x, n, incx, dtype)) if n > 0 and incx > 0 else np.zeros(0)
    raw.write(result, values.sum(), np.zeros(0, dtype).real.dtype)


def _nrm2(dtype: type, handle: int, n: int, x: int, incx: int, result: int) -> None:
    real: np.dtype[Any] = np.zeros(0, dtype).real.dtype
    if n <= 0 or incx <= 0:
        raw.write(result, 0, real)
        return
    values = np.ascontiguousarray(raw.vector(x, n, incx, dtype))
    raw.write(result, blas.get_blas_funcs("nrm2", (values,))(values), real)


def _axpy(dtype: type, handle: int, n: int, alpha: int, x: int, incx: int, y: int, incy: int) -> None:
    if n <= 0:
        return
    target = raw.vector(y, n, incy, dtype)
    target += raw.read(alpha, dtype) * raw.vector(x, n, incx, dtype)


def _dot(dtype: type, handle: int, n: int, x: int, incx: int, y: int, incy: int, result: int) -> None:
    raw.write(result, np.dot(raw.vector(x, max(n, 0), incx, dtype), raw.vector(y, max(n, 0), incy, dtype)), dtype)


def _dotc(dtype: type, handle: int, n: int, x: int, incx: int, y: int, incy: int, result: int) -> None:
    raw.write(result, np.vdot(raw.vector(x, max(n, 0), incx, dtype), raw.vector(y, max(n, 0), incy, dtype)), dtype)


def _scal(types: tuple[type, type], handle: int, n: int, alpha: int, x: int, incx: int) -> None:
    if n <= 0 or incx <= 0:
        return
    values = raw.vector(x, n, incx, types[0])
    values *= raw.read(alpha, types[1])


# --- level 2 ---------------------------------------------------------------------------------------------------------


def _update(target: Array, product: Array, beta: Any) -> None:
    """target = product + beta·target, without reading target where beta is zero (it may hold NaN)."""
    if beta == 0:
        target[...] = product
    else:
        target[...] = product + beta * target


def _gemv(
    dtype: type, handle: int, trans: int, m: int, n: int, alpha: int, A: int, lda: int, x: int, incx: int,
    beta: int, y: int, incy: int,
) -> None:  # fmt: skip
    if m <= 0 or n <= 0:
        return
    rows, columns = (m, n) if trans == 0 else (n, m)
    product = operate(raw.matrix(A, m, n, lda, dtype), trans) @ raw.vector(x, columns, incx, dtype)
    _update(raw.vector(y, rows, incy, dtype), raw.read(alpha, dtype) * product, raw.read(beta, dtype))


def _ger(dtype: type, handle: int, m: int, n: int, alpha: int, x: int, incx: int, y: int, incy: int, A: int, lda: int) -> None:  # fmt: skip  # noqa: E501
    if m <= 0 or n <= 0:
        return
    target = raw.matrix(A, m, n, lda, dtype)
    target += raw.read(alpha, dtype) * np.outer(raw.vector(x, m, incx, dtype), raw.vector(y, n, incy, dtype))


def _gerc(dtype: type, handle: int, m: int, n: int, alpha: int, x: int, incx: int, y: int, incy: int, A: int, lda: int) -> None:  # fmt: skip  # noqa: E501
    if m <= 0 or n <= 0:
        return
    target = raw.matrix(A, m, n, lda, dtype)
    target += raw.read(alpha, dtype) * np.outer(raw.vector(x, m, incx, dtype), raw.vector(y, n, incy, dtype).conj())


def _sbmv(
    dtype: type, handle: int, uplo: int, n: int, k: int, alpha: int, A: int, lda: int, x: int, incx: int,
    beta: int, y: int, incy: int,
) -> None:  # fmt: skip
    if n <= 0:
        return
    band = raw.matrix(A, k + 1, n, lda, dtype)
    full: Array = np.zeros((n, n), dtype)
    for distance in range(min(k, n - 1) + 1):
        # Row `distance` of a lower band is that subdiagonal; of an upper one, row k-distance, shifted right.
        diagonal = band[distance, : n - distance] if uplo == LOWER else band[k - distance, distance:]
        index = np.arange(n - distance)
        full[index + distance, index] = diagonal
        full[index, index + distance] = diagonal
    product = raw.read(alpha, dtype) * (full @ raw.vector(x, n, incx, dtype))
    _update(raw.vector(y, n, incy, dtype), product, raw.read(beta, dtype))


# --- level 3 and BLAS-like -------------------------------------------------------------------------------------------


def _trsm(
    dtype: type, handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int, alpha: int,
    Aarray: int, lda: int, Barray: int, ldb: int,
) -> None:  # fmt: skip
    if m <= 0 or n <= 0:
        return
    _triangular_solve(dtype, side, uplo, trans, diag, m, n, raw.read(alpha, dtype), Aarray, lda, Barray, ldb)


def _triangular_solve(
    dtype: type, side: int, uplo: int, trans: int, diag: int, m: int, n: int, alpha: Any, a: int, lda: int, b: int,
    ldb: int,
) -> None:  # fmt: skip
    order = m if side == 0 else n
    right = raw.matrix(b, m, n, ldb, dtype)
    solve = blas.get_blas_funcs("trsm", dtype=np.dtype(dtype))
    right[...] = solve(
        alpha, raw.matrix(a, order, order, lda, dtype), right, side=side, lower=uplo == LOWER, trans_a=trans, diag=diag
    )


def _trsm_batched(
    dtype: type, handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int, alpha: int,
    Aarray: int, lda: int, Barray: int, ldb: int, batchCount: int,
) -> None:  # fmt: skip
    if m <= 0 or n <= 0 or batchCount <= 0:
        return
    factor = raw.read(alpha, dtype)
    for a, b in zip(raw.pointers(Aarray, batchCount), raw.pointers(Barray, batchCount), strict=True):
        _triangular_solve(dtype, side, uplo, trans, diag, m, n, factor, a, lda, b, ldb)


def _triangle(n: int, uplo: int) -> Array:
    return np.tri(n, dtype=bool) if uplo == LOWER else np.tri(n, dtype=bool).T


def _syrk(
    dtype: type, handle: int, uplo: int, trans: int, n: int, k: int, alpha: int, A: int, lda: int, beta: int,
    C: int, ldc: int,
) -> None:  # fmt: skip
    if n <= 0:
        return
    a = raw.matrix(A, n, k, lda, dtype) if trans == 0 else raw.matrix(A, k, n, lda, dtype).T
    product = raw.read(alpha, dtype) * (a @ a.T)
    factor, target, mask = raw.read(beta, dtype), raw.matrix(C, n, n, ldc, dtype), _triangle(n, uplo)
    target[mask] = product[mask] if factor == 0 else product[mask] + factor * target[mask]


def _geam(
    dtype: type, handle: int, transa: int, transb: int, m: int, n: int, alpha: int, A: int, lda: int, beta: int,
    B: int, ldb: int, C: int, ldc: int,
) -> None:  # fmt: skip
    if m <= 0 or n <= 0:
        return
    total: Array = np.zeros((m, n), dtype)
    for factor_at, operation, address, ld in ((alpha, transa, A, lda), (beta, transb, B, ldb)):
        factor = raw.read(factor_at, dtype)
        if factor != 0:  # a matrix with a zero factor is not read: callers pass a null pointer for it
            shape = (m, n) if operation == 0 else (n, m)
            total += factor * operate(raw.matrix(address, *shape, ld, dtype), operation)
    raw.matrix(C, m, n, ldc, dtype)[...] = total


def _dgmm(dtype: type, handle: int, mode: int, m: int, n: int, A: int, lda: int, x: int, incx: int, C: int, ldc: int) -> None:  # fmt: skip  # noqa: E501
    if m <= 0 or n <= 0:
        return
    a = raw.matrix(A, m, n, lda, dtype)
    diagonal = raw.vector(x, m if mode == 0 else n, incx, dtype)
    raw.matrix(C, m, n, ldc, dtype)[...] = diagonal[:, None] * a if mode == 0 else a * diagonal


def _packed(n: int, uplo: int) -> tuple[Array, Array]:
    """Return the (rows, columns) of a packed triangle's elements in storage order: column by column."""
    columns, rows = np.nonzero(_triangle(n, uplo).T)
    return rows, columns


def _tpttr(dtype: type, handle: int, uplo: int, n: int, AP: int, A: int, lda: int) -> None:
    if n > 0:
        raw.matrix(A, n, n, lda, dtype)[_packed(n, uplo)] = raw.array(AP, n * (n + 1) // 2, dtype)


def _trttp(dtype: type, handle: int, uplo: int, n: int, A: int, lda: int, AP: int) -> None:
    if n > 0:
        raw.array(AP, n * (n + 1) // 2, dtype)[...] = raw.matrix(A, n, n, lda, dtype)[_packed(n, uplo)]


def _publish(namespace: dict[str, Any]) -> None:
    """Make the typed names: one line per family of cuBLAS functions."""

    def publish(function: Any, pattern: str, types: dict[str, type]) -> None:
        typed(namespace, function, {pattern.format(letter): dtype for letter, dtype in types.items()})

    publish(_amax, "i{}amax", TYPES)
    publish(_amin, "i{}amin", TYPES)
    publish(_asum, "{}asum", REAL)
    publish(_nrm2, "{}nrm2", REAL)
    typed(namespace, _asum, {"scasum": np.complex64, "dzasum": np.complex128})
    typed(namespace, _nrm2, {"scnrm2": np.complex64, "dznrm2": np.complex128})
    publish(_axpy, "{}axpy", TYPES)
    publish(_dot, "{}dot", REAL)
    publish(_dot, "{}dotu", COMPLEX)
    publish(_dotc, "{}dotc", COMPLEX)
    typed(namespace, _scal, {f"{letter}scal": (dtype, dtype) for letter, dtype in TYPES.items()})
    typed(namespace, _scal, {"csscal": (np.complex64, np.float32), "zdscal": (np.complex128, np.float64)})
    publish(_gemv, "{}gemv", TYPES)
    publish(_ger, "{}ger", REAL)
    publish(_ger, "{}geru", COMPLEX)
    publish(_gerc, "{}gerc", COMPLEX)
    publish(_sbmv, "{}sbmv", REAL)
    publish(gemm, "{}gemm", TYPES)
    publish(gemm_batched, "{}gemmBatched", TYPES)
    publish(gemm_strided, "{}gemmStridedBatched", TYPES)
    publish(_trsm, "{}trsm", TYPES)
    publish(_trsm_batched, "{}trsmBatched", TYPES)
    publish(_syrk, "{}syrk", TYPES)
    publish(_geam, "{}geam", TYPES)
    publish(_dgmm, "{}dgmm", TYPES)
    publish(_tpttr, "{}tpttr", REAL)
    publish(_trttp, "{}trttp", REAL)
    publish(getrf_batched, "{}getrfBatched", TYPES)
    publish(getrs_batched, "{}getrsBatched", TYPES)
    publish(getri_batched, "{}getriBatched", TYPES)
    namespace.update(sgemmEx=sgemm_ex, gemmEx=gemm_ex, gemmStridedBatchedEx=gemm_strided_ex)


_publish(globals())
REFUSED = complete(globals(), "cublas", CUBLASError)
