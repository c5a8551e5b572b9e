"""CUB's reductions, scans and histograms against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from migproxy.softgpu.libraries import cub

from .conftest import draw

SIMPLE = {0: np.sum, 7: np.prod, 1: np.min, 2: np.max}


@pytest.mark.parametrize("op", list(SIMPLE))
@pytest.mark.parametrize("char", list("bBiqefdFD"))
def test_reduce(rng, op, char):
    x = draw(rng, (3, 4, 5), char, "C") if char in "efdFD" else rng.integers(-9, 9, (3, 4, 5)).astype(char)
    with np.errstate(all="ignore"):
        expected = SIMPLE[op](x) if op in (1, 2) else SIMPLE[op](x, dtype=x.dtype)
    out = np.zeros((), x.dtype)
    assert cub.device_reduce(x, op, (0, 1, 2), (), out) is out
    np.testing.assert_allclose(out, expected, rtol=2e-2 if char == "e" else 1e-5)
    assert cub.device_reduce(x, op, (0, 1, 2), (), None, True).shape == (1, 1, 1)


@pytest.mark.parametrize("op", list(SIMPLE))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("keepdims", [False, True])
def test_segmented_reduce(rng, op, order, keepdims):
    x = np.asarray(rng.standard_normal((3, 4, 5)), order=order)
    axes, kept = ((1, 2), (0,)) if order == "C" else ((0, 1), (2,))
    expected = SIMPLE[op](x, axis=axes, keepdims=keepdims)
    out = np.zeros(expected.shape)
    cub.device_segmented_reduce(x, op, axes, kept, out, keepdims, 20)
    np.testing.assert_allclose(out, expected)
    np.testing.assert_allclose(cub.cub_reduction(x, op, axes, keepdims=keepdims), expected)


@pytest.mark.parametrize("op", [3, 4])
def test_argmin_argmax(op):
    x = np.array([3.0, 1.0, 7.0, 1.0, 7.0])
    assert cub.device_reduce(x, op, (0,), ()) == (1 if op == 3 else 2)
    x[3] = np.nan
    assert cub.device_reduce(x, op, (0,), ()) == 3
    assert cub.device_reduce(x, op, (0,), ()).dtype == np.int64


@pytest.mark.parametrize("char", list("biqefdFD"))
def test_scan_works_in_place(rng, char):
    x = draw(rng, (3, 4), char, "C") if char in "efdFD" else rng.integers(-9, 9, (3, 4)).astype(char)
    for op, reference in ((5, np.cumsum), (6, np.cumprod)):
        y = x.copy()
        with np.errstate(all="ignore"):
            expected = reference(x, dtype=x.dtype).reshape(x.shape)
        assert cub.device_scan(y, op) is y
        np.testing.assert_allclose(y, expected, rtol=1e-2 if char == "e" else 1e-5)


def test_histograms(rng):
    x, y = rng.standard_normal(500), np.zeros(10, np.int64)
    x[:3] = [np.nan, np.inf, -np.inf]
    edges = np.linspace(-2, 2, 11)
    cub.device_histogram(x, y, edges)
    finite = x[np.isfinite(x) & (x < 2)]
    np.testing.assert_array_equal(y, np.histogram(finite, edges)[0])
    x, y = rng.integers(-2, 12, 300).astype(np.int32), np.zeros(9, np.int64)
    cub.device_histogram(x, y, 10)
    np.testing.assert_array_equal(y, np.bincount(x[(x >= 0) & (x < 9)], minlength=9))


def test_what_cub_cannot_do_is_none(rng):
    x = rng.standard_normal((4, 5))
    assert cub.cub_reduction(x[:, ::2], 0) is None
    assert cub.cub_reduction(x, 0, axis=0) is None
    assert cub.cub_reduction(x, 3, axis=1) is None
    assert cub.cub_reduction(x.astype(np.int8), 0) is None
    assert cub.cub_reduction(x.astype(bool), 1) is None
    assert cub.cub_scan(x, 0) is None


def test_csrmv(rng):
    dense = rng.standard_normal((4, 6)) * (rng.random((4, 6)) < 0.5)
    a, x = csr_array(dense), rng.standard_normal(6)
    product = cub.device_csrmv(4, 6, a.nnz, a.data, a.indptr, a.indices, x)
    np.testing.assert_allclose(product, dense @ x)


def test_errors():
    with pytest.raises(ValueError, match="zero-size array to reduction operation CUPY_CUB_MIN which has no identity"):
        cub.device_reduce(np.zeros((0, 3)), 1, (0, 1), ())
    with pytest.raises(ValueError, match="wrong number of dimensions"):
        cub.device_reduce(np.zeros(3), 0, (0,), (), np.zeros(1))
    with pytest.raises(ValueError, match="only CUPY_CUB_SUM"):
        cub.device_segmented_reduce(np.zeros(3), 3, (0,), ())
    assert cub.device_reduce(np.zeros((0, 3)), 7, (0, 1), ()) == 1
