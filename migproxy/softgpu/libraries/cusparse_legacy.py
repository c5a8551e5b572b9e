"""cuSPARSE's legacy functions on arrays with 32-bit indices: conversions, sorts, compression, addition."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import views_unsafe as raw
from .cusparse_generic import structural_sum
from .cusparse_types import csr, csr_of, dtype_of, mat_descrs

Array = npt.NDArray[Any]
I32 = np.int32

# --- formats and sorts -----------------------------------------------------------------------------------------------


def createIdentityPermutation(handle: int, n: int, p: int) -> None:
    """Write 0 … n-1."""
    raw.array(p, n, I32)[...] = np.arange(n)


def xcoo2csr(handle: int, cooRowInd: int, nnz: int, m: int, csrRowPtr: int, idxBase: int) -> None:
    """Compress sorted row indices."""
    rows = raw.array(cooRowInd, nnz, I32) - idxBase
    raw.array(csrRowPtr, m + 1, I32)[...] = np.searchsorted(rows, np.arange(m + 1)) + idxBase


def xcsr2coo(handle: int, csrRowPtr: int, nnz: int, m: int, cooRowInd: int, idxBase: int) -> None:
    """Write out the row index of each entry."""
    counts = np.diff(raw.array(csrRowPtr, m + 1, I32))
    raw.array(cooRowInd, nnz, I32)[...] = np.repeat(np.arange(m), counts) + idxBase


def xcoosort_bufferSizeExt(handle: int, m: int, n: int, nnz: int, cooRows: int, cooCols: int) -> int:
    """Return the workspace of the sorts."""
    return 1


def _permute(order: Array, *addresses: int) -> None:
    for address in addresses:
        if address:
            view = raw.array(address, len(order), I32)
            view[...] = view[order]


def xcoosortByRow(handle: int, m: int, n: int, nnz: int, cooRows: int, cooCols: int, P: int, pBuffer: int) -> None:
    """Sort by row, then column; the permutation array is permuted along."""
    rows, columns = raw.array(cooRows, nnz, I32), raw.array(cooCols, nnz, I32)
    _permute(np.lexsort((columns, rows)), cooRows, cooCols, P)


def xcoosortByColumn(handle: int, m: int, n: int, nnz: int, cooRows: int, cooCols: int, P: int, pBuffer: int) -> None:
    """Sort by column, then row."""
    rows, columns = raw.array(cooRows, nnz, I32), raw.array(cooCols, nnz, I32)
    _permute(np.lexsort((rows, columns)), cooRows, cooCols, P)


def _sort_compressed(lines: int, nnz: int, offsets: int, indices: int, permutation: int) -> None:
    line = np.repeat(np.arange(lines), np.diff(raw.array(offsets, lines + 1, I32)))
    _permute(np.lexsort((raw.array(indices, nnz, I32), line)), indices, permutation)


def xcsrsort_bufferSizeExt(handle: int, m: int, n: int, nnz: int, csrRowPtr: int, csrColInd: int) -> int:
    """Return the workspace of `xcsrsort`."""
    return 1


def xcsrsort(
    handle: int, m: int, n: int, nnz: int, descrA: int, csrRowPtr: int, csrColInd: int, P: int, pBuffer: int
) -> None:
    """Sort the columns of each row."""
    _sort_compressed(m, nnz, csrRowPtr, csrColInd, P)


def xcscsort_bufferSizeExt(handle: int, m: int, n: int, nnz: int, cscColPtr: int, cscRowInd: int) -> int:
    """Return the workspace of `xcscsort`."""
    return 1


def xcscsort(
    handle: int, m: int, n: int, nnz: int, descrA: int, cscColPtr: int, cscRowInd: int, P: int, pBuffer: int
) -> None:
    """Sort the rows of each column."""
    _sort_compressed(n, nnz, cscColPtr, cscRowInd, P)


def csr2cscEx2_bufferSize(
    handle: int, m: int, n: int, nnz: int, csrVal: int, csrRowPtr: int, csrColInd: int, cscVal: int, cscColPtr: int,
    cscRowInd: int, valType: int, copyValues: int, idxBase: int, alg: int,
) -> int:  # fmt: skip
    """Return the workspace of `csr2cscEx2`."""
    return 1


def csr2cscEx2(
    handle: int, m: int, n: int, nnz: int, csrVal: int, csrRowPtr: int, csrColInd: int, cscVal: int, cscColPtr: int,
    cscRowInd: int, valType: int, copyValues: int, idxBase: int, alg: int, buffer: int,
) -> None:  # fmt: skip
    """Turn rows into columns, with the values (1) or the pattern alone (0)."""
    columns = raw.array(csrColInd, nnz, I32) - idxBase
    rows = np.repeat(np.arange(m), np.diff(raw.array(csrRowPtr, m + 1, I32)))
    order = np.argsort(columns, kind="stable")
    raw.array(cscColPtr, n + 1, I32)[...] = np.searchsorted(columns[order], np.arange(n + 1)) + idxBase
    raw.array(cscRowInd, nnz, I32)[...] = rows[order] + idxBase
    if copyValues:
        kind = dtype_of(valType)
        raw.array(cscVal, nnz, kind)[...] = raw.array(csrVal, nnz, kind)[order]


# --- counting and compressing ----------------------------------------------------------------------------------------


def nnz(
    dtype: type, handle: int, dirA: int, m: int, n: int, descrA: int, A: int, lda: int, nnzPerRowColumn: int,
    nnzTotalDevHostPtr: int,
) -> None:  # fmt: skip
    """Count the entries of a dense matrix that are not zero: per row (0) or column (1), and in all."""
    filled = raw.matrix(A, m, n, lda, dtype) != 0
    counts = filled.sum(axis=1 if dirA == 0 else 0)
    raw.array(nnzPerRowColumn, len(counts), I32)[...] = counts
    raw.write(nnzTotalDevHostPtr, counts.sum(), I32)


def _kept(dtype: type, descr: int, m: int, values: int, row_offsets: int, tol: complex) -> tuple[Array, Array, Array]:
    """Return 0-based row offsets, a mask of the values above the tolerance, and their count per row."""
    offsets = raw.array(row_offsets, m + 1, I32) - mat_descrs[descr].base
    keep = np.abs(raw.array(values, int(offsets[-1]), dtype)) > abs(tol)
    totals = np.concatenate([[0], np.cumsum(keep)])
    return offsets, keep, np.diff(totals[offsets])


def nnz_compress(
    dtype: type, handle: int, m: int, descr: int, values: int, rowPtr: int, nnzPerRow: int, tol: complex
) -> int:
    """Count the entries above a tolerance."""
    _, keep, counts = _kept(dtype, descr, m, values, rowPtr, tol)
    raw.array(nnzPerRow, m, I32)[...] = counts
    return int(keep.sum())


def csr2csr_compress(
    dtype: type, handle: int, m: int, n: int, descrA: int, inVal: int, inColInd: int, inRowPtr: int, inNnz: int,
    nnzPerRow: int, outVal: int, outColInd: int, outRowPtr: int, tol: complex,
) -> None:  # fmt: skip
    """Copy the entries above a tolerance."""
    base = mat_descrs[descrA].base
    _, keep, counts = _kept(dtype, descrA, m, inVal, inRowPtr, tol)
    total = int(keep.sum())
    raw.array(outRowPtr, m + 1, I32)[...] = np.concatenate([[0], np.cumsum(counts)]) + base
    raw.array(outColInd, total, I32)[...] = raw.array(inColInd, inNnz, I32)[keep]
    raw.array(outVal, total, dtype)[...] = raw.array(inVal, inNnz, dtype)[keep]


# --- addition --------------------------------------------------------------------------------------------------------


def csrgeam2_bufferSizeExt(
    dtype: type, handle: int, m: int, n: int, alpha: int, descrA: int, nnzA: int, csrValA: int, csrRowPtrA: int,
    csrColIndA: int, beta: int, descrB: int, nnzB: int, csrValB: int, csrRowPtrB: int, csrColIndB: int, descrC: int,
    csrValC: int, csrRowPtrC: int, csrColIndC: int,
) -> int:  # fmt: skip
    """Return the workspace of the addition."""
    return 1


def xcsrgeam2Nnz(
    handle: int, m: int, n: int, descrA: int, nnzA: int, csrRowPtrA: int, csrColIndA: int, descrB: int, nnzB: int,
    csrRowPtrB: int, csrColIndB: int, descrC: int, csrRowPtrC: int, nnzTotalDevHostPtr: int, workspace: int,
) -> None:  # fmt: skip
    """Write the sum's row offsets and number of entries."""
    a = csr_of(np.ones(nnzA, np.int8), descrA, m, n, csrRowPtrA, csrColIndA)
    b = csr_of(np.ones(nnzB, np.int8), descrB, m, n, csrRowPtrB, csrColIndB)
    total = structural_sum(a, b, 1, 1)
    raw.array(csrRowPtrC, m + 1, I32)[...] = total.indptr + mat_descrs[descrC].base
    raw.write(nnzTotalDevHostPtr, total.nnz, I32)


def csrgeam2(
    dtype: type, handle: int, m: int, n: int, alpha: int, descrA: int, nnzA: int, csrValA: int, csrRowPtrA: int,
    csrColIndA: int, beta: int, descrB: int, nnzB: int, csrValB: int, csrRowPtrB: int, csrColIndB: int, descrC: int,
    csrValC: int, csrRowPtrC: int, csrColIndC: int, buffer: int,
) -> None:  # fmt: skip
    """C = alpha·A + beta·B."""
    a = csr(descrA, m, n, nnzA, csrValA, csrRowPtrA, csrColIndA, dtype)
    b = csr(descrB, m, n, nnzB, csrValB, csrRowPtrB, csrColIndB, dtype)
    total = structural_sum(a, b, raw.read(alpha, dtype), raw.read(beta, dtype))
    base = mat_descrs[descrC].base
    raw.array(csrRowPtrC, m + 1, I32)[...] = total.indptr + base
    raw.array(csrColIndC, total.nnz, I32)[...] = total.indices + base
    raw.array(csrValC, total.nnz, dtype)[...] = total.data
