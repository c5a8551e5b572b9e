"""Graphs through a session: nodes of all kinds, what graphs hold, and whose handles they are."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from c_values import Bytes, Out, pointers, string
from hypothesis import given, settings
from hypothesis import strategies as st
from migproxy_plugins.cuda.patch import driver_handler

from migproxy.abi import layout
from migproxy.session import api

pytestmark = pytest.mark.usefixtures("device")

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
UPDATE_FAILURE = 910
# CUgraphNodeType
MEMSET, HOST, GRAPH, EMPTY, ALLOCATION, FREE = 2, 3, 4, 5, 10, 11


def call(name: str, *arguments: Any) -> int:
    return driver_handler(name)(*arguments)


def made(name: str, *arguments: Any) -> int:
    out = Out()
    assert call(name, out.at, *arguments) == 0
    return int(out.value)


def dependencies(*nodes: int) -> tuple[int, int]:
    return (pointers(*nodes).at if nodes else 0), len(nodes)


@pytest.fixture
def graph() -> Iterator[int]:
    handle = made("cuGraphCreate", 0)
    yield handle
    call("cuGraphDestroy", handle)


@pytest.fixture
def stream() -> Iterator[int]:
    handle = api.stream_create(1)
    yield handle
    api.stream_destroy(handle)


@pytest.fixture
def memory() -> Iterator[int]:
    pointer = api.mem_alloc(4096)
    yield pointer
    api.mem_free(pointer)


def read(pointer: int, size: int) -> bytes:
    target = Bytes(bytes(size))
    api.memcpy_dtoh(target.at, pointer, size)
    return target.data


def memset(graph: int, pointer: int, value: int, size: int, *after: int) -> int:
    parameters = Bytes(struct.pack("<QQIIQQ", pointer, 0, value, 1, size, 1))
    return made("cuGraphAddMemsetNode", graph, *dependencies(*after), parameters.at, 0)


def run(executable: int, stream: int) -> None:
    assert call("cuGraphLaunch", executable, stream) == 0
    api.stream_synchronize(stream)


def kind(node: int) -> int:
    out = Out(ctypes.c_int)
    assert call("cuGraphNodeGetType", node, out.at) == 0
    return int(out.value)


def test_host_nodes_run_in_the_function_each_time(graph: int, stream: int) -> None:
    seen: list[int] = []
    function = HOST_FUNCTION(lambda data: seen.append(data or 0))
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    node = made("cuGraphAddHostNode", graph, 0, 0, Bytes(struct.pack("<QQ", address, 7)).at)
    assert kind(node) == HOST
    answer = Bytes(bytes(16))
    assert call("cuGraphHostNodeGetParams", node, answer.at) == 0
    assert struct.unpack("<QQ", answer.data) == (address, 7)
    executable = made("cuGraphInstantiate", graph, 0)
    run(executable, stream)
    run(executable, stream)
    changed = Bytes(struct.pack("<QQ", address, 8))
    assert call("cuGraphExecHostNodeSetParams", executable, node, changed.at) == 0
    run(executable, stream)
    assert seen == [7, 7, 8]
    assert call("cuGraphAddHostNode", Out().at, graph, 0, 0, Bytes(bytes(16)).at) == 1
    assert call("cuGraphExecDestroy", executable) == 0


def allocation(size: int) -> Bytes:
    return Bytes(struct.pack("<iiii", 1, 0, 1, 0).ljust(104, b"\0") + struct.pack("<QQ", size, 0))


def add_allocation(graph: int, size: int) -> tuple[int, int]:
    parameters = allocation(size)
    node = made("cuGraphAddMemAllocNode", graph, 0, 0, parameters.at)
    return node, struct.unpack_from("<Q", parameters.data, 112)[0]


def test_graph_memory_is_charged_used_and_given_back(stream: int) -> None:
    graph = made("cuGraphCreate", 0)
    free = api.mem_get_info()[0]
    size = free // 2 >> 21 << 21
    node, pointer = add_allocation(graph, size)
    assert free - api.mem_get_info()[0] >= size
    assert call("cuGraphAddMemAllocNode", Out().at, graph, 0, 0, allocation(2 * size).at) == 2
    assert kind(node) == ALLOCATION
    memset(graph, pointer, 9, 64, node)
    executable = made("cuGraphInstantiate", graph, 0)
    run(executable, stream)
    assert read(pointer, 64) == bytes([9]) * 64
    used = Out()
    assert call("cuDeviceGetGraphMemAttribute", 0, 0, used.at) == 0
    assert used.value >= size
    assert call("cuGraphLaunch", executable, stream) == 1, "it was not freed"
    assert call("cuMemFreeAsync", pointer, stream) == 0
    assert call("cuMemFreeAsync", pointer, stream) == 1
    run(executable, stream)
    assert call("cuGraphClone", Out().at, graph) == 801
    assert call("cuGraphDestroyNode", node) == 801
    assert call("cuGraphDestroy", graph) == 0
    assert call("cuGraphExecDestroy", executable) == 0
    assert free - api.mem_get_info()[0] >= size, "a launch's memory outlives its graph"
    assert call("cuMemFree", pointer) == 0
    assert api.mem_get_info()[0] > free - size // 2
    assert call("cuDeviceGetGraphMemAttribute", 0, 0, used.at) == 0
    assert used.value >= size, "as the driver, which keeps it for other graphs"
    assert call("cuDeviceGraphMemTrim", 0) == 0
    assert call("cuDeviceGetGraphMemAttribute", 0, 0, used.at) == 0
    assert used.value < size


def test_graphs_take_over_what_earlier_ones_left(stream: int) -> None:
    used, seen = Out(), set()
    for _ in range(3):
        graph = made("cuGraphCreate", 0)
        _, pointer = add_allocation(graph, 1 << 20)
        executable = made("cuGraphInstantiate", graph, 0)
        run(executable, stream)
        assert call("cuMemFreeAsync", pointer, stream) == 0
        assert call("cuGraphExecDestroy", executable) == 0
        assert call("cuGraphDestroy", graph) == 0
        assert call("cuDeviceGetGraphMemAttribute", 0, 0, used.at) == 0
        seen.add(used.value)
    assert len(seen) == 1
    assert call("cuDeviceGraphMemTrim", 0) == 0


def test_graph_memory_freed_by_nodes_and_on_launch(graph: int, stream: int) -> None:
    node, pointer = add_allocation(graph, 512)
    executable = made("cuGraphInstantiate", graph, 1)
    run(executable, stream)
    run(executable, stream)
    assert call("cuGraphExecDestroy", executable) == 0
    freed = made("cuGraphAddMemFreeNode", graph, *dependencies(node), pointer)
    assert kind(freed) == FREE
    answer = Out()
    assert call("cuGraphMemFreeNodeGetParams", freed, answer.at) == 0
    assert answer.value == pointer
    assert call("cuGraphAddMemFreeNode", Out().at, graph, 0, 0, pointer) == 1
    executable = made("cuGraphInstantiate", graph, 0)
    run(executable, stream)
    run(executable, stream)
    assert call("cuGraphExecDestroy", executable) == 0


def test_allocations_of_a_capture_are_the_graphs(stream: int) -> None:
    assert call("cuStreamBeginCapture", stream, 2) == 0
    pointer = made("cuMemAllocAsync", 256, stream)
    assert call("cuMemsetD8Async", pointer, 5, 256, stream) == 0
    assert call("cuMemFreeAsync", pointer, stream) == 0
    captured = Out()
    assert call("cuStreamEndCapture", stream, captured.at) == 0
    count = Out()
    assert call("cuGraphGetNodes", captured.value, 0, count.at) == 0
    room = Bytes(bytes(8 * count.value))
    assert call("cuGraphGetNodes", captured.value, room.at, count.at) == 0
    kinds = [kind(node) for node in struct.unpack(f"<{count.value}Q", room.data)]
    assert kinds == [ALLOCATION, MEMSET, FREE]
    executable = made("cuGraphInstantiate", captured.value, 0)
    others = [made("cuMemAlloc", 256) for _ in range(20)]
    assert pointer not in others
    run(executable, stream)
    for other in others:
        assert call("cuMemFree", other) == 0
    assert call("cuGraphDestroy", captured.value) == 0
    assert call("cuGraphExecDestroy", executable) == 0


@pytest.mark.parametrize("captured", [True, False])
def test_pageable_memory_is_read_and_written_at_each_launch(
    captured: bool, graph: int, stream: int, memory: int
) -> None:
    source, target = (ctypes.c_ubyte * 64)(), (ctypes.c_ubyte * 64)()
    to, fro = ctypes.addressof(target), ctypes.addressof(source)
    if captured:
        assert call("cuStreamBeginCapture", stream, 2) == 0
        assert call("cuMemcpyHtoDAsync", memory, fro, 64, stream) == 0
        assert call("cuMemcpyDtoHAsync", to, memory, 64, stream) == 0
        out = Out()
        assert call("cuStreamEndCapture", stream, out.at) == 0
        graph = out.value
    else:
        first = copy_node(graph, (1, fro), (2, memory))
        second = copy_node(graph, (2, memory), (1, to), first)
        answer = Bytes(bytes(200))
        assert call("cuGraphMemcpyNodeGetParams", second, answer.at) == 0
        assert struct.unpack_from("<Q", answer.data, 128)[0] == to
    executable = made("cuGraphInstantiate", graph, 0)
    if captured:
        assert call("cuGraphDestroy", graph) == 0
    for _ in range(40):
        assert call("cuMemcpyHtoDAsync", memory, Bytes(bytes([99]) * 64).at, 64, stream) == 0
    for value in (3, 4):
        source[:] = [value] * 64
        run(executable, stream)
        assert bytes(target) == bytes([value]) * 64
    assert call("cuGraphExecDestroy", executable) == 0


def test_a_capture_does_not_concern_other_streams(stream: int, memory: int) -> None:
    other = api.stream_create(1)
    assert call("cuStreamBeginCapture", other, 2) == 0
    for size in (64, 4096):
        foreign, back = Bytes(bytes([size % 251]) * size), Bytes(bytes(size))
        assert call("cuMemcpyHtoDAsync", memory, foreign.at, size, stream) == 0
        assert call("cuMemcpyDtoHAsync", back.at, memory, size, stream) == 0
        assert back.data == foreign.data
    block = api.host_alloc(1 << 17)
    assert call("cuMemcpyDtoH", block, memory, 64) == 900
    # A capture ends with its stream.
    assert call("cuStreamDestroy", other) == 0
    assert call("cuMemcpyDtoH", block, memory, 64) == 0
    api.host_free(block)


def copy_node(graph: int, source: tuple[int, int], destination: tuple[int, int], *after: int) -> int:
    def side(memory_type: int, at: int) -> tuple[int, ...]:
        return (0, 0, 0, 0, memory_type, at if memory_type == 1 else 0, at if memory_type == 2 else 0, 0, 0, 64, 1)

    packed = struct.pack("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ", *side(*source), *side(*destination), 64, 1, 1)
    return made("cuGraphAddMemcpyNode", graph, *dependencies(*after), Bytes(packed).at, 0)


def test_what_a_graph_reads_it_must_not_have_written_outside_the_arena(graph: int, memory: int) -> None:
    foreign = (ctypes.c_ubyte * 64)()
    at = ctypes.addressof(foreign)
    copy_node(graph, (2, memory), (1, at))
    packed = struct.pack(
        "<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ",
        *(0, 0, 0, 0, 1, at, 0, 0, 0, 64, 1, 0, 0, 0, 0, 2, 0, memory, 0, 0, 64, 1, 64, 1, 1),
    )
    assert call("cuGraphAddMemcpyNode", Out().at, graph, 0, 0, Bytes(packed).at, 0) == 801


def test_graphs_inside_end_with_what_they_are_in(graph: int, memory: int) -> None:
    child = made("cuGraphCreate", 0)
    memset(child, memory, 1, 4)
    node = made("cuGraphAddChildGraphNode", graph, 0, 0, child)
    inside, count = Out(), Out(value=1)
    assert call("cuGraphChildGraphNodeGetGraph", node, inside.at) == 0
    nodes = Out()
    assert call("cuGraphGetNodes", inside.value, nodes.at, count.at) == 0
    answer = Bytes(bytes(40))
    assert call("cuGraphMemsetNodeGetParams", nodes.value, answer.at) == 0
    assert struct.unpack_from("<QQI", answer.data)[0] == memory
    assert call("cuGraphDestroy", child) == 0
    assert call("cuGraphDestroyNode", node) == 0
    assert call("cuGraphNodeGetType", nodes.value, Out().at) == 400
    assert call("cuGraphGetNodes", inside.value, 0, count.at) == 400
    assert call("cuGraphDestroyNode", node) == 400


def test_an_update_changes_what_runs_and_what_is_held(graph: int, stream: int, memory: int) -> None:
    gone: list[int] = []
    destructor = HOST_FUNCTION(lambda data: gone.append(data or 0))
    address = ctypes.cast(destructor, ctypes.c_void_p).value or 0
    first, second = (made("cuUserObjectCreate", number, address, 1, 1) for number in (1, 2))
    memset(graph, memory, 1, 8)
    assert call("cuGraphRetainUserObject", graph, first, 1, 1) == 0
    executable = made("cuGraphInstantiate", graph, 0)
    other = made("cuGraphCreate", 0)
    memset(other, memory, 2, 8)
    assert call("cuGraphRetainUserObject", other, second, 1, 1) == 0
    result = Bytes(bytes(24))
    assert call("cuGraphExecUpdate", executable, other, result.at) == 0
    assert call("cuGraphDestroy", graph) == 0
    assert gone == [1]
    assert call("cuGraphDestroy", other) == 0
    run(executable, stream)
    assert read(memory, 8) == bytes([2]) * 8
    wider = made("cuGraphCreate", 0)
    memset(wider, memory, 1, 8)
    memset(wider, memory, 1, 8)
    assert call("cuGraphExecUpdate", executable, wider, result.at) == UPDATE_FAILURE
    assert struct.unpack_from("<i", result.data)[0] != 0
    assert call("cuGraphDestroy", wider) == 0
    assert call("cuGraphExecDestroy", executable) == 0
    assert gone == [1, 2]


def test_any_node_by_its_common_parameters(graph: int, stream: int, memory: int) -> None:
    parameters = Bytes(
        (struct.pack("<i12x", MEMSET) + struct.pack("<QQIIQQ", memory, 0, 6, 1, 16, 1)).ljust(256, b"\0")
    )
    node = made("cuGraphAddNode", graph, 0, 0, 0, parameters.at)
    answer = Bytes(bytes(256))
    assert call("cuGraphNodeGetParams", node, answer.at) == 0
    assert answer.data[:56] == parameters.data[:56]
    changed = bytearray(parameters.data)
    struct.pack_into("<I", changed, 32, 7)
    executable = made("cuGraphInstantiate", graph, 0)
    assert call("cuGraphExecNodeSetParams", executable, node, Bytes(bytes(changed)).at) == 0
    run(executable, stream)
    assert read(memory, 16) == bytes([7]) * 16
    edge = Bytes(bytes([1]) + bytes(7))
    assert call("cuGraphAddNode", Out().at, graph, pointers(node).at, edge.at, 1, parameters.at) == 801
    assert call("cuGraphExecDestroy", executable) == 0


def test_a_capture_into_a_graph_that_there_is(graph: int, stream: int, memory: int) -> None:
    first = memset(graph, memory, 1, 16)
    assert call("cuStreamBeginCaptureToGraph", stream, graph, pointers(first).at, 0, 1, 2) in (0, 801)
    status = Out(ctypes.c_int)
    assert call("cuStreamIsCapturing", stream, status.at) == 0
    if status.value:
        assert call("cuMemsetD8Async", memory, 2, 8, stream) == 0
        assert call("cuStreamEndCapture", stream, Out().at) == 0


def test_a_graph_is_drawn_where_the_function_says(graph: int, memory: int, tmp_path: Path) -> None:
    first = memset(graph, memory, 1, 16)
    memset(graph, memory, 2, 16, first)
    path = tmp_path / "graph.dot"
    assert call("cuGraphDebugDotPrint", graph, string(str(path).encode()).at, 0) == 0
    text = path.read_text()
    assert text.startswith("digraph")
    assert "->" in text
    missing = string(str(tmp_path / "none" / "graph.dot").encode())
    assert call("cuGraphDebugDotPrint", graph, missing.at, 0) == 304


def test_memory_operations_of_a_batch_run_in_order(stream: int, memory: int) -> None:
    pinned = api.host_alloc(64)
    write, wait, barrier = 2, 1, 6
    operation = struct.Struct("<I4xQQI4xQ8x")
    batch = Bytes(
        operation.pack(write, memory, 7, 0, 0)
        + operation.pack(barrier, 0, 0, 0, 0)
        + operation.pack(wait, memory, 7, 0, 0)
        + operation.pack(write, pinned, 9, 0, 0)
    )
    assert call("cuStreamBatchMemOp", stream, 4, batch.at, 0) == 0
    api.stream_synchronize(stream)
    assert ctypes.c_uint32.from_address(pinned).value == 9
    assert call("cuStreamBatchMemOp", stream, 1, Bytes(operation.pack(3, memory, 0, 0, 0)).at, 0) == 801
    assert call("cuStreamBatchMemOp", stream, 1, Bytes(operation.pack(write, 4096, 0, 0, 0)).at, 0) == 1
    api.host_free(pinned)


OF_GRAPHS = (
    ("cuGraphClone", ("out", "handle")),
    ("cuGraphInstantiate", ("out", "handle", 0)),
    ("cuGraphGetNodes", ("handle", 0, "out")),
    ("cuGraphAddEmptyNode", ("out", "handle", 0, 0)),
    ("cuGraphDestroyNode", ("handle",)),
    ("cuGraphNodeGetType", ("handle", "out")),
    ("cuGraphExecGetFlags", ("handle", "out")),
    ("cuGraphExecUpdate", ("handle", "handle", "out")),
    ("cuGraphHostNodeGetParams", ("handle", "out")),
    ("cuGraphMemcpyNodeGetParams", ("handle", "out")),
    ("cuGraphKernelNodeGetAttribute", ("handle", 2, "out")),
    ("cuGraphChildGraphNodeGetGraph", ("handle", "out")),
)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(OF_GRAPHS),
    st.builds(
        layout.make_handle,
        st.sampled_from((layout.KIND_GRAPH, layout.KIND_GRAPH_NODE, layout.KIND_GRAPH_EXEC, layout.KIND_EVENT)),
        st.integers(1 << 20, 1 << 21),
    ),
)
def test_graph_handles_of_nobody_are_invalid(entry: tuple[str, tuple[Any, ...]], handle: int) -> None:
    name, shape = entry
    out = Bytes(bytes(256))
    arguments = [out.at if each == "out" else handle if each == "handle" else each for each in shape]
    assert call(name, *arguments) == 400
