"""Thrust's sorts against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.softgpu.libraries import thrust

from .conftest import draw


@pytest.mark.parametrize("char", list("?bBhHiIqQefdFD"))
@pytest.mark.parametrize("shape", [(50,), (4, 9), (2, 3, 5)])
def test_sort_and_argsort(put, rng, char, shape):
    if char in "efdFD":
        data = np.ascontiguousarray(draw(rng, shape, char))
        data.flat[3] = np.nan
    else:
        data = rng.integers(0, 100, shape).astype(char)
    expected, order = np.sort(data, kind="stable"), np.argsort(data, kind="stable")
    copy, index = data.copy(), np.zeros(shape, np.int64)
    thrust.sort(np.dtype(char).str, put(copy), 0, list(shape))
    np.testing.assert_array_equal(copy, expected)
    copy = data.copy()
    thrust.argsort(np.dtype(char), put(index), put(copy), 0, shape)
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(copy, expected)


@pytest.mark.parametrize("char", list("iefdFD"))
def test_lexsort(put, rng, char):
    keys = np.ascontiguousarray(rng.integers(0, 3, (3, 40)).astype(char))
    index = np.zeros(40, np.int64)
    thrust.lexsort(char, put(index), put(keys), 3, 40)
    np.testing.assert_array_equal(index, np.lexsort(keys))


def test_unsupported_dtypes():
    with pytest.raises(NotImplementedError, match="Sorting arrays with dtype"):
        thrust.sort("M8[s]", 0, 0, [3])
    with pytest.raises(TypeError, match="Sorting keys with dtype"):
        thrust.lexsort("M8[s]", 0, 0, 1, 3)
