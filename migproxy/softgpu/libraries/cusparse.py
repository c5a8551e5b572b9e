"""cuSPARSE on SciPy: the counterpart of ``cupy_backends.cuda.libs.cusparse``.

The generic API (`cusparse_descriptors`, `cusparse_generic`), the legacy conversions and additions (`cusparse_legacy`),
the incomplete factorisations and banded solvers (`cusparse_solvers`) are here under CuPy's names. The block-sparse
factorisations (``bsrilu02``, ``bsric02``) are refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import cusparse_descriptors, cusparse_generic, cusparse_legacy, cusparse_solvers
from .cusparse_types import NOT_INITIALIZED, MatDescr, mat_descrs
from .handles import Context, Handles, typed
from .names import complete, facts, older
from .status import CuSparseError

TYPES: dict[str, type] = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}

_contexts: Handles[Context] = Handles(lambda handle: CuSparseError(NOT_INITIALIZED, f"no cuSPARSE handle {handle:#x}"))


def check_status(status: int) -> None:
    """Raise `CuSparseError` for a status other than success."""
    if status != 0:
        raise CuSparseError(status)


def get_build_version() -> int:
    """Return the version of cuSPARSE that CuPy was built with."""
    return 12509


def is_cuda_python_build() -> bool:
    """Tell whether CuPy was built on cuda-python's bindings."""
    return False


def create() -> int:
    """Make a context."""
    return _contexts.add(Context())


def destroy(handle: int) -> None:
    """Forget a context."""
    _contexts.pop(handle)


def getVersion(handle: int) -> int:
    """Return the version of cuSPARSE that this module follows."""
    return 12510 if _contexts[handle] else 0


def setStream(handle: int, stream: int) -> None:
    """Remember the stream; the executor orders the calls."""
    _contexts[handle].stream = stream


def getStream(handle: int) -> int:
    """Return the stream that was set."""
    return _contexts[handle].stream


def setPointerMode(handle: int, mode: int) -> None:
    """Remember where scalars lie; both places are the same memory here."""
    _contexts[handle].pointer_mode = mode


def createMatDescr() -> int:
    """Make a legacy matrix descriptor."""
    return mat_descrs.add(MatDescr())


def destroyMatDescr(descr: int) -> None:
    """Forget it."""
    mat_descrs.pop(descr)


def setMatType(descr: int, typ: int) -> None:
    """Set the kind of matrix."""
    mat_descrs[descr].kind = typ


def setMatIndexBase(descr: int, base: int) -> None:
    """Set the index base."""
    mat_descrs[descr].base = int(base)


def setMatFillMode(descrA: int, fillMode: int) -> None:
    """Set which triangle is stored."""
    mat_descrs[descrA].fill_mode = fillMode


def setMatDiagType(descrA: int, diagType: int) -> None:
    """Set whether the diagonal is one."""
    mat_descrs[descrA].diag_type = diagType


def _publish(namespace: dict[str, Any]) -> None:
    """Bring in the other modules' public functions under the names that CuPy has for them."""
    known = facts("cusparse")
    for module in (cusparse_descriptors, cusparse_generic, cusparse_legacy, cusparse_solvers):
        for name in [*known["functions"], *older("cusparse"), *known["classes"]]:
            if hasattr(module, name):
                namespace.setdefault(name, getattr(module, name))

    def publish(function: Any, pattern: str) -> None:
        typed(namespace, function, {pattern.format(letter): dtype for letter, dtype in TYPES.items()})

    solvers, legacy = cusparse_solvers, cusparse_legacy
    publish(legacy.nnz, "{}nnz")
    publish(legacy.nnz_compress, "{}nnz_compress")
    publish(legacy.csr2csr_compress, "{}csr2csr_compress")
    publish(legacy.csrgeam2, "{}csrgeam2")
    publish(legacy.csrgeam2_bufferSizeExt, "{}csrgeam2_bufferSizeExt")
    for kind, solve in (("ilu", solvers.csrilu02), ("ic", solvers.csric02)):
        publish(solvers.buffer_size, "{}csr" + kind + "02_bufferSize")
        publish(solvers.analysis, "{}csr" + kind + "02_analysis")
        publish(solve, "{}csr" + kind + "02")
    publish(solvers.numeric_boost, "{}csrilu02_numericBoost")
    for suffix in ("", "_nopivot"):
        publish(solvers.gtsv2, "{}gtsv2" + suffix)
        publish(solvers.gtsv2_buffer_size, "{}gtsv2" + suffix + "_bufferSizeExt")
    publish(solvers.gtsv2_strided, "{}gtsv2StridedBatch")
    publish(solvers.gtsv2_strided_buffer_size, "{}gtsv2StridedBatch_bufferSizeExt")
    publish(solvers.gtsv_interleaved, "{}gtsvInterleavedBatch")
    publish(solvers.gtsv_interleaved_buffer_size, "{}gtsvInterleavedBatch_bufferSizeExt")
    publish(solvers.gpsv_interleaved, "{}gpsvInterleavedBatch")
    publish(solvers.gpsv_interleaved_buffer_size, "{}gpsvInterleavedBatch_bufferSizeExt")


_publish(globals())
REFUSED = complete(globals(), "cusparse", CuSparseError)
