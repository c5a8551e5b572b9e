"""What an unmodified user of Numba's CUDA target does. Run by test_cases.py; knows nothing of how it is run."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from numba import cuda, float32, float64, int32, vectorize

numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
numba.config.CUDA_WARN_ON_IMPLICIT_COPY = 0
RANDOM = np.random.default_rng(30)
N = 10_000


@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]


def test_vector_add() -> None:
    x, y = RANDOM.normal(size=N), RANDOM.normal(size=N)
    out = np.empty(N)
    add[-(-N // 256), 256](cuda.to_device(x), cuda.to_device(y), device := cuda.device_array(N))
    device.copy_to_host(out)
    np.testing.assert_array_equal(out, x + y)


def test_host_arrays_are_copied_in_and_out() -> None:
    x, y, out = np.arange(100.0), np.ones(100), np.zeros(100)
    add[1, 128](x, y, out)
    np.testing.assert_array_equal(out, x + 1)


TILE = 16


@cuda.jit
def tiled_product(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    row, column = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for tile in range(a.shape[1] // TILE):
        a_tile[x, y] = a[row, tile * TILE + y]
        b_tile[x, y] = b[tile * TILE + x, column]
        cuda.syncthreads()
        for k in range(TILE):
            total += a_tile[x, k] * b_tile[k, y]
        cuda.syncthreads()
    c[row, column] = total


def test_tiled_matrix_product() -> None:
    a, b = (RANDOM.normal(size=(64, 64)).astype(np.float32) for _ in range(2))
    c = cuda.device_array((64, 64), np.float32)
    tiled_product[(4, 4), (TILE, TILE)](cuda.to_device(a), cuda.to_device(b), c)
    np.testing.assert_allclose(c.copy_to_host(), a @ b, rtol=1e-4, atol=1e-4)


@cuda.jit
def histogram(data, bins, highest):
    i = cuda.grid(1)
    if i < data.size:
        cuda.atomic.add(bins, data[i], 1)
        cuda.atomic.max(highest, 0, data[i])


def test_atomics() -> None:
    data = RANDOM.integers(0, 32, N).astype(np.int32)
    bins, highest = cuda.to_device(np.zeros(32, np.int32)), cuda.to_device(np.zeros(1, np.int32))
    histogram[-(-N // 128), 128](cuda.to_device(data), bins, highest)
    np.testing.assert_array_equal(bins.copy_to_host(), np.bincount(data, minlength=32))
    assert highest.copy_to_host()[0] == data.max()


@vectorize([float64(float64, float64), float32(float32, float32)], target="cuda")
def polar(x, y):
    return math.sqrt(x * x + y * y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectorize(dtype: type) -> None:
    x, y = RANDOM.normal(size=N).astype(dtype), RANDOM.normal(size=N).astype(dtype)
    np.testing.assert_allclose(polar(x, y), np.hypot(x, y), rtol=1e-5)
    on_device = polar(cuda.to_device(x), cuda.to_device(y))
    np.testing.assert_allclose(on_device.copy_to_host(), np.hypot(x, y), rtol=1e-5)


def test_device_arrays() -> None:
    host = RANDOM.normal(size=(20, 30))
    device = cuda.to_device(host)
    assert device.shape == (20, 30)
    np.testing.assert_array_equal(device[3:7].copy_to_host(), host[3:7])
    device[0].copy_to_device(np.zeros(30))
    assert not device.copy_to_host()[0].any()
    other = cuda.device_array_like(device)
    other.copy_to_device(device)
    np.testing.assert_array_equal(other.copy_to_host(), device.copy_to_host())


def test_pinned_arrays_and_streams() -> None:
    stream = cuda.stream()
    host, back = cuda.pinned_array(N), cuda.pinned_array(N)
    host[:] = np.arange(N)
    device = cuda.to_device(host, stream=stream)
    add[-(-N // 256), 256, stream](device, device, device)
    device.copy_to_host(back, stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, 2.0 * np.arange(N))
    start, end = cuda.event(), cuda.event()
    start.record(stream)
    add[-(-N // 256), 256, stream](device, device, device)
    end.record(stream)
    end.synchronize()
    assert start.elapsed_time(end) >= 0


def test_pinned_context() -> None:
    host = np.arange(100.0)
    with cuda.pinned(host):
        device = cuda.to_device(host)
    np.testing.assert_array_equal(device.copy_to_host(), host)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_mapped_context(size: int) -> None:
    cuda.current_context()  # in a function, arrays that are made before CUDA is first called cannot be mapped
    x, out = np.arange(float(size)), np.zeros(size)
    for _ in range(2):
        with cuda.mapped(x, out) as (mapped_x, mapped_out):
            add[1, size](mapped_x, mapped_out, mapped_out)
            cuda.synchronize()
            np.testing.assert_array_equal(out, mapped_out.copy_to_host())
    np.testing.assert_array_equal(out, 2 * x)


@cuda.jit
def warp_sums(x, out):
    i = cuda.grid(1)
    value = x[i]
    step = 16
    while step:
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, step)
        step //= 2
    if cuda.laneid == 0:
        out[i // 32] = value


def test_warp_shuffles() -> None:
    x = np.arange(256, dtype=np.int32)
    out = cuda.device_array(8, np.int32)
    warp_sums[1, 256](cuda.to_device(x), out)
    np.testing.assert_array_equal(out.copy_to_host(), x.reshape(8, 32).sum(axis=1))


@cuda.jit(device=True)
def square(x):
    return x * x


@cuda.jit
def squares(x):
    local = cuda.local.array(4, int32)
    for k in range(4):
        local[k] = square(k)
    i = cuda.grid(1)
    x[i] = local[i % 4]


def test_device_functions_and_local_arrays() -> None:
    x = cuda.device_array(16, np.int32)
    squares[2, 8](x)
    np.testing.assert_array_equal(x.copy_to_host(), np.tile([0, 1, 4, 9], 4))


@cuda.reduce
def total(a, b):
    return a + b


def test_reduce() -> None:
    assert total(cuda.to_device(np.arange(1000.0))) == 499_500


def test_errors_are_numbas() -> None:
    # Launches go through cuda.core from numba-cuda 0.21 on, and through numba's own driver before.
    with pytest.raises(Exception, match="INVALID_VALUE"):
        add[1, 5000](*[cuda.device_array(4) for _ in range(3)])
    with pytest.raises(numba.core.errors.TypingError):
        add[1, 1](1, 2, 3)


def test_facts() -> None:
    assert cuda.is_available()
    assert len(cuda.gpus) == 1
    assert cuda.get_current_device().compute_capability >= (7, 0)
    free, size = cuda.current_context().get_memory_info()
    assert 0 < free <= size
