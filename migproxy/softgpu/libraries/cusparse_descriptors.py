"""cuSPARSE's generic descriptors: making, reading and changing them."""

from __future__ import annotations

import numpy as np

from . import cusparse_types as types
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
)
from .status import CuSparseError


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


def sparse_matrix(desc: int, layout: int | None = None) -> SpMat:
    found = types.sparse_matrices[desc]
    if layout is not None and found.layout != layout:
        raise CuSparseError(INVALID_VALUE, f"the matrix has format {found.layout}, not {layout}")
    return found


def csrGet(desc: int) -> CsrAttributes:
    """Return a CSR descriptor's fields."""
    m = sparse_matrix(desc, FORMAT_CSR)
    return CsrAttributes(
        m.rows, m.cols, m.nnz, m.offsets, m.indices, m.values, m.offsets_type, m.indices_type, m.base, m.data_type
    )


def cooGet(desc: int) -> CooAttributes:
    """Return a COO descriptor's fields."""
    m = sparse_matrix(desc, FORMAT_COO)
    return CooAttributes(m.rows, m.cols, m.nnz, m.offsets, m.indices, m.values, m.indices_type, m.base, m.data_type)


def csrSetPointers(desc: int, csrRowOffsets: int, csrColInd: int, csrValues: int) -> None:
    """Set where a CSR matrix's arrays are."""
    m = sparse_matrix(desc, FORMAT_CSR)
    m.offsets, m.indices, m.values = csrRowOffsets, csrColInd, csrValues


def spMatGetSize(desc: int, rows: int, cols: int, nnz: int) -> None:
    """Write a sparse matrix's extents to three host integers of 64 bits."""
    m = sparse_matrix(desc)
    for address, value in ((rows, m.rows), (cols, m.cols), (nnz, m.nnz)):
        raw.write(address, value, np.int64)


def spMatGetFormat(desc: int) -> int:
    """Return a sparse matrix's format."""
    return sparse_matrix(desc).layout


def spMatGetIndexBase(desc: int) -> int:
    """Return a sparse matrix's index base."""
    return sparse_matrix(desc).base


def spMatGetValues(desc: int) -> int:
    """Return where a sparse matrix's values are."""
    return sparse_matrix(desc).values


def spMatSetValues(desc: int, values: int) -> None:
    """Set where a sparse matrix's values are."""
    sparse_matrix(desc).values = values


def spMatGetStridedBatch(desc: int) -> int:
    """Return how many matrices a batch has."""
    return sparse_matrix(desc).batch


def spMatSetStridedBatch(desc: int, batchCount: int) -> None:
    """Set how many matrices a batch has (before CuPy 14.1); more than one is not multiplied here."""
    if batchCount > 1:
        raise CuSparseError(NOT_SUPPORTED, "cusparse: a batch of sparse matrices is not supported by the software GPU")
    sparse_matrix(desc).batch = batchCount


def spMatSetAttribute(spMatDescr: int, attribute: int, data: int) -> None:
    """Set the fill mode (0) or the kind of diagonal (1)."""
    m = sparse_matrix(spMatDescr)
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
