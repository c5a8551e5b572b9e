"""Graph nodes with parameters: what the function sends, what the executor checks and hands to the driver."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from c_values import Bytes, Out, pointers
from conftest import FakeSession
from migproxy_plugins.cuda import driver_nodes, executor, registry

from migproxy.abi import layout
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.handlers.launch import LaunchTarget
from migproxy.executor.handles import Handles
from migproxy.session import api
from migproxy.session.api import staging

FUNCTION = layout.make_handle(layout.KIND_FUNCTION, 7)
D = registry.load()
REAL_GRAPH, REAL_FUNCTION = 0xAA00, 0xF00


class Driver:
    """Keeps the structs it was given."""

    kind = "software"

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def out(self, name: str) -> int:
        assert name == "cuCtxGetCurrent"
        return 0xC0

    def status(self, name: str, *arguments: int) -> int:
        if name == "cuGraphGetEdges":
            _, sources, targets, count = arguments
            cell = ctypes.c_uint64.from_address(count)
            if sources:
                ctypes.c_uint64.from_address(sources).value = 0xBB01
                ctypes.c_uint64.from_address(targets).value = 0xBB02
            cell.value = 1
            return 0
        if name == "cuGraphAddKernelNode":
            out, graph, _, count, parameters = arguments
            fields = struct.unpack("<Q7I4xQQQQ", ctypes.string_at(parameters, 72))
            array = (ctypes.c_uint64 * 2).from_address(fields[8])
            values = [ctypes.string_at(address, 4) for address in array]
            self.seen.append((name, graph, count, *fields[:8], *values))
        elif name.startswith("cuGraphAdd"):
            out, graph, dependencies, count, parameters, context = arguments
            size = 40 if "Memset" in name else 200
            nodes = list((ctypes.c_uint64 * count).from_address(dependencies)) if count else []
            self.seen.append((name, graph, nodes, ctypes.string_at(parameters, size), context))
        else:
            self.seen.append((name, *arguments[:-1]))
            return 0
        ctypes.c_uint64.from_address(out).value = 0xBB00 + len(self.seen)
        return 0


class Session:
    def __init__(self) -> None:
        self.handles = Handles()
        self.graph = self.handles.add(layout.KIND_GRAPH, REAL_GRAPH)
        self.functions = {FUNCTION + 100: LaunchTarget(REAL_FUNCTION, [(0, 4), (8, 4)], 12)}
        self.memory = SimpleNamespace(check_range=self.check_range)
        self.consumer = SimpleNamespace(in_heap=lambda address, size: address == 0x9000)

    def check_range(self, address: int, size: int) -> None:
        if not 0x1000 <= address <= 0x2000 - size:
            raise CudaError(1)

    @contextlib.contextmanager
    def charged(self) -> Iterator[None]:
        yield


@pytest.fixture
def rig(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Session]:
    driver, served = Driver(), Session()

    def driver_call(name: str, arguments: Any) -> tuple[int, tuple[Any, ...]]:
        return executor.serve(driver, served, name, list(arguments))  # type: ignore[arg-type]

    facts = SimpleNamespace(handle=FUNCTION + 100, parameters=[(0, 4), (8, 4)], parameter_bytes=12)
    monkeypatch.setattr(driver_nodes, "function_facts", lambda handle: facts)
    monkeypatch.setattr(api, "driver_call", driver_call)
    return driver, served


def test_kernel_nodes(rig: tuple[Driver, Session]) -> None:
    driver, served = rig
    first, second = Bytes(struct.pack("<i", 5)), Bytes(struct.pack("<f", 2.5))
    arguments = pointers(first.at, second.at)
    parameters = Bytes(struct.pack("<Q7I4xQQQQ", FUNCTION, 1, 2, 3, 4, 5, 6, 64, arguments.at, 0, 0, 0))
    node = Out()
    D["cuGraphAddKernelNode"](node.at, served.graph, 0, 0, parameters.at)
    assert driver.seen == [
        ("cuGraphAddKernelNode", REAL_GRAPH, 0, REAL_FUNCTION, 1, 2, 3, 4, 5, 6, 64, first.data, second.data)
    ]
    answer = Bytes(bytes(72))
    D["cuGraphKernelNodeGetParams"](node.value, answer.at)
    assert answer.data[:36] == parameters.data[:36]
    array = struct.unpack_from("<Q", answer.data, 40)[0]
    assert ctypes.string_at(ctypes.c_uint64.from_address(array + 8).value, 4) == second.data
    D["cuGraphKernelNodeSetParams"](node.value, parameters.at)
    assert driver.seen[-1] == ("cuGraphKernelNodeSetParams", 0xBB01)
    with pytest.raises(CudaError) as caught:
        D["cuGraphKernelNodeGetParams"](node.value + 1, answer.at)
    assert caught.value.status == 400


def test_memset_nodes_and_edges(rig: tuple[Driver, Session]) -> None:
    driver, served = rig
    parameters = Bytes(struct.pack("<QQIIQQ", 0x1000, 16, 7, 4, 4, 2))
    node, other, count = Out(), Out(), Out()
    D["cuGraphAddMemsetNode"](node.at, served.graph, 0, 0, parameters.at, 0)
    D["cuGraphAddMemsetNode"](other.at, served.graph, pointers(node.value).at, 1, parameters.at, 0)
    assert driver.seen[1] == ("cuGraphAddMemsetNode", REAL_GRAPH, [0xBB01], parameters.data, 0xC0)
    D["cuGraphGetEdges"](served.graph, 0, 0, count.at)
    assert count.value == 1
    sources, targets, edges = Out(), Out(), Bytes(b"\xff" * 8)
    D["cuGraphGetEdges"](served.graph, sources.at, targets.at, edges.at, count.at)
    assert (sources.value, targets.value, edges.data) == (node.value, other.value, bytes(8))


def test_copy_nodes_take_blocks_for_pageable_memory(
    rig: tuple[Driver, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, served = rig
    kinds = {0x1000: 2, 0x9999: 0}
    monkeypatch.setattr(api, "pointer_facts", lambda p: SimpleNamespace(memory_type=kinds[p], managed=False))
    placed = []

    def place(holder: int, box: api.Box, extent: tuple[int, int, int], *, to_host: bool) -> api.Box:
        placed.append((holder, box.at, extent, to_host))
        return api.Box(0x9000, 64, 1)

    monkeypatch.setattr(staging, "place", place)
    sides = ((0, 0, 0, 0, 4, 0, 0x9999, 0, 0, 64, 1), (0, 0, 0, 0, 2, 0, 0x1000, 0, 0, 64, 1))
    copy = Bytes(struct.pack("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ", *sides[0], *sides[1], 64, 1, 1))
    D["cuGraphAddMemcpyNode"](Out().at, served.graph, 0, 0, copy.at, 0)
    fields = struct.unpack("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ", driver.seen[0][3])
    assert (fields[4], fields[5], fields[15], fields[17], fields[22:]) == (1, 0x9000, 2, 0x1000, (64, 1, 1))
    assert placed == [(served.graph, 0x9999, (64, 1, 1), False)]


def test_what_the_executor_refuses(rig: tuple[Driver, Session]) -> None:
    driver, served = rig
    graph = served.graph

    def serve(name: str, *arguments: Any) -> Any:
        return executor.serve(driver, served, name, list(arguments))  # type: ignore[arg-type]

    kernel = [FUNCTION + 100, 1, 1, 1, 1, 1, 1, 0, bytes(12)]
    for arguments, error in [
        ((graph, [], [FUNCTION, 1, 1, 1, 1, 1, 1, 0, bytes(12)]), CudaError),
        ((graph, [], [*kernel[:8], bytes(11)]), CudaError),
        ((graph, [], [*kernel[:7], 1 << 40, bytes(12)]), CudaError),
        ((graph + 1, [], kernel), CudaError),
        ((graph, [12345], kernel), CudaError),
        ((graph, kernel), ProtocolError),
        ((graph, [], kernel[:8]), ProtocolError),
        ((graph, 5, kernel), ProtocolError),
    ]:
        with pytest.raises(error):
            serve("cuGraphAddKernelNode", *arguments)
    for memset in ([0x1FFF, 1, 0, 1, 2, 1], [0x1000, 1, 0, 3, 1, 1], [0x1000, 1, 0, 4, 1, 2]):
        with pytest.raises(CudaError):
            serve("cuGraphAddMemsetNode", graph, [], memset)
    for copy in (
        [1, 0, 0, 0, 0x1000, 64, 1, 0, 0, 0, 0, 0x8000, 64, 1, 64, 1, 1],
        [1, 0, 0, 0, 0x1000, 8, 1, 1, 0, 0, 0, 0x1800, 64, 1, 64, 2, 1],
        [1, 0, 0, 0, 0x1000, 64, 1, 1, 0, 0, 0, 0x1FFF, 64, 1, 64, 1, 1],
        [1, 0, 0, 0, 0x1000, 64, 1, 2, 0, 0, 0, 0x1234, 0, 0, 64, 1, 1],
    ):
        with pytest.raises(CudaError):
            serve("cuGraphAddMemcpyNode", graph, [], copy)
    assert driver.seen == []
