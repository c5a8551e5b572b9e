"""cuSPARSE's generic API on SciPy: descriptors of matrices and vectors, and the products and solvers on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import spsolve_triangular

from . import cusparse_types as types
from . import datatypes
from . import views_unsafe as raw
from .cusparse_types import (
    FORMAT_COO,
    FORMAT_CSC,
    FORMAT_CSR,
    INVALID_VALUE,
    NOT_SUPPORTED,
    DnMat,
    DnVec,
    SpMat,
    SpVec,
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

# --- descriptors -----------------------------------------------------------------------------------------------------


class _Attributes:
    """A record with the fields that its class names, in order."""

    FIELDS: tuple[str, ...] = ()

    def __init__(self, *values: int) -> None:
        for name, value in zip(self.FIELDS, values, strict=True):
            setattr(self, name, value)


class SpVecAttributes(_Attributes):
    """What a sparse vector descriptor holds."""

    FIELDS = ("size", "nnz", "idx", "values", "idxType", "idxBase", "valueType")


class CooAttributes(_Attributes):
    """What a COO descriptor holds."""

    FIELDS = ("rows", "cols", "nnz", "rowIdx", "colIdx", "values", "idxType", "idxBase", "valueType")


class CooAoSAttributes(_Attributes):
    """What a COO descriptor with interleaved indices held; no such descriptor can be made any more."""

    FIELDS = ("rows", "cols", "nnz", "ind", "values", "idxType", "idxBase", "valueType")


class CsrAttributes(_Attributes):
    """What a CSR descriptor holds."""

    FIELDS = (
        "rows", "cols", "nnz", "rowOffsets", "colIdx", "values", "rowOffsetType", "colIdxType", "idxBase", "valueType",
    )  # fmt: skip


class DnVecAttributes(_Attributes):
    """What a dense vector descriptor holds."""

    FIELDS = ("size", "values", "valueType")


class DnMatAttributes(_Attributes):
    """What a dense matrix descriptor holds."""

    FIELDS = ("rows", "cols", "ld", "values", "valueType", "order")


class DnMatBatchAttributes(_Attributes):
    """How a dense matrix descriptor is batched."""

    FIELDS = ("count", "stride")


def createCsr(
    rows: int, cols: int, nnz: int, csrRowOffsets: int, csrColind: int, csrValues: int, csrRowOffsetsType: int,
    csrColIndType: int, idxBase: int, valueType: int,
) -> int:  # fmt: skip
    """Describe a CSR matrix."""
    return types.sparse_matrices.add(
        SpMat(FORMAT_CSR, rows, cols, nnz, csrRowOffsets, csrColind, csrValues, csrRowOffsetsType, csrColIndType,
              idxBase, valueType)
    )  # fmt: skip


def createCsc(
    rows: int, cols: int, nnz: int, cscColOffsets: int, cscRowInd: int, cscValues: int, cscColOffsetsType: int,
    cscRowIndType: int, idxBase: int, valueType: int,
) -> int:  # fmt: skip
    """Describe a CSC matrix."""
    return types.sparse_matrices.add(
        SpMat(FORMAT_CSC, rows, cols, nnz, cscColOffsets, cscRowInd, cscValues, cscColOffsetsType, cscRowIndType,
              idxBase, valueType)
    )  # fmt: skip


def createCoo(
    rows: int, cols: int, nnz: int, cooRowInd: int, cooColInd: int, cooValues: int, cooIdxType: int, idxBase: int,
    valueType: int,
) -> int:  # fmt: skip
    """Describe a COO matrix."""
    return types.sparse_matrices.add(
        SpMat(FORMAT_COO, rows, cols, nnz, cooRowInd, cooColInd, cooValues, cooIdxType, cooIdxType, idxBase, valueType)
    )


def createSpVec(size: int, nnz: int, indices: int, values: int, idxType: int, idxBase: int, valueType: int) -> int:
    """Describe a sparse vector."""
    return types.sparse_vectors.add(SpVec(size, nnz, indices, values, idxType, idxBase, valueType))


def createDnVec(size: int, values: int, valueType: int) -> int:
    """Describe a dense vector."""
    return types.dense_vectors.add(DnVec(size, values, valueType))


def createDnMat(rows: int, cols: int, ld: int, values: int, valueType: int, order: int) -> int:
    """Describe a dense matrix."""
    return types.dense_matrices.add(DnMat(rows, cols, ld, values, valueType, order))


def destroySpMat(desc: int) -> None:
    """Forget a sparse matrix."""
    types.sparse_matrices.pop(desc)


def destroySpVec(desc: int) -> None:
    """Forget a sparse vector."""
    types.sparse_vectors.pop(desc)


def destroyDnVec(desc: int) -> None:
    """Forget a dense vector."""
    types.dense_vectors.pop(desc)


def destroyDnMat(desc: int) -> None:
    """Forget a dense matrix."""
    types.dense_matrices.pop(desc)


def _matrix(desc: int, layout: int | None = None) -> SpMat:
    found = types.sparse_matrices[desc]
    if layout is not None and found.layout != layout:
        raise CuSparseError(INVALID_VALUE, f"the matrix has format {found.layout}, not {layout}")
    return found


def csrGet(desc: int) -> CsrAttributes:
    """Return a CSR descriptor's fields."""
    m = _matrix(desc, FORMAT_CSR)
    return CsrAttributes(
        m.rows, m.cols, m.nnz, m.offsets, m.indices, m.values, m.offsets_type, m.indices_type, m.base, m.data_type
    )


