"""cuSOLVER on LAPACK and SciPy: the counterpart of ``cupy_backends.cuda.libs.cusolver``.

The solvers with iterative refinement (``sxgesv`` …) compute in full precision whatever their low-precision type is.
Workspaces are not needed: the ``*_bufferSize`` functions answer with one element. ``gebrd`` and ``csreigvsi`` are
refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from . import cusolver_dense as dense
from . import cusolver_sparse as sparse
from . import cusolver_spectral as spectral
from .handles import Context, Handles, typed
from .names import complete, facts, parameters
from .status import CUSOLVERError

TYPES: dict[str, type] = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}
VERSION = (11, 7, 5)
NOT_INITIALIZED, INVALID_VALUE = 1, 3

_contexts: Handles[Context] = Handles(lambda handle: CUSOLVERError(NOT_INITIALIZED, f"no cuSOLVER handle {handle:#x}"))


class Settings:
    """What a Jacobi solver's parameter object holds; the solvers here need no sweeps."""

    def __init__(self) -> None:
        self.tolerance = 0.0
        self.max_sweeps = 100
        self.sort = 1


_settings: Handles[Settings] = Handles(lambda handle: CUSOLVERError(INVALID_VALUE, f"no cuSOLVER object {handle:#x}"))


def check_status(status: int) -> None:
    """Raise `CUSOLVERError` for a status other than success."""
    if status != 0:
        raise CUSOLVERError(status)


def getProperty(type: int) -> int:
    """Return the major, minor or patch version."""
    if type not in (0, 1, 2):
        raise CUSOLVERError(INVALID_VALUE, f"property {type}")
    return VERSION[type]


def _getVersion() -> tuple[int, int, int]:
    return VERSION


def _get_cuda_build_version() -> int:
    return 12090


def _getVersionNumber() -> int:
    return VERSION[0] * 1000 + VERSION[1] * 100 + VERSION[2]


def create() -> int:
    """Make a dense context."""
    return _contexts.add(Context())


def spCreate() -> int:
    """Make a sparse context."""
    return _contexts.add(Context())


def destroy(handle: int) -> None:
    """Forget a dense context."""
    _contexts.pop(handle)


def spDestroy(handle: int) -> None:
    """Forget a sparse context."""
    _contexts.pop(handle)


def setStream(handle: int, stream: int) -> None:
    """Remember the stream; the executor orders the calls."""
    _contexts[handle].stream = stream


def getStream(handle: int) -> int:
    """Return the stream that was set."""
    return _contexts[handle].stream


def spSetStream(handle: int, stream: int) -> None:
    """Remember the stream of a sparse context."""
    _contexts[handle].stream = stream


def spGetStream(handle: int) -> int:
    """Return the stream of a sparse context."""
    return _contexts[handle].stream


def createParams() -> int:
    """Make the parameters of a routine with types by number."""
    return _settings.add(Settings())


def destroyParams(params: int) -> None:
    """Forget them."""
    _settings.pop(params)


def createGesvdjInfo() -> int:
    """Make the settings of a Jacobi singular value solver."""
    return _settings.add(Settings())


def destroyGesvdjInfo(info: int) -> None:
    """Forget them."""
    _settings.pop(info)


def createSyevjInfo() -> int:
    """Make the settings of a Jacobi eigenvalue solver."""
    return _settings.add(Settings())


def destroySyevjInfo(info: int) -> None:
    """Forget them."""
    _settings.pop(info)


def xgesvdjSetTolerance(info: int, tolerance: float) -> None:
    """Set the tolerance; LAPACK's is machine precision, which meets any."""
    _settings[info].tolerance = tolerance


def xgesvdjSetMaxSweeps(info: int, max_sweeps: int) -> None:
    """Set the most sweeps; none are made here."""
    _settings[info].max_sweeps = max_sweeps


def xgesvdjSetSortEig(info: int, sort_svd: int) -> None:
    """Set whether results are sorted; they always are."""
    _settings[info].sort = sort_svd


def xgesvdjGetResidual(handle: int, info: int) -> float:
    """Return the residual of the last solution: zero, as after convergence."""
    return 0.0 if _settings[info] else 1.0


def xgesvdjGetSweeps(handle: int, info: int) -> int:
    """Return how many sweeps were made: LAPACK makes none."""
    return 0 if _settings[info] else -1


