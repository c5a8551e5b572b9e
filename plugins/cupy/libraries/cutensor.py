"""Stand-in for ``cupy_backends.cuda.libs.cutensor``; CuPy's own ``cupyx.cutensor`` works over it.

Descriptors, operations and plans live in the executor. What cuTENSOR reads from host memory (extents, strides, modes,
factors) is read here: how much follows from what the objects were made of, which is remembered. The multi-GPU interface
(``…Mg``) is refused by name: a session has one device.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from migproxy_plugins.cupy import accelerators, calls, signatures, standin
from migproxy_plugins.cupy import objects_unsafe as raw

#: Bytes of an element by cutensorDataType_t (cuTENSOR's types.h).
ITEM_SIZES = {0: 4, 1: 8, 2: 2, 4: 8, 5: 16, 14: 2}
#: 16-bit types: contractions take their factors as float.
NARROW = (2, 14)
FACTORS = ("alpha", "beta", "gamma")
#: What is made from operands: each has a tensor's descriptor and its modes.
OPERATIONS = (
    "createContraction",
    "createElementwiseBinary",
    "createElementwiseTrinary",
    "createPermutation",
    "createReduction",
)
EXECUTES = ("contract", "elementwiseBinaryExecute", "elementwiseTrinaryExecute", "permute", "reduce")
DESTROYS = ("destroyOperationDescriptor", "destroyPlan", "destroyPlanPreference", "destroyTensorDescriptor", "destroy")
INVALID_VALUE = 7


class CuTensor:
    """The module's functions.

    Parameters
    ----------
    library : standin.Library
        Carries the calls.
    """

    def __init__(self, library: standin.Library) -> None:
        self._library = library
        self._error: Callable[[int], Exception] = library.errors["CuTensorError"]
        #: What is known of objects: of a tensor its number of modes and data type, of operations and plans the bytes of
        #: a factor.
        self._tensors: dict[int, tuple[int, int]] = {}
        self._factors: dict[int, int] = {}

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by name; they take converted arguments."""
        documented = self._library.facts["functions"]
        found: dict[str, Callable[..., Any]] = {
            "create": lambda: self._make("create"),
            "createTensorDescriptor": self._tensor,
            "createPlanPreference": lambda *arguments: self._make("createPlanPreference", *arguments),
            "createPlan": self._plan,
            "estimateWorkspaceSize": lambda *arguments: self._ask("estimateWorkspaceSize", *arguments),
            "planGetAttribute": self._attribute,
            "get_version": cache(lambda: self._ask("get_version")),
            "get_cudart_version": cache(lambda: self._ask("get_cudart_version")),
        }
        found |= {name: self._destroyer(name) for name in DESTROYS}
        for name in (*OPERATIONS, *EXECUTES):
            signature = signatures.parse(documented[name])
            names = [argument.name for argument in signature.arguments]
            found[name] = self._operation(name, names) if name in OPERATIONS else self._execution(name, names)
        return found

    def _ask(self, function: str, *arguments: Any) -> Any:
        return self._library.call(function, arguments, wait=True)

    def _make(self, function: str, *arguments: Any) -> int:
        """Make an object; cuTENSOR tells what is wrong with it in this call, so it is waited for."""
        number = calls.new_object()
        self._ask(function, number, *arguments)
        return number

    def _destroyer(self, function: str) -> Callable[[int], None]:
        def destroy(number: int) -> None:
            self._tensors.pop(number, None)
            self._factors.pop(number, None)
            calls.release(self._library.name, function, (number,))

        return destroy

    def _tensor(self, handle: int, modes: int, extent: int, stride: int, data_type: int, alignment: int) -> int:
        if data_type not in ITEM_SIZES or (modes and not extent):
            raise self._error(INVALID_VALUE)
        extents = _integers(extent, modes, "q")
        strides = _integers(stride, modes, "q") if stride else None
        number = self._make("createTensorDescriptor", handle, extents, strides, data_type, alignment)
        self._tensors[number] = modes, data_type
        return number

    def _operation(self, function: str, names: list[str]) -> Callable[..., int]:
        last = max(index for index, name in enumerate(names) if name.startswith("desc") and len(name) == 5)

        def make(*arguments: int) -> int:
            sent: list[Any] = list(arguments)
            for index, name in enumerate(names):
                if name.startswith("mode"):
                    described = self._tensors.get(arguments[names.index(f"desc{name[-1]}")])
                    if described is None:
                        raise self._error(INVALID_VALUE)
                    sent[index] = _integers(arguments[index], described[0], "i")
            number = self._make(function, *sent)
            data_type = self._tensors[arguments[last]][1]
            wide = function == "createContraction" and data_type in NARROW
            self._factors[number] = 4 if wide else ITEM_SIZES[data_type]
            return number

        return make

    def _plan(self, handle: int, operation: int, preference: int, limit: int) -> int:
        number = self._make("createPlan", handle, operation, preference, limit)
        self._factors[number] = self._factors.get(operation, 0)
        return number

    def _attribute(self, handle: int, plan: int, attribute: int, buffer: int, size: int) -> None:
        raw.write_host(buffer, self._ask("planGetAttribute", handle, plan, attribute, size))

    def _execution(self, function: str, names: list[str]) -> Callable[..., None]:
        factors = [index for index, name in enumerate(names) if name in FACTORS]

        def execute(*arguments: int) -> None:
            size = self._factors.get(arguments[1])
            if size is None or not all(arguments[index] for index in factors):
                raise self._error(INVALID_VALUE)
            sent: list[Any] = list(arguments)
            for index in factors:
                sent[index] = raw.read_host(arguments[index], size)
            self._library.call(function, sent, wait=False)

        return execute


def _integers(address: int, count: int, kind: str) -> list[int]:
    """Read host integers. Precondition: as many are there."""
    return list(struct.unpack(f"{count}{kind}", raw.read_host(address, count * struct.calcsize(kind)))) if count else []


def make(name: str) -> ModuleType:
    """Return the stand-in.

    Raises
    ------
    ImportError
        If the executor is known to have no cuTENSOR.
    """
    missing = accelerators.known_missing()
    if missing:
        raise ImportError(missing, name=name)
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)
    vars(module)["available"] = True
    standin.publish(module, library, CuTensor(library).handlers())
    return module
