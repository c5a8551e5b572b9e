"""cuSPARSE's incomplete factorisations (ILU(0), IC(0)) and banded solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import get_lapack_funcs, solve_banded

from . import views_unsafe as raw
from .cusparse_types import INVALID_VALUE, mat_descrs
from .handles import Handles
from .status import CuSparseError

Array = npt.NDArray[Any]
ZERO_PIVOT = 9


@dataclass
class Info:
    """What an incomplete factorisation remembers: a zero pivot, and by what a small one is replaced."""

    zero_pivot: int = -1
    boost_below: float | None = None
    boost: Any = 0


_infos: Handles[Info] = Handles(lambda handle: CuSparseError(INVALID_VALUE, f"no cuSPARSE info {handle:#x}"))


def createCsrilu02Info() -> int:
    """Make the state of an ILU(0)."""
    return _infos.add(Info())


def destroyCsrilu02Info(info: int) -> None:
    """Forget it."""
    _infos.pop(info)


def createCsric02Info() -> int:
    """Make the state of an IC(0)."""
    return _infos.add(Info())


def destroyCsric02Info(info: int) -> None:
    """Forget it."""
    _infos.pop(info)


def _zero_pivot(handle: int, info: int, position: int) -> None:
    """Write where the zero pivot is, or -1, and raise where there is one."""
    found = _infos[info].zero_pivot
    raw.write(position, found, np.int32)
    if found >= 0:
        raise CuSparseError(ZERO_PIVOT, f"pivot {found}")


def xcsrilu02_zeroPivot(handle: int, info: int, position: int) -> None:
    """Tell the zero pivot of an ILU(0)."""
    _zero_pivot(handle, info, position)


def xcsric02_zeroPivot(handle: int, info: int, position: int) -> None:
    """Tell the zero pivot of an IC(0)."""
    _zero_pivot(handle, info, position)


class _Rows:
    """A square CSR matrix whose values are changed in place."""

    def __init__(self, dtype: type, m: int, nnz: int, descr: int, values: int, offsets: int, columns: int) -> None:
        self.base = mat_descrs[descr].base
        self.values = raw.array(values, nnz, dtype)
        self.offsets = raw.array(offsets, m + 1, np.int32) - self.base
        self.columns = raw.array(columns, nnz, np.int32) - self.base
        self.size = m
        rows = np.repeat(np.arange(m), np.diff(self.offsets))
        self.diagonal = np.full(m, -1)
        on_diagonal = np.flatnonzero(rows == self.columns)
        self.diagonal[rows[on_diagonal]] = on_diagonal

    def row(self, index: int) -> tuple[Array, Array]:
        """Return a row's columns and places in the value array."""
        first, last = self.offsets[index], self.offsets[index + 1]
        return self.columns[first:last], np.arange(first, last)

    def missing_diagonal(self) -> int:
        """Return the first row without a diagonal entry, in the matrix's index base, or -1."""
        missing = np.flatnonzero(self.diagonal < 0)
        return int(missing[0]) + self.base if missing.size else -1


def buffer_size(
    dtype: type, handle: int, m: int, nnz: int, descrA: int, csrSortedValA: int, csrSortedRowPtrA: int,
    csrSortedColIndA: int, info: int,
) -> int:  # fmt: skip
    """Return the workspace of a factorisation."""
    return 1 if _infos[info] else 0


def analysis(
    dtype: type, handle: int, m: int, nnz: int, descrA: int, csrSortedValA: int, csrSortedRowPtrA: int,
    csrSortedColIndA: int, info: int, policy: int, pBuffer: int,
) -> None:  # fmt: skip
    """Look for missing diagonal entries."""
    rows = _Rows(dtype, m, nnz, descrA, csrSortedValA, csrSortedRowPtrA, csrSortedColIndA)
    _infos[info].zero_pivot = rows.missing_diagonal()


def numeric_boost(dtype: type, handle: int, info: int, enable_boost: int, tol: int, boost_val: int) -> None:
    """Set by what pivots below a tolerance are replaced."""
    state = _infos[info]
    state.boost_below = float(raw.read(tol, np.float64)) if enable_boost else None
    state.boost = raw.read(boost_val, dtype) if enable_boost else 0


def csrilu02(
    dtype: type, handle: int, m: int, nnz: int, descrA: int, csrSortedValA_valM: int, csrSortedRowPtrA: int,
    csrSortedColIndA: int, info: int, policy: int, pBuffer: int,
) -> None:  # fmt: skip
    """ILU(0) in place: L (unit diagonal) and U in the pattern of A."""
    rows = _Rows(dtype, m, nnz, descrA, csrSortedValA_valM, csrSortedRowPtrA, csrSortedColIndA)
    state, values = _infos[info], rows.values
    state.zero_pivot = rows.missing_diagonal()
    place_of = np.full(m, -1)  # column → place in the current row
    for index in range(m):
        columns, places = rows.row(index)
        place_of[columns] = places
        for column, place in zip(columns, places, strict=True):
            if column >= index:
                break
            pivot = rows.diagonal[column]
            if pivot < 0:
                continue
            with np.errstate(all="ignore"):
                factor = values[place] / values[pivot]
            values[place] = factor
            right, right_places = rows.row(column)
            targets = place_of[right]
            update = (right > column) & (targets >= 0)
            values[targets[update]] -= factor * values[right_places[update]]
        place_of[columns] = -1
        _check_pivot(rows, state, index)


