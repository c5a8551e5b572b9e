"""cuTENSOR through the stand-in: tensors, plans and factors travel, and nothing stands for an object that it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from migproxy_plugins.cupy import serving_cutensor
from migproxy_plugins.cupy.libraries import cutensor as standin

from migproxy.errors import ProtocolError
from migproxy.executor.dispatch import LibraryError

__all__ = ["loopback"]
NAME = "cupy_backends.cuda.libs.cutensor"
TYPES = {np.float32: 0, np.float64: 1, np.float16: 2, np.complex64: 4, np.complex128: 5}
ADD, MULTIPLY = 3, 5


class Tensors:
    """The stand-in, and what a program does with it."""

    def __init__(self, loopback: Loopback) -> None:
        self.loopback = loopback
        self.module: Any = standin.make(NAME)
        self.handle = self.module.create()

    def tensor(self, array: Any) -> int:
        extents = np.array(array.shape, np.int64)
        strides = np.array([stride // array.itemsize for stride in array.strides], np.int64)
        return int(
            self.module.createTensorDescriptor(
                self.handle, array.ndim, extents.ctypes.data, strides.ctypes.data, TYPES[array.dtype.type], 16
            )
        )

    def plan(self, operation: int) -> int:
        preference = self.module.createPlanPreference(self.handle, -1, 0)
        size = self.module.estimateWorkspaceSize(self.handle, operation, preference, 2)
        return int(self.module.createPlan(self.handle, operation, preference, size))

    def contraction(self, a: Any, b: Any, c: Any) -> int:
        """Plan c = a b, summed over the last axis of a and the first of b."""
        modes = [np.array(each, np.int32) for each in ([105, 106], [106, 107], [105, 107])]
        operands: list[int] = []
        for array, mode in zip((a, b, c), modes, strict=True):
            operands += [self.tensor(array), mode.ctypes.data, 1]
        operation = self.module.createContraction(
            self.handle, *operands, self.tensor(c), modes[2].ctypes.data, self.module.COMPUTE_DESC_32F
        )
        return self.plan(operation)


@pytest.fixture
def tensors(loopback: Loopback) -> Tensors:
    return Tensors(loopback)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.complex128])
def test_a_contraction(tensors: Tensors, dtype: type) -> None:
    a, b = (np.arange(12).reshape(shape).astype(dtype) for shape in ((3, 4), (4, 3)))
    c = np.ones((3, 3), dtype)
    plan = tensors.contraction(a, b, c)
    # Of half precision the factors are float: what cuTENSOR's manual calls the scalar type.
    factor = np.float32 if dtype is np.float16 else dtype
    alpha, beta = np.array(2, factor), np.array(1, factor)
    addresses = (a.ctypes.data, b.ctypes.data, beta.ctypes.data, c.ctypes.data, c.ctypes.data)
    tensors.module.contract(tensors.handle, plan, alpha.ctypes.data, *addresses, 0, 0)
    np.testing.assert_allclose(c, 2 * (np.arange(12).reshape(3, 4) @ np.arange(12).reshape(4, 3)) + 1)


def test_a_reduction_of_strided_memory(tensors: Tensors) -> None:
    a = np.arange(24.0).reshape(4, 6)[:, ::2]
    c = np.zeros(4)
    all_modes, kept = np.array([1, 2], np.int32), np.array([1], np.int32)
    of_c = tensors.tensor(c)
    operation = tensors.module.createReduction(
        *(tensors.handle, tensors.tensor(a), all_modes.ctypes.data, 1, of_c, kept.ctypes.data, 1),
        *(of_c, kept.ctypes.data, ADD, tensors.module.COMPUTE_DESC_64F),
    )
    one, nothing = np.array(1.0), np.array(0.0)
    tensors.module.reduce(
        *(tensors.handle, tensors.plan(operation), one.ctypes.data, a.ctypes.data, nothing.ctypes.data),
        *(c.ctypes.data, c.ctypes.data, 0, 0),
    )
    np.testing.assert_array_equal(c, a.sum(axis=1))


def test_elementwise_operations_and_permutations(tensors: Tensors) -> None:
    a, c, d = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2), np.zeros((3, 2))
    ij, ji = np.array([1, 2], np.int32), np.array([2, 1], np.int32)
    two, ten = np.array(2.0), np.array(10.0)
    compute = tensors.module.COMPUTE_DESC_64F
    of_a, of_c, of_d = (tensors.tensor(each) for each in (a, c, d))
    binary = tensors.module.createElementwiseBinary(
        tensors.handle, of_a, ij.ctypes.data, 1, of_c, ji.ctypes.data, 1, of_d, ji.ctypes.data, ADD, compute
    )
    tensors.module.elementwiseBinaryExecute(
        *(tensors.handle, tensors.plan(binary), two.ctypes.data, a.ctypes.data, ten.ctypes.data),
        *(c.ctypes.data, d.ctypes.data),
    )
    np.testing.assert_array_equal(d, 2 * a.T + 10 * c)
    permutation = tensors.module.createPermutation(
        tensors.handle, of_a, ij.ctypes.data, 1, of_d, ji.ctypes.data, compute
    )
    tensors.module.permute(tensors.handle, tensors.plan(permutation), two.ctypes.data, a.ctypes.data, d.ctypes.data)
    np.testing.assert_array_equal(d, 2 * a.T)
    trinary = tensors.module.createElementwiseTrinary(
        *(tensors.handle, of_a, ij.ctypes.data, 1, of_c, ji.ctypes.data, 1, of_c, ji.ctypes.data, 1),
        *(of_d, ji.ctypes.data, MULTIPLY, ADD, compute),
    )
    tensors.module.elementwiseTrinaryExecute(
        *(tensors.handle, tensors.plan(trinary), two.ctypes.data, a.ctypes.data, two.ctypes.data, c.ctypes.data),
        *(ten.ctypes.data, c.ctypes.data, d.ctypes.data),
    )
    np.testing.assert_array_equal(d, 4 * a.T * c + 10 * c)


def test_a_plans_workspace_is_told(tensors: Tensors) -> None:
    a = np.ones((2, 2))
    plan, size = tensors.contraction(a, a, a.copy()), np.full((), 77, np.uint64)
    tensors.module.planGetAttribute(tensors.handle, plan, 0, size.ctypes.data, 8)
    assert size == 0
    assert tensors.module.get_version() >= 20000


def test_errors_are_the_librarys_and_come_in_the_call(tensors: Tensors) -> None:
    error = tensors.module.CuTensorError
    with pytest.raises(error) as caught:
        tensors.module.createTensorDescriptor(tensors.handle, 1, np.ones(1, np.int64).ctypes.data, 0, 999, 16)
    assert caught.value.status == 7
    a = np.ones((2, 2))
    plan = tensors.contraction(a, a, a.copy())
    with pytest.raises(error):
        tensors.module.contract(tensors.handle, plan + 1, 1, 1, 1, 1, 1, 1, 0, 0)
    tensors.module.destroyPlan(plan)
    with pytest.raises(error):
        tensors.module.contract(tensors.handle, plan, 1, 1, 1, 1, 1, 1, 0, 0)
    with pytest.raises(error) as caught:
        tensors.module.createMg(1, 0)
    assert caught.value.status == 15, "a session has one device: refused by name"


def test_every_object_is_ended(tensors: Tensors) -> None:
    a = np.ones((2, 2))
    plan = tensors.contraction(a, a, a.copy())
    objects = tensors.loopback.server.objects
    kinds = [kind for kind, _ in objects.values()]
    assert set(kinds) == set(serving_cutensor.KINDS.values())
    ends = {
        "cutensor tensor": "destroyTensorDescriptor",
        "cutensor operation": "destroyOperationDescriptor",
        "cutensor plan preference": "destroyPlanPreference",
        "cutensor plan": "destroyPlan",
        "cutensor handle": "destroy",
    }
    for number, (kind, _) in list(objects.items()):
        getattr(tensors.module, ends[kind])(number)
    assert plan not in objects
    assert not objects


Attack = Callable[[Tensors, int, int], tuple[str, list[Any]]]
ATTACKS: dict[str, tuple[Attack, type[Exception]]] = {
    "an address as a tensor": (
        lambda t, tensor, plan: ("createPermutation", [1, t.handle, 0x1234560, [1, 2], 1, tensor, [1, 2], 4]),
        LibraryError,
    ),
    "a plan as a tensor": (
        lambda t, tensor, plan: ("createPermutation", [1, t.handle, plan, [1, 2], 1, tensor, [1, 2], 4]),
        LibraryError,
    ),
    "fewer modes than the tensor has": (
        lambda t, tensor, plan: ("createPermutation", [1, t.handle, tensor, [1], 1, tensor, [1, 2], 4]),
        ProtocolError,
    ),
    "modes that are an address": (
        lambda t, tensor, plan: ("createPermutation", [1, t.handle, tensor, 0x1234560, 1, tensor, [1, 2], 4]),
        ProtocolError,
    ),
    "too many modes": (
        lambda t, tensor, plan: ("createTensorDescriptor", [1, t.handle, [1] * 129, None, 0, 16]),
        ProtocolError,
    ),
    "fewer strides than extents": (
        lambda t, tensor, plan: ("createTensorDescriptor", [1, t.handle, [1, 1], [1], 0, 16]),
        ProtocolError,
    ),
    "a number that exists": (
        lambda t, tensor, plan: ("createTensorDescriptor", [tensor, t.handle, [1], None, 0, 16]),
        ProtocolError,
    ),
    "a tensor as a plan": (
        lambda t, tensor, plan: ("contract", [t.handle, tensor, b"0" * 8, 8, 8, b"0" * 8, 8, 8, 0, 0]),
        LibraryError,
    ),
    "a factor that is an address": (
        lambda t, tensor, plan: ("permute", [t.handle, plan, 0x1234560, 8, 8]),
        ProtocolError,
    ),
    "a long factor": (
        lambda t, tensor, plan: ("contract", [t.handle, plan, b"0" * 17, 8, 8, b"0" * 8, 8, 8, 0, 0]),
        ProtocolError,
    ),
    "a long attribute": (
        lambda t, tensor, plan: ("planGetAttribute", [t.handle, plan, 0, 1 << 20]),
        ProtocolError,
    ),
    "an end of another kind": (lambda t, tensor, plan: ("destroyPlan", [tensor]), LibraryError),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_stands_for_what_it_is_not(tensors: Tensors, attack: str) -> None:
    a = np.ones((2, 2))
    make, error = ATTACKS[attack]
    function, arguments = make(tensors, tensors.tensor(a), tensors.contraction(a, a, a.copy()))
    with pytest.raises(error):
        tensors.loopback.server.serve(tensors.loopback.context, NAME, function, arguments)
