"""Stream capture: the functions that begin it, end it and ask about it."""

from __future__ import annotations

import threading

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import Capture, Graph, Node
from migproxy.softgpu.pools import PoolApi
from migproxy.softgpu.state import entry, need
from migproxy.softgpu.streams import Stream

_ACTIVE, _INVALIDATED = 1, 2
_GLOBAL, _THREAD_LOCAL, _RELAXED = 0, 1, 2


class CaptureApi(PoolApi):
    """``cuStream*Capture*`` and the handles of graphs and nodes."""

    @entry
    def cuStreamBeginCapture(self, hStream: int, mode: int) -> None:
        self._begin(hStream, self._new_graph(), mode, [])

    @entry
    def cuStreamBeginCaptureToGraph(
        self, hStream: int, hGraph: int, dependencies: int, dependencyData: int, numDependencies: int, mode: int
    ) -> None:
        self._begin(hStream, self._graph(hGraph), mode, self._nodes(dependencies, numDependencies))

    def _begin(self, handle: int, graph: Graph, mode: int, after: list[Node]) -> None:
        stream = self.stream(handle)
        need(mode in (_GLOBAL, _THREAD_LOCAL, _RELAXED), f"capture mode {mode}")
        need(not stream.is_legacy, "the default stream cannot be captured", status.STREAM_CAPTURE_UNSUPPORTED)
        need(stream.capture is None, "the stream is capturing already", status.ILLEGAL_STATE)
        stream.capture = Capture(stream, graph, mode)
        stream.capture.frontier[stream] = after

    @entry
    def cuStreamEndCapture(self, hStream: int, phGraph: int) -> None:
        stream = self.stream(hStream)
        need(phGraph)
        capture = stream.capture
        if capture is None:
            raise CudaError(status.ILLEGAL_STATE, "the stream is not capturing")
        if capture.origin is not stream:
            capture.refuse(status.STREAM_CAPTURE_UNMATCHED, "begun on another stream")
        need(
            capture.mode == _RELAXED or capture.thread == threading.get_ident(),
            "begun by another thread",
            status.STREAM_CAPTURE_WRONG_THREAD,
        )
        try:
            capture.end()
        except CudaError:
            raw.write_u64(phGraph, 0)
            raise
        raw.write_u64(phGraph, capture.graph.handle)

    @entry
    def cuStreamIsCapturing(self, hStream: int, captureStatus: int) -> None:
        need(captureStatus)
        raw.write_u32(captureStatus, _capture_status(self.stream(hStream)))

    @entry
    def cuStreamGetCaptureInfo(self, hStream: int, captureStatus_out: int, id_out: int, *rest: int) -> None:
        # CUDA 12: (…, graph, dependencies, count); CUDA 13: (…, graph, dependencies, edge data, count).
        need(captureStatus_out and len(rest) in (0, 3, 4), "cuStreamGetCaptureInfo takes 3, 6 or 7 arguments")
        stream = self.stream(hStream)
        raw.write_u32(captureStatus_out, _capture_status(stream))
        capture = stream.capture
        if capture is None:
            return
        if id_out:
            raw.write_u64(id_out, capture.id)
        if rest:
            if rest[0]:
                raw.write_u64(rest[0], capture.graph.handle)
            handles = [node.handle for node in capture.frontier[stream]]
            memory = raw.Buffer(max(8 * len(handles), 8))
            raw.write_array_u64(memory.address, handles)
            capture.handed_out = memory
            if rest[1]:
                raw.write_u64(rest[1], memory.address)
            if len(rest) == 4 and rest[2]:
                raw.write_u64(rest[2], 0)
            if rest[-1]:
                raw.write_u64(rest[-1], len(handles))

    @entry
    def cuStreamUpdateCaptureDependencies(self, hStream: int, dependencies: int, *rest: int) -> None:
        # CUDA 12: (…, count, flags); CUDA 13: (…, edge data, count, flags).
        need(len(rest) in (2, 3), "cuStreamUpdateCaptureDependencies takes 4 or 5 arguments")
        stream = self.stream(hStream)
        if stream.capture is None:
            raise CudaError(status.ILLEGAL_STATE, "the stream is not capturing")
        nodes = self._nodes(dependencies, rest[-2])
        need(rest[-1] in (0, 1), f"flags {rest[-1]}")
        before = stream.capture.frontier[stream] if rest[-1] == 0 else []
        stream.capture.frontier[stream] = list(dict.fromkeys(before + nodes))

    @entry
    def cuThreadExchangeStreamCaptureMode(self, mode: int) -> None:
        need(mode)
        wanted = raw.read_u32(mode)
        need(wanted in (_GLOBAL, _THREAD_LOCAL, _RELAXED), f"capture mode {wanted}")
        raw.write_u32(mode, self.swap_capture_mode(wanted))

    def _new_graph(self) -> Graph:
        graph = Graph(register=self.handles.add)
        graph.handle = self.handles.add(graph)
        return graph

    def _graph(self, handle: int) -> Graph:
        return self.handles.get(handle, Graph, status.INVALID_VALUE)

    def _node(self, handle: int) -> Node:
        return self.handles.get(handle, Node, status.INVALID_VALUE)

    def _nodes(self, address: int, count: int) -> list[Node]:
        need(count == 0 or address)
        return [self._node(handle) for handle in raw.read_array_u64(address, count)] if count else []


def _capture_status(stream: Stream) -> int:
    if stream.capture is None:
        return 0
    return _INVALIDATED if stream.capture.invalid else _ACTIVE
