"""Stand-in for ``cupyx._cusolver``: CuPy's routines over cuSOLVER, on the stand-in of its Python-level module.

The real module is linked to cuSOLVER for its loops over batches; everything else in it calls the Python-level
functions, as we do here.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import standin

_VECTORS, _NO_VECTORS = 1, 0
_LOWER, _UPPER = 0, 1
_INFINITY = float("inf")

#: Routine → first and last cuSOLVER version that has it.
AVAILABLE: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(
        ("gesvdj", "gesvdjBatched", "gesvda", "potrfBatched", "potrsBatched", "syevj", "gesv", "gels", "csrlsvqr"),
        (0, None),
    ),
    "geev": (11700, None),
}


def _solver() -> Any:
    from cupy_backends.cuda.libs import cusolver

    return cusolver


def _handle() -> int:
    from cupy.cuda import device

    handle: int = device.get_cusolver_handle()
    return handle


def _letter(dtype: Any) -> str:
    """Return cuSOLVER's letter of a dtype."""
    try:
        return {"f": "s", "d": "d", "F": "c", "D": "z"}[np.dtype(dtype).char]
    except KeyError:
        raise TypeError(f"unsupported dtype (actual: {dtype})") from None


def _real(dtype: Any) -> str:
    return str(np.dtype(dtype).char.lower())


def _check_info(routine: Any, info: Any) -> None:
    import cupy.linalg._util as util

    util._check_cusolver_dev_info_if_synchronization_allowed(routine, info)


