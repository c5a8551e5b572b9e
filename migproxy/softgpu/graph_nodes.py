"""The parameters of graph nodes: asking for them and changing them, in a graph or in an instantiated one."""

from __future__ import annotations

import struct
from collections.abc import Callable

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import Graph, Node, NodeKind
from migproxy.softgpu.copies import BoxCopy
from migproxy.softgpu.events import Event
from migproxy.softgpu.graphs import HOST_PARAMS, KERNEL_PARAMS, MEMSET_PARAMS, Executable, GraphApi, instantiate
from migproxy.softgpu.host_calls_unsafe import call_host_function
from migproxy.softgpu.launch import Launch
from migproxy.softgpu.state import entry, need

_COPY_3D = struct.Struct("<QQQQI4xQQQQQQQQQQI4xQQQQQQQQQ")
_HOST_MEMORY, _DEVICE_MEMORY = 1, 2
_ATTRIBUTE_BYTES = 64

Run = Callable[[], None]


class GraphNodeApi(GraphApi):
    """``cuGraph*Node*Params``, ``cuGraphExec*SetParams`` and their kin."""

    def _of_kind(self, handle: int, kind: NodeKind) -> Node:
        node = self._node(handle)
        need(node.kind == kind, f"the node is a {node.kind.name.lower()} node")
        return node

    def _set_run(self, executable: int, handle: int, kind: NodeKind, run: Run | None) -> None:
        """Change what a node runs in an instantiated graph."""
        made, node = self._executable(executable), self._of_kind(handle, kind)
        need(node in made.order, "no node of this graph")
        made.runs[made.order.index(node)] = run

    # ---- kernels ------------------------------------------------------------------------------------------------

    @entry
    def cuGraphKernelNodeGetParams(self, hNode: int, nodeParams: int) -> None:
        node = self._of_kind(hNode, NodeKind.KERNEL)
        launch = node.params
        need(nodeParams and isinstance(launch, Launch))
        assert isinstance(launch, Launch)
        table = raw.Buffer(max(8 * len(launch.function.kernel.params), 8))
        places = [launch.params.address + offset for offset, _ in launch.function.kernel.params]
        raw.write_array_u64(table.address, places)
        node.handed_out = table
        numbers = (*launch.grid, *launch.block, launch.shared)
        raw.write_bytes(nodeParams, KERNEL_PARAMS.pack(launch.function.handle, *numbers, table.address, 0, 0, 0))

    @entry
    def cuGraphKernelNodeSetParams(self, hNode: int, nodeParams: int) -> None:
        node = self._of_kind(hNode, NodeKind.KERNEL)
        node.run = node.params = self.kernel_node(nodeParams)

    @entry
    def cuGraphExecKernelNodeSetParams(self, hGraphExec: int, hNode: int, nodeParams: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.KERNEL, self.kernel_node(nodeParams))

    @entry
    def cuGraphKernelNodeCopyAttributes(self, dst: int, src: int) -> None:
        attributes = self._of_kind(src, NodeKind.KERNEL).attributes
        self._of_kind(dst, NodeKind.KERNEL).attributes = dict(attributes)

    @entry
    def cuGraphKernelNodeGetAttribute(self, hNode: int, attr: int, value_out: int) -> None:
        need(value_out)
        node = self._of_kind(hNode, NodeKind.KERNEL)
        raw.write_bytes(value_out, node.attributes.get(attr, bytes(_ATTRIBUTE_BYTES)))

    @entry
    def cuGraphKernelNodeSetAttribute(self, hNode: int, attr: int, value: int) -> None:
        need(value)
        self._of_kind(hNode, NodeKind.KERNEL).attributes[attr] = raw.read_bytes(value, _ATTRIBUTE_BYTES)

    # ---- copies and fills ---------------------------------------------------------------------------------------

    @entry
    def cuGraphMemcpyNodeGetParams(self, hNode: int, nodeParams: int) -> None:
        copy = self._of_kind(hNode, NodeKind.MEMCPY).params
        if not isinstance(copy, BoxCopy):
            raise CudaError(status.NOT_SUPPORTED, "a copy of an array's rows has no parameters of this form")
        need(nodeParams)
        raw.write_bytes(
            nodeParams, _COPY_3D.pack(*self._side_of(copy.source), *self._side_of(copy.destination), *copy.extent)
        )

    def _side_of(self, box: raw.Box) -> tuple[int, ...]:
        device = self.space.owns(box.address)
        kind, host, at = (_DEVICE_MEMORY, 0, box.address) if device else (_HOST_MEMORY, box.address, 0)
        rows = box.plane // box.pitch if box.pitch else 0
        return (0, 0, 0, 0, kind, host, at, 0, 0, box.pitch, rows)

    @entry
    def cuGraphMemcpyNodeSetParams(self, hNode: int, nodeParams: int) -> None:
        node = self._of_kind(hNode, NodeKind.MEMCPY)
        node.run, node.params = self.copy_node(nodeParams)

    @entry
    def cuGraphExecMemcpyNodeSetParams(self, hGraphExec: int, hNode: int, copyParams: int, ctx: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.MEMCPY, self.copy_node(copyParams)[0])

    @entry
    def cuGraphMemsetNodeGetParams(self, hNode: int, nodeParams: int) -> None:
        params = self._of_kind(hNode, NodeKind.MEMSET).params
        need(nodeParams and isinstance(params, tuple))
        assert isinstance(params, tuple)
        raw.write_bytes(nodeParams, MEMSET_PARAMS.pack(*params))

    @entry
    def cuGraphMemsetNodeSetParams(self, hNode: int, nodeParams: int) -> None:
        node = self._of_kind(hNode, NodeKind.MEMSET)
        node.run, node.params = self.memset_node(nodeParams)

    @entry
    def cuGraphExecMemsetNodeSetParams(self, hGraphExec: int, hNode: int, memsetParams: int, ctx: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.MEMSET, self.memset_node(memsetParams)[0])

    # ---- host functions -----------------------------------------------------------------------------------------

    @entry
    def cuGraphHostNodeGetParams(self, hNode: int, nodeParams: int) -> None:
        params = self._of_kind(hNode, NodeKind.HOST).params
        need(nodeParams and isinstance(params, tuple))
        assert isinstance(params, tuple)
        raw.write_bytes(nodeParams, HOST_PARAMS.pack(*params))

    @entry
    def cuGraphHostNodeSetParams(self, hNode: int, nodeParams: int) -> None:
        node = self._of_kind(hNode, NodeKind.HOST)
        node.run, node.params = _host_node(nodeParams)

    @entry
    def cuGraphExecHostNodeSetParams(self, hGraphExec: int, hNode: int, nodeParams: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.HOST, _host_node(nodeParams)[0])

    # ---- events -------------------------------------------------------------------------------------------------

    def _event_of(self, out: int, handle: int, kind: NodeKind) -> None:
        event = self._of_kind(handle, kind).params
        need(out and isinstance(event, Event))
        assert isinstance(event, Event)
        raw.write_u64(out, event.handle)

    @entry
    def cuGraphEventRecordNodeGetEvent(self, hNode: int, event_out: int) -> None:
        self._event_of(event_out, hNode, NodeKind.EVENT_RECORD)

    @entry
    def cuGraphEventWaitNodeGetEvent(self, hNode: int, event_out: int) -> None:
        self._event_of(event_out, hNode, NodeKind.WAIT_EVENT)

    @entry
    def cuGraphEventRecordNodeSetEvent(self, hNode: int, event: int) -> None:
        node, found = self._of_kind(hNode, NodeKind.EVENT_RECORD), self.event(event)
        node.run, node.params = self.record_when_run(found), found

    @entry
    def cuGraphEventWaitNodeSetEvent(self, hNode: int, event: int) -> None:
        node, found = self._of_kind(hNode, NodeKind.WAIT_EVENT), self.event(event)
        node.run, node.params = self.wait_when_run(found), found

    @entry
    def cuGraphExecEventRecordNodeSetEvent(self, hGraphExec: int, hNode: int, event: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.EVENT_RECORD, self.record_when_run(self.event(event)))

    @entry
    def cuGraphExecEventWaitNodeSetEvent(self, hGraphExec: int, hNode: int, event: int) -> None:
        self._set_run(hGraphExec, hNode, NodeKind.WAIT_EVENT, self.wait_when_run(self.event(event)))

    # ---- child graphs, clones, edges ----------------------------------------------------------------------------

    @entry
    def cuGraphChildGraphNodeGetGraph(self, hNode: int, phGraph: int) -> None:
        child = self._of_kind(hNode, NodeKind.GRAPH).params
        need(phGraph and isinstance(child, Graph))
        assert isinstance(child, Graph)
        raw.write_u64(phGraph, child.handle)

    @entry
    def cuGraphExecChildGraphNodeSetParams(self, hGraphExec: int, hNode: int, childGraph: int) -> None:
        child: Executable = instantiate(self._graph(childGraph))
        self._set_run(hGraphExec, hNode, NodeKind.GRAPH, child.run)

    @entry
    def cuGraphNodeFindInClone(self, phNode: int, hOriginalNode: int, hClonedGraph: int) -> None:
        need(phNode)
        twin = self._graph(hClonedGraph).twins.get(self._node(hOriginalNode))
        if twin is None or twin not in twin.graph.nodes:
            raise CudaError(status.INVALID_VALUE, "the clone has no such node")
        raw.write_u64(phNode, twin.handle)

    @entry
    def cuGraphRemoveDependencies(self, hGraph: int, first: int, to: int, *rest: int) -> None:
        # CUDA 12: (…, count); CUDA 13: (…, edge data, count).
        need(len(rest) in (1, 2), "cuGraphRemoveDependencies takes 4 or 5 arguments")
        graph = self._graph(hGraph)
        pairs = list(zip(self._nodes(first, rest[-1]), self._nodes(to, rest[-1]), strict=True))
        for before, node in pairs:
            need(node.graph is graph and before in node.after, "there is no such edge")
        for before, node in pairs:
            node.after.remove(before)


def _host_node(address: int) -> tuple[Run, tuple[int, int]]:
    need(address)
    function, data = raw.unpack(HOST_PARAMS, address)
    need(function)
    return (lambda: call_host_function(function, data)), (function, data)
