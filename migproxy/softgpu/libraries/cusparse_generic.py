"""cuSPARSE's generic API on SciPy: products, sums, triangular solver and conversions of described matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import spsolve_triangular

from . import cusparse_types as types
from . import datatypes
from . import views_unsafe as raw
from .cusparse_descriptors import sparse_matrix
from .cusparse_types import (
    FORMAT_COO,
    FORMAT_CSC,
    FORMAT_CSR,
    INVALID_VALUE,
    NOT_SUPPORTED,
    SpMat,
    index_type,
    load,
    operate,
    scalar,
)
from .handles import Handles
from .status import CuSparseError

Array = npt.NDArray[Any]


class _Work:
    """What a multi-step operation carries from one step to the next."""

    def __init__(self) -> None:
        self.result: Any = None


_works: Handles[_Work] = Handles(lambda handle: CuSparseError(INVALID_VALUE, f"no cuSPARSE descriptor {handle:#x}"))


# --- products with dense operands ------------------------------------------------------------------------------------


def _accumulate(target: Array, data_type: int, product: Array, beta: Any) -> None:
    """target = product + beta·target, without reading target where beta is zero."""
    if beta != 0:
        product = product + beta * datatypes.widen(target, data_type)
    datatypes.store(target, product, data_type)


def spVV_bufferSize(handle: int, opX: int, vecX: int, vecY: int, result: int, computeType: int) -> int:
    """Return the workspace of `spVV`."""
    return 1


def spVV(handle: int, opX: int, vecX: int, vecY: int, result: int, computeType: int, externalBuffer: int) -> None:
    """Dot product of a sparse and a dense vector."""
    x, y = types.sparse_vectors[vecX], types.dense_vectors[vecY]
    indices = raw.array(x.indices, x.nnz, index_type(x.index_kind)) - x.base
    values = load(x.values, x.nnz, x.data_type)
    dense = datatypes.widen(y.stored(), y.data_type)[indices]
    total = np.dot(values.conj() if opX == 2 else values, dense)
    raw.write(result, total, datatypes.DATA_TYPES[computeType].storage)


def gather(handle: int, vecY: int, vecX: int) -> None:
    """Copy a dense vector's elements at a sparse vector's indices into its values."""
    x, y = types.sparse_vectors[vecX], types.dense_vectors[vecY]
    indices = raw.array(x.indices, x.nnz, index_type(x.index_kind)) - x.base
    raw.array(x.values, x.nnz, types.dtype_of(x.data_type))[...] = y.stored()[indices]


def spMV_bufferSize(
    handle: int, opA: int, alpha: int, matA: int, vecX: int, beta: int, vecY: int, computeType: int, alg: int
) -> int:
    """Return the workspace of `spMV`."""
    return 1


def spMV(
    handle: int, opA: int, alpha: int, matA: int, vecX: int, beta: int, vecY: int, computeType: int, alg: int,
    externalBuffer: int,
) -> None:  # fmt: skip
    """y = alpha·op(A)·x + beta·y."""
    x, y = types.dense_vectors[vecX], types.dense_vectors[vecY]
    product = operate(sparse_matrix(matA).matrix(), opA) @ datatypes.widen(x.stored(), x.data_type)
    _accumulate(y.stored(), y.data_type, scalar(alpha, computeType) * product, scalar(beta, computeType))


def spMM_bufferSize(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int, alg: int
) -> int:
    """Return the workspace of `spMM`."""
    return 1


def spMM(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int,
    alg: int, externalBuffer: int,
) -> None:  # fmt: skip
    """C = alpha·op(A)·op(B) + beta·C with dense B and C, which may be batches."""
    a, b, c = operate(sparse_matrix(matA).matrix(), opA), types.dense_matrices[matB], types.dense_matrices[matC]
    for index in range(max(1, c.batch)):
        right = operate(datatypes.widen(b.stored(index if b.batch > 1 else 0), b.data_type), opB)
        product = scalar(alpha, computeType) * (a @ right)
        _accumulate(c.stored(index), c.data_type, product, scalar(beta, computeType))


# --- sparse results --------------------------------------------------------------------------------------------------


def _keys(matrix: Any) -> tuple[Array, Array]:
    """Return a CSR matrix's entries as sorted keys row·columns + column, and their values."""
    matrix = matrix.tocsr()
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    keys = rows * matrix.shape[1] + matrix.indices
    order = np.argsort(keys, kind="stable")
    return keys[order], matrix.data[order]


def _from_keys(keys: Array, values: Array, shape: tuple[int, int]) -> Any:
    rows, columns = np.divmod(keys, max(shape[1], 1))
    offsets = np.searchsorted(rows, np.arange(shape[0] + 1))
    return sparse.csr_array((values, columns, offsets), shape)


