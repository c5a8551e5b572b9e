"""Graphs: operations and the order between them, recorded from streams or built node by node."""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status

if TYPE_CHECKING:
    from migproxy.softgpu.streams import Stream


class NodeKind(enum.IntEnum):
    """``CUgraphNodeType``."""

    KERNEL = 0
    MEMCPY = 1
    MEMSET = 2
    HOST = 3
    GRAPH = 4
    EMPTY = 5
    WAIT_EVENT = 6
    EVENT_RECORD = 7
    MEM_ALLOC = 10
    MEM_FREE = 11
    BATCH_MEM_OP = 12


@dataclass(eq=False)
class Node:
    """One operation of a graph."""

    graph: Graph
    kind: NodeKind
    run: Callable[[], None] | None
    foreign: bool = False
    params: object = None
    after: list[Node] = field(default_factory=list)
    handle: int = 0
    attributes: dict[int, bytes] = field(default_factory=dict)
    #: Keeps alive what the last question for its parameters gave out.
    handed_out: object = None


@dataclass(eq=False)
class Graph:
    """Operations and their order."""

    nodes: list[Node] = field(default_factory=list)
    handle: int = 0
    register: Callable[[object], int] | None = None
    #: In a clone: the original's nodes → this one's.
    twins: dict[Node, Node] = field(default_factory=dict)

    def add(
        self,
        kind: NodeKind,
        run: Callable[[], None] | None,
        after: Iterable[Node],
        *,
        foreign: bool = False,
        params: object = None,
    ) -> Node:
        node = Node(self, kind, run, foreign, params, list(dict.fromkeys(after)))
        if self.register is not None:
            node.handle = self.register(node)
        self.nodes.append(node)
        return node

    def ordered(self) -> list[Node]:
        """The nodes in an order that respects every dependency.

        Raises
        ------
        CudaError
            When the dependencies have a cycle.
        """
        done: set[Node] = set()
        order: list[Node] = []
        left = list(self.nodes)
        while left:
            ready = [node for node in left if all(before in done for before in node.after)]
            if not ready:
                raise CudaError(status.INVALID_VALUE, "the graph has a cycle")
            order += ready
            done.update(ready)
            left = [node for node in left if node not in done]
        return order


class Capture:
    """A capture in progress: the graph, and for each stream in it the nodes that its next operation follows."""

    _ids = itertools.count(1)

    def __init__(self, origin: Stream, graph: Graph, mode: int) -> None:
        self.origin = origin
        self.graph = graph
        self.mode = mode
        self.thread = threading.get_ident()
        self.id = next(self._ids)
        self.invalid = False
        self.frontier: dict[Stream, list[Node]] = {origin: []}
        #: Keeps alive the dependency array that ``cuStreamGetCaptureInfo`` gave out last.
        self.handed_out: object = None

    def invalidate(self) -> None:
        """Spoil the capture: what follows fails, and ``cuStreamEndCapture`` gives no graph."""
        self.invalid = True

    def refuse(self, code: int, detail: str) -> NoReturn:
        """Fail a call that a capture does not allow; like the driver's, it spoils the capture."""
        self.invalidate()
        raise CudaError(code, detail)

    def active(self) -> bool:
        return not self.invalid and self.origin.capture is self

    def check(self) -> None:
        if self.invalid:
            raise CudaError(status.STREAM_CAPTURE_INVALIDATED, "an earlier call spoiled the capture")

    def record(
        self, stream: Stream, kind: NodeKind, run: Callable[[], None] | None, foreign: bool, params: object
    ) -> Node:
        self.check()
        node = self.graph.add(kind, run, self.frontier[stream], foreign=foreign, params=params)
        self.frontier[stream] = [node]
        return node

    def join(self, stream: Stream, nodes: list[Node]) -> None:
        """Make ``stream`` follow ``nodes`` of this capture, taking it into the capture if need be."""
        if stream.capture is None:
            stream.capture = self
            self.frontier[stream] = []
        elif stream.capture is not self:
            self.invalidate()
            stream.capture.invalidate()
            raise CudaError(status.STREAM_CAPTURE_MERGE, "two captures would merge")
        self.frontier[stream] = list(dict.fromkeys(self.frontier[stream] + nodes))

    def _joined(self, *streams: Stream) -> set[Node]:
        """The nodes that streams follow."""
        joined: set[Node] = set()
        todo = [node for stream in streams for node in self.frontier[stream]]
        while todo:
            node = todo.pop()
            if node not in joined:
                joined.add(node)
                todo += node.after
        return joined

    def leave(self, stream: Stream) -> None:
        """A stream of the capture is destroyed: fine once another one follows its work, else it spoils the capture."""
        joined = self._joined(*(other for other in self.frontier if other is not stream))
        if stream is self.origin or any(node not in joined for node in self.frontier[stream]):
            self.invalidate()
            return
        del self.frontier[stream]
        stream.capture = None

    def end(self) -> None:
        """Leave every stream.

        Raises
        ------
        CudaError
            When a stream that was taken in has work that the origin does not follow, or the capture is spoiled.
        """
        for stream in self.frontier:
            stream.capture = None
        self.check()
        joined = self._joined(self.origin)
        for stream, nodes in self.frontier.items():
            if stream is not self.origin and any(node not in joined for node in nodes):
                raise CudaError(status.STREAM_CAPTURE_UNJOINED, "a stream of the capture was not joined")
