"""cuTENSOR in the executor: host arrays travel as lists and bytes, and lie here while the library reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from migproxy_plugins.cupy import objects_unsafe as raw
from migproxy_plugins.cupy import signatures, tables
from migproxy_plugins.cupy.serving import Serving, UnknownObject, serves

from migproxy.errors import ProtocolError

CUTENSOR = "cupy_backends.cuda.libs.cutensor"
#: cuTENSOR's tensors have at most so many modes (its manual, cutensorCreateTensorDescriptor); a few more are its to
#: refuse.
MOST_MODES = 128
#: The longest factor is a complex double; a plan's attribute is as long.
MOST_BYTES = 16
FACTORS = ("alpha", "beta", "gamma")
#: Bytes of a plan's attributes.
ATTRIBUTES = (8, 4)
KINDS = {
    "create": "cutensor handle",
    "createTensorDescriptor": "cutensor tensor",
    "createPlanPreference": "cutensor plan preference",
    "createPlan": "cutensor plan",
    "operation": "cutensor operation",
}


class _Tensor(int):
    """A descriptor's real address, with the number of its modes.

    Attributes
    ----------
    modes : int
    """

    modes: int

    def __new__(cls, address: int, modes: int) -> _Tensor:
        """Return the address as an integer that knows its modes."""
        made = super().__new__(cls, address)
        made.modes = modes
        return made


def _array(values: Any, kind: str, count: int | None = None) -> Any:
    """Return host memory that holds the integers of a list."""
    if not isinstance(values, list) or len(values) > MOST_MODES or (count is not None and len(values) != count):
        raise ProtocolError("a list of a tensor's modes was expected")
    try:
        return raw.buffer_of(struct.pack(f"{len(values)}{kind}", *values) or bytes(8))
    except struct.error as error:
        raise ProtocolError(f"no such modes: {error}") from error


def _keep(server: Serving, number: Any, maker: str, value: Any) -> None:
    server.objects[server.integer(number)] = KINDS[maker], value


def _real(server: Serving, number: Any, maker: str) -> Any:
    """Return the real object that a function of this name made; one of another kind is none."""
    found = server.objects.get(server.integer(number))
    if found is None or found[0] != KINDS[maker]:
        raise UnknownObject(f"{number:#x} is no {KINDS[maker]}")
    return found[1]


def _new(server: Serving, number: Any) -> None:
    if server.integer(number) in server.objects:
        raise ProtocolError(f"object {number:#x} exists")


@serves(CUTENSOR, "create", host_only=True)
def _create(server: Serving, number: int) -> None:
    _new(server, number)
    _keep(server, number, "create", server.module(CUTENSOR).create())


@serves(CUTENSOR, "createTensorDescriptor", host_only=True)
def _tensor(
    server: Serving, number: int, handle: int, extents: Any, strides: Any, data_type: int, alignment: int
) -> None:
    _new(server, number)
    shape = _array(extents, "q")
    steps = None if strides is None else _array(strides, "q", len(extents))
    server.lend(shape, *([] if steps is None else [steps]))
    made = server.module(CUTENSOR).createTensorDescriptor(
        _real(server, handle, "create"),
        len(extents),
        raw.address_of(shape),
        0 if steps is None else raw.address_of(steps),
        server.integer(data_type),
        server.integer(alignment),
    )
    # The number of modes is kept: so many are read for each operand.
    _keep(server, number, "createTensorDescriptor", _Tensor(made, len(extents)))


@cache
def _names(name: str) -> tuple[str, ...]:
    """Return the names of a function's arguments; every execution of a plan asks."""
    return tuple(argument.name for argument in signatures.parse(tables.table(CUTENSOR)["functions"][name]).arguments)


