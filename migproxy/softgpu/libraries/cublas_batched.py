"""cuBLAS's batched LU: ``getrfBatched``, ``getrsBatched``, ``getriBatched`` on arrays of pointers.

Pivots are 1-based row numbers, as LAPACK's; a null pivot array means no pivoting, which LAPACK does not have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from . import views_unsafe as raw

Array = npt.NDArray[Any]


def lu_without_pivoting(a: Array) -> int:
    """Factor a square matrix in place; return 0, or the 1-based position of the first zero on U's diagonal."""
    first = 0
    for k in range(a.shape[0]):
        pivot = a[k, k]
        if pivot == 0:
            first = first or k + 1
            continue
        a[k + 1 :, k] /= pivot
        a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return first


def getrf_batched(
    dtype: type, handle: int, n: int, Aarray: int, lda: int, PivotArray: int, infoArray: int, batchSize: int
) -> None:
    """P·A = L·U of each matrix, in place."""
    if n <= 0 or batchSize <= 0:
        return
    factor = lapack.get_lapack_funcs("getrf", dtype=np.dtype(dtype))
    information = raw.array(infoArray, batchSize, np.int32)
    for index, address in enumerate(raw.pointers(Aarray, batchSize)):
        matrix = raw.matrix(address, n, n, lda, dtype)
        if PivotArray == 0:
            information[index] = lu_without_pivoting(matrix)
            continue
        lu, pivots, info = factor(matrix)
        matrix[...] = lu
        raw.array(PivotArray + 4 * n * index, n, np.int32)[...] = pivots + 1
        information[index] = info


def _pivots(address: int, n: int, index: int) -> Array:
    """Return 0-based pivots of one matrix; without a pivot array no row moves."""
    if address == 0:
        return np.arange(n, dtype=np.int32)
    return row_numbers(address + 4 * n * index, n)


def row_numbers(address: int, n: int) -> Array:
    """Return a pivot array as 0-based row numbers; LAPACK would follow any number out of the matrix.

    Raises
    ------
    InvalidLayout
        For a number that is no row.
    """
    rows = raw.array(address, n, np.int32) - 1
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise raw.InvalidLayout(f"pivots {rows.min() + 1} to {rows.max() + 1} of {n} rows")
    return rows


def getrs_batched(
    dtype: type, handle: int, trans: int, n: int, nrhs: int, Aarray: int, lda: int, devIpiv: int, Barray: int,
    ldb: int, info: int, batchSize: int,
) -> int:  # fmt: skip
    """Solve op(A)·X = B from the factors of `getrf_batched`; ``info`` is a host integer about the arguments only."""
    raw.write(info, 0, np.int32)
    if n <= 0 or nrhs <= 0 or batchSize <= 0:
        return 0
    solve = lapack.get_lapack_funcs("getrs", dtype=np.dtype(dtype))
    addresses = zip(raw.pointers(Aarray, batchSize), raw.pointers(Barray, batchSize), strict=True)
    for index, (a, b) in enumerate(addresses):
        right = raw.matrix(b, n, nrhs, ldb, dtype)
        right[...], _ = solve(raw.matrix(a, n, n, lda, dtype), _pivots(devIpiv, n, index), right, trans=trans)
    return 0


def getri_batched(
    dtype: type, handle: int, n: int, Aarray: int, lda: int, PivotArray: int, Carray: int, ldc: int, infoArray: int,
    batchSize: int,
) -> None:  # fmt: skip
    """Invert each matrix from its factors, out of place."""
    if n <= 0 or batchSize <= 0:
        return
    invert = lapack.get_lapack_funcs("getri", dtype=np.dtype(dtype))
    information = raw.array(infoArray, batchSize, np.int32)
    addresses = zip(raw.pointers(Aarray, batchSize), raw.pointers(Carray, batchSize), strict=True)
    for index, (a, c) in enumerate(addresses):
        inverse, info = invert(raw.matrix(a, n, n, lda, dtype), _pivots(PivotArray, n, index))
        raw.matrix(c, n, n, ldc, dtype)[...] = inverse
        information[index] = info
