"""cuSOLVER's sparse solvers (``csrlsvqr``, ``csrlsvchol``) on SciPy's sparse LU."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import splu

from . import cusparse_types
from . import views_unsafe as raw

Array = npt.NDArray[Any]


def _solve(a: Any, b: Array, tolerance: float) -> tuple[Array, int]:
    """Return the solution and the first column found singular under the tolerance, or -1."""
    try:
        factors = splu(a.tocsc())
    except RuntimeError:  # SciPy's word for an exactly singular matrix
        solution, _, rank, _ = np.linalg.lstsq(a.toarray(), b, rcond=None)
        return solution, int(rank)
    small = np.flatnonzero(np.abs(factors.U.diagonal()) <= tolerance)
    position = int(factors.perm_c[small].min()) if small.size else -1
    return factors.solve(b), position


def csrlsvqr(
    dtype: type, handle: int, m: int, nnz: int, descrA: int, csrValA: int, csrRowPtrA: int, csrColIndA: int, b: int,
    tol: float, reorder: int, x: int, singularity: int,
) -> None:  # fmt: skip
    """Solve A·x = b; the host integer tells a singular column, or -1."""
    a = cusparse_types.csr(descrA, m, m, nnz, csrValA, csrRowPtrA, csrColIndA, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's efficiency hints about formats
        solution, position = _solve(a, raw.array(b, m, dtype), tol)
    raw.array(x, m, dtype)[...] = solution
    raw.write(singularity, position, np.int32)