class Routines:
    """The module's functions.

    Parameters
    ----------
    versions, capabilities : dict
        When a routine is available: by cuSOLVER version, by compute capability.
    """

    def __init__(self, versions: dict[str, tuple[Any, Any]], capabilities: dict[str, int]) -> None:
        self._versions = versions
        self._capabilities = capabilities

    def check_availability(self, name: str) -> bool:
        """Whether this cuSOLVER has a routine."""
        from cupy.cuda import device

        if name not in self._versions:
            raise ValueError(f"No available version information specified for {name}")
        solver = _solver()
        major, minor, patch = solver._getVersion()
        version = major * 1000 + minor * 100 + patch
        added, removed = self._versions[name]
        if (added is not None and version < added) or (removed is not None and version >= removed):
            return False
        return int(device.get_compute_capability()) >= self._capabilities.get(name, 0)

    def _require(self, name: str, shown: str | None = None) -> None:
        if not self.check_availability(name):
            raise RuntimeError(f"{shown or name} is not available.")

    # -- singular values -------------------------------------------------------------------------------------------
    def gesvdj(self, a: Any, full_matrices: bool = True, compute_uv: bool = True, overwrite_a: bool = False) -> Any:
        """Singular value decomposition by Jacobi's method: ``a == u @ diag(s) @ v*``."""
        import cupy

        if a.ndim == 3:
            return self.gesvdj_batched(a, full_matrices, compute_uv, overwrite_a)
        self._require("gesvdj")
        assert a.ndim == 2
        letter, solver, handle = _letter(a.dtype), _solver(), _handle()
        m, n = a.shape
        k = min(m, n)
        a = cupy.array(a, order="F", copy=None if overwrite_a else True)
        if not compute_uv:
            full_matrices = False
        mode = _VECTORS if compute_uv else _NO_VECTORS
        s = cupy.empty(k, _real(a.dtype))
        u = cupy.empty((m, m if full_matrices else k), a.dtype, order="F")
        v = cupy.empty((n, n if full_matrices else k), a.dtype, order="F")
        arguments = (
            handle, mode, int(not full_matrices), m, n, a.data.ptr, m, s.data.ptr, u.data.ptr, m, v.data.ptr, n,
        )  # fmt: skip
        parameters = solver.createGesvdjInfo()
        try:
            size = getattr(solver, f"{letter}gesvdj_bufferSize")(*arguments, parameters)
            work, info = cupy.empty(size, a.dtype), cupy.empty(1, np.int32)
            getattr(solver, f"{letter}gesvdj")(*arguments, work.data.ptr, size, info.data.ptr, parameters)
            _check_info(self.gesvdj, info)
        finally:
            solver.destroyGesvdjInfo(parameters)
        return (u, s, v) if compute_uv else s

    def gesvdj_batched(self, a: Any, full_matrices: bool, compute_uv: bool, overwrite_a: bool) -> Any:
        """The same for a batch of small matrices."""
        import cupy

        self._require("gesvdjBatched", "gesvdj")
        letter, solver, handle = _letter(a.dtype), _solver(), _handle()
        batch, m, n = a.shape
        k = min(m, n)
        a = cupy.array(a.swapaxes(-2, -1), order="C", copy=None if overwrite_a else True)
        mode = _VECTORS if compute_uv else _NO_VECTORS
        s = cupy.empty((batch, k), _real(a.dtype))
        u = cupy.empty((batch, m, m), a.dtype).swapaxes(-2, -1)
        v = cupy.empty((batch, n, n), a.dtype).swapaxes(-2, -1)
        arguments = (handle, mode, m, n, a.data.ptr, m, s.data.ptr, u.data.ptr, m, v.data.ptr, n)
        parameters = solver.createGesvdjInfo()
        try:
            size = getattr(solver, f"{letter}gesvdjBatched_bufferSize")(*arguments, parameters, batch)
            work, info = cupy.empty(size, a.dtype), cupy.empty(batch, np.int32)
            run = getattr(solver, f"{letter}gesvdjBatched")
            run(*arguments, work.data.ptr, size, info.data.ptr, parameters, batch)
            _check_info(self.gesvdj, info)
        finally:
            solver.destroyGesvdjInfo(parameters)
        if not compute_uv:
            return s
        return (u, s, v) if full_matrices else (u[..., :k], s, v[..., :k])

    def gesvd_batched(self, a: Any, a_dtype: Any, full_matrices: bool, compute_uv: bool, overwrite_a: bool) -> Any:
        """Singular value decomposition of a batch, one matrix after another: ``a == u @ diag(s) @ v*``."""
        import cupy

        assert a.ndim > 2
        assert not overwrite_a
        letter, solver, handle = _letter(a_dtype), _solver(), _handle()
        batch, rows, columns = a.shape
        # cuSOLVER wants columns of at least the rows' length: a C-ordered matrix is its transpose in column order.
        wide = columns >= rows
        x = (a if wide else a.swapaxes(-2, -1)).astype(a_dtype, order="C", copy=True)
        n, m = x.shape[-2:]
        s = cupy.ndarray((batch, n), _real(a_dtype))
        info = cupy.ndarray((batch,), np.int32)
        u = vt = x
        job_u, job_vt = ord("N"), ord("N")
        if compute_uv and full_matrices:
            u = cupy.ndarray((batch, m, m), a_dtype)
            vt, job_u, job_vt = x[..., :n], ord("A"), ord("O")
        elif compute_uv:
            vt = cupy.ndarray((batch, n, n), a_dtype)
            job_u, job_vt = ord("O"), ord("S")
        size = getattr(solver, f"{letter}gesvd_bufferSize")(handle, m, n)
        work = cupy.cuda.memory.alloc(size * x.dtype.itemsize)
        run = getattr(solver, f"{letter}gesvd")
        for i in range(batch):
            u_pointer = u[i].data.ptr if job_u == ord("A") else 0
            vt_pointer = vt[i].data.ptr if job_vt == ord("S") else 0
            run(
                handle, job_u, job_vt, m, n, x[i].data.ptr, m, s[i].data.ptr, u_pointer, m, vt_pointer, n,
                work.ptr, size, 0, info[i : i + 1].data.ptr,
            )  # fmt: skip
        _check_info("gesvd", info)
        if not compute_uv:
            return s
        if wide:
            return vt, s, u.swapaxes(-2, -1).conj()
        return u.swapaxes(-2, -1), s, vt.conj()

    def gesvda(self, a: Any, compute_uv: bool = True) -> Any:
        """Approximate singular value decomposition of tall matrices: ``a == u @ diag(s) @ v*``."""
        import cupy

        self._require("gesvda")
        assert a.ndim >= 2
        m, n = a.shape[-2:]
        assert m >= n
        outer = a.shape[:-2]
        letter, solver, handle = _letter(a.dtype), _solver(), _handle()
        batch = int(np.prod(outer)) if outer else 1
        a = cupy.ascontiguousarray(a.reshape((batch, m, n)).transpose(0, 2, 1))
        s = cupy.empty((batch, n), _real(a.dtype))
        u = cupy.empty((batch, n, m), a.dtype)
        v = cupy.empty((batch, n, n), a.dtype)
        arguments = (
            handle, _VECTORS if compute_uv else _NO_VECTORS, n, m, n, a.data.ptr, m, m * n, s.data.ptr, n,
            u.data.ptr, m, n * m, v.data.ptr, n, n * n,
        )  # fmt: skip
        size = getattr(solver, f"{letter}gesvdaStridedBatched_bufferSize")(*arguments, batch)
        work, info = cupy.empty((size,), a.dtype), cupy.empty((batch,), np.int32)
        norms = np.empty((batch,), np.float64)
        run = getattr(solver, f"{letter}gesvdaStridedBatched")
        run(*arguments, work.data.ptr, size, info.data.ptr, norms.ctypes.data, batch)
        s = s.reshape((*outer, n))
        if not compute_uv:
            return s
        u, v = u.transpose(0, 2, 1), v.transpose(0, 2, 1)
        return u.reshape((*outer, m, n)), s, v.reshape((*outer, n, n))

    # -- eigenvalues -----------------------------------------------------------------------------------------------
    def syevj(self, a: Any, UPLO: str = "L", with_eigen_vector: bool = True) -> Any:
        """Eigenvalues of a symmetric or Hermitian matrix by Jacobi's method."""
        import cupy

        self._require("syevj")
        if UPLO not in ("L", "U"):
            raise ValueError("UPLO argument must be 'L' or 'U'")
        if a.ndim > 2:
            return self.syevj_batched(a, UPLO, with_eigen_vector)
        assert a.ndim == 2
        dtype, v_dtype = cupy.linalg._util.linalg_common_type(a, reject_float16=False)
        v = a.astype(dtype, order="F", copy=True)
        w = cupy.empty(a.shape[0], _real(dtype))
        arguments = (v.data.ptr, a.shape[1], w.data.ptr)
        self._run_syevj("", dtype, UPLO, with_eigen_vector, a.shape[0], arguments, 1)
        w = w.astype(_real(v_dtype), copy=False)
        return (w, v.astype(v_dtype, copy=False)) if with_eigen_vector else w

    def syevj_batched(self, a: Any, UPLO: str, with_eigen_vector: bool) -> Any:
        """The same for a batch."""
        import cupy

        dtype, v_dtype = cupy.linalg._util.linalg_common_type(a, reject_float16=False)
        *outer, m, lda = a.shape
        batch = int(np.prod(outer))
        v = cupy.array(a.reshape(batch, m, lda).swapaxes(-2, -1), order="C", copy=True, dtype=dtype)
        w = cupy.empty((batch, m), _real(dtype))
        self._run_syevj("Batched", dtype, UPLO, with_eigen_vector, m, (v.data.ptr, lda, w.data.ptr), batch)
        w = w.astype(_real(v_dtype), copy=False).reshape(*outer, m)
        if not with_eigen_vector:
            return w
        return w, v.astype(v_dtype, copy=False).swapaxes(-2, -1).reshape(*outer, m, m)

    def _run_syevj(
        self, suffix: str, dtype: Any, uplo: str, vectors: bool, m: int, pointers: tuple[int, ...], batch: int
    ) -> None:
        import cupy

        letter, solver, handle = _letter(dtype), _solver(), _handle()
        name = f"{letter}{'sy' if letter in 'sd' else 'he'}evj{suffix}"
        tail = (batch,) if suffix else ()
        head = (handle, _VECTORS if vectors else _NO_VECTORS, _LOWER if uplo == "L" else _UPPER, m, *pointers)
        parameters = solver.createSyevjInfo()
        try:
            size = getattr(solver, f"{name}_bufferSize")(*head, parameters, *tail)
            work, info = cupy.empty(size, dtype), cupy.empty((batch,), np.int32)
            run = getattr(solver, name)
            run(*head, work.data.ptr, size, info.data.ptr, parameters, *tail)
            _check_info(run, info)
        finally:
            solver.destroySyevjInfo(parameters)

    # -- linear systems --------------------------------------------------------------------------------------------
    @staticmethod
    def _iterative_name(dtype: Any, routine: str) -> str:
        """Return the mixed-precision routine for a dtype and CuPy's compute type."""
        from cupy._core import _routines_linalg as linalg

        char = np.dtype(dtype).char
        if char not in "fdFD":
            raise ValueError(f"unsupported dtype (actual:{dtype})")
        compute = linalg.get_compute_type(dtype)
        first = _letter(dtype)
        single, half, tf32 = ("s", "h", "x") if char in "fd" else ("c", "k", "y")
        second = {
            linalg.COMPUTE_TYPE_FP16: half,
            linalg.COMPUTE_TYPE_TF32: tf32,
            linalg.COMPUTE_TYPE_FP32: single,
        }.get(compute, first)
        return f"{first}{second}{routine}"

    def gesv(self, a: Any, b: Any) -> Any:
        """Solve ``a x = b``."""
        import cupy

        self._require("gesv")
        if a.ndim != 2:
            raise ValueError(f"a.ndim must be 2 (actual:{a.ndim})")
        if b.ndim not in (1, 2):
            raise ValueError(f"b.ndim must be 1 or 2 (actual:{b.ndim})")
        if a.shape[0] != a.shape[1]:
            raise ValueError("a must be a square matrix.")
        if a.shape[0] != b.shape[0]:
            raise ValueError(f"shape mismatch (a:{a.shape}, b:{b.shape}).")
        if a.dtype != b.dtype:
            raise ValueError(f"dtype mismatch (a:{a.dtype}, b:{b.dtype}).")
        n, columns = b.shape[0], b.shape[1] if b.ndim == 2 else 1
        name, solver = self._iterative_name(a.dtype, "gesv"), _solver()
        a, b = a.copy(order="F"), b.copy(order="F")
        x = cupy.empty_like(b)
        pivots, info = cupy.empty(n, np.int32), cupy.empty(1, np.int32)
        arguments = (
            _handle(), n, columns, a.data.ptr, n, pivots.data.ptr, b.data.ptr, n, x.data.ptr, n,
        )  # fmt: skip
        size = getattr(solver, f"{name}_bufferSize")(*arguments, 0)
        work = cupy.empty(size, np.int8)
        iterations = getattr(solver, name)(*arguments, work.data.ptr, size, info.data.ptr)
        if iterations < 0:
            raise RuntimeError(f"gesv has failed ({iterations}).")
        return x

    def gels(self, a: Any, b: Any) -> Any:
        """Solve a least-squares problem with at least as many rows as columns."""
        import cupy

        self._require("gels")
        if a.ndim != 2:
            raise ValueError(f"a.ndim must be 2 (actual:{a.ndim})")
        if b.ndim not in (1, 2):
            raise ValueError(f"b.ndim must be 1 or 2 (actual: {b.ndim})")
        if a.shape[0] != b.shape[0]:
            raise ValueError(f"shape mismatch (a:{a.shape}, b:{b.shape}).")
        if a.dtype != b.dtype:
            raise ValueError(f"dtype mismatch (a:{a.dtype}, b:{b.dtype}).")
        m, n = a.shape
        if m < n:
            raise ValueError("m must be equal to or greater than n.")
        vector = b.ndim == 1
        right = b.reshape(m, 1) if vector else b
        asked = right.shape[1]
        # cuSOLVER's solver for one right-hand side of a tall matrix is broken in some versions; two are fine.
        columns = 2 if m > n and asked == 1 else asked
        name, solver = self._iterative_name(a.dtype, "gels"), _solver()
        a = a.copy(order="F")
        rights = cupy.empty((m, columns), a.dtype, order="F")
        rights[...] = right
        x = cupy.empty((m, columns), a.dtype, order="F")
        info = cupy.empty(1, np.int32)
        arguments = (_handle(), m, n, columns, a.data.ptr, m, rights.data.ptr, m, x.data.ptr, m)
        size = getattr(solver, f"{name}_bufferSize")(*arguments, 0)
        work = cupy.empty(size, np.int8)
        iterations = getattr(solver, name)(*arguments, work.data.ptr, size, info.data.ptr)
        if iterations <= -50:
            warnings.warn("gels reached maximum allowed iterations.", stacklevel=2)
        elif iterations < 0:
            raise RuntimeError(f"gels has failed ({iterations}).")
        x = x[:n, :asked]
        return x.reshape(n) if vector else x

    def csrlsvqr(self, A: Any, b: Any, tol: float = 0, reorder: int = 1) -> Any:
        """Solve a sparse system by QR factorization."""
        import cupy
        import cupyx.scipy.sparse as sparse
        from cupy.cuda import device

        self._require("csrlsvqr")
        if not (sparse.issparse(A) and A.format == "csr"):
            raise ValueError("A must be CSR sparse matrix")
        if not isinstance(b, cupy.ndarray):
            raise ValueError("b must be cupy.ndarray")
        if b.ndim != 1:
            raise ValueError(f"b.ndim must be 1 (actual: {b.ndim})")
        if not A.shape[0] == A.shape[1] == b.shape[0]:
            raise ValueError("invalid shape")
        if A.dtype != b.dtype:
            raise TypeError("dtype mismatch")
        tol = max(tol, 0)
        m = A.shape[0]
        b = cupy.ascontiguousarray(b)
        x = cupy.empty((m,), A.dtype)
        singularity = np.empty((1,), np.int32)
        getattr(_solver(), f"{_letter(A.dtype)}csrlsvqr")(
            device.get_cusolver_sp_handle(), m, A.nnz, A._descr.descriptor, A.data.data.ptr, A.indptr.data.ptr,
            A.indices.data.ptr, b.data.ptr, tol, reorder, x.data.ptr, singularity.ctypes.data,
        )  # fmt: skip
        if singularity[0] >= 0:
            warnings.warn(
                f"A is not positive definite or near singular under tolerance {tol} (singularity: {singularity})",
                stacklevel=2,
            )
        return x

    def geqrf_orgqr_batched(self, a: Any, mode: str) -> Any:
        """QR factorization of a batch, one matrix after another."""
        import cupy

        dtype, out_dtype = cupy.linalg._util.linalg_common_type(a)
        if np.dtype(dtype).char not in "fdFD":
            raise ValueError(f"dtype must be float32, float64, complex64 or complex128 (actual: {a.dtype})")
        letter, solver, handle = _letter(dtype), _solver(), _handle()
        batch, m, n = a.shape
        k = min(m, n)
        x = a.swapaxes(-2, -1).astype(dtype, order="C", copy=True)
        info = cupy.ndarray((batch,), np.int32)
        tau = cupy.empty((batch, k), dtype)
        size = getattr(solver, f"{letter}geqrf_bufferSize")(handle, m, n, x.data.ptr, m)
        work = cupy.cuda.memory.alloc(size * x.dtype.itemsize)
        run = getattr(solver, f"{letter}geqrf")
        for i in range(batch):
            run(handle, m, n, x[i].data.ptr, m, tau[i].data.ptr, work.ptr, size, info[i : i + 1].data.ptr)
        _check_info("geqrf", info)
        if mode == "r":
            return cupy.linalg._util._triu(x[..., :k].swapaxes(-2, -1)).astype(out_dtype, copy=False)
        if mode == "raw":
            return x.astype(out_dtype, copy=False), tau.astype(out_dtype, copy=False)
        columns = m if mode == "complete" and m > n else k
        q = cupy.empty((batch, max(columns, n), m), dtype)
        q[..., :n, :] = x
        name = f"{letter}{'or' if letter in 'sd' else 'un'}gqr"
        size = getattr(solver, f"{name}_bufferSize")(handle, m, columns, k, q.data.ptr, m, tau.data.ptr)
        work = cupy.cuda.memory.alloc(size * x.dtype.itemsize)
        run = getattr(solver, name)
        for i in range(batch):
            run(
                handle, m, columns, k, q[i].data.ptr, m, tau[i].data.ptr, work.ptr, size, info[i : i + 1].data.ptr
            )  # fmt: skip
        _check_info("orgqr", info)
        q = q[..., :columns, :].swapaxes(-2, -1)
        r = x[..., :columns].swapaxes(-2, -1)
        return q.astype(out_dtype, copy=False), cupy.linalg._util._triu(r).astype(out_dtype, copy=False)


def make(name: str) -> ModuleType:
    """Return the stand-in."""
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)
    capabilities = vars(module).setdefault("_available_compute_capability", {"gesv": 70, "gels": 70})
    versions = AVAILABLE
    routines = Routines(versions, capabilities)
    vars(module).update(
        _available_cuda_version=versions, _available_hip_version=dict.fromkeys(versions, (_INFINITY, None))
    )
    standin.publish(
        module,
        library,
        {
            "check_availability": routines.check_availability,
            "gesvdj": routines.gesvdj,
            "_gesvdj_batched": routines.gesvdj_batched,
            "_gesvd_batched": routines.gesvd_batched,
            "gesvda": routines.gesvda,
            "syevj": routines.syevj,
            "_syevj_batched": routines.syevj_batched,
            "gesv": routines.gesv,
            "gels": routines.gels,
            "csrlsvqr": routines.csrlsvqr,
            "_geqrf_orgqr_batched": routines.geqrf_orgqr_batched,
        },
    )
    return module
