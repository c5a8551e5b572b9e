"""cuFFT against NumPy's FFT, in the layouts that CuPy uses."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from migproxy.softgpu.libraries import cufft
from migproxy.softgpu.libraries.status import CuFFTError

from .conftest import draw, tolerance


@pytest.mark.parametrize(("dtype", "kind"), [("F", 41), ("D", 105)])
@pytest.mark.parametrize("n", [1, 7, 16])
def test_complex_1d(rng, dtype, kind, n):
    a, out = draw(rng, (3, n), dtype, "C"), np.zeros((3, n), dtype)
    plan = cufft.Plan1d(n, kind, 3)
    plan.fft(a, out, -1)
    np.testing.assert_allclose(out, np.fft.fft(a), **tolerance(dtype))
    plan.fft(out, out, 1)
    np.testing.assert_allclose(out, n * a, **tolerance(dtype))
    assert out.dtype == a.dtype


@pytest.mark.parametrize("n", [7, 8])
def test_real_1d(put, rng, n):
    a, out, back = rng.standard_normal((3, n)), np.zeros((3, n // 2 + 1), complex), np.zeros((3, n))
    forward, inverse = cufft.Plan1d(n, 106, 3), cufft.Plan1d(n, 108, 3)
    cufft.execD2Z(forward.handle, put(a), put(out))
    np.testing.assert_allclose(out, np.fft.rfft(a))
    cufft.execZ2D(inverse.handle, put(out), put(back))
    np.testing.assert_allclose(back, n * a)
    single, narrow = a.astype("f"), np.zeros((3, n // 2 + 1), "F")
    forward, inverse = cufft.Plan1d(n, 42, 3), cufft.Plan1d(n, 44, 3)
    cufft.execR2C(forward.handle, put(single), put(narrow))
    np.testing.assert_allclose(narrow, np.fft.rfft(a), rtol=1e-4, atol=1e-4)
    again = np.zeros((3, n), "f")
    cufft.execC2R(inverse.handle, put(narrow), put(again))
    np.testing.assert_allclose(again, n * a, rtol=1e-4, atol=1e-4)


def test_real_in_place_pads_rows(put, rng):
    a = rng.standard_normal((3, 8))
    buffer = np.zeros((3, 5), complex)
    buffer.view(float)[:, :8] = a
    forward, inverse = cufft.Plan1d(8, 106, 3), cufft.Plan1d(8, 108, 3)
    cufft.execD2Z(forward.handle, put(buffer), put(buffer))
    np.testing.assert_allclose(buffer, np.fft.rfft(a), atol=1e-12)
    cufft.execZ2D(inverse.handle, put(buffer), put(buffer))
    np.testing.assert_allclose(buffer.view(float)[:, :8], 8 * a)


def test_nd_inner_axes(rng):
    a = draw(rng, (5, 4, 6), "D", "C")
    out = np.zeros_like(a)
    # The layout CuPy makes for axes (1, 2) of a C-contiguous array.
    cufft.PlanNd((4, 6), (4, 6), 1, 24, (4, 6), 1, 24, 105, 5, "C", 2, None).fft(a, out, -1)
    np.testing.assert_allclose(out, np.fft.fftn(a, axes=(1, 2)))
    # Axes (0, 1): the batch is the innermost axis.
    cufft.PlanNd((5, 4), (5, 4), 6, 1, (5, 4), 6, 1, 105, 6, "C", 1, None).fft(a, out, -1)
    np.testing.assert_allclose(out, np.fft.fftn(a, axes=(0, 1)))


def test_nd_real_with_embedding(rng):
    a, out = rng.standard_normal((4, 6)), np.zeros((4, 4), complex)
    cufft.PlanNd((4, 6), (4, 6), 1, 24, (4, 4), 1, 16, 106, 1, "C", 1, 4).fft(a, out, -1)
    np.testing.assert_allclose(out, np.fft.rfftn(a))
    back = np.zeros((4, 6))
    cufft.PlanNd((4, 6), (4, 4), 1, 16, (4, 6), 1, 24, 108, 1, "C", 1, 6).fft(out, back, 1)
    np.testing.assert_allclose(back, 24 * a)


def test_half_precision(rng):
    a = rng.standard_normal((2, 16)).astype(np.float16)
    out = np.zeros((2, 16), np.float16)
    plan = cufft.XtPlanNd((8,), (8,), 1, 8, "E", (8,), 1, 8, "E", 2, "E", order="C", last_axis=-1, last_size=None)
    plan.fft(a, out, -1)
    values = a.astype(np.float32).view(np.complex64)
    np.testing.assert_allclose(out.astype(np.float32).view(np.complex64), np.fft.fft(values), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="power of 2"):
        cufft.XtPlanNd((6,), (6,), 1, 6, "E", (6,), 1, 6, "E", 2, "E", order="C", last_axis=-1, last_size=None)
    with pytest.raises(ValueError, match="types mismatch"):
        cufft.XtPlanNd((8,), (8,), 1, 8, "F", (8,), 1, 8, "D", 2, "F", order="C", last_axis=-1, last_size=None)


def test_plans_and_handles(put):
    plan = cufft.Plan1d(8, 41, 1)
    with plan:
        assert cufft.get_current_plan() is plan
    assert cufft.get_current_plan() is None
    handle = plan.handle
    with pytest.raises(CuFFTError) as caught:
        cufft.execZ2Z(handle, 0, 0, -1)
    assert (caught.value.status, caught.value.result) == (3, 3)
    del plan
    gc.collect()
    with pytest.raises(CuFFTError) as caught:
        cufft.execC2C(handle, 0, 0, -1)
    assert caught.value.status == 1
    fresh = cufft.create()
    cufft.setAutoAllocation(fresh, 0)
    assert cufft.Plan1d(8, 41, 1, prealloc_plan=fresh).handle == fresh


def test_refusals():
    with pytest.raises(CuFFTError, match="several GPUs"):
        cufft.Plan1d(8, 41, 1, devices=(0, 1))
    with pytest.raises(CuFFTError) as caught:
        cufft.Plan1d(0, 41, 1)
    assert caught.value.status == 8
    assert {"setCallback", "multi_gpu_execC2C", "multi_gpu_execZ2Z"} == cufft.REFUSED
