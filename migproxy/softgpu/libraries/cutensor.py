"""cuTENSOR on NumPy: the counterpart of ``cupy_backends.cuda.libs.cutensor``.

Element-wise operations of two and three tensors, permutations, reductions and contractions (as einsum) on tensors of
any strides. The multi-GPU interface (``…Mg``) is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import datatypes
from . import views_unsafe as raw
from .datatypes import DATA_TYPES, R_16BF, R_16F
from .handles import Handles
from .names import complete
from .status import CuTensorError

Array = npt.NDArray[Any]

available = True
NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 1, 7, 15

_UNARY: dict[int, Callable[[Array], Array]] = {
    1: lambda x: x,
    2: np.sqrt,
    8: lambda x: np.maximum(x, 0),
    9: np.conj,
    10: lambda x: 1 / x,
    11: lambda x: 1 / (1 + np.exp(-x)),
    12: np.tanh,
    22: np.exp,
    23: np.log,
    24: np.abs,
    25: np.negative,
    26: np.sin,
    27: np.cos,
    28: np.tan,
    29: np.sinh,
    30: np.cosh,
    31: np.arcsin,
    32: np.arccos,
    33: np.arctan,
    34: np.arcsinh,
    35: np.arccosh,
    36: np.arctanh,
    37: np.ceil,
    38: np.floor,
}
_BINARY: dict[int, np.ufunc] = {3: np.add, 5: np.multiply, 6: np.maximum, 7: np.minimum}


@dataclass
class Tensor:
    """A tensor descriptor: extents, strides in elements, and the type."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    data_type: int

    def stored(self, address: int) -> Array:
        """Return the tensor at an address."""
        storage = DATA_TYPES[self.data_type].storage
        return raw.strided(address, self.shape, [stride * storage.itemsize for stride in self.strides], storage)


@dataclass
class Operand:
    """A tensor with its modes and unary operator."""

    tensor: Tensor
    modes: tuple[int, ...]
    operator: int = 1

    def values(self, address: int) -> Array:
        """Return the values with the operator applied, in the type that is computed with."""
        return _UNARY[self.operator](datatypes.widen(self.tensor.stored(address), self.tensor.data_type))

    def aligned(self, address: int, target: tuple[int, ...]) -> Array:
        """Return the values with axes in the order of the target's modes, of length 1 where a mode is missing."""
        values = self.values(address)
        order = [self.modes.index(mode) for mode in target if mode in self.modes]
        shape = [values.shape[self.modes.index(mode)] if mode in self.modes else 1 for mode in target]
        return values.transpose(order).reshape(shape)


@dataclass
class Operation:
    """An operation descriptor: operands in the order A, B, C, D, and the binary operators."""

    kind: str
    operands: tuple[Operand, ...]
    binary: tuple[int, ...] = ()
    required_workspace: int = 0


def _bad(handle: int) -> CuTensorError:
    return CuTensorError(INVALID_VALUE, f"no cuTENSOR object {handle:#x}")


_handles: Handles[bool] = Handles(lambda handle: CuTensorError(NOT_INITIALIZED, f"no cuTENSOR handle {handle:#x}"))
_tensors: Handles[Tensor] = Handles(_bad)
_operations: Handles[Operation] = Handles(_bad)
_preferences: Handles[tuple[int, int]] = Handles(_bad)
_plans: Handles[Operation] = Handles(_bad)


def create() -> int:
    """Make a context."""
    return _handles.add(True)


def destroy(handle: int) -> None:
    """Forget a context."""
    _handles.pop(handle)


def get_version() -> int:
    """Return the version of cuTENSOR that this module follows."""
    return 20800


def get_cudart_version() -> int:
    """Return the CUDA version that cuTENSOR was built with."""
    return 12090


def createTensorDescriptor(
    handle: int, numModes: int, extent: int, stride: int, dataType: int, alignmentRequirement: int
) -> int:
    """Describe a tensor from host arrays of extents and strides; null strides mean packed, first mode fastest."""
    if dataType not in DATA_TYPES:
        raise CuTensorError(NOT_SUPPORTED, f"data type {dataType}")
    shape = tuple(int(value) for value in raw.array(extent, numModes, np.int64))
    if stride:
        strides = tuple(int(value) for value in raw.array(stride, numModes, np.int64))
    else:
        strides = tuple(int(np.prod(shape[:axis])) for axis in range(numModes))
    return _tensors.add(Tensor(shape, strides, dataType))


