"""Stream capture and graphs."""

from __future__ import annotations

import ctypes
import struct

from softgpu_session import Session

RELAXED = 2
UNSUPPORTED, INVALIDATED, UNMATCHED, UNJOINED, ISOLATION, IMPLICIT = 900, 901, 903, 904, 905, 906


def _end(session: Session, stream: int) -> int:
    session.ok("cuStreamEndCapture", stream, session.at)
    return ctypes.c_uint64.from_address(session.at).value


def _word(session: Session, address: int) -> int:
    return int(struct.unpack("<I", session.read(address, 4))[0])


def _count(session: Session, name: str, graph: int) -> int:
    session.ok(name, graph, 0, session.at)
    return ctypes.c_uint64.from_address(session.at).value


def test_captured_work_runs_when_it_is_launched_and_every_time(session: Session) -> None:
    stream, memory, store = session.stream(), session.alloc(8), session.function("store")
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    session.ok("cuMemsetD32Async", memory + 4, 5, 1, stream)
    assert session.launch(store, stream, memory, 41) == 0
    session.ok("cuStreamIsCapturing", stream, session.at)
    assert ctypes.c_uint32.from_address(session.at).value == 1
    graph = _end(session, stream)
    assert session.read(memory, 8) == bytes(8)
    assert _count(session, "cuGraphGetNodes", graph) == 2
    assert _count(session, "cuGraphGetRootNodes", graph) == 1
    executable = session.u64("cuGraphInstantiateWithFlags", graph, 0)
    session.ok("cuGraphDestroy", graph)
    for _ in range(2):
        session.ok("cuGraphLaunch", executable, stream)
        session.ok("cuStreamSynchronize", stream)
        assert session.read(memory, 8) == struct.pack("<II", 41, 5)
        session.ok("cuMemsetD8Async", memory, 0, 8, stream)
    session.ok("cuGraphExecDestroy", executable)


def test_a_capture_takes_in_streams_that_follow_its_events(session: Session) -> None:
    first, second, fork, join = session.stream(), session.stream(), session.event(), session.event()
    memory = session.alloc(12)
    session.ok("cuStreamBeginCapture", first, RELAXED)
    session.ok("cuMemsetD32Async", memory, 1, 1, first)
    session.ok("cuEventRecord", fork, first)
    session.ok("cuStreamWaitEvent", second, fork, 0)
    session.ok("cuMemcpyDtoDAsync", memory + 4, memory, 4, second)
    session.ok("cuEventRecord", join, second)
    session.ok("cuStreamWaitEvent", first, join, 0)
    session.ok("cuMemcpyDtoDAsync", memory + 8, memory + 4, 4, first)
    graph = _end(session, first)
    assert session.cuda.cuEventQuery(join) == 1
    session.ok("cuStreamQuery", second)
    executable = session.u64("cuGraphInstantiate", graph, 0)
    session.ok("cuGraphLaunch", executable, 0)
    assert session.read(memory, 12) == struct.pack("<III", 1, 1, 1)


def test_what_spoils_a_capture(session: Session) -> None:
    stream, other, event, old = session.stream(flags=0), session.stream(), session.event(), session.event()
    memory = session.alloc(4)
    session.ok("cuEventRecord", old, other)
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    assert session.cuda.cuMemsetD8(memory, 1, 4) == IMPLICIT
    assert session.cuda.cuEventRecord(event, stream) == INVALIDATED
    assert session.cuda.cuStreamEndCapture(stream, session.at) == INVALIDATED
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    assert session.cuda.cuStreamWaitEvent(stream, old, 0) == ISOLATION
    assert session.cuda.cuStreamEndCapture(stream, session.at) == INVALIDATED
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    session.ok("cuEventRecord", event, stream)
    session.ok("cuStreamWaitEvent", other, event, 0)
    assert session.cuda.cuStreamEndCapture(other, session.at) == UNMATCHED
    assert session.cuda.cuStreamEndCapture(stream, session.at) == INVALIDATED
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    session.ok("cuEventRecord", event, stream)
    session.ok("cuStreamWaitEvent", other, event, 0)
    session.ok("cuMemsetD8Async", memory, 1, 4, other)
    assert session.cuda.cuStreamEndCapture(stream, session.at) == UNJOINED
    session.ok("cuStreamSynchronize", stream)
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    assert session.cuda.cuStreamSynchronize(stream) == UNSUPPORTED
    assert session.cuda.cuMemsetD8Async(memory, 1, 4, stream) == INVALIDATED
    assert session.cuda.cuStreamEndCapture(stream, session.at) == INVALIDATED
    session.ok("cuStreamSynchronize", stream)
    assert session.cuda.cuStreamBeginCapture(0, RELAXED) == UNSUPPORTED
    assert _word(session, memory) == 0


