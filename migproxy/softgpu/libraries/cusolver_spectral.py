"""cuSOLVER's singular values and eigenvalues on LAPACK, single, batched and with types by number (``x…``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import views_unsafe as raw
from .cusolver_dense import LOWER, report, routine
from .datatypes import C_32F, C_64F, R_32F, R_64F
from .status import CUSOLVERError

Array = npt.NDArray[Any]

INVALID_VALUE, NOT_SUPPORTED = 3, 9
_DTYPES: dict[int, type] = {R_32F: np.float32, R_64F: np.float64, C_32F: np.complex64, C_64F: np.complex128}


def real_of(dtype: Any) -> Any:
    """Return the real dtype of a dtype's precision."""
    return np.zeros(0, dtype).real.dtype


def _svd(a: Array, vectors: bool, full: bool) -> tuple[Array, Array, Array, int]:
    """Return U, S, V^H and LAPACK's info."""
    u, s, vh, info = routine("gesdd", a.dtype)(a, compute_uv=vectors, full_matrices=full)
    if info > 0:
        # Divide and conquer did not converge; QR iteration is slower and surer.
        u, s, vh, info = routine("gesvd", a.dtype)(a, compute_uv=vectors, full_matrices=full)
    return u, s, vh, int(info)


def gesvd(
    dtype: type, handle: int, jobu: int, jobvt: int, m: int, n: int, A: int, lda: int, S: int, U: int, ldu: int,
    VT: int, ldvt: int, Work: int, lwork: int, rwork: int, devInfo: int,
) -> None:  # fmt: skip
    """Singular values and vectors of a matrix with m ≥ n; jobs are the characters A, S, O or N."""
    if m < n:
        raise CUSOLVERError(INVALID_VALUE, f"gesvd needs m >= n, not {m} x {n}")
    jobs = [chr(job) if isinstance(job, int) else str(job) for job in (jobu, jobvt)]
    if any(job not in "ASON" for job in jobs) or jobs == ["O", "O"]:
        raise CUSOLVERError(INVALID_VALUE, f"jobs {jobs}")
    if n == 0:
        report(devInfo, 0)
        return
    a = raw.matrix(A, m, n, lda, dtype)
    u, s, vh, info = _svd(a, jobs != ["N", "N"], "A" in jobs and m != n)
    raw.array(S, n, real_of(dtype))[...] = s
    if jobs[0] == "O":
        a[...] = u[:, :n]
    elif jobs[0] != "N":
        columns = m if jobs[0] == "A" else n
        raw.matrix(U, m, columns, ldu, dtype)[...] = u[:, :columns]
    if jobs[1] == "O":
        a[:n] = vh
    elif jobs[1] != "N":
        raw.matrix(VT, n, n, ldvt, dtype)[...] = vh
    report(devInfo, info)


def gesvd_buffer_size(handle: int, m: int, n: int) -> int:
    """Return the workspace of `gesvd`; the real library answers for wide matrices too, and refuses them in `gesvd`."""
    return 1


def _svd_to(dtype: type, jobz: int, full: bool, a: Array, rank: int, s: int, u: Array | None, v: Array | None) -> int:
    """Store singular values and, where wanted, the first columns of U and of V (not V^H)."""
    left, values, right, info = _svd(a, jobz != 0, full)
    raw.array(s, rank, real_of(dtype))[...] = values[:rank]
    if u is not None and v is not None:
        u[...] = left[:, : u.shape[1]]
        v[...] = right.conj().T[:, : v.shape[1]]
    return info


def gesvdj(
    dtype: type, handle: int, jobz: int, econ: int, m: int, n: int, A: int, lda: int, S: int, U: int, ldu: int, V: int,
    ldv: int, work: int, lwork: int, info: int, params: int,
) -> None:  # fmt: skip
    """Singular values and vectors with V as it is, not transposed; ``econ`` cuts U and V to min(m, n) columns."""
    rank = min(m, n)
    if rank == 0:
        report(info, 0)
        return
    u = v = None
    if jobz:
        u = raw.matrix(U, m, rank if econ else m, ldu, dtype)
        v = raw.matrix(V, n, rank if econ else n, ldv, dtype)
    report(info, _svd_to(dtype, jobz, not econ, raw.matrix(A, m, n, lda, dtype), rank, S, u, v))


def gesvdj_batched(
    dtype: type, handle: int, jobz: int, m: int, n: int, A: int, lda: int, S: int, U: int, ldu: int, V: int, ldv: int,
    work: int, lwork: int, info: int, params: int, batchSize: int,
) -> None:  # fmt: skip
    """A dense batch of `gesvdj` with full U and V."""
    rank = min(m, n)
    size, real = np.dtype(dtype).itemsize, real_of(dtype).itemsize
    for index in range(batchSize if rank else 0):
        u = v = None
        if jobz:
            u = raw.matrix(U + index * ldu * m * size, m, m, ldu, dtype)
            v = raw.matrix(V + index * ldv * n * size, n, n, ldv, dtype)
        a = raw.matrix(A + index * lda * n * size, m, n, lda, dtype)
        report(info + 4 * index, _svd_to(dtype, jobz, True, a, rank, S + index * rank * real, u, v))