def _check_pivot(rows: _Rows, state: Info, index: int) -> None:
    place = rows.diagonal[index]
    if place < 0:
        return
    if state.boost_below is not None and abs(rows.values[place]) <= state.boost_below:
        rows.values[place] = state.boost
    if rows.values[place] == 0 and state.zero_pivot < 0:
        state.zero_pivot = index + rows.base


def csric02(
    dtype: type, handle: int, m: int, nnz: int, descrA: int, csrSortedValA_valM: int, csrSortedRowPtrA: int,
    csrSortedColIndA: int, info: int, policy: int, pBuffer: int,
) -> None:  # fmt: skip
    """IC(0) in place: L of A ≈ L·L^H in the lower triangle's pattern."""
    rows = _Rows(dtype, m, nnz, descrA, csrSortedValA_valM, csrSortedRowPtrA, csrSortedColIndA)
    state, values = _infos[info], rows.values
    state.zero_pivot = rows.missing_diagonal()
    for index in range(m):
        columns, places = rows.row(index)
        lower = columns <= index
        columns, places = columns[lower], places[lower]
        for column, place in zip(columns, places, strict=True):
            other_columns, other_places = rows.row(column)
            _, mine, theirs = np.intersect1d(
                columns[columns < column], other_columns[other_columns < column], return_indices=True
            )
            total = values[places[mine]] @ values[other_places[theirs]].conj()
            rest = values[place] - total
            with np.errstate(all="ignore"):
                if column < index:
                    values[place] = rest / values[rows.diagonal[column]] if rows.diagonal[column] >= 0 else rest
                else:
                    values[place] = np.sqrt(rest)
        _check_pivot(rows, state, index)


# --- banded solvers --------------------------------------------------------------------------------------------------


def _tridiagonal(lower: Array, diagonal: Array, upper: Array, right: Array) -> Array:
    """Solve one tridiagonal system of full-length diagonals; a singular one gives NaN, as division on the GPU does."""
    solve = get_lapack_funcs("gtsv", dtype=diagonal.dtype)
    solution: Array
    *_, solution, info = solve(lower[1:], diagonal, upper[:-1], right)
    return solution if info == 0 else np.full_like(right, np.nan)


def gtsv2_buffer_size(dtype: type, handle: int, m: int, n: int, dl: int, d: int, du: int, B: int, ldb: int) -> int:
    """Return the workspace of `gtsv2`."""
    return 1


def gtsv2(dtype: type, handle: int, m: int, n: int, dl: int, d: int, du: int, B: int, ldb: int, pBuffer: int) -> None:
    """Solve a tridiagonal system for many right-hand sides."""
    if m < 3:
        raise CuSparseError(INVALID_VALUE, f"gtsv2 needs at least 3 unknowns, not {m}")
    right = raw.matrix(B, m, n, ldb, dtype)
    lower, diagonal, upper = (raw.array(address, m, dtype) for address in (dl, d, du))
    right[...] = _tridiagonal(lower, diagonal, upper, right)


def gtsv2_strided_buffer_size(
    dtype: type, handle: int, m: int, dl: int, d: int, du: int, x: int, batchCount: int, batchStride: int
) -> int:
    """Return the workspace of the strided batch."""
    return 1


def gtsv2_strided(
    dtype: type, handle: int, m: int, dl: int, d: int, du: int, x: int, batchCount: int, batchStride: int, pBuffer: int
) -> None:
    """Solve tridiagonal systems that lie ``batchStride`` elements apart."""
    step = batchStride * np.dtype(dtype).itemsize
    for index in range(batchCount):
        lower, diagonal, upper, right = (raw.array(at + index * step, m, dtype) for at in (dl, d, du, x))
        right[...] = _tridiagonal(lower, diagonal, upper, right)


def gtsv_interleaved_buffer_size(
    dtype: type, handle: int, algo: int, m: int, dl: int, d: int, du: int, x: int, batchCount: int
) -> int:
    """Return the workspace of the interleaved batch."""
    return 1


def gtsv_interleaved(
    dtype: type, handle: int, algo: int, m: int, dl: int, d: int, du: int, x: int, batchCount: int, pBuffer: int
) -> None:
    """Solve tridiagonal systems whose elements alternate."""
    lower, diagonal, upper, right = (raw.array(at, (m, batchCount), dtype) for at in (dl, d, du, x))
    for index in range(batchCount):
        right[:, index] = _tridiagonal(lower[:, index], diagonal[:, index], upper[:, index], right[:, index].copy())


def gpsv_interleaved_buffer_size(
    dtype: type, handle: int, algo: int, m: int, ds: int, dl: int, d: int, du: int, dw: int, x: int, batchCount: int
) -> int:
    """Return the workspace of the pentadiagonal batch."""
    return 1


def gpsv_interleaved(
    dtype: type, handle: int, algo: int, m: int, ds: int, dl: int, d: int, du: int, dw: int, x: int, batchCount: int,
    pBuffer: int,
) -> None:  # fmt: skip
    """Solve pentadiagonal systems whose elements alternate."""
    diagonals = [raw.array(at, (m, batchCount), dtype) for at in (dw, du, d, dl, ds)]
    right = raw.array(x, (m, batchCount), dtype)
    for index in range(batchCount):
        bands: Array = np.zeros((5, m), dtype)
        for place, diagonal in enumerate(diagonals):
            shift = 2 - place  # above the main diagonal the band is stored shifted right, below it shifted left
            values = diagonal[:, index]
            if shift >= 0:
                bands[place, shift:] = values[: m - shift]
            else:
                bands[place, :shift] = values[-shift:]
        try:
            right[:, index] = solve_banded((2, 2), bands, right[:, index].copy())
        except np.linalg.LinAlgError:
            right[:, index] = np.nan
