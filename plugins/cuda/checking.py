"""What the conformance kit needs to know of cuda-bindings: `migproxy.plugin_kit.samples` says how it is used."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Literal

from migproxy_plugins.cuda import treatment
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.registry import status_of
from migproxy_plugins.cuda.rules import RULES

from migproxy.abi.tables import Argument, Operation, Table
from migproxy.session import api

#: A sample argument of 1 means an enumeration's member to one function and a size to the next: harmless in software.
CALLS_ON_GPU = False
_zero = ctypes.c_uint64()


def in_other_releases(table: Table) -> set[str]:
    """Return the functions of all recorded releases."""
    which: Literal["driver", "runtime"] = "driver" if table.library == "cuda.driver" else "runtime"
    return {name for major in (12, 13) for name in treatment.table(which, major)["functions"]}


def missing(table: Table) -> list[str]:
    """Return the rules for functions that no release has; what a device's driver lacks, it refuses by name."""
    known = in_other_releases(table)
    return [name for name, entry in table.operations.items() if entry.by_hand and name not in known]


def call(table: Table, operation: Operation) -> Callable[..., None]:
    """Return the C function's handler, with its status as an exception."""
    handler = status_of(rule_adapter(operation.name))

    def checked(*values: int) -> None:
        status = handler(*values)
        if status:
            raise RuntimeError(f"{operation.name}: CUresult {status}")

    return checked


def _graph() -> int:
    out = ctypes.c_uint64()
    rule_adapter("cuGraphCreate")(ctypes.addressof(out), 0)
    return out.value


def _node() -> int:
    out = ctypes.c_uint64()
    rule_adapter("cuGraphAddEmptyNode")(ctypes.addressof(out), _graph(), 0, 0)
    return out.value


_MAKERS: dict[str, Callable[[], int]] = {
    "stream": api.stream_create,
    "event": api.event_create,
    "graph": _graph,
    "graph_node": _node,
    "graph_exec": lambda: api.graph_instantiate(_graph()),
}


def handle(table: Table, operation: Operation, argument: Argument) -> int | None:
    """Make an object of the driver."""
    maker = _MAKERS.get(argument.of)
    return None if maker is None else maker()


def arguments(table: Table, operation: Operation, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Pass no arrays: NULL with a length of 0. Nothing would ever write what a stream waits for."""
    if operation.name.startswith("cuStreamWaitValue"):
        return None
    for name in defaults:
        kind = name.partition("_")[2]
        if kind in ("hs", "count", "ohs"):
            defaults[name] = 0
        elif kind == "capacity":
            defaults[name] = ctypes.addressof(_zero)
    return defaults


def travels(table: Table, operation: Operation, values: list[Any]) -> list[Any]:
    """Return the inputs alone: outputs and lengths of arrays do not travel."""
    sent: list[Any] = []
    rules = RULES[operation.name]
    for rule, value in zip(rules, values, strict=False):
        name = rule.partition(":")[0]
        if name == "hs":
            sent.append([] if value == 1 else value)
        elif name[0] != "o" and name != "count":
            sent.append(value)
    return sent + values[len(rules) :]


def smoke() -> None:
    """Memory, copies on a stream, an event, and a graph."""
    from cuda.bindings import driver

    def check(answer: tuple[Any, ...]) -> Any:
        assert answer[0] == driver.CUresult.CUDA_SUCCESS, answer
        return answer[1] if len(answer) == 2 else answer[1:]

    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
    stream, memory = check(driver.cuStreamCreate(0)), check(driver.cuMemAlloc(256))
    event, graph = check(driver.cuEventCreate(0)), check(driver.cuGraphCreate(0))
    check(driver.cuMemsetD8Async(memory, 7, 256, stream))
    check(driver.cuEventRecord(event, stream))
    check(driver.cuEventSynchronize(event))
    found = bytearray(256)
    check(driver.cuMemcpyDtoH(found, memory, 256))
    assert found == b"\x07" * 256
    check(driver.cuGraphDestroy(graph))
    check(driver.cuEventDestroy(event))
    check(driver.cuStreamDestroy(stream))
    check(driver.cuMemFree(memory))
    check(driver.cuDevicePrimaryCtxRelease(device))