def _named(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return a function's arguments by their names."""
    names = _names(name)
    if len(arguments) != len(names):
        raise ProtocolError(f"{name} takes {len(names)} arguments, not {len(arguments)}")
    return dict(zip(names, arguments, strict=True))


def _operation(name: str) -> Callable[..., None]:
    def create(server: Serving, number: int, *arguments: Any) -> None:
        _new(server, number)
        given = _named(name, arguments)
        kept, values = [], []
        for argument, value in given.items():
            if argument == "handle":
                values.append(_real(server, value, "create"))
            elif argument.startswith("mode"):
                tensor = _real(server, given[f"desc{argument[-1]}"], "createTensorDescriptor")
                kept.append(_array(value, "i", tensor.modes))
                values.append(raw.address_of(kept[-1]))
            elif f"mode{argument[-1]}" in given and argument.startswith("desc"):
                values.append(int(_real(server, value, "createTensorDescriptor")))
            else:
                values.append(server.integer(value))
        server.lend(*kept)
        _keep(server, number, "operation", getattr(server.module(CUTENSOR), name)(*values))

    return create


for _name in (
    "createContraction",
    "createElementwiseBinary",
    "createElementwiseTrinary",
    "createPermutation",
    "createReduction",
):
    serves(CUTENSOR, _name, host_only=True)(_operation(_name))


@serves(CUTENSOR, "createPlanPreference", host_only=True)
def _preference(server: Serving, number: int, handle: int, algorithm: int, jit: int) -> None:
    _new(server, number)
    made = server.module(CUTENSOR).createPlanPreference(
        _real(server, handle, "create"), server.integer(algorithm), server.integer(jit)
    )
    _keep(server, number, "createPlanPreference", made)


@serves(CUTENSOR, "createPlan", host_only=True)
def _plan(server: Serving, number: int, handle: int, operation: int, preference: int, limit: int) -> None:
    _new(server, number)
    made = server.module(CUTENSOR).createPlan(
        _real(server, handle, "create"),
        _real(server, operation, "operation"),
        _real(server, preference, "createPlanPreference"),
        server.integer(limit),
    )
    _keep(server, number, "createPlan", made)


@serves(CUTENSOR, "estimateWorkspaceSize", host_only=True)
def _workspace(server: Serving, handle: int, operation: int, preference: int, wanted: int) -> int:
    return int(
        server.module(CUTENSOR).estimateWorkspaceSize(
            _real(server, handle, "create"),
            _real(server, operation, "operation"),
            _real(server, preference, "createPlanPreference"),
            server.integer(wanted),
        )
    )


@serves(CUTENSOR, "planGetAttribute", host_only=True)
def _attribute(server: Serving, handle: int, plan: int, attribute: int, size: int) -> bytes:
    if server.integer(size) not in ATTRIBUTES:
        raise ProtocolError(f"no attribute of a plan has {size} bytes")
    memory = raw.buffer(size)
    server.lend(memory)
    server.module(CUTENSOR).planGetAttribute(
        _real(server, handle, "create"),
        _real(server, plan, "createPlan"),
        server.integer(attribute),
        raw.address_of(memory),
        size,
    )
    return bytes(memory)


@serves(CUTENSOR, "get_version", "get_cudart_version", host_only=True)
def _version(server: Serving) -> int:
    return int(server.module(CUTENSOR).get_version())


def _destroyer(name: str, maker: str) -> Callable[..., None]:
    def destroy(server: Serving, number: int) -> None:
        real = _real(server, number, maker)
        del server.objects[number]
        getattr(server.module(CUTENSOR), name)(int(real))

    return destroy


for _name, _maker in (
    ("destroy", "create"),
    ("destroyOperationDescriptor", "operation"),
    ("destroyPlan", "createPlan"),
    ("destroyPlanPreference", "createPlanPreference"),
    ("destroyTensorDescriptor", "createTensorDescriptor"),
):
    serves(CUTENSOR, _name, host_only=True)(_destroyer(_name, _maker))


def _execution(name: str) -> Callable[..., None]:
    def execute(server: Serving, *arguments: Any) -> None:
        given = _named(name, arguments)
        kept, values = [], []
        for argument, value in given.items():
            if argument == "handle":
                values.append(_real(server, value, "create"))
            elif argument == "plan":
                values.append(_real(server, value, "createPlan"))
            elif argument in FACTORS:
                if not isinstance(value, bytes) or len(value) > MOST_BYTES:
                    raise ProtocolError(f"{name}: {argument} is no factor")
                kept.append(raw.buffer_of(value.ljust(MOST_BYTES, b"\0")))
                values.append(raw.address_of(kept[-1]))
            else:
                values.append(server.integer(value))
                if argument != "workspaceSize" and value:
                    # The library knows how much of a tensor it touches; of the workspace as much as is said.
                    size = server.integer(given["workspaceSize"]) if argument == "workspace" else 1
                    server.context.check_range(value, max(1, size))
        server.lend(*kept)
        getattr(server.module(CUTENSOR), name)(*values)

    return execute


for _name in ("contract", "elementwiseBinaryExecute", "elementwiseTrinaryExecute", "permute", "reduce"):
    serves(CUTENSOR, _name)(_execution(_name))