def destroyTensorDescriptor(desc: int) -> None:
    """Forget a tensor."""
    _tensors.pop(desc)


def createPlanPreference(handle: int, algo: int, jitMode: int) -> int:
    """Remember how a plan is to be made; there is one way here."""
    return _preferences.add((algo, jitMode))


def destroyPlanPreference(pref: int) -> None:
    """Forget it."""
    _preferences.pop(pref)


def _operand(desc: int, modes: int, operator: int = 1) -> Operand:
    if operator not in _UNARY:
        raise CuTensorError(NOT_SUPPORTED, f"operator {operator}")
    tensor = _tensors[desc]
    return Operand(tensor, tuple(int(mode) for mode in raw.array(modes, len(tensor.shape), np.int32)), operator)


def _binary(*operators: int) -> tuple[int, ...]:
    for operator in operators:
        if operator not in _BINARY:
            raise CuTensorError(NOT_SUPPORTED, f"operator {operator}")
    return operators


def createElementwiseBinary(
    handle: int, descA: int, modeA: int, opA: int, descC: int, modeC: int, opC: int, descD: int, modeD: int, opAB: int,
    descCompute: int,
) -> int:  # fmt: skip
    """Describe D = opAB(alpha·opA(A), gamma·opC(C))."""
    operands = (_operand(descA, modeA, opA), _operand(descC, modeC, opC), _operand(descD, modeD))
    return _operations.add(Operation("elementwise", operands, _binary(opAB)))


def createElementwiseTrinary(
    handle: int, descA: int, modeA: int, opA: int, descB: int, modeB: int, opB: int, descC: int, modeC: int, opC: int,
    descD: int, modeD: int, opAB: int, opABC: int, descCompute: int,
) -> int:  # fmt: skip
    """Describe D = opABC(opAB(alpha·opA(A), beta·opB(B)), gamma·opC(C))."""
    operands = (
        _operand(descA, modeA, opA), _operand(descB, modeB, opB), _operand(descC, modeC, opC), _operand(descD, modeD),
    )  # fmt: skip
    return _operations.add(Operation("elementwise", operands, _binary(opAB, opABC)))


def createPermutation(handle: int, descA: int, modeA: int, opA: int, descB: int, modeB: int, descCompute: int) -> int:
    """Describe B = alpha·opA(A), with modes permuted."""
    return _operations.add(Operation("permutation", (_operand(descA, modeA, opA), _operand(descB, modeB))))


def createContraction(
    handle: int, descA: int, modeA: int, opA: int, descB: int, modeB: int, opB: int, descC: int, modeC: int, opC: int,
    descD: int, modeD: int, descCompute: int,
) -> int:  # fmt: skip
    """Describe D = alpha·opA(A)·opB(B) + beta·opC(C), summed over the modes that D lacks."""
    operands = (
        _operand(descA, modeA, opA), _operand(descB, modeB, opB), _operand(descC, modeC, opC), _operand(descD, modeD),
    )  # fmt: skip
    return _operations.add(Operation("contraction", operands))


def createReduction(
    handle: int, descA: int, modeA: int, opA: int, descC: int, modeC: int, opC: int, descD: int, modeD: int,
    opReduce: int, descCompute: int,
) -> int:  # fmt: skip
    """Describe D = alpha·opReduce(opA(A)) + beta·opC(C), reduced over the modes that D lacks."""
    operands = (_operand(descA, modeA, opA), _operand(descC, modeC, opC), _operand(descD, modeD))
    return _operations.add(Operation("reduction", operands, _binary(opReduce)))


def destroyOperationDescriptor(desc: int) -> None:
    """Forget an operation."""
    _operations.pop(desc)


def estimateWorkspaceSize(handle: int, desc: int, planPref: int, workspacePref: int) -> int:
    """Return the workspace that an operation would like: none."""
    return _operations[desc].required_workspace


def createPlan(handle: int, desc: int, pref: int, workspaceSizeLimit: int) -> int:
    """Make a plan, which outlives its operation."""
    return _plans.add(_operations[desc])


def destroyPlan(plan: int) -> None:
    """Forget a plan."""
    _plans.pop(plan)


