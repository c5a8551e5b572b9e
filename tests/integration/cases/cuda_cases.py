"""What an unmodified user of cuda.bindings and cuda.core does. Run by test_cases.py; knows nothing of how it is run."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver, nvrtc, runtime
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

SOURCE = r"""
extern "C" __global__ void saxpy(float a, const float* x, float* y, size_t n) {
    size_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""
N = 5000
X = np.random.default_rng(12).random(N, np.float32)
Y = np.random.default_rng(13).random(N, np.float32)


def ok(result: tuple[Any, ...]) -> Any:
    error, *values = result
    assert int(error) == 0, error
    return values[0] if len(values) == 1 else values


@pytest.fixture
def context() -> Any:
    ok(driver.cuInit(0))
    device = ok(driver.cuDeviceGet(0))
    made = ok(driver.cuDevicePrimaryCtxRetain(device))
    ok(driver.cuCtxSetCurrent(made))
    yield made
    ok(driver.cuDevicePrimaryCtxRelease(device))


def compiled(kind: str) -> bytes:
    program = ok(nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"saxpy.cu", 0, [], []))
    major = ok(driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0))
    minor = ok(driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0))
    architecture = f"--gpu-architecture={'sm' if kind == 'cubin' else 'compute'}_{major}{minor}".encode()
    ok(nvrtc.nvrtcCompileProgram(program, 1, [architecture]))
    if kind == "cubin":
        image = b" " * ok(nvrtc.nvrtcGetCUBINSize(program))
        ok(nvrtc.nvrtcGetCUBIN(program, image))
    else:
        image = b" " * ok(nvrtc.nvrtcGetPTXSize(program))
        ok(nvrtc.nvrtcGetPTX(program, image))
    return image


@pytest.mark.parametrize("kind", ["ptx", "cubin"])
def test_saxpy_by_the_driver(context: Any, kind: str) -> None:
    module = ok(driver.cuModuleLoadData(compiled(kind)))
    kernel = ok(driver.cuModuleGetFunction(module, b"saxpy"))
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    x, y = ok(driver.cuMemAlloc(X.nbytes)), ok(driver.cuMemAlloc(Y.nbytes))
    ok(driver.cuMemcpyHtoDAsync(x, X.ctypes.data, X.nbytes, stream))
    ok(driver.cuMemcpyHtoDAsync(y, Y.ctypes.data, Y.nbytes, stream))
    arguments = (
        (3.0, int(x), int(y), N),
        (ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    )
    ok(driver.cuLaunchKernel(kernel, -(-N // 256), 1, 1, 256, 1, 1, 0, stream, arguments, 0))
    out = np.empty_like(Y)
    ok(driver.cuMemcpyDtoHAsync(out.ctypes.data, y, out.nbytes, stream))
    ok(driver.cuStreamSynchronize(stream))
    np.testing.assert_allclose(out, 3 * X + Y, rtol=1e-6)
    for pointer in (x, y):
        ok(driver.cuMemFree(pointer))
    ok(driver.cuStreamDestroy(stream))
    ok(driver.cuModuleUnload(module))


def test_driver_errors_are_statuses(context: Any) -> None:
    error, *_ = driver.cuModuleLoadData(b"no module\0")
    assert error in (driver.CUresult.CUDA_ERROR_INVALID_IMAGE, driver.CUresult.CUDA_ERROR_INVALID_PTX)
    (error,) = driver.cuMemFree(driver.CUdeviceptr(0x1234))
    assert error == driver.CUresult.CUDA_ERROR_INVALID_VALUE
    assert ok(driver.cuGetErrorName(driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY)) == b"CUDA_ERROR_OUT_OF_MEMORY"


def test_device_facts(context: Any) -> None:
    assert ok(driver.cuDeviceGetCount()) == 1
    assert ok(driver.cuDeviceGetName(100, 0)).rstrip(b"\0")
    assert ok(driver.cuDriverGetVersion()) >= 12000
    free, total = ok(driver.cuMemGetInfo())
    assert 0 < free <= total


def test_runtime_copies() -> None:
    ok(runtime.cudaSetDevice(0))
    kind = runtime.cudaMemcpyKind
    first, second = ok(runtime.cudaMalloc(X.nbytes)), ok(runtime.cudaMalloc(X.nbytes))
    ok(runtime.cudaMemcpy(first, X.ctypes.data, X.nbytes, kind.cudaMemcpyHostToDevice))
    ok(runtime.cudaMemcpy(second, first, X.nbytes, kind.cudaMemcpyDeviceToDevice))
    out = np.empty_like(X)
    ok(runtime.cudaMemcpy(out.ctypes.data, second, X.nbytes, kind.cudaMemcpyDefault))
    np.testing.assert_array_equal(out, X)
    ok(runtime.cudaMemset(second, 0, X.nbytes))
    stream = ok(runtime.cudaStreamCreate())
    ok(runtime.cudaMemcpyAsync(out.ctypes.data, second, X.nbytes, kind.cudaMemcpyDeviceToHost, stream))
    ok(runtime.cudaStreamSynchronize(stream))
    assert not out.any()
    ok(runtime.cudaStreamDestroy(stream))
    ok(runtime.cudaFree(first))
    ok(runtime.cudaFree(second))


def test_runtime_rows() -> None:
    pitch_and_pointer = ok(runtime.cudaMallocPitch(100, 7))
    pointer, pitch = pitch_and_pointer
    host = np.arange(700, dtype=np.uint8).reshape(7, 100)
    kind = runtime.cudaMemcpyKind
    ok(runtime.cudaMemcpy2D(pointer, pitch, host.ctypes.data, 100, 100, 7, kind.cudaMemcpyHostToDevice))
    back = np.zeros_like(host)
    ok(runtime.cudaMemcpy2D(back.ctypes.data, 100, pointer, pitch, 100, 7, kind.cudaMemcpyDeviceToHost))
    np.testing.assert_array_equal(back, host)
    ok(runtime.cudaFree(pointer))


def test_runtime_errors_are_statuses() -> None:
    (error,) = runtime.cudaSetDevice(99)
    assert error == runtime.cudaError_t.cudaErrorInvalidDevice
    (error,) = runtime.cudaGetLastError()
    assert error == runtime.cudaError_t.cudaErrorInvalidDevice
    (error,) = runtime.cudaGetLastError()
    assert error == runtime.cudaError_t.cudaSuccess


@pytest.mark.parametrize("target", ["ptx", "cubin"])
def test_cuda_core(target: str) -> None:
    device = Device()
    device.set_current()
    stream = device.create_stream()
    architecture = f"{'sm' if target == 'cubin' else 'compute'}_{device.arch}"
    options = ProgramOptions(std="c++17", arch=architecture)
    kernel = Program(SOURCE, "c++", options=options).compile(target).get_kernel("saxpy")
    buffers = [device.allocate(X.nbytes, stream=stream) for _ in range(2)]
    for buffer, host in zip(buffers, (X, Y), strict=True):
        ok(driver.cuMemcpyHtoDAsync(int(buffer.handle), host.ctypes.data, host.nbytes, stream.handle))
    launch(stream, LaunchConfig(grid=-(-N // 256), block=256), kernel, np.float32(3), *buffers, np.uint64(N))
    out = np.empty_like(Y)
    ok(driver.cuMemcpyDtoHAsync(out.ctypes.data, int(buffers[1].handle), out.nbytes, stream.handle))
    stream.sync()
    np.testing.assert_allclose(out, 3 * X + Y, rtol=1e-6)
    event = stream.record()
    event.sync()
    assert event.is_done
    for buffer in buffers:
        buffer.close(stream)
    stream.close()
