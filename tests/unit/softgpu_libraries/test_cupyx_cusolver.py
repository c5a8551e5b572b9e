"""The array-level solvers against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.softgpu.libraries import cupyx_cusolver as solver

from .conftest import draw, tolerance

each_dtype = pytest.mark.parametrize("dtype", list("fdFD"))


@each_dtype
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 5, 3), (2, 3, 5)])
@pytest.mark.parametrize("full", [True, False])
def test_svd(rng, dtype, shape, full):
    a = draw(rng, shape, dtype, "C")
    u, s, v = solver.gesvdj(a, full)
    k = min(shape[-2:])
    assert u.shape[-1] == (shape[-2] if full else k)
    np.testing.assert_allclose(u[..., :k] * s[..., None, :] @ v[..., :k].swapaxes(-1, -2).conj(), a, **tolerance(dtype))
    if shape[-2] > shape[-1]:
        u, s, v = solver.gesvda(a)
        np.testing.assert_allclose(u * s[..., None, :] @ v.swapaxes(-1, -2).conj(), a, **tolerance(dtype))
    if a.ndim == 3:
        u, s, vh = solver._gesvd_batched(a, dtype, full, True, False)
        np.testing.assert_allclose(u[..., :k] * s[..., None, :] @ vh[..., :k, :], a, **tolerance(dtype))


@each_dtype
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_syevj(rng, dtype, shape):
    a = draw(rng, shape, dtype, "C")
    a = a + a.swapaxes(-1, -2).conj()
    w, v = solver.syevj(a)
    np.testing.assert_allclose(a @ v, v * w[..., None, :], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(solver.syevj(np.triu(a), "U", False), w, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="UPLO"):
        solver.syevj(a, "X")


@each_dtype
def test_solvers(rng, dtype):
    a, b = draw(rng, (4, 4), dtype, "C"), draw(rng, (4, 2), dtype, "C")
    np.testing.assert_allclose(a @ solver.gesv(a, b), b, **tolerance(dtype))
    np.testing.assert_allclose(a @ solver.gesv(a, b[:, 0]), b[:, 0], **tolerance(dtype))
    tall, right = draw(rng, (6, 4), dtype, "C"), draw(rng, 6, dtype, "C")
    expected = np.linalg.lstsq(tall, right, rcond=None)[0]
    np.testing.assert_allclose(solver.gels(tall, right), expected, **tolerance(dtype))
    with pytest.raises(RuntimeError, match="gesv has failed"):
        solver.gesv(np.zeros_like(a), b)
    with pytest.raises(ValueError, match="square"):
        solver.gesv(tall, right)


@pytest.mark.parametrize("dtype", list("efdFD"))
@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5), (4, 4)])
def test_batched_qr(rng, dtype, m, n):
    a = draw(rng, (2, m, n), dtype, "C")
    bounds = {"rtol": 2e-2, "atol": 2e-2} if dtype == "e" else tolerance(dtype)
    for mode in ("reduced", "complete"):
        q, r = solver._geqrf_orgqr_batched(a, mode)
        expected = np.linalg.qr(a.astype("f") if dtype == "e" else a, mode)
        assert (q.shape, r.shape) == (expected[0].shape, expected[1].shape)
        assert q.dtype == dtype
        np.testing.assert_allclose((q @ r).astype("D"), a.astype("D"), **bounds)
    assert solver._geqrf_orgqr_batched(a, "r").shape == (2, min(m, n), n)
    h, tau = solver._geqrf_orgqr_batched(a, "raw")
    assert (h.shape, tau.shape) == ((2, n, m), (2, min(m, n)))


def test_availability():
    assert solver.check_availability("gesvdj")
    with pytest.raises(ValueError, match="No available version information"):
        solver.check_availability("nothing")