def test_a_graph_built_by_hand(session: Session) -> None:
    memory, store = session.alloc(8), session.function("store")
    graph = session.u64("cuGraphCreate", 0)
    fill = struct.pack("<QQIIQQ", memory, 0, 3, 4, 1, 1)
    first = session.u64("cuGraphAddMemsetNode", graph, 0, 0, session.data(fill), 0)
    values = [session.data(struct.pack("<Q", memory)), session.data(struct.pack("<I", 9))]
    kernel = struct.pack("<Q7I4xQQQQ", store, 1, 1, 1, 1, 1, 1, 0, session.data(struct.pack("<QQ", *values)), 0, 0, 0)
    second = session.u64("cuGraphAddKernelNode", graph, session.data(struct.pack("<Q", first)), 1, session.data(kernel))
    executable = session.u64("cuGraphInstantiate", graph, 0)
    session.ok("cuGraphLaunch", executable, 0)
    assert _word(session, memory) == 9
    session.ok("cuGraphNodeSetEnabled", executable, second, 0)
    session.ok("cuGraphLaunch", executable, 0)
    assert _word(session, memory) == 3
    session.ok("cuGraphNodeGetType", second, session.at)
    assert ctypes.c_uint32.from_address(session.at).value == 0
    edge = session.data(struct.pack("<QQ", second, first))
    session.ok("cuGraphAddDependencies", graph, edge, edge + 8, 1)
    assert session.cuda.cuGraphInstantiate(session.at, graph, 0) == 1


def test_host_nodes_run_in_their_place(session: Session) -> None:
    stream, memory = session.stream(), session.alloc(4)
    seen: list[int] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def callback(_: int | None) -> None:
        seen.append(ctypes.c_uint32.from_address(memory).value)

    session.ok("cuStreamBeginCapture", stream, RELAXED)
    session.ok("cuMemsetD32Async", memory, 1, 1, stream)
    session.ok("cuLaunchHostFunc", stream, ctypes.cast(callback, ctypes.c_void_p).value or 0, 0)
    session.ok("cuMemsetD32Async", memory, 2, 1, stream)
    executable = session.u64("cuGraphInstantiate", _end(session, stream), 0)
    session.ok("cuGraphLaunch", executable, stream)
    session.ok("cuGraphLaunch", executable, stream)
    session.ok("cuStreamSynchronize", stream)
    assert seen == [1, 1]
    assert _word(session, memory) == 2


def _handles(session: Session, graph: int, count: int) -> list[int]:
    room = session.data(struct.pack("<Q", count))
    out = session.data(bytes(8 * count))
    session.ok("cuGraphGetNodes", graph, out, room)
    return list(struct.unpack(f"<{count}Q", ctypes.string_at(out, 8 * count)))


