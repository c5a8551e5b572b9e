"""cuSPARSE's descriptors, and sparse matrices in memory as SciPy's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from . import views_unsafe as raw
from .datatypes import DATA_TYPES, R_16BF, widen
from .handles import Handles
from .status import CuSparseError

Array = npt.NDArray[Any]

NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 1, 3, 10
FORMAT_CSR, FORMAT_CSC, FORMAT_COO = 1, 2, 3
ORDER_COL, ORDER_ROW = 1, 2
INDEX_TYPES: dict[int, type] = {1: np.uint16, 2: np.int32, 3: np.int64}


@dataclass
class MatDescr:
    """A legacy matrix descriptor."""

    base: int = 0
    kind: int = 0
    fill_mode: int = 0
    diag_type: int = 0


@dataclass
class SpMat:
    """A generic sparse matrix: CSR, CSC or COO over addresses.

    ``offsets`` is the compressed axis's pointer array; for COO it is the row index array.
    """

    layout: int
    rows: int
    cols: int
    nnz: int
    offsets: int
    indices: int
    values: int
    offsets_type: int
    indices_type: int
    base: int
    data_type: int
    fill_mode: int | None = None
    diag_type: int | None = None
    batch: int = 1

    def compressed(self) -> Array:
        """Return the pointer array, 0-based, as a copy."""
        count = self.cols if self.layout == FORMAT_CSC else self.rows
        return raw.array(self.offsets, count + 1, index_type(self.offsets_type)) - self.base

    def matrix(self) -> Any:
        """Return the matrix as a SciPy sparse array over copies of the indices."""
        values = load(self.values, self.nnz, self.data_type)
        indices = raw.array(self.indices, self.nnz, index_type(self.indices_type)) - self.base
        shape = (self.rows, self.cols)
        if self.layout == FORMAT_COO:
            rows = raw.array(self.offsets, self.nnz, index_type(self.offsets_type)) - self.base
            return sparse.coo_array((values, (rows, indices)), shape)
        build = sparse.csr_array if self.layout == FORMAT_CSR else sparse.csc_array
        return build((values, indices, self.compressed()), shape)


@dataclass
class DnVec:
    """A dense vector."""

    size: int
    values: int
    data_type: int

    def stored(self) -> Array:
        """Return the vector's memory."""
        return raw.array(self.values, self.size, dtype_of(self.data_type))


@dataclass
class SpVec:
    """A sparse vector."""

    size: int
    nnz: int
    indices: int
    values: int
    index_kind: int
    base: int
    data_type: int


@dataclass
class DnMat:
    """A dense matrix in column or row order, perhaps a strided batch."""

    rows: int
    cols: int
    ld: int
    values: int
    data_type: int
    order: int
    batch: int = 1
    stride: int = 0

    def stored(self, index: int = 0) -> Array:
        """Return one matrix's memory."""
        dtype = dtype_of(self.data_type)
        address = self.values + index * self.stride * dtype.itemsize
        if self.order == ORDER_ROW:
            return raw.matrix(address, self.cols, self.rows, self.ld, dtype).T
        return raw.matrix(address, self.rows, self.cols, self.ld, dtype)


def _bad(handle: int) -> CuSparseError:
    return CuSparseError(INVALID_VALUE, f"no cuSPARSE descriptor {handle:#x}")


mat_descrs: Handles[MatDescr] = Handles(_bad)
sparse_matrices: Handles[SpMat] = Handles(_bad)
sparse_vectors: Handles[SpVec] = Handles(_bad)
dense_matrices: Handles[DnMat] = Handles(_bad)
dense_vectors: Handles[DnVec] = Handles(_bad)


def index_type(number: int) -> type:
    """Return the dtype of an index type."""
    if number not in INDEX_TYPES:
        raise CuSparseError(INVALID_VALUE, f"index type {number}")
    return INDEX_TYPES[number]


def dtype_of(number: int) -> np.dtype[Any]:
    """Return the storage dtype of a value type."""
    if number not in DATA_TYPES:
        raise CuSparseError(NOT_SUPPORTED, f"data type {number}")
    return DATA_TYPES[number].storage


def load(address: int, count: int, data_type: int) -> Array:
    """Return values in the dtype they are computed with."""
    return widen(raw.array(address, count, dtype_of(data_type)), data_type)


def scalar(address: int, compute_type: int) -> Any:
    """Return alpha or beta."""
    kind = 0 if compute_type == R_16BF else compute_type
    return raw.read(address, DATA_TYPES[kind].compute if kind == 2 else dtype_of(kind))


def csr(descr: int, m: int, n: int, nnz: int, values: int, row_offsets: int, columns: int, dtype: npt.DTypeLike) -> Any:
    """Return a legacy CSR matrix with 32-bit indices as a SciPy sparse array; its values are a view."""
    return csr_of(raw.array(values, nnz, dtype), descr, m, n, row_offsets, columns)


def csr_of(values: Array, descr: int, m: int, n: int, row_offsets: int, columns: int) -> Any:
    """Return values with the pattern of a legacy CSR matrix."""
    base = mat_descrs[descr].base
    offsets = raw.array(row_offsets, m + 1, np.int32) - base
    indices = raw.array(columns, len(values), np.int32) - base
    return sparse.csr_array((values, indices, offsets), (m, n))


def operate(matrix: Any, operation: int) -> Any:
    """Apply N (0), T (1) or C (2) to a sparse or dense matrix."""
    if operation == 0:
        return matrix
    return matrix.T if operation == 1 else matrix.conj().T