def cooGet(desc: int) -> CooAttributes:
    """Return a COO descriptor's fields."""
    m = _matrix(desc, FORMAT_COO)
    return CooAttributes(m.rows, m.cols, m.nnz, m.offsets, m.indices, m.values, m.indices_type, m.base, m.data_type)


def csrSetPointers(desc: int, csrRowOffsets: int, csrColInd: int, csrValues: int) -> None:
    """Set where a CSR matrix's arrays are."""
    m = _matrix(desc, FORMAT_CSR)
    m.offsets, m.indices, m.values = csrRowOffsets, csrColInd, csrValues


def spMatGetSize(desc: int, rows: int, cols: int, nnz: int) -> None:
    """Write a sparse matrix's extents to three host integers of 64 bits."""
    m = _matrix(desc)
    for address, value in ((rows, m.rows), (cols, m.cols), (nnz, m.nnz)):
        raw.write(address, value, np.int64)


def spMatGetFormat(desc: int) -> int:
    """Return a sparse matrix's format."""
    return _matrix(desc).layout


def spMatGetIndexBase(desc: int) -> int:
    """Return a sparse matrix's index base."""
    return _matrix(desc).base


def spMatGetValues(desc: int) -> int:
    """Return where a sparse matrix's values are."""
    return _matrix(desc).values


def spMatSetValues(desc: int, values: int) -> None:
    """Set where a sparse matrix's values are."""
    _matrix(desc).values = values


def spMatGetStridedBatch(desc: int) -> int:
    """Return how many matrices a batch has."""
    return _matrix(desc).batch


def spMatSetStridedBatch(desc: int, batchCount: int) -> None:
    """Set how many matrices a batch has (before CuPy 14.1); more than one is not multiplied here."""
    if batchCount > 1:
        raise CuSparseError(NOT_SUPPORTED, "cusparse: a batch of sparse matrices is not supported by the software GPU")
    _matrix(desc).batch = batchCount


def spMatSetAttribute(spMatDescr: int, attribute: int, data: int) -> None:
    """Set the fill mode (0) or the kind of diagonal (1)."""
    m = _matrix(spMatDescr)
    if attribute == 0:
        m.fill_mode = data
    elif attribute == 1:
        m.diag_type = data
    else:
        raise CuSparseError(INVALID_VALUE, f"attribute {attribute}")


def spVecGet(desc: int) -> SpVecAttributes:
    """Return a sparse vector descriptor's fields."""
    v = types.sparse_vectors[desc]
    return SpVecAttributes(v.size, v.nnz, v.indices, v.values, v.index_kind, v.base, v.data_type)


def spVecGetIndexBase(desc: int) -> int:
    """Return a sparse vector's index base."""
    return types.sparse_vectors[desc].base