def test_parameters_of_captured_nodes_can_be_read_and_changed(session: Session) -> None:
    stream, memory, store = session.stream(), session.alloc(16), session.function("store")
    session.ok("cuStreamBeginCapture", stream, RELAXED)
    session.ok("cuMemsetD32Async", memory, 5, 2, stream)
    assert session.launch(store, stream, memory, 41) == 0
    session.ok("cuMemcpyDtoDAsync", memory + 8, memory, 8, stream)
    graph = _end(session, stream)
    fill, kernel, copy = _handles(session, graph, 3)
    into = session.data(bytes(256))

    session.ok("cuGraphMemsetNodeGetParams", fill, into)
    assert struct.unpack("<QQIIQQ", ctypes.string_at(into, 40)) == (memory, 0, 5, 4, 2, 1)
    session.ok("cuGraphMemsetNodeSetParams", fill, session.data(struct.pack("<QQIIQQ", memory, 0, 6, 4, 2, 1)))

    session.ok("cuGraphKernelNodeGetParams", kernel, into)
    function, *numbers, table = struct.unpack("<Q7I4xQ", ctypes.string_at(into, 48))
    assert (function, numbers) == (store, [1, 1, 1, 32, 1, 1, 0])
    pointers = struct.unpack("<QQ", ctypes.string_at(table, 16))
    assert ctypes.c_uint32.from_address(pointers[1]).value == 41
    executable = session.u64("cuGraphInstantiate", graph, 0)
    changed = session.data(struct.pack("<QQ", pointers[0], session.data(struct.pack("<I", 42))))
    again = session.data(ctypes.string_at(into, 40) + struct.pack("<QQQQ", changed, 0, 0, 0))
    session.ok("cuGraphExecKernelNodeSetParams", executable, kernel, again)

    session.ok("cuGraphMemcpyNodeGetParams", copy, into)
    fields = struct.unpack("<QQQQI4xQQQQQQ QQQQI4xQQQQQQ QQQ", ctypes.string_at(into, 200))
    assert (fields[4], fields[6], fields[15], fields[17], fields[22:]) == (2, memory, 2, memory + 8, (8, 1, 1))
    assert session.cuda.cuGraphMemsetNodeGetParams(copy, into) == 1

    session.ok("cuGraphLaunch", executable, 0)
    assert session.read(memory, 16) == struct.pack("<4I", 42, 6, 42, 6)


def test_child_graphs_are_copies_and_clones_know_their_twins(session: Session) -> None:
    memory = session.alloc(4)
    child, parent = session.u64("cuGraphCreate", 0), session.u64("cuGraphCreate", 0)
    fill = session.data(struct.pack("<QQIIQQ", memory, 0, 3, 4, 1, 1))
    original = session.u64("cuGraphAddMemsetNode", child, 0, 0, fill, 0)
    node = session.u64("cuGraphAddChildGraphNode", parent, 0, 0, child)
    session.ok("cuGraphMemsetNodeSetParams", original, session.data(struct.pack("<QQIIQQ", memory, 0, 4, 4, 1, 1)))
    executable = session.u64("cuGraphInstantiate", parent, 0)
    session.ok("cuGraphLaunch", executable, 0)
    assert _word(session, memory) == 3
    session.ok("cuGraphExecChildGraphNodeSetParams", executable, node, child)
    session.ok("cuGraphLaunch", executable, 0)
    assert _word(session, memory) == 4
    session.ok("cuGraphChildGraphNodeGetGraph", node, session.at)
    assert _count(session, "cuGraphGetNodes", ctypes.c_uint64.from_address(session.at).value) == 1
    clone = session.u64("cuGraphClone", child)
    assert session.u64("cuGraphNodeFindInClone", original, clone) == _handles(session, clone, 1)[0]
    assert session.cuda.cuGraphNodeFindInClone(session.at, node, clone) == 1


def test_edges_can_be_removed(session: Session) -> None:
    graph = session.u64("cuGraphCreate", 0)
    first = session.u64("cuGraphAddEmptyNode", graph, 0, 0)
    second = session.u64("cuGraphAddEmptyNode", graph, session.data(struct.pack("<Q", first)), 1)
    edge = session.data(struct.pack("<QQ", first, second))
    session.ok("cuGraphGetEdges", graph, 0, 0, session.at)
    assert ctypes.c_uint64.from_address(session.at).value == 1
    session.ok("cuGraphRemoveDependencies", graph, edge, edge + 8, 1)
    assert session.cuda.cuGraphRemoveDependencies(graph, edge, edge + 8, 1) == 1
    assert _count(session, "cuGraphGetRootNodes", graph) == 2
