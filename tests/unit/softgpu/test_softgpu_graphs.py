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
