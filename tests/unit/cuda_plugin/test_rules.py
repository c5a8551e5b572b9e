"""The rules, both halves: what the function packs, the executor calls on a driver and hands back."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from c_values import Out, pointers
from conftest import FakeSession
from migproxy_plugins.cuda import executor, marshal
from migproxy_plugins.cuda.rules import RULES

from migproxy.abi import layout
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.dispatch import Refused
from migproxy.executor.handles import Handles
from migproxy.session import api


class Memory:
    def check_range(self, address: int, size: int) -> None:
        if not 0x1000 <= address <= 0x2000 - size:
            raise CudaError(1)


class Session:
    """What the executor half needs of a session."""

    def __init__(self) -> None:
        self.handles = Handles()
        self.memory = Memory()
        self.consumer = SimpleNamespace(in_heap=lambda address, size: False)

    @contextlib.contextmanager
    def charged(self) -> Iterator[None]:
        yield


class Driver:
    """A driver of a few functions, which sees real objects only."""

    kind = "software"

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def status(self, name: str, *arguments: int) -> int:
        result: int = getattr(self, name)(*arguments)
        return result

    def cuGraphCreate(self, out: int, flags: int) -> int:
        ctypes.c_uint64.from_address(out).value = 0xAA00
        return 0

    def cuGraphAddEmptyNode(self, out: int, graph: int, dependencies: int, count: int) -> int:
        nodes = (ctypes.c_uint64 * count).from_address(dependencies) if count else ()
        self.seen.append((graph, *nodes))
        ctypes.c_uint64.from_address(out).value = 0xBB00 + len(self.seen)
        return 0

    def cuGraphGetNodes(self, graph: int, nodes: int, count: int) -> int:
        cell = ctypes.c_uint64.from_address(count)
        if nodes:
            room = min(cell.value, 2)
            (ctypes.c_uint64 * room).from_address(nodes)[:] = [0xBB01, 0xBB02][:room]
            cell.value = room
        else:
            cell.value = 2
        return 0

    def cuStreamWriteValue32(self, stream: int, address: int, value: int, flags: int) -> int:
        self.seen.append((stream, address, value, flags))
        return 0

    def cuGraphDestroyNode(self, node: int) -> int:
        return 0 if node == 0xBB01 else 400

    def cuStreamGetCaptureInfo(self, stream: int, status: int, number: int, graph: int, nodes: int, count: int) -> int:
        self.lent = (ctypes.c_uint64 * 1)(0xBB02)
        ctypes.c_int32.from_address(status).value = 1
        ctypes.c_uint64.from_address(graph).value = 0xAA00
        ctypes.c_uint64.from_address(nodes).value = ctypes.addressof(self.lent)
        ctypes.c_uint64.from_address(count).value = 1
        return 0


@pytest.fixture
def rig(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Session]:
    driver, served = Driver(), Session()
    served.handles.enter(layout.KIND_STREAM, layout.make_handle(layout.KIND_STREAM, 1), 0x5000)

    def driver_call(name: str, arguments: Any) -> tuple[int, tuple[Any, ...]]:
        return executor.serve(driver, served, name, list(arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(api, "driver_call", driver_call)
    monkeypatch.setattr(marshal, "resolve", lambda stream: stream)
    return driver, served


def test_graph_by_hand(rig: tuple[Driver, Session]) -> None:
    driver, served = rig
    graph, first, second = Out(), Out(), Out()
    marshal.rule_adapter("cuGraphCreate")(graph.at, 0)
    assert served.handles.real(layout.KIND_GRAPH, graph.value) == 0xAA00
    marshal.rule_adapter("cuGraphAddEmptyNode")(first.at, graph.value, 0, 0)
    marshal.rule_adapter("cuGraphAddEmptyNode")(second.at, graph.value, pointers(first.value).at, 1)
    assert driver.seen == [(0xAA00,), (0xAA00, 0xBB01)]
    count = Out()
    get_nodes = marshal.rule_adapter("cuGraphGetNodes")
    get_nodes(graph.value, 0, count.at)
    assert count.value == 2
    room = pointers(0, 0)
    get_nodes(graph.value, room.at, count.at)
    assert room.data[:16] == pointers(first.value, second.value).data[:16]
    assert list(served.handles.all(layout.KIND_GRAPH_NODE)) == [first.value, second.value]


def test_capture_info_lends_an_array(rig: tuple[Driver, Session]) -> None:
    _, served = rig
    stream = layout.make_handle(layout.KIND_STREAM, 1)
    node = served.handles.add(layout.KIND_GRAPH_NODE, 0xBB02)
    status, number, graph, array, count = Out(ctypes.c_int), Out(), Out(), Out(), Out()
    marshal.rule_adapter("cuStreamGetCaptureInfo")(stream, status.at, number.at, graph.at, array.at, count.at)
    assert (status.value, count.value) == (1, 1)
    assert ctypes.c_uint64.from_address(array.value).value == node
    assert served.handles.real(layout.KIND_GRAPH, graph.value) == 0xAA00


def test_edge_data_is_refused(rig: tuple[Driver, Session]) -> None:
    add = marshal.rule_adapter("cuGraphAddDependencies")
    with pytest.raises(CudaError) as caught:
        add(1, pointers(1).at, pointers(2).at, pointers(0).at, 1)
    assert caught.value.status == 801


def test_what_the_executor_refuses(rig: tuple[Driver, Session]) -> None:
    driver, served = rig
    stream = layout.make_handle(layout.KIND_STREAM, 1)

    def serve(name: str, *arguments: Any) -> tuple[int, tuple[Any, ...]]:
        return executor.serve(driver, served, name, list(arguments))  # type: ignore[arg-type]

    assert serve("cuStreamWriteValue32", stream, 0x1000, 1 << 40 | 7, 0) == (0, ())
    assert driver.seen == [(0x5000, 0x1000, 7, 0)]
    for name in ("cuCtxDestroy", "cuMemFree", "cuInit"):
        with pytest.raises(Refused, match=name):
            serve(name, 0)
    for arguments, error in [
        ((stream, 0x1FFE, 1, 0), CudaError),
        ((stream + 1, 0x1000, 1, 0), CudaError),
        ((layout.make_handle(layout.KIND_EVENT, 1), 0x1000, 1, 0), CudaError),
        ((stream, 0x1000, 1), ProtocolError),
        ((stream, 0x1000, 1, 0, 5), ProtocolError),
        ((stream, "text", 1, 0), ProtocolError),
    ]:
        with pytest.raises(error):
            serve("cuStreamWriteValue32", *arguments)
    with pytest.raises(ProtocolError):
        serve("cuGraphGetNodes", served.handles.add(layout.KIND_GRAPH, 1), 1 << 40)
    with pytest.raises(ProtocolError):
        serve("cuGraphAddEmptyNode", served.handles.add(layout.KIND_GRAPH, 2), 17)


def test_rules_use_known_kinds() -> None:
    scalars = {"i32", "u32", "i64", "u64", "device", "count", "capacity"}
    for name, rule in RULES.items():
        for kind in rule:
            head, _, detail = kind.partition(":")
            if head in ("h", "dh", "hs", "oh", "oh?", "ohs", "oa"):
                assert detail in executor.KINDS, name
            elif head == "oi":
                assert detail in ("i32", "u32", "i64", "u64"), name
            elif head == "p":
                assert detail.isdigit(), name
            else:
                assert kind in scalars, (name, kind)
