"""CuPy, Numba and cuda.bindings on the same memory. Run by test_cases.py; knows nothing of how it is run."""

from __future__ import annotations

import cupy as cp
import numba
import numpy as np
from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch
from numba import cuda

numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


@cuda.jit
def increment(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1


def test_numba_works_on_cupys_arrays() -> None:
    x = cp.arange(1000, dtype=np.float64)
    increment[8, 128](x)
    cp.testing.assert_array_equal(x, cp.arange(1, 1001, dtype=np.float64))


def test_cupy_works_on_numbas_arrays() -> None:
    x = cuda.to_device(np.arange(1000.0))
    view = cp.asarray(x)
    assert view.data.ptr == x.device_ctypes_pointer.value
    view *= 2
    np.testing.assert_array_equal(x.copy_to_host(), 2 * np.arange(1000.0))


def test_cuda_core_works_on_cupys_arrays() -> None:
    x = cp.arange(100, dtype=np.float32)
    cp.cuda.Device().synchronize()
    device = Device()
    device.set_current()
    stream = device.create_stream()
    source = 'extern "C" __global__ void negate(float* x) { x[threadIdx.x] = -x[threadIdx.x]; }'
    kernel = (
        Program(source, "c++", options=ProgramOptions(arch=f"sm_{device.arch}")).compile("cubin").get_kernel("negate")
    )
    launch(stream, LaunchConfig(grid=1, block=100), kernel, x.data.ptr)
    stream.sync()
    cp.testing.assert_array_equal(x, -cp.arange(100, dtype=np.float32))
    stream.close()


def test_the_driver_works_on_cupys_arrays() -> None:
    x = cp.full(64, 255, np.uint8)
    (error,) = driver.cuMemsetD8(x.data.ptr + 16, 7, 16)
    assert error == driver.CUresult.CUDA_SUCCESS
    expected = np.full(64, 255, np.uint8)
    expected[16:32] = 7
    np.testing.assert_array_equal(x.get(), expected)


def test_dlpack() -> None:
    x = cp.arange(12, dtype=np.float32).reshape(3, 4)
    again = cp.from_dlpack(x)
    again += 1
    np.testing.assert_array_equal(x.get(), np.arange(1, 13, dtype=np.float32).reshape(3, 4))
    assert x.__dlpack_device__()[0] == 2


def test_all_three_in_turn() -> None:
    x = cp.zeros(256, np.int32)
    for _ in range(5):
        x += 1
        increment[2, 128](x)
        cp.cuda.Device().synchronize()
        (error,) = driver.cuMemcpyDtoD(x.data.ptr, x.data.ptr + 4, 4)
        assert error == driver.CUresult.CUDA_SUCCESS
    np.testing.assert_array_equal(x.get(), np.full(256, 10, np.int32))