def xsyevjSetTolerance(info: int, tolerance: float) -> None:
    """Set the tolerance."""
    _settings[info].tolerance = tolerance


def xsyevjSetMaxSweeps(info: int, max_sweeps: int) -> None:
    """Set the most sweeps."""
    _settings[info].max_sweeps = max_sweeps


def xsyevjSetSortEig(info: int, sort_eig: int) -> None:
    """Set whether results are sorted; they always are."""
    _settings[info].sort = sort_eig


def xsyevjGetResidual(handle: int, info: int) -> float:
    """Return the residual of the last solution."""
    return 0.0 if _settings[info] else 1.0


def xsyevjGetSweeps(handle: int, info: int) -> int:
    """Return how many sweeps were made."""
    return 0 if _settings[info] else -1


def _workspace_query(name: str) -> Callable[..., int]:
    """Return a ``*_bufferSize`` function that takes what the real one takes and asks for one element."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD
    words = parameters(facts("cusolver")["functions"][name])
    signature = inspect.Signature([inspect.Parameter(word, kinds) for word in words])

    def query(*args: Any, **kwargs: Any) -> int:
        signature.bind(*args, **kwargs)
        return 1

    query.__name__ = query.__qualname__ = name
    query.__signature__ = signature  # type: ignore[attr-defined]
    return query


def _publish(namespace: dict[str, Any]) -> None:
    """Make the typed names: one line per family of cuSOLVER functions."""

    def publish(function: Callable[..., Any], *patterns: str, letters: str = "sdcz") -> None:
        for pattern in patterns:
            typed(namespace, function, {pattern.format(letter): TYPES[letter] for letter in letters})

    publish(dense.getrf, "{}getrf")
    publish(dense.getrs, "{}getrs")
    publish(dense.potrf, "{}potrf")
    publish(dense.potrf_batched, "{}potrfBatched")
    publish(dense.potrs, "{}potrs")
    publish(dense.potrs_batched, "{}potrsBatched")
    publish(dense.geqrf, "{}geqrf")
    publish(dense.orgqr, "{}orgqr", letters="sd")
    publish(dense.orgqr, "{}ungqr", letters="cz")
    publish(dense.ormqr, "{}ormqr")
    publish(dense.ormqr, "{}unmqr", letters="cz")
    publish(dense.sytrf, "{}sytrf")
    publish(spectral.gesvd, "{}gesvd")
    publish(spectral.gesvdj, "{}gesvdj")
    publish(spectral.gesvdj_batched, "{}gesvdjBatched")
    publish(spectral.gesvda_batched, "{}gesvdaStridedBatched")
    for family, letters in (("sy", "sd"), ("he", "cz")):
        publish(spectral.syevd, "{}" + family + "evd", letters=letters)
        publish(spectral.syevj, "{}" + family + "evj", letters=letters)
        publish(spectral.syevj_batched, "{}" + family + "evjBatched", letters=letters)
    publish(sparse.csrlsvqr, "{}csrlsvqr", "{}csrlsvchol")
    low_precision = {"s": "shx", "d": "dshx", "c": "cky", "z": "zcky"}
    for high, lows in low_precision.items():
        for low in lows:
            typed(namespace, dense.gesv, {f"{high}{low}gesv": TYPES[high]})
            typed(namespace, dense.gels, {f"{high}{low}gels": TYPES[high]})
            namespace[f"{high}{low}gesv_bufferSize"] = dense.gesv_buffer_size
            namespace[f"{high}{low}gels_bufferSize"] = dense.gels_buffer_size
    for letter in TYPES:
        namespace[f"{letter}gesvd_bufferSize"] = spectral.gesvd_buffer_size
    namespace.update(
        xsyevd=spectral.xsyevd,
        xsyevd_bufferSize=spectral.xsyevd_buffer_size,
        xgeev=spectral.xgeev,
        xgeev_bufferSize=spectral.xgeev_buffer_size,
    )
    suffix = "_bufferSize"
    for name in facts("cusolver")["functions"]:
        if name.endswith(suffix) and name not in namespace and not name.endswith("gebrd_bufferSize"):
            namespace[name] = _workspace_query(name)


_publish(globals())
REFUSED = complete(globals(), "cusolver", CUSOLVERError)
