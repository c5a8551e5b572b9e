"""Driver API: graphs as wholes: made, cloned, instantiated, updated, launched, destroyed, and what they hold."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from migproxy_plugins.cuda import graph_holdings, graph_memory
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.driver_edges import check_edges
from migproxy_plugins.cuda.driver_nodes import (
    ask,
    cuGraphNodeGetType,
    forget_graph,
    forget_node,
    graph_of,
    note_node,
)
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import (
    Cell,
    get_string,
    get_u64,
    get_u64_array,
    member,
    put_bytes,
    put_u32,
    put_u64,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api import staging
from migproxy.session.api.modules import function_on_wire
from migproxy.session.api.streams import note_capture, resolve

_MOST_EDGES = 1 << 16
_KERNEL_NODE, _CHILD_GRAPH_NODE = 0, 4  # CUgraphNodeType
_DOT_VERBOSE = 1  # CUgraphDebugDot_flags
_TYPE_NAMES = dict(
    enumerate(("KERNEL", "MEMCPY", "MEMSET", "HOST", "GRAPH", "EMPTY", "EVENT_WAIT", "EVENT_RECORD"))
) | {10: "MEM_ALLOC", 11: "MEM_FREE", 13: "CONDITIONAL"}
# CUgraphInstantiate_flags
_FREE_ON_LAUNCH, _UPLOAD, _DEVICE_LAUNCH, _NODE_PRIORITY = 0x1, 0x2, 0x4, 0x8
_KNOWN_FLAGS = _FREE_ON_LAUNCH | _UPLOAD | _DEVICE_LAUNCH | _NODE_PRIORITY
_INSTANTIATE_ERROR = 1  # CUgraphInstantiateResult
_UPDATE = struct.Struct("<i4xQQ")  # CUgraphExecUpdateResultInfo: result, errorNode, errorFromNode


@serves()
def cuGraphCreate(out: int, flags: int) -> None:
    need_context()
    rule_adapter("cuGraphCreate")(out, flags)


def _child_graphs(graph: int) -> list[int]:
    """Return the graphs in a graph's nodes, in the order of the nodes."""
    _, count = ask("cuGraphGetNodes", graph, 0)
    found = []
    for node in ask("cuGraphGetNodes", graph, count)[0] if count else []:
        if ask("cuGraphNodeGetType", node)[0] == _CHILD_GRAPH_NODE:
            found.append(int(ask("cuGraphChildGraphNodeGetGraph", node)[0]))
    return found


def _inherit(clone: int, graph: int) -> None:
    """Make a clone of a graph hold what the graph holds, and the clones of its child graphs what those hold."""
    graph_holdings.inherit(clone, graph)
    staging.inherit(clone, graph)
    parts = graph_holdings.parts(graph)
    children = list(zip(_child_graphs(clone), _child_graphs(graph), strict=True)) if parts else []
    for theirs, ours in children:
        _inherit(theirs, ours)
        graph_holdings.add_part(clone, theirs)
    for body in set(parts).difference(ours for _, ours in children):
        # The clone's own bodies are not known; it holds for them.
        graph_holdings.inherit(clone, body, whole=True)


@serves("cuGraphInstantiateWithFlags")
def cuGraphInstantiate(executable: int, graph: int, flags: int) -> None:
    if flags & ~_KNOWN_FLAGS:
        raise CudaError(st.INVALID_VALUE, f"cuGraphInstantiate: flags {flags:#x}")
    if flags & _DEVICE_LAUNCH:
        raise refuse("cuGraphInstantiate", "a kernel that launches a graph needs its handle on the device")
    made = api.graph_instantiate(graph, flags)
    graph_holdings.inherit(made, graph, whole=True)
    graph_memory.hold(made, graph, free_on_launch=bool(flags & _FREE_ON_LAUNCH))
    put_u64(executable, made)


@serves()
def cuGraphInstantiateWithParams(executable: int, graph: int, parameters: int) -> None:
    # CUDA_GRAPH_INSTANTIATE_PARAMS: flags, hUploadStream, hErrNode_out, result_out
    put_u64(member(parameters, 16), 0)
    put_u32(parameters + 24, _INSTANTIATE_ERROR)
    cuGraphInstantiate(executable, graph, get_u64(parameters))
    put_u32(parameters + 24, 0)


@serves()
def cuGraphLaunch(executable: int, stream: int) -> None:
    graph_memory.launched(executable)
    api.graph_launch(executable, stream)


@serves()
def cuGraphUpload(executable: int, stream: int) -> None:
    """Accepted: a hint, the first launch uploads."""


@serves()
def cuGraphClone(out: int, graph: int) -> None:
    if graph_memory.has_memory(graph):
        raise CudaError(st.NOT_SUPPORTED, "a graph with memory nodes cannot be cloned")
    (clone,) = ask("cuGraphClone", graph)
    _inherit(clone, graph)
    put_u64(out, clone)