def gesvda_batched(
    dtype: type, handle: int, jobz: int, rank: int, m: int, n: int, d_A: int, lda: int, strideA: int, d_S: int,
    strideS: int, d_U: int, ldu: int, strideU: int, d_V: int, ldv: int, strideV: int, d_work: int, lwork: int,
    d_info: int, h_R_nrmF: int, batchSize: int,
) -> None:  # fmt: skip
    """The ``rank`` largest singular values of strided tall matrices; residual norms go to a host array."""
    size, real = np.dtype(dtype).itemsize, real_of(dtype).itemsize
    for index in range(batchSize):
        a = raw.matrix(d_A + index * strideA * size, m, n, lda, dtype)
        u = v = None
        if jobz:
            u = raw.matrix(d_U + index * strideU * size, m, rank, ldu, dtype)
            v = raw.matrix(d_V + index * strideV * size, n, rank, ldv, dtype)
        at = d_S + index * strideS * real
        report(d_info + 4 * index, _svd_to(dtype, jobz, False, a, rank, at, u, v))
        if h_R_nrmF and u is not None and v is not None:
            values = raw.array(at, rank, real_of(dtype))
            residual = np.linalg.norm(a - (u * values) @ v.conj().T)
            raw.write(h_R_nrmF + 8 * index, residual, np.float64)


# --- eigenvalues -----------------------------------------------------------------------------------------------------


def _eigh(dtype: Any, jobz: int, uplo: int, n: int, address: int, lda: int, w: int) -> int:
    if n <= 0:
        return 0
    a = raw.matrix(address, n, n, lda, dtype)
    name = "heevd" if np.dtype(dtype).kind == "c" else "syevd"
    values, vectors, info = routine(name, dtype)(a, compute_v=bool(jobz), lower=uplo == LOWER)
    raw.array(w, n, real_of(dtype))[...] = values
    if jobz:
        a[...] = vectors
    return int(info)


def syevd(
    dtype: type, handle: int, jobz: int, uplo: int, n: int, A: int, lda: int, W: int, work: int, lwork: int, info: int
) -> None:
    """Eigenvalues, ascending, of a symmetric or Hermitian matrix; eigenvectors replace it."""
    report(info, _eigh(dtype, jobz, uplo, n, A, lda, W))


def syevj(
    dtype: type, handle: int, jobz: int, uplo: int, n: int, A: int, lda: int, W: int, work: int, lwork: int, info: int,
    params: int,
) -> None:  # fmt: skip
    """The Jacobi interface to `syevd`."""
    report(info, _eigh(dtype, jobz, uplo, n, A, lda, W))


def syevj_batched(
    dtype: type, handle: int, jobz: int, uplo: int, n: int, A: int, lda: int, W: int, work: int, lwork: int, info: int,
    params: int, batchSize: int,
) -> None:  # fmt: skip
    """A dense batch of `syevj`."""
    size, real = np.dtype(dtype).itemsize, real_of(dtype).itemsize
    for index in range(batchSize):
        a, w = A + index * lda * n * size, W + index * n * real
        report(info + 4 * index, _eigh(dtype, jobz, uplo, n, a, lda, w))


def _dtype(cuda_type: int) -> type:
    if cuda_type not in _DTYPES:
        raise CUSOLVERError(NOT_SUPPORTED, f"data type {cuda_type}")
    return _DTYPES[cuda_type]


def xsyevd_buffer_size(
    handle: int, params: int, jobz: int, uplo: int, n: int, dataTypeA: int, A: int, lda: int, dataTypeW: int, W: int,
    computeType: int,
) -> tuple[int, int]:  # fmt: skip
    """Return the workspaces of `xsyevd` on device and host, in bytes."""
    _dtype(dataTypeA)
    return 16, 16


def xsyevd(
    handle: int, params: int, jobz: int, uplo: int, n: int, dataTypeA: int, A: int, lda: int, dataTypeW: int, W: int,
    computeType: int, bufferOnDevice: int, workspaceInBytesOnDevice: int, bufferOnHost: int,
    workspaceInBytesOnHost: int, info: int,
) -> None:  # fmt: skip
    """`syevd` with the type by number."""
    report(info, _eigh(_dtype(dataTypeA), jobz, uplo, n, A, lda, W))


def xgeev_buffer_size(
    handle: int, params: int, jobvl: int, jobvr: int, n: int, dataTypeA: int, A: int, lda: int, dataTypeW: int, W: int,
    dataTypeVL: int, VL: int, ldvl: int, dataTypeVR: int, VR: int, ldvr: int, computeType: int,
) -> tuple[int, int]:  # fmt: skip
    """Return the workspaces of `xgeev` on device and host, in bytes."""
    _dtype(dataTypeA)
    return 16, 16


def xgeev(
    handle: int, params: int, jobvl: int, jobvr: int, n: int, dataTypeA: int, A: int, lda: int, dataTypeW: int, W: int,
    dataTypeVL: int, VL: int, ldvl: int, dataTypeVR: int, VR: int, ldvr: int, computeType: int, bufferOnDevice: int,
    workspaceInBytesOnDevice: int, bufferOnHost: int, workspaceInBytesOnHost: int, info: int,
) -> None:  # fmt: skip
    """Eigenvalues and vectors of a general matrix.

    Vectors of a real matrix are stored as LAPACK stores them: for a complex pair, real and imaginary part in two
    columns.
    """
    dtype = _dtype(dataTypeA)
    if n <= 0:
        report(info, 0)
        return
    result = routine("geev", dtype)(raw.matrix(A, n, n, lda, dtype), compute_vl=bool(jobvl), compute_vr=bool(jobvr))
    if np.dtype(dtype).kind == "c":
        values, left, right, status = result
    else:
        real, imaginary, left, right, status = result
        values = real + 1j * imaginary if np.dtype(_dtype(dataTypeW)).kind == "c" else real
    raw.array(W, n, _dtype(dataTypeW))[...] = values
    if jobvl:
        raw.matrix(VL, n, n, ldvl, dtype)[...] = left
    if jobvr:
        raw.matrix(VR, n, n, ldvr, dtype)[...] = right
    report(info, status)
