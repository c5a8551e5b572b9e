"""CuPy's own errors: same type, status and message as natively, in the call where the library reports it there."""

from __future__ import annotations

import cupy as cp
import numpy as np
import pytest
from cupy.cuda import cublas, curand, device, runtime
from cupy_backends.cuda.libs import cusolver, cusparse

HOST = np.ones(2, np.float32)


def gemm(lda: int) -> None:
    a = cp.ones((4, 4), np.float32)
    one = HOST.ctypes.data
    cublas.sgemm(device.get_cublas_handle(), 0, 0, 4, 4, 4, one, a.data.ptr, lda, a.data.ptr, 4, one, a.data.ptr, 4)


def test_an_invalid_product() -> None:
    with pytest.raises(cublas.CUBLASError, match=r"^CUBLAS_STATUS_INVALID_VALUE$") as caught:
        gemm(1)
    assert caught.value.status == 7
    gemm(4)
    assert float(cp.ones(3).sum()) == 3


def test_an_invalid_factorisation() -> None:
    a = cp.ones((4, 4), np.float32)
    with pytest.raises(cusolver.CUSOLVERError, match=r"^CUSOLVER_STATUS_INVALID_VALUE$"):
        cusolver.spotrf(device.get_cusolver_handle(), 0, 4, a.data.ptr, 2, a.data.ptr, 16, a.data.ptr)


def test_an_invalid_matrix() -> None:
    with pytest.raises(cusparse.CuSparseError) as caught:
        cusparse.createDnVec(-1, 0, runtime.CUDA_R_32F)
    assert caught.value.status == 3


def test_an_invalid_generator() -> None:
    with pytest.raises(curand.CURANDError, match=r"^CURAND_STATUS_TYPE_ERROR$"):
        curand.createGenerator(7)


def test_an_invalid_plan() -> None:
    with pytest.raises(cp.cuda.cufft.CuFFTError, match=r"^CUFFT_INVALID_(SIZE|VALUE)$"):
        cp.cuda.cufft.Plan1d(-1, cp.cuda.cufft.CUFFT_C2C, 1)


def test_an_error_of_the_runtime() -> None:
    with pytest.raises(runtime.CUDARuntimeError, match=r"^cudaErrorInvalidDevice: invalid device ordinal$") as caught:
        runtime.setDevice(99)
    assert caught.value.status == 101
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
        cp.empty(1 << 50, np.uint8)


@pytest.mark.parametrize("end", ["stream", "device", "query", "copy", "next"])
def test_an_error_that_only_the_library_finds_is_its_own_and_comes_once(end: str) -> None:
    """An impossible combination of types: natively an error of the call, through the broker at the latest where it
    waits.
    """
    a = cp.eye(4, dtype=np.float32)
    stream = cp.cuda.Stream(non_blocking=True)
    at, one, handle = a.data.ptr, HOST.ctypes.data, device.get_cublas_handle()
    ends = {
        "stream": stream.synchronize,
        "device": cp.cuda.Device().synchronize,
        "query": lambda: stream.done,
        "copy": a.get,
        "next": lambda: (a.get(), gemm(4)),
    }
    with pytest.raises(cublas.CUBLASError, match=r"^CUBLAS_STATUS_(NOT_SUPPORTED|INVALID_VALUE)$") as caught:  # noqa: PT012
        cublas.gemmEx(handle, 0, 0, 4, 4, 4, one, at, 77, 4, at, 77, 4, one, at, 77, 4, 77, -1)
        ends[end]()
    assert caught.value.status in (7, 15)
    stream.synchronize()
    assert float(cp.ones(3).sum()) == 3