@serves()
def cuGraphAddChildGraphNode(
    out: int, graph: int, dependencies: int, count: int, child: int, *, moves: bool = False
) -> None:
    if graph_memory.has_memory(child) and not moves:
        raise CudaError(st.NOT_SUPPORTED, "a graph with memory nodes can only be moved into another")
    rule_adapter("cuGraphAddChildGraphNode")(out, graph, dependencies, count, child)
    node = get_u64(out)
    note_node(graph, node)
    if graph_holdings.holds(child):
        (embedded,) = ask("cuGraphChildGraphNodeGetGraph", node)
        _inherit(embedded, child)
        graph_holdings.add_part(graph, embedded, node)
    graph_memory.hold(graph, child)
    staging.inherit(graph, child)
    if moves:
        cuGraphDestroy(child)


@serves()
def cuGraphExecUpdate(executable: int, graph: int, result: int) -> None:
    status, why, node, before = ask("cuGraphExecUpdate", executable, graph)
    put_bytes(result, _UPDATE.pack(why, node, before))
    if status:
        raise CudaError(status, "cuGraphExecUpdate")
    if graph_holdings.holds(executable):
        # Launches of what it was may still run.
        api.context_synchronize()
    kept = graph_holdings.take(executable)
    graph_holdings.inherit(executable, graph, whole=True)
    graph_holdings.give_back(kept)
    graph_memory.hold(executable, graph)
    staging.inherit(executable, graph)


@serves()
def cuGraphDestroyNode(node: int) -> None:
    graph = graph_of(node)
    if graph_memory.has_memory(graph):
        raise CudaError(st.NOT_SUPPORTED, "nodes of a graph with memory nodes stay")
    ask("cuGraphDestroyNode", node)
    graph_holdings.drop_part(graph, node)
    forget_node(node)


@serves()
def cuGraphDestroy(graph: int) -> None:
    api.graph_destroy(graph)
    forget_graph(graph)
    graph_holdings.drop(graph)


@serves()
def cuGraphExecDestroy(executable: int) -> None:
    api.graph_exec_destroy(executable)
    if graph_holdings.holds(executable):
        # Its last launch may still use what the destructors free.
        api.context_synchronize()
        graph_holdings.drop(executable)
    graph_memory.drop(executable)


@serves()
def cuStreamBeginCaptureToGraph(stream: int, graph: int, dependencies: int, edges: int, count: int, mode: int) -> None:
    if mode not in (0, 1, 2):
        raise CudaError(st.INVALID_VALUE)
    if stream in (0, 1, 2):
        raise CudaError(st.CAPTURE_UNSUPPORTED, "a default stream cannot be captured")
    check_edges("cuStreamBeginCaptureToGraph", edges, count)
    ask("cuStreamBeginCaptureToGraph", resolve(stream), graph, get_u64_array(dependencies, count))
    note_capture(stream)


def _node_label(node: int, kind: int, *, verbose: bool) -> str:
    """Return a node's type, and of a kernel its name and, if asked for, its launch."""
    if kind != _KERNEL_NODE:
        return _TYPE_NAMES.get(kind, f"TYPE {kind}")
    handle, gx, gy, gz, bx, by, bz, shared, _ = ask("cuGraphKernelNodeGetParams", node)
    name = api.function_name(function_on_wire(handle)).decode()
    if not verbose:
        return name
    return f"KERNEL\\n{name}\\ngrid {gx} {gy} {gz}, block {bx} {by} {bz}, shared {shared}"


@serves()
def cuGraphDebugDotPrint(graph: int, path: int, flags: int) -> None:
    """Written here, of what the graph tells: the executor writes no files."""
    _, count = ask("cuGraphGetNodes", graph, 0)
    names = ask("cuGraphGetNodes", graph, count)[0] if count else []
    _, sources, targets = ask("cuGraphGetEdges", graph, _MOST_EDGES)
    kind = Cell()
    lines = ["digraph dot {"]
    for number, node in enumerate(names):
        cuGraphNodeGetType(node, kind.address)
        label = _node_label(node, kind.value, verbose=bool(flags & _DOT_VERBOSE))
        lines.append(f'"graph_node_{number}" [shape="box" label="{number}\\n{label}"];')
    places = {node: number for number, node in enumerate(names)}
    for source, target in zip(sources, targets, strict=True):
        lines.append(f'"graph_node_{places[source]}" -> "graph_node_{places[target]}";')
    text = "\n".join([*lines, "}", ""])
    try:
        Path(os.fsdecode(get_string(path))).write_text(text)
    except OSError as error:
        raise CudaError(st.OPERATING_SYSTEM, str(error)) from error