def spVecGetValues(desc: int) -> int:
    """Return where a sparse vector's values are."""
    return types.sparse_vectors[desc].values


def spVecSetValues(desc: int, values: int) -> None:
    """Set where a sparse vector's values are."""
    types.sparse_vectors[desc].values = values


def dnVecGet(desc: int) -> DnVecAttributes:
    """Return a dense vector descriptor's fields."""
    v = types.dense_vectors[desc]
    return DnVecAttributes(v.size, v.values, v.data_type)


def dnVecGetValues(desc: int) -> int:
    """Return where a dense vector's values are."""
    return types.dense_vectors[desc].values


def dnVecSetValues(desc: int, values: int) -> None:
    """Set where a dense vector's values are."""
    types.dense_vectors[desc].values = values


def dnMatGet(desc: int) -> DnMatAttributes:
    """Return a dense matrix descriptor's fields."""
    m = types.dense_matrices[desc]
    return DnMatAttributes(m.rows, m.cols, m.ld, m.values, m.data_type, m.order)


def dnMatGetValues(desc: int) -> int:
    """Return where a dense matrix's values are."""
    return types.dense_matrices[desc].values


def dnMatSetValues(desc: int, values: int) -> None:
    """Set where a dense matrix's values are."""
    types.dense_matrices[desc].values = values


def dnMatGetStridedBatch(desc: int) -> DnMatBatchAttributes:
    """Return how a dense matrix is batched."""
    m = types.dense_matrices[desc]
    return DnMatBatchAttributes(m.batch, m.stride)


def dnMatSetStridedBatch(desc: int, batchCount: int, batchStride: int) -> None:
    """Make a dense matrix a strided batch."""
    m = types.dense_matrices[desc]
    m.batch, m.stride = batchCount, batchStride


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
    product = operate(_matrix(matA).matrix(), opA) @ datatypes.widen(x.stored(), x.data_type)
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
    a, b, c = operate(_matrix(matA).matrix(), opA), types.dense_matrices[matB], types.dense_matrices[matC]
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


def structural_product(a: Any, b: Any, alpha: Any) -> Any:
    """Return alpha·A·B with an entry wherever the patterns meet, even where terms cancel; columns are sorted."""
    a, b = a.tocsr(), b.tocsr()
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
        a, b = _matrix(matA).matrix(), _matrix(matB).matrix()
        work.result = structural_product(a, b, scalar(alpha, computeType))
        _matrix(matC).nnz = work.result.nnz
    return 1


def spGEMM_copy(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, beta: int, matC: int, computeType: int,
    alg: int, spgemmDescr: int,
) -> None:  # fmt: skip
    """Write the product into C's arrays."""
    work, target = _works[spgemmDescr], _matrix(matC)
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
    a, b, target = _matrix(matA).matrix(), _matrix(matB).matrix(), _matrix(matC)
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
    _write_sparse(work.result, _matrix(matC))


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
    _matrix(matA)


def spSM_solve(
    handle: int, opA: int, opB: int, alpha: int, matA: int, matB: int, matC: int, computeType: int, alg: int,
    spsmDescr: int, externalBuffer: int = 0,
) -> None:  # fmt: skip
    """Solve op(A)·C = alpha·op(B) with the triangle of A that its attributes name."""
    a, b, c = _matrix(matA), types.dense_matrices[matB], types.dense_matrices[matC]
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
    datatypes.store(target.stored(), _matrix(matA).matrix().toarray(), target.data_type)


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
    found, target = _to_sparse(matA), _matrix(matB)
    target.nnz = found.nnz
    if target.layout != FORMAT_COO:
        compressed = found if target.layout == FORMAT_CSR else found.tocsc()
        offsets = raw.array(target.offsets, len(compressed.indptr), index_type(target.offsets_type))
        offsets[...] = compressed.indptr + target.base


def denseToSparse_convert(handle: int, matA: int, matB: int, alg: int, buffer: int) -> None:
    """Write the entries that are not zero."""
    _write_sparse(_to_sparse(matA), _matrix(matB))
