"""Graphs: building them, asking about them, running them.

A graph is launched as one operation of its stream, which runs the nodes in an order that respects their dependencies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import Graph, Node, NodeKind
from migproxy.softgpu.captures import CaptureApi
from migproxy.softgpu.copies import BoxCopy
from migproxy.softgpu.host_calls_unsafe import call_host_function
from migproxy.softgpu.launch import Launch, gather_params, launch_operation
from migproxy.softgpu.state import entry, need

KERNEL_PARAMS = struct.Struct("<QIIIIIIIxxxxQQQQ")  # function, grid, block, shared, params, extra, kernel, context
MEMSET_PARAMS = struct.Struct("<QQIIQQ")  # address, pitch, value, element size, width, height
HOST_PARAMS = struct.Struct("<QQ")


#: Only these can be disabled in an instantiated graph.
_SWITCHABLE = (NodeKind.KERNEL, NodeKind.MEMCPY, NodeKind.MEMSET)


@dataclass(eq=False)
class Executable:
    """An instantiated graph: the nodes in the order in which they run."""

    order: list[Node]
    runs: list[Callable[[], None] | None]
    foreign: bool
    flags: int = 0
    disabled: set[Node] = field(default_factory=set)

    def run(self) -> None:
        for node, run in zip(self.order, self.runs, strict=True):
            if run is not None and node not in self.disabled:
                run()


class GraphApi(CaptureApi):
    """``cuGraph*``."""

    # ---- building -----------------------------------------------------------------------------------------------

    @entry
    def cuGraphCreate(self, phGraph: int, flags: int) -> None:
        need(phGraph and flags == 0)
        raw.write_u64(phGraph, self._new_graph().handle)

    @entry
    def cuGraphDestroy(self, hGraph: int) -> None:
        graph = self._graph(hGraph)
        for node in graph.nodes:
            self.handles.drop(node.handle)
        self.handles.drop(hGraph)

    @entry
    def cuGraphClone(self, phGraphClone: int, originalGraph: int) -> None:
        need(phGraphClone)
        raw.write_u64(phGraphClone, self.clone(self._graph(originalGraph)).handle)

    def clone(self, original: Graph) -> Graph:
        """Copy a graph, child graphs included."""
        clone = self._new_graph()
        for node in original.ordered():
            after = [clone.twins[before] for before in node.after]
            params = self.clone(node.params) if isinstance(node.params, Graph) else node.params
            clone.twins[node] = clone.add(node.kind, node.run, after, foreign=node.foreign, params=params)
        return clone

    def _add(
        self,
        out: int,
        graph: int,
        dependencies: int,
        count: int,
        kind: NodeKind,
        run: Callable[[], None] | None,
        *,
        foreign: bool = False,
        params: object = None,
    ) -> None:
        need(out)
        after = self._nodes(dependencies, count)
        node = self._graph(graph).add(kind, run, after, foreign=foreign, params=params)
        raw.write_u64(out, node.handle)

    @entry
    def cuGraphAddEmptyNode(self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int) -> None:
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.EMPTY, None)

    @entry
    def cuGraphAddKernelNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, nodeParams: int
    ) -> None:
        run = self.kernel_node(nodeParams)
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.KERNEL, run, params=run)

    def kernel_node(self, address: int) -> Launch:
        """The launch that a ``CUDA_KERNEL_NODE_PARAMS`` asks for."""
        need(address)
        handle, gx, gy, gz, bx, by, bz, shared, params, extra, kernel, _ = raw.unpack(KERNEL_PARAMS, address)
        function = self.function(handle or kernel)
        return launch_operation(function, (gx, gy, gz), (bx, by, bz), shared, gather_params(function, params, extra))

    @entry
    def cuGraphAddMemcpyNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, copyParams: int, ctx: int
    ) -> None:
        run, params = self.copy_node(copyParams)
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.MEMCPY, run, params=params)

    def copy_node(self, address: int) -> tuple[Callable[[], None], BoxCopy]:
        """The copy that a ``CUDA_MEMCPY3D`` asks for."""
        destination, source, extent, _ = self.parse_copy_3d(address)
        return self.box_copy(destination, source, extent), BoxCopy(destination, source, extent)

    @entry
    def cuGraphAddMemsetNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, memsetParams: int, ctx: int
    ) -> None:
        run, params = self.memset_node(memsetParams)
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.MEMSET, run, params=params)

    def memset_node(self, address: int) -> tuple[Callable[[], None], tuple[int, ...]]:
        """The fill that a ``CUDA_MEMSET_NODE_PARAMS`` asks for."""
        need(address)
        params = raw.unpack(MEMSET_PARAMS, address)
        need(params[3] in (1, 2, 4), f"element size {params[3]}")
        return self.fill_operation(*params), params

    @entry
    def cuGraphAddHostNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, nodeParams: int
    ) -> None:
        need(nodeParams)
        function, data = raw.unpack(HOST_PARAMS, nodeParams)
        self._add(
            phGraphNode,
            hGraph,
            dependencies,
            numDependencies,
            NodeKind.HOST,
            lambda: call_host_function(function, data),
            foreign=True,
            params=(function, data),
        )

    @entry
    def cuGraphAddChildGraphNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, childGraph: int
    ) -> None:
        child = self.clone(self._graph(childGraph))
        # It runs what it holds when the whole is instantiated.
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.GRAPH, None, params=child)

    @entry
    def cuGraphAddEventRecordNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, event: int
    ) -> None:
        found = self.event(event)
        run = self.record_when_run(found)
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.EVENT_RECORD, run, params=found)

    @entry
    def cuGraphAddEventWaitNode(
        self, phGraphNode: int, hGraph: int, dependencies: int, numDependencies: int, event: int
    ) -> None:
        found = self.event(event)
        run = self.wait_when_run(found)
        self._add(phGraphNode, hGraph, dependencies, numDependencies, NodeKind.WAIT_EVENT, run, params=found)

    @entry
    def cuGraphAddDependencies(self, hGraph: int, first: int, to: int, *rest: int) -> None:
        # CUDA 12: (…, count); CUDA 13: (…, edge data, count).
        need(len(rest) in (1, 2), "cuGraphAddDependencies takes 4 or 5 arguments")
        graph = self._graph(hGraph)
        for before, node in zip(self._nodes(first, rest[-1]), self._nodes(to, rest[-1]), strict=True):
            need(before.graph is graph and node.graph is graph, "nodes of another graph")
            need(before is not node, "an edge from a node to itself")
            need(before not in node.after, "the edge is there already")
            node.after.append(before)

    # ---- asking -------------------------------------------------------------------------------------------------

    @entry
    def cuGraphGetNodes(self, hGraph: int, nodes: int, numNodes: int) -> None:
        _write_nodes(self._graph(hGraph).nodes, nodes, numNodes)

    @entry
    def cuGraphGetRootNodes(self, hGraph: int, rootNodes: int, numRootNodes: int) -> None:
        _write_nodes([node for node in self._graph(hGraph).nodes if not node.after], rootNodes, numRootNodes)

    @entry
    def cuGraphGetEdges(self, hGraph: int, first: int, to: int, *rest: int) -> None:
        # CUDA 12: (…, count); CUDA 13: (…, edge data, count).
        need(len(rest) in (1, 2), "cuGraphGetEdges takes 4 or 5 arguments")
        edges = [(before, node) for node in self._graph(hGraph).nodes for before in node.after]
        count = rest[-1]
        room = raw.read_u64(count)
        _write_nodes([before for before, _ in edges], first, count)
        if to:
            raw.write_u64(count, room)
            _write_nodes([node for _, node in edges], to, count)

    @entry
    def cuGraphNodeGetType(self, hNode: int, type: int) -> None:
        need(type)
        raw.write_u32(type, self._node(hNode).kind)

    @entry
    def cuGraphNodeGetDependencies(self, hNode: int, dependencies: int, *rest: int) -> None:
        need(len(rest) in (1, 2), "cuGraphNodeGetDependencies takes 3 or 4 arguments")
        _write_nodes(self._node(hNode).after, dependencies, rest[-1])

    @entry
    def cuGraphNodeGetDependentNodes(self, hNode: int, dependentNodes: int, *rest: int) -> None:
        need(len(rest) in (1, 2), "cuGraphNodeGetDependentNodes takes 3 or 4 arguments")
        node = self._node(hNode)
        _write_nodes([other for other in node.graph.nodes if node in other.after], dependentNodes, rest[-1])

    @entry
    def cuGraphDestroyNode(self, hNode: int) -> None:
        node = self._node(hNode)
        node.graph.nodes.remove(node)
        for other in node.graph.nodes:
            if node in other.after:
                other.after.remove(node)
        self.handles.drop(hNode)

    # ---- running ------------------------------------------------------------------------------------------------

    @entry
    def cuGraphInstantiate(self, phGraphExec: int, hGraph: int, *rest: int) -> None:
        # CUDA 12 and 13: (…, flags); before: (…, error node, log buffer, its size).
        need(phGraphExec and len(rest) in (1, 3), "cuGraphInstantiate takes 3 or 5 arguments")
        made = instantiate(self._graph(hGraph), rest[0] if len(rest) == 1 else 0)
        raw.write_u64(phGraphExec, self.handles.add(made))

    @entry
    def cuGraphInstantiateWithFlags(self, phGraphExec: int, hGraph: int, flags: int) -> None:
        raw.write_u64(phGraphExec, self.handles.add(instantiate(self._graph(hGraph), flags)))

    @entry
    def cuGraphInstantiateWithParams(self, phGraphExec: int, hGraph: int, instantiateParams: int) -> None:
        need(phGraphExec and instantiateParams)
        flags = raw.read_u64(instantiateParams)
        raw.write_u64(phGraphExec, self.handles.add(instantiate(self._graph(hGraph), flags)))
        raw.write_u64(instantiateParams + 16, 0)
        raw.write_u32(instantiateParams + 24, 0)

    def _executable(self, handle: int) -> Executable:
        return self.handles.get(handle, Executable, status.INVALID_VALUE)

    @entry
    def cuGraphExecGetFlags(self, hGraphExec: int, flags: int) -> None:
        need(flags)
        raw.write_u64(flags, self._executable(hGraphExec).flags)

    @entry
    def cuGraphLaunch(self, hGraphExec: int, hStream: int) -> None:
        executable = self._executable(hGraphExec)
        self.stream(hStream).submit(NodeKind.GRAPH, executable.run, foreign=executable.foreign)

    @entry
    def cuGraphUpload(self, hGraphExec: int, hStream: int) -> None:
        self._executable(hGraphExec)
        self.stream(hStream)

    @entry
    def cuGraphExecUpdate(self, hGraphExec: int, hGraph: int, resultInfo: int) -> None:
        executable, graph = self._executable(hGraphExec), self._graph(hGraph)
        same = len(executable.order) == len(graph.nodes)
        fresh = instantiate(graph) if same else executable
        same = same and [node.kind for node in executable.order] == [node.kind for node in fresh.order]
        if resultInfo:
            raw.write_bytes(resultInfo, struct.pack("<IxxxxQQ", 0 if same else 2, 0, 0))
        need(same, "the graph's topology changed", status.GRAPH_EXEC_UPDATE_FAILURE)
        executable.order, executable.runs, executable.disabled = fresh.order, fresh.runs, set()

    @entry
    def cuGraphExecDestroy(self, hGraphExec: int) -> None:
        self._executable(hGraphExec)
        self.handles.drop(hGraphExec)

    @entry
    def cuGraphNodeSetEnabled(self, hGraphExec: int, hNode: int, isEnabled: int) -> None:
        executable, node = self._executable(hGraphExec), self._node(hNode)
        need(node in executable.order and node.kind in _SWITCHABLE, "no node of this graph that can be disabled")
        if isEnabled:
            executable.disabled.discard(node)
        else:
            executable.disabled.add(node)

    @entry
    def cuGraphNodeGetEnabled(self, hGraphExec: int, hNode: int, isEnabled: int) -> None:
        executable, node = self._executable(hGraphExec), self._node(hNode)
        need(isEnabled and node in executable.order and node.kind in _SWITCHABLE, "no such node of this graph")
        raw.write_u32(isEnabled, int(node not in executable.disabled))


def instantiate(graph: Graph, flags: int = 0) -> Executable:
    """Fix the order in which a graph's nodes run, and what they run."""
    order, runs, foreign = graph.ordered(), [], False
    for node in order:
        run, outside = node_run(node)
        runs.append(run)
        foreign = foreign or outside
    return Executable(order, runs, foreign, flags)


def node_run(node: Node) -> tuple[Callable[[], None] | None, bool]:
    """What a node runs, and whether that calls the application's code."""
    if isinstance(node.params, Graph):
        child = instantiate(node.params)
        return child.run, child.foreign
    return node.run, node.foreign


def _write_nodes(nodes: list[Node], out: int, count: int) -> None:
    """The driver's convention: without ``out`` only the number, otherwise as many as there is room for."""
    need(count)
    if out:
        room = raw.read_u64(count)
        raw.write_array_u64(out, [node.handle for node in nodes[:room]] + [0] * (room - len(nodes)))
        raw.write_u64(count, min(room, len(nodes)))
    else:
        raw.write_u64(count, len(nodes))