def structural_sum(a: Any, b: Any, alpha: Any, beta: Any) -> Any:
    """Return alpha·A + beta·B with an entry wherever A or B has one, even where they cancel; columns are sorted."""
    keys_a, values_a = _keys(a)
    keys_b, values_b = _keys(b)
    keys = np.union1d(keys_a, keys_b)
    values = np.zeros(len(keys), np.result_type(values_a, values_b))
    np.add.at(values, np.searchsorted(keys, keys_a), alpha * values_a)
    np.add.at(values, np.searchsorted(keys, keys_b), beta * values_b)
    return _from_keys(keys, values, a.shape)


#: "Insufficient resources", and the most entries that a product may have: more do not fit 32-bit offsets.
INSUFFICIENT_RESOURCES, MOST_ENTRIES = 11, (1 << 31) - 1


def structural_product(a: Any, b: Any, alpha: Any) -> Any:
    """Return alpha·A·B with an entry wherever the patterns meet, even where terms cancel; columns are sorted."""
    a, b = a.tocsr(), b.tocsr()
    most = min(int(np.diff(b.indptr)[a.indices].sum(dtype=np.int64)), a.shape[0] * b.shape[1])
    if most > MOST_ENTRIES:
        raise CuSparseError(INSUFFICIENT_RESOURCES, f"a product of up to {most} entries")
    ones = [sparse.csr_array((np.ones(m.nnz, np.int64), m.indices, m.indptr), m.shape) for m in (a, b)]
    keys, _ = _keys(ones[0] @ ones[1])
    keys_ab, values_ab = _keys(a @ b)
    values = np.zeros(len(keys), values_ab.dtype)
    values[np.searchsorted(keys, keys_ab)] = alpha * values_ab
    return _from_keys(keys, values, (a.shape[0], b.shape[1]))


def _write_sparse(result: Any, target: SpMat) -> None:
    """Write a SciPy CSR matrix into a descriptor's arrays in its own format."""
    if target.layout == FORMAT_CSC:
        compressed = result.tocsc()
        compressed.sort_indices()
    else:
        compressed = result
    nnz = compressed.nnz
    if target.layout == FORMAT_COO:
        rows = np.repeat(np.arange(target.rows), np.diff(compressed.indptr))
        raw.array(target.offsets, nnz, index_type(target.offsets_type))[...] = rows + target.base
    else:
        offsets = raw.array(target.offsets, len(compressed.indptr), index_type(target.offsets_type))
        offsets[...] = compressed.indptr + target.base
    raw.array(target.indices, nnz, index_type(target.indices_type))[...] = compressed.indices + target.base
    datatypes.store(raw.array(target.values, nnz, types.dtype_of(target.data_type)), compressed.data, target.data_type)


def _refuse_operations(*operations: int) -> None:
    if any(operations):
        raise CuSparseError(NOT_SUPPORTED, "cusparse: a sparse product or sum of transposed operands is not supported")


def spGEMM_createDescr() -> int:
    """Make what `spGEMM_compute` and `spGEMM_copy` share."""
    return _works.add(_Work())


def spGEMM_destroyDescr(descr: int) -> None:
    """Forget it."""
    _works.pop(descr)


def spGEMM_workEstimation(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int,
    alg: int, spgemmDescr: int, bufferSize: int, externalBuffer1: int,
) -> int:  # fmt: skip
    """Return the first workspace's size."""
    _refuse_operations(opA, opB)
    return 1 if _works[spgemmDescr] else 0


def spGEMM_compute(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int,
    alg: int, spgemmDescr: int, bufferSize: int, externalBuffer2: int,
) -> int:  # fmt: skip
    """Return the second workspace's size or, given it, multiply and set C's number of entries."""
    _refuse_operations(opA, opB)
    work = _works[spgemmDescr]
    if externalBuffer2:
        a, b = sparse_matrix(matA).matrix(), sparse_matrix(matB).matrix()
        work.result = structural_product(a, b, scalar(alpha, computeType))
        sparse_matrix(matC).nnz = work.result.nnz
    return 1


def spGEMM_copy(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int,
    alg: int, spgemmDescr: int,
) -> None:  # fmt: skip
    """Write the product into C's arrays."""
    work, target = _works[spgemmDescr], sparse_matrix(matC)
    if work.result is None:
        raise CuSparseError(INVALID_VALUE, "spGEMM_copy before spGEMM_compute")
    share = scalar(beta, computeType)
    result = work.result if share == 0 else structural_sum(work.result, target.matrix(), 1, share)
    _write_sparse(result, target)


def spGEAM_createDescr() -> int:
    """Make what the steps of `spGEAM` share."""
    return _works.add(_Work())


def spGEAM_destroyDescr(descr: int) -> None:
    """Forget it."""
    _works.pop(descr)


def spGEAM_bufferSize(
    handle: int, opA: int, opB: int, alpha: int, matA: int, beta: int, matB: int, matC: int, computeType: int,
    alg: int, spgeamDescr: int,
) -> int:  # fmt: skip
    """Return the workspace of `spGEAM`."""
    _refuse_operations(opA, opB)
    return 1


