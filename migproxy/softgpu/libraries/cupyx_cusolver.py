"""CuPy's array-level solvers on LAPACK: the counterpart of ``cupyx._cusolver`` (``cupyx.cusolver`` before CuPy 14.1).

Arrays are NumPy views of device memory; results are new NumPy arrays with the shapes, dtypes and conventions of the
real functions (``gesvdj`` returns V, not its transpose). ``csrlsvqr`` takes a CuPy sparse matrix, which never reaches
the executor: it is refused by name here, and served by `cusolver.dcsrlsvqr` and its likes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .cusolver_dense import orthogonal, routine
from .names import complete

Array = npt.NDArray[Any]

#: Which interfaces exist, and since which cuSOLVER; all are in the version that the software GPU follows.
_AVAILABLE = ("gesvdj", "gesvdjBatched", "gesvda", "potrfBatched", "potrsBatched", "syevj", "gesv", "gels", "csrlsvqr",
              "geev")  # fmt: skip


def check_availability(name: str) -> bool:
    """Tell whether an interface of cuSOLVER is there."""
    if name not in _AVAILABLE:
        raise ValueError(f"No available version information specified for {name}")
    return True


def _check_dtype(a: Array) -> None:
    if a.dtype.char not in "fdFD":
        raise TypeError


def _svd(a: Array, full_matrices: bool) -> tuple[Array, Array, Array]:
    return np.linalg.svd(a, full_matrices=full_matrices)


def gesvdj(a: Array, full_matrices: bool = True, compute_uv: bool = True, overwrite_a: bool = False) -> Any:
    """Singular value decomposition; returns (u, s, v) with a = u·diag(s)·v^H."""
    if a.ndim == 3:
        return _gesvdj_batched(a, full_matrices, compute_uv, overwrite_a)
    assert a.ndim == 2
    _check_dtype(a)
    return _decompose(a, full_matrices, compute_uv)


def _gesvdj_batched(a: Array, full_matrices: bool, compute_uv: bool, overwrite_a: bool) -> Any:
    _check_dtype(a)
    return _decompose(a, full_matrices, compute_uv)


def _decompose(a: Array, full_matrices: bool, compute_uv: bool) -> Any:
    if not compute_uv:
        return np.linalg.svd(a, compute_uv=False)
    u, s, vh = _svd(a, full_matrices)
    return u, s, vh.swapaxes(-1, -2).conj()


def gesvda(a: Array, compute_uv: bool = True) -> Any:
    """Singular value decomposition of tall matrices, reduced."""
    assert a.ndim >= 2
    assert a.shape[-2] >= a.shape[-1]
    _check_dtype(a)
    return _decompose(a, False, compute_uv)


def _gesvd_batched(a: Array, a_dtype: str, full_matrices: bool, compute_uv: bool, overwrite_a: bool) -> Any:
    assert a.ndim > 2
    assert not overwrite_a
    if a_dtype not in ("f", "d", "F", "D"):
        raise TypeError
    wide = a.astype(a_dtype)
    return _svd(wide, full_matrices) if compute_uv else np.linalg.svd(wide, compute_uv=False)


def _solver_dtypes(a: Array) -> tuple[Any, Any]:
    """Return the dtypes that a decomposition computes in and returns: half precision goes by way of single."""
    if a.dtype.char == "e":
        return np.dtype("f"), np.dtype("e")
    if a.dtype.char in "fdFD":
        return a.dtype, a.dtype
    return np.dtype("d"), np.dtype("d")


def syevj(a: Array, UPLO: str = "L", with_eigen_vector: bool = True) -> Any:
    """Eigenvalues, and perhaps vectors, of symmetric or Hermitian matrices."""
    if UPLO not in ("L", "U"):
        raise ValueError("UPLO argument must be 'L' or 'U'")
    if a.ndim > 2:
        return _syevj_batched(a, UPLO, with_eigen_vector)
    assert a.ndim == 2
    return _eigh(a, UPLO, with_eigen_vector)


def _syevj_batched(a: Array, UPLO: str, with_eigen_vector: bool) -> Any:
    return _eigh(a, UPLO, with_eigen_vector)


def _eigh(a: Array, uplo: Any, vectors: bool) -> Any:
    dtype, out = _solver_dtypes(a)
    if not vectors:
        return np.linalg.eigvalsh(a.astype(dtype), uplo).astype(out.char.lower(), copy=False)
    w, v = np.linalg.eigh(a.astype(dtype), uplo)
    return w.astype(out.char.lower(), copy=False), v.astype(out, copy=False)


def _check_system(a: Array, b: Array) -> None:
    if a.ndim != 2:
        raise ValueError(f"a.ndim must be 2 (actual:{a.ndim})")
    if b.ndim not in (1, 2):
        raise ValueError(f"b.ndim must be 1 or 2 (actual:{b.ndim})")
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"shape mismatch (a:{a.shape}, b:{b.shape}).")
    if a.dtype != b.dtype:
        raise ValueError(f"dtype mismatch (a:{a.dtype}, b:{b.dtype}).")
    if a.dtype.char not in "fdFD":
        raise ValueError(f"unsupported dtype (actual:{a.dtype})")


def gesv(a: Array, b: Array) -> Array:
    """Solve a·x = b."""
    _check_system(a, b)
    if a.shape[0] != a.shape[1]:
        raise ValueError("a must be a square matrix.")
    _, _, x, info = routine("gesv", a.dtype)(a, b)
    if info > 0:
        raise RuntimeError("gesv has failed (-3).")
    solution: Array = x.reshape(b.shape)
    return solution


def gels(a: Array, b: Array) -> Array:
    """Least squares of full rank for m ≥ n."""
    _check_system(a, b)
    m, n = a.shape
    if m < n:
        raise ValueError("m must be equal to or greater than n.")
    _, x, info = routine("gels", a.dtype)(a, b)
    if info > 0:
        raise RuntimeError("gels has failed (-3).")
    solution: Array = x[:n].reshape((n, *b.shape[1:]))
    return solution


def _geqrf_orgqr_batched(a: Array, mode: str) -> Any:
    """QR of a batch in NumPy's modes ``reduced``, ``complete``, ``r`` and ``raw``."""
    dtype, out = _solver_dtypes(a)
    batch, m, n = a.shape
    k = min(m, n)
    factors, scales = np.empty((batch, n, m), dtype), np.empty((batch, k), dtype)
    for index in range(batch):
        qr, scales[index], _, _ = routine("geqrf", dtype)(a[index].astype(dtype, order="F"))
        factors[index] = qr.T
    if mode == "raw":
        return factors.astype(out, copy=False), scales.astype(out, copy=False)
    columns = m if mode == "complete" and m > n else k
    upper = np.triu(factors.swapaxes(-1, -2)[:, : k if mode == "r" else columns, :])
    if mode == "r":
        return upper.astype(out, copy=False)
    q = np.empty((batch, m, columns), dtype)
    form = routine(orthogonal(dtype, "gqr"), dtype)
    for index in range(batch):
        vectors = np.zeros((m, columns), dtype, order="F")
        kept = min(n, columns)
        vectors[:, :kept] = factors[index, :kept].T
        q[index], _, _ = form(vectors, scales[index])
    return q.astype(out, copy=False), upper.astype(out, copy=False)


REFUSED = complete(globals(), "cupyx_cusolver", None)