def planGetAttribute(handle: int, plan: int, attr: int, buf: int, sizeInBytes: int) -> None:
    """Write a plan's needed workspace (attribute 0)."""
    if attr != 0 or sizeInBytes != 8:
        raise CuTensorError(INVALID_VALUE, f"attribute {attr} of {sizeInBytes} bytes")
    raw.write(buf, _plans[plan].required_workspace, np.uint64)


def _plan(plan: int, kind: str) -> Operation:
    operation = _plans[plan]
    if operation.kind != kind:
        raise CuTensorError(INVALID_VALUE, f"the plan is a {operation.kind}, not a {kind}")
    return operation


def _scalar(address: int, target: Tensor, wide: bool) -> Any:
    """Return a scalar: of D's type, or float32 where D is narrower and the operation computes wider."""
    narrow = target.data_type in (R_16F, R_16BF)
    dtype = np.dtype(np.float32) if narrow and wide else DATA_TYPES[target.data_type].storage
    value = raw.read(address, dtype)
    return np.float32(value) if narrow else value


def _store(operand: Operand, address: int, values: Array) -> None:
    target = operand.tensor.stored(address)
    datatypes.store(target, np.broadcast_to(values, target.shape), operand.tensor.data_type)


def elementwiseBinaryExecute(handle: int, plan: int, alpha: int, A: int, gamma: int, C: int, D: int) -> None:
    """Carry out a binary element-wise plan."""
    operation = _plan(plan, "elementwise")
    a, c, d = operation.operands
    first = _scalar(alpha, d.tensor, False) * a.aligned(A, d.modes)
    second = _scalar(gamma, d.tensor, False) * c.aligned(C, d.modes)
    _store(d, D, _BINARY[operation.binary[0]](first, second))


def elementwiseTrinaryExecute(
    handle: int, plan: int, alpha: int, A: int, beta: int, B: int, gamma: int, C: int, D: int
) -> None:
    """Carry out a ternary element-wise plan."""
    operation = _plan(plan, "elementwise")
    a, b, c, d = operation.operands
    first, second, third = (
        _scalar(factor, d.tensor, False) * operand.aligned(address, d.modes)
        for factor, operand, address in ((alpha, a, A), (beta, b, B), (gamma, c, C))
    )
    inner = _BINARY[operation.binary[0]](first, second)
    _store(d, D, _BINARY[operation.binary[1]](inner, third))


def permute(handle: int, plan: int, alpha: int, A: int, B: int) -> None:
    """Carry out a permutation plan."""
    a, b = _plan(plan, "permutation").operands
    _store(b, B, _scalar(alpha, b.tensor, False) * a.aligned(A, b.modes))


def contract(
    handle: int, plan: int, alpha: int, A: int, B: int, beta: int, C: int, D: int, workspace: int, workspaceSize: int
) -> None:
    """Carry out a contraction plan."""
    a, b, c, d = _plan(plan, "contraction").operands
    numbers = {mode: number for number, mode in enumerate(dict.fromkeys([*a.modes, *b.modes, *d.modes]))}
    left, right, out = ([numbers[mode] for mode in operand.modes] for operand in (a, b, d))
    result = _scalar(alpha, d.tensor, True) * np.einsum(a.values(A), left, b.values(B), right, out, optimize=True)
    share = _scalar(beta, d.tensor, True)
    if share != 0:
        result = result + share * c.aligned(C, d.modes)
    _store(d, D, result)


def reduce(
    handle: int, plan: int, alpha: int, A: int, beta: int, C: int, D: int, workspace: int, workspaceSize: int
) -> None:
    """Carry out a reduction plan."""
    operation = _plan(plan, "reduction")
    a, c, d = operation.operands
    kept = [mode for mode in a.modes if mode in d.modes]
    axes = tuple(axis for axis, mode in enumerate(a.modes) if mode not in d.modes)
    reduced = _BINARY[operation.binary[0]].reduce(a.values(A), axis=axes)
    result = _scalar(alpha, d.tensor, False) * np.asarray(reduced).transpose([kept.index(mode) for mode in d.modes])
    share = _scalar(beta, d.tensor, False)
    if share != 0:
        result = result + share * c.aligned(C, d.modes)
    _store(d, D, result)


REFUSED = complete(globals(), "cutensor", CuTensorError)