def spGEAM_nnz(
    handle: int, opA: int, opB: int, alpha: int, matA: int, beta: int, matB: int, matC: int, computeType: int,
    alg: int, spgeamDescr: int, externalBuffer: int,
) -> None:  # fmt: skip
    """Add, set C's number of entries and write its row offsets."""
    _refuse_operations(opA, opB)
    a, b, target = sparse_matrix(matA).matrix(), sparse_matrix(matB).matrix(), sparse_matrix(matC)
    result = structural_sum(a, b, scalar(alpha, computeType), scalar(beta, computeType))
    _works[spgeamDescr].result = result
    target.nnz = result.nnz
    raw.array(target.offsets, target.rows + 1, index_type(target.offsets_type))[...] = result.indptr + target.base


def spGEAM(
    handle: int, opA: int, opB: int, alpha: int, matA: int, beta: int, matB: int, matC: int, computeType: int,
    alg: int, spgeamDescr: int, externalBuffer: int,
) -> None:  # fmt: skip
    """Write the sum into C's arrays."""
    work = _works[spgeamDescr]
    if work.result is None:
        raise CuSparseError(INVALID_VALUE, "spGEAM before spGEAM_nnz")
    _write_sparse(work.result, sparse_matrix(matC))


# --- triangular solver -----------------------------------------------------------------------------------------------


def spSM_createDescr() -> int:
    """Make what the steps of `spSM_solve` share."""
    return _works.add(_Work())


def spSM_destroyDescr(descr: int) -> None:
    """Forget it."""
    _works.pop(descr)


def spSM_bufferSize(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, matC: int, computeType: int, alg: int,
    spsmDescr: int,
) -> int:  # fmt: skip
    """Return the workspace of the solver."""
    return 1 if _works[spsmDescr] else 0


def spSM_analysis(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, matC: int, computeType: int, alg: int,
    spsmDescr: int, externalBuffer: int,
) -> None:  # fmt: skip
    """Look at the matrix: nothing is to be prepared here."""
    sparse_matrix(matA)


def spSM_solve(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, matC: int, computeType: int, alg: int,
    spsmDescr: int, externalBuffer: int = 0,
) -> None:  # fmt: skip
    """Solve op(A)·C = alpha·op(B) with the triangle of A that its attributes name."""
    a, b, c = sparse_matrix(matA), types.dense_matrices[matB], types.dense_matrices[matC]
    lower, unit = (a.fill_mode or 0) == 0, (a.diag_type or 0) == 1
    matrix = sparse.csr_array(a.matrix())
    triangle = operate(sparse.tril(matrix) if lower else sparse.triu(matrix), opA)
    right = scalar(alpha, computeType) * operate(datatypes.widen(b.stored(), b.data_type), opB)
    try:
        solution = spsolve_triangular(
            sparse.csr_array(triangle), np.array(right), lower=lower == (opA == 0), unit_diagonal=unit
        )
    except np.linalg.LinAlgError:
        # A zero on the diagonal: the GPU divides by it; what becomes of the solution is not a number.
        solution = np.full(c.stored().shape, np.nan)
    datatypes.store(c.stored(), solution, c.data_type)


# --- conversions -----------------------------------------------------------------------------------------------------


def sparseToDense_bufferSize(handle: int, matA: int, matB: int, alg: int) -> int:
    """Return the workspace of `sparseToDense`."""
    return 1


def sparseToDense(handle: int, matA: int, matB: int, alg: int, buffer: int) -> None:
    """Write a sparse matrix into a dense one."""
    target = types.dense_matrices[matB]
    datatypes.store(target.stored(), sparse_matrix(matA).matrix().toarray(), target.data_type)


def denseToSparse_bufferSize(handle: int, matA: int, matB: int, alg: int) -> int:
    """Return the workspace of the conversion."""
    return 1


def _to_sparse(desc: int) -> Any:
    source = types.dense_matrices[desc]
    found = sparse.csr_array(datatypes.widen(source.stored(), source.data_type))
    found.sort_indices()
    return found


def denseToSparse_analysis(handle: int, matA: int, matB: int, alg: int, buffer: int) -> None:
    """Count the entries that are not zero, and write the offsets of a compressed format."""
    found, target = _to_sparse(matA), sparse_matrix(matB)
    target.nnz = found.nnz
    if target.layout != FORMAT_COO:
        compressed = found if target.layout == FORMAT_CSR else found.tocsc()
        offsets = raw.array(target.offsets, len(compressed.indptr), index_type(target.offsets_type))
        offsets[...] = compressed.indptr + target.base


def denseToSparse_convert(handle: int, matA: int, matB: int, alg: int, buffer: int) -> None:
    """Write the entries that are not zero."""
    _write_sparse(_to_sparse(matA), sparse_matrix(matB))
