"""cuTENSOR against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.softgpu.libraries import cutensor
from migproxy.softgpu.libraries.status import CuTensorError

from .conftest import draw, tolerance

KINDS = {"e": 2, "f": 0, "d": 1, "F": 4, "D": 5}


def describe(put, array):
    shape = np.array(array.shape, np.int64)
    strides = np.array(array.strides, np.int64) // array.itemsize
    return cutensor.createTensorDescriptor(
        0, array.ndim, put(shape), put(strides), KINDS[array.dtype.char], array.itemsize
    )


def modes(put, text):
    return put(np.array([ord(letter) for letter in text], np.int32))


def plan(operation):
    preference = cutensor.createPlanPreference(0, -1, 0)
    made = cutensor.createPlan(0, operation, preference, cutensor.estimateWorkspaceSize(0, operation, preference, 2))
    cutensor.destroyOperationDescriptor(operation)
    cutensor.destroyPlanPreference(preference)
    return made


@pytest.mark.parametrize("dtype", list("efdFD"))
def test_contraction(put, rng, dtype):
    a, b, c = draw(rng, (3, 4, 5), dtype, "C"), draw(rng, (5, 2, 4), dtype), draw(rng, (2, 3), dtype, "C")
    scalar = "f" if dtype == "e" else dtype
    expected = 2 * np.einsum("ijk,klj->li", a.astype("D"), b.astype("D")) + 3 * c
    operands = [(describe(put, x), modes(put, m), 1) for x, m in ((a, "ijk"), (b, "klj"), (c, "li"))]
    operation = cutensor.createContraction(0, *operands[0], *operands[1], *operands[2], *operands[2][:2], 4)
    made, size = plan(operation), np.ones(1, np.uint64)
    cutensor.planGetAttribute(0, made, cutensor.PLAN_REQUIRED_WORKSPACE, put(size), 8)
    assert size[0] == 0
    cutensor.contract(0, made, put(2, scalar), put(a), put(b), put(3, scalar), put(c), put(c), 0, 0)
    bounds = {"rtol": 1e-2, "atol": 2e-2} if dtype == "e" else tolerance(dtype)
    np.testing.assert_allclose(c.astype("D"), expected, **bounds)


def test_elementwise(put, rng):
    a, b, c, d = draw(rng, (3, 4), "d"), draw(rng, 4, "d"), draw(rng, (4, 3), "d"), np.zeros((3, 4))
    square = np.abs(a)
    expected = np.maximum(2 * np.sqrt(square) + 3 * b, -c.T)
    described = [(describe(put, x), modes(put, m)) for x, m in ((square, "ij"), (b, "j"), (c, "ji"), (d, "ij"))]
    operation = cutensor.createElementwiseTrinary(
        0, *described[0], 2, *described[1], 1, *described[2], 25, *described[3], 3, 6, 16
    )
    factors = put(2.0), put(3.0), put(1.0)
    made = plan(operation)
    cutensor.elementwiseTrinaryExecute(0, made, factors[0], put(square), factors[1], put(b), factors[2], put(c), put(d))
    np.testing.assert_allclose(d, expected)
    operation = cutensor.createElementwiseBinary(0, *described[0], 1, *described[3], 1, *described[3], 5, 16)
    cutensor.elementwiseBinaryExecute(0, plan(operation), put(2.0), put(square), put(1.0), put(d), put(d))
    np.testing.assert_allclose(d, 2 * square * expected)
    operation = cutensor.createPermutation(0, *described[2], 1, *described[3], 16)
    cutensor.permute(0, plan(operation), put(4.0), put(c), put(d))
    np.testing.assert_allclose(d, 4 * c.T)


@pytest.mark.parametrize(("operator", "function"), [(3, np.sum), (5, np.prod), (6, np.max), (7, np.min)])
def test_reduction(put, rng, operator, function):
    a, c = draw(rng, (3, 4, 5), "d", "C"), draw(rng, (5, 3), "d")
    expected = 2 * function(a, axis=1).T + 3 * c
    described = [(describe(put, x), modes(put, m)) for x, m in ((a, "ijk"), (c, "ki"))]
    operation = cutensor.createReduction(0, *described[0], 1, *described[1], 1, *described[1], operator, 16)
    cutensor.reduce(0, plan(operation), put(2.0), put(a), put(3.0), put(c), put(c), 0, 0)
    np.testing.assert_allclose(c, expected)


def test_errors(put):
    with pytest.raises(CuTensorError, match=r"cutensor.createMg is not supported") as caught:
        cutensor.createMg()
    assert caught.value.status == 15
    tensor = describe(put, np.zeros(3)), modes(put, "i")
    with pytest.raises(CuTensorError) as caught:
        cutensor.createElementwiseBinary(0, *tensor, 1, *tensor, 1, *tensor, 99, 16)
    assert caught.value.status == 15
    made = plan(cutensor.createPermutation(0, *tensor, 1, *tensor, 16))
    with pytest.raises(CuTensorError) as caught:
        cutensor.reduce(0, made, 0, 0, 0, 0, 0, 0, 0)
    assert caught.value.status == 7
    handle = cutensor.create()
    cutensor.destroy(handle)
