"""Kernels compiled by Numba (NVVM), compared with NumPy."""

from __future__ import annotations

import ctypes
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from migproxy.softgpu.ptx import Kernel

from . import kit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cuda = pytest.importorskip("numba.cuda")
from numba import float32, float64, int32, int64


def compile_(function: Callable[..., None], *signature: Any) -> Kernel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text, _ = cuda.compile_ptx(function, signature, cc=(8, 0))
    (kernel,) = kit.load(text).kernels.values()
    return kernel


def expand(*args: Any) -> list[Any]:
    """Arguments as Numba passes them: an array is seven or more parameters."""
    out: list[Any] = []
    for arg in args:
        if isinstance(arg, np.ndarray) and arg.ndim:
            out += [np.uint64(0), np.uint64(0), np.int64(arg.size), np.int64(arg.itemsize), arg]
            out += [np.int64(n) for n in (*arg.shape, *arg.strides)]
        else:
            out.append(arg)
    return out


def run(kernel: Kernel, grid: Any, block: Any, *args: Any) -> None:
    kit.launch(kernel, grid, block, *expand(*args))


def test_elementwise_and_libdevice() -> None:
    def kernel(x, y, out):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        if i < out.size:
            out[i] = x[i] ** 2.5 + math.sin(y[i]) * math.erf(x[i]) + math.log1p(y[i]) - math.floor(3 * x[i])

    from scipy import special

    rng = np.random.default_rng(0)
    x, y = rng.random(300), rng.random(300) * 100
    out = np.zeros(300)
    run(compile_(kernel, float64[:], float64[:], float64[:]), 3, 128, x, y, out)
    assert np.allclose(out, x**2.5 + np.sin(y) * special.erf(x) + np.log1p(y) - np.floor(3 * x), rtol=1e-12)


def test_shared_memory_and_barriers() -> None:
    def kernel(a, b, c):  # type: ignore[no-untyped-def]
        sa = cuda.shared.array((8, 8), float32)
        sb = cuda.shared.array((8, 8), float32)
        x, y = cuda.grid(2)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0.0)
        for k in range(a.shape[1] // 8):
            sa[ty, tx] = a[y, k * 8 + tx]
            sb[ty, tx] = b[k * 8 + ty, x]
            cuda.syncthreads()
            for j in range(8):
                total += sa[ty, j] * sb[j, tx]
            cuda.syncthreads()
        c[y, x] = total

    rng = np.random.default_rng(1)
    a, b = rng.random((32, 16), np.float32), rng.random((16, 24), np.float32)
    c = np.zeros((32, 24), np.float32)
    run(compile_(kernel, float32[:, :], float32[:, :], float32[:, :]), (3, 4, 1), (8, 8, 1), a, b, c)
    assert np.allclose(c, a @ b, rtol=1e-5)


def test_atomics_and_warp_operations() -> None:
    def kernel(a, hist, total):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        v = a[i]
        cuda.atomic.add(hist, v % 8, 1)
        cuda.atomic.max(hist, 8, v)
        for k in (16, 8, 4, 2, 1):
            v += cuda.shfl_down_sync(0xFFFFFFFF, v, k)
        if cuda.laneid == 0:
            cuda.atomic.add(total, 0, float64(v))

    a = np.random.default_rng(2).integers(0, 1000, 256).astype(np.int32)
    hist, total = np.zeros(9, np.int64), np.zeros(1)
    run(compile_(kernel, int32[:], int64[:], float64[:]), 2, 128, a, hist, total)
    assert (hist[:8] == np.bincount(a % 8, minlength=8)).all()
    assert (hist[8], total[0]) == (a.max(), a.sum())


def test_local_arrays() -> None:
    def kernel(a, out):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        part = cuda.local.array(4, float32)
        for k in range(4):
            part[k] = a[(i + k) % a.size]
        out[i] = part[0] * part[1] + part[i % 4]

    a = np.random.default_rng(3).random(32, np.float32)
    out = np.zeros(32, np.float32)
    run(compile_(kernel, float32[:], float32[:]), 1, 32, a, out)
    i = np.arange(32)
    assert np.allclose(out, a * np.roll(a, -1) + a[(i + i % 4) % 32])


def test_debug_exceptions_set_an_error_code() -> None:
    def kernel(a, out):  # type: ignore[no-untyped-def]
        out[0] = a[cuda.threadIdx.x] // a[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text, _ = cuda.compile_ptx(kernel, (int32[:], int32[:]), cc=(8, 0), debug=True, opt=False)
    module = kit.load(text)
    (loaded,) = module.kernels.values()
    codes = [name for name in module.globals if re.search("errcode", name)]
    run(loaded, 1, 1, np.array([2], np.int32), np.zeros(1, np.int32))
    code = np.zeros(1, np.int32)
    ctypes.memmove(code.ctypes.data, module.globals[codes[0]][0], 4)
    assert code[0] == 0
    run(loaded, 1, 1, np.zeros(1, np.int32), np.zeros(1, np.int32))
    ctypes.memmove(code.ctypes.data, module.globals[codes[0]][0], 4)
    assert code[0] != 0
