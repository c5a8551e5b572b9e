"""Matrix products of cuBLAS: plain, batched, strided, and with mixed types (``*Ex``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import views_unsafe as raw
from .datatypes import C_16F, C_32F, C_64F, DATA_TYPES, R_16BF, R_16F, R_32F, R_32I, R_64F, store, widen
from .status import CUBLASError

Array = npt.NDArray[Any]

INVALID_VALUE, NOT_SUPPORTED = 7, 15
# cublasComputeType_t → what is computed with; the "fast" modes promise less than float32, so float32 serves them.
COMPUTE = {64: R_16F, 65: R_16F, 68: R_32F, 69: R_32F, 74: R_32F, 75: R_32F, 77: R_32F, 70: R_64F, 71: R_64F, 72: R_32I,
           73: R_32I}  # fmt: skip
COMPLEX_TYPES = (C_32F, C_64F, C_16F)


def stored_shape(rows: int, columns: int, operation: int) -> tuple[int, int]:
    """Return the shape in memory of a matrix whose op() is rows × columns."""
    if operation not in (0, 1, 2):
        raise CUBLASError(INVALID_VALUE, f"operation {operation}")
    return (rows, columns) if operation == 0 else (columns, rows)


def multiply(target: Array, alpha: Any, a: Array, op_a: int, b: Array, op_b: int, beta: Any) -> None:
    """target = alpha·op(a)·op(b) + beta·target on (batches of) column-major views of one dtype.

    The work is done on the transposes, which are row-major: that is the layout for which NumPy calls BLAS without
    copying, and the only one in which it writes into ``out`` directly.
    """
    # op(x) transposed: "N" is the swapped view, "T" is the stored matrix itself.
    at = a.swapaxes(-1, -2) if op_a == 0 else a if op_a == 1 else a.conj()
    bt = b.swapaxes(-1, -2) if op_b == 0 else b if op_b == 1 else b.conj()
    out = target.swapaxes(-1, -2)
    if alpha == 1 and beta == 0:
        np.matmul(bt, at, out=out)
        return
    product = np.matmul(bt, at) if alpha != 0 else np.zeros(out.shape, out.dtype)
    if alpha != 1:
        product *= alpha
    if beta == 0:
        out[...] = product
    else:
        out[...] = product + beta * out


def gemm(
    dtype: type, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int,
    B: int, ldb: int, beta: int, C: int, ldc: int,
) -> None:  # fmt: skip
    """C = alpha·op(A)·op(B) + beta·C."""
    if m <= 0 or n <= 0:
        return
    a = raw.matrix(A, *stored_shape(m, k, transa), lda, dtype)
    b = raw.matrix(B, *stored_shape(k, n, transb), ldb, dtype)
    target = raw.matrix(C, m, n, ldc, dtype)
    multiply(target, raw.read(alpha, dtype), a, transa, b, transb, raw.read(beta, dtype))


def gemm_batched(
    dtype: type, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, Aarray: int, lda: int,
    Barray: int, ldb: int, beta: int, Carray: int, ldc: int, batchCount: int,
) -> None:  # fmt: skip
    """One product per entry of three arrays of pointers."""
    if m <= 0 or n <= 0 or batchCount <= 0:
        return
    tables = (raw.pointers(table, batchCount) for table in (Aarray, Barray, Carray))
    for a, b, c in zip(*tables, strict=True):
        gemm(dtype, handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)


def gemm_strided(
    dtype: type, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int,
    strideA: int, B: int, ldb: int, strideB: int, beta: int, C: int, ldc: int, strideC: int, batchCount: int,
) -> None:  # fmt: skip
    """One product per matrix of three strided batches; a stride of zero shares one matrix."""
    if m <= 0 or n <= 0 or batchCount <= 0:
        return
    a = raw.matrices(A, batchCount, strideA, *stored_shape(m, k, transa), lda, dtype)
    b = raw.matrices(B, batchCount, strideB, *stored_shape(k, n, transb), ldb, dtype)
    target = raw.matrices(C, batchCount, strideC, m, n, ldc, dtype)
    multiply(target, raw.read(alpha, dtype), a, transa, b, transb, raw.read(beta, dtype))


def scalar_type(compute: int, c_type: int) -> np.dtype[Any]:
    """Return the type of alpha and beta: the compute type, complex where C is.

    Parameters
    ----------
    compute : int
        A ``cublasComputeType_t`` (64 and up) or, as before CUDA 11, a ``cudaDataType``.
    c_type : int
        The ``cudaDataType`` of C.
    """
    base = COMPUTE.get(compute, compute)
    if base not in DATA_TYPES:
        raise CUBLASError(NOT_SUPPORTED, f"compute type {compute}")
    if c_type in COMPLEX_TYPES:
        return np.dtype(np.complex128 if base in (R_64F, C_64F) else np.complex64)
    return DATA_TYPES[base].storage


def _load(
    address: int, count: int, stride: int, shape: tuple[int, int], ld: int, cuda_type: int, working: np.dtype[Any]
) -> Array:
    if cuda_type not in DATA_TYPES:
        raise CUBLASError(NOT_SUPPORTED, f"matrix type {cuda_type}")
    stored = raw.matrices(address, count, stride, *shape, ld, DATA_TYPES[cuda_type].storage)
    return widen(stored, cuda_type).astype(working, copy=False)


def gemm_strided_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
    strideA: int, B: int, Btype: int, ldb: int, strideB: int, beta: int, C: int, Ctype: int, ldc: int, strideC: int,
    batchCount: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """Strided batches of products with mixed types."""
    if m <= 0 or n <= 0 or batchCount <= 0:
        return
    if Ctype not in DATA_TYPES:
        raise CUBLASError(NOT_SUPPORTED, f"matrix type {Ctype}")
    scalar = scalar_type(computeType, Ctype)
    # Half-precision compute types accumulate in float32 here: closer than the GPU's result, never further.
    working = np.dtype(np.float32) if scalar == np.float16 else scalar
    a = _load(A, batchCount, strideA, stored_shape(m, k, transa), lda, Atype, working)
    b = _load(B, batchCount, strideB, stored_shape(k, n, transb), ldb, Btype, working)
    factor = raw.read(alpha, scalar).astype(working)
    share = raw.read(beta, scalar).astype(working)
    target = raw.matrices(C, batchCount, strideC, m, n, ldc, DATA_TYPES[Ctype].storage)
    if DATA_TYPES[Ctype].storage == working and Ctype != R_16BF:
        multiply(target, factor, a, transa, b, transb, share)
        return
    # C is narrower than what is computed with: accumulate aside, in the same memory order, and round once.
    wide = np.empty((batchCount, n, m), working).swapaxes(-1, -2)
    if share != 0:
        wide[...] = widen(target, Ctype)
    multiply(wide, factor, a, transa, b, transb, share)
    store(target, wide, Ctype)


def gemm_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int, B: int,
    Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """One product with mixed types."""
    gemm_strided_ex(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1,
        computeType, algo,
    )  # fmt: skip


def sgemm_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int, B: int,
    Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int,
) -> None:  # fmt: skip
    """One product of narrow matrices, computed in float32."""
    gemm_ex(handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, R_32F, -1)
