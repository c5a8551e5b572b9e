"""Status numbers of the driver and runtime APIs, and what an exception of migproxy becomes in each."""

from __future__ import annotations

from typing import Final

from migproxy.errors import CudaError, MigproxyError, ProtocolError, SessionLost

INVALID_VALUE: Final = 1
OUT_OF_MEMORY: Final = 2
NOT_INITIALIZED: Final = 3
DEVICE_UNAVAILABLE: Final = 46
INVALID_DEVICE: Final = 101
INVALID_CONTEXT: Final = 201
OPERATING_SYSTEM: Final = 304
INVALID_HANDLE: Final = 400
NOT_FOUND: Final = 500
NOT_READY: Final = 600
NOT_PERMITTED: Final = 800
NOT_SUPPORTED: Final = 801
CAPTURE_UNSUPPORTED: Final = 900
UNKNOWN: Final = 999

# The runtime API's own numbers, where they are not the driver's.
CUDART_INVALID_CONFIGURATION: Final = 9
CUDART_INVALID_PITCH: Final = 12
CUDART_INVALID_CHANNEL_DESCRIPTOR: Final = 20
CUDART_INVALID_MEMCPY_DIRECTION: Final = 21

#: ``CUresult`` values that ``cudaError_t`` does not have.
_NO_RUNTIME_NUMBER: Final = {202: UNKNOWN, 914: 914}


class CudaRuntimeStatus(CudaError):
    """A runtime API call failed.

    Parameters
    ----------
    status : int
        The ``cudaError_t``; e.g. 2 for ``cudaErrorMemoryAllocation``.
    detail : str, optional
        What migproxy knows beyond the status. The exception of the driver layer, if there was one, is ``__cause__``.
    """


def driver_status(error: BaseException) -> int:
    """Return the ``CUresult`` that stands for `error`.

    A lost session is ``CUDA_ERROR_DEVICE_UNAVAILABLE``: the one status whose meaning ("the device cannot be used
    now") is true.
    """
    if isinstance(error, CudaError):
        return error.status
    if isinstance(error, SessionLost):
        return DEVICE_UNAVAILABLE
    if isinstance(error, ProtocolError):
        return UNKNOWN
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, MigproxyError):
        return UNKNOWN
    raise error


def runtime_status(error: BaseException) -> int:
    """Return the ``cudaError_t`` that stands for `error`; the numbers are the driver's since CUDA 10.1, with few
    exceptions."""
    status = driver_status(error)
    if isinstance(error, CudaRuntimeStatus):
        return status
    return _NO_RUNTIME_NUMBER.get(status, status)
