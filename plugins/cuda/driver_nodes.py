"""Driver API: graph nodes with parameters: kernels, memsets and copies of linear memory.

The parameters travel unpacked, so that the executor checks handles and ranges and builds the driver's structs
itself. What a node was given
is remembered here, for a query returns pointers into memory that the library owns.
"""

from __future__ import annotations

import struct
from typing import Any

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_copies import UNIFIED, Side, read_copy_3d
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import (
    KernelArguments,
    get_bytes,
    get_u64,
    get_u64_array,
    put_bytes,
    put_u64,
    put_u64_array,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api.launch import gather
from migproxy.session.api.modules import function_facts

# func, grid x y z, block x y z, sharedMemBytes, kernelParams, extra: the same in all versions and in the runtime API
_KERNEL = struct.Struct("<Q7I4xQQ")
_KERNEL_SIZE = 72  # with kern and ctx
# dst, pitch, value, elementSize, width, height
_MEMSET = struct.Struct("<QQIIQQ")
_COPY_SIZE = 200

# CUgraphNodeType
_KERNEL_NODE, _MEMCPY_NODE, _MEMSET_NODE, _HOST_NODE, _GRAPH_NODE, _EMPTY_NODE, _WAIT_NODE, _RECORD_NODE = range(8)
_UNION = 16  # CUgraphNodeParams: type, reserved, then the union

#: node → what it was given
_kernels: dict[int, tuple[bytes, KernelArguments]] = {}
_plain: dict[int, bytes] = {}
_of_graph: dict[int, list[int]] = {}


def forget_graph(graph: int) -> None:
    """Forget what the nodes of a destroyed graph were given."""
    for node in _of_graph.pop(graph, ()):
        _kernels.pop(node, None)
        _plain.pop(node, None)


def kernel_inputs(parameters: int) -> tuple[list[Any], tuple[bytes, KernelArguments]]:
    """Return a kernel node's parameters for the executor, and what a query answers."""
    data = get_bytes(parameters, _KERNEL.size)
    handle, *numbers, pointers, extra = _KERNEL.unpack(data)
    if not handle:
        handle = get_u64(parameters + _KERNEL.size)
    facts = function_facts(handle)
    packed = gather(facts, pointers, extra)
    kept = KernelArguments(packed, facts.parameters)
    answer = _KERNEL.pack(handle, *numbers, kept.address, 0).ljust(_KERNEL_SIZE, b"\0")
    return [facts.handle, *numbers, packed], (answer, kept)


def memset_inputs(parameters: int) -> list[Any]:
    """Return a memset node's parameters for the executor."""
    return list(_MEMSET.unpack(get_bytes(parameters, _MEMSET.size)))


def copy_inputs(destination: Side, source: Side, width: int, height: int, depth: int) -> list[Any]:
    """Return a copy node's parameters for the executor: two sides (start, pitch, rows, on the host), and the extent."""

    def side(one: Side) -> list[int]:
        facts = api.pointer_facts(one.start)
        if facts.memory_type == 0:
            why = "a graph copies page-locked host memory only; allocate with cuMemHostAlloc"
            raise refuse("cuGraphAddMemcpyNode", why)
        return [one.start, one.pitch or width, one.rows or height, int(facts.memory_type == 1 or facts.managed)]

    return [*side(destination), *side(source), width, height, depth]


def _add(name: str, out: int, graph: int, dependencies: int, count: int, inputs: list[Any]) -> int:
    if count and not dependencies:
        raise CudaError(st.INVALID_VALUE, "an array is NULL")
    status, outs = api.driver_call(name, [graph, get_u64_array(dependencies, count), inputs])
    if status:
        raise CudaError(status, name)
    put_u64(out, outs[0])
    _of_graph.setdefault(graph, []).append(outs[0])
    return int(outs[0])


def _set(name: str, handles: list[int], inputs: list[Any]) -> None:
    status, _ = api.driver_call(name, [*handles, inputs])
    if status:
        raise CudaError(status, name)


@serves()
def cuGraphAddKernelNode(out: int, graph: int, dependencies: int, count: int, parameters: int) -> None:
    inputs, answer = kernel_inputs(parameters)
    _kernels[_add("cuGraphAddKernelNode", out, graph, dependencies, count, inputs)] = answer


@serves()
def cuGraphKernelNodeSetParams(node: int, parameters: int) -> None:
    inputs, answer = kernel_inputs(parameters)
    _set("cuGraphKernelNodeSetParams", [node], inputs)
    _kernels[node] = answer


@serves()
def cuGraphExecKernelNodeSetParams(executable: int, node: int, parameters: int) -> None:
    _set("cuGraphExecKernelNodeSetParams", [executable, node], kernel_inputs(parameters)[0])


@serves()
def cuGraphKernelNodeGetParams(node: int, parameters: int) -> None:
    if node not in _kernels:
        raise refuse("cuGraphKernelNodeGetParams", "the parameters of captured nodes stay in the executor")
    put_bytes(parameters, _kernels[node][0])


@serves()
def cuGraphAddMemsetNode(
    out: int, graph: int, dependencies: int, count: int, parameters: int, context: int = 0
) -> None:
    node = _add("cuGraphAddMemsetNode", out, graph, dependencies, count, memset_inputs(parameters))
    _plain[node] = get_bytes(parameters, _MEMSET.size)


@serves()
def cuGraphMemsetNodeSetParams(node: int, parameters: int) -> None:
    _set("cuGraphMemsetNodeSetParams", [node], memset_inputs(parameters))
    _plain[node] = get_bytes(parameters, _MEMSET.size)


@serves()
def cuGraphExecMemsetNodeSetParams(executable: int, node: int, parameters: int, context: int = 0) -> None:
    _set("cuGraphExecMemsetNodeSetParams", [executable, node], memset_inputs(parameters))


@serves("cuGraphMemcpyNodeGetParams")
def cuGraphMemsetNodeGetParams(node: int, parameters: int) -> None:
    if node not in _plain:
        raise refuse("cuGraph…NodeGetParams", "the parameters of captured nodes stay in the executor")
    put_bytes(parameters, _plain[node])


@serves()
def cuGraphAddMemcpyNode(
    out: int, graph: int, dependencies: int, count: int, parameters: int, context: int = 0
) -> None:
    inputs = copy_inputs(*read_copy_3d(parameters))
    node = _add("cuGraphAddMemcpyNode", out, graph, dependencies, count, inputs)
    _plain[node] = get_bytes(parameters, _COPY_SIZE)


@serves()
def cuGraphMemcpyNodeSetParams(node: int, parameters: int) -> None:
    _set("cuGraphMemcpyNodeSetParams", [node], copy_inputs(*read_copy_3d(parameters)))
    _plain[node] = get_bytes(parameters, _COPY_SIZE)


@serves()
def cuGraphExecMemcpyNodeSetParams(executable: int, node: int, parameters: int, context: int = 0) -> None:
    _set("cuGraphExecMemcpyNodeSetParams", [executable, node], copy_inputs(*read_copy_3d(parameters)))


def add_copy_1d(out: int, graph: int, dependencies: int, count: int, destination: int, source: int, size: int) -> None:
    """Add a copy of `size` bytes (``cudaGraphAddMemcpyNode1D``)."""
    target, origin = (Side(UNIFIED, address, 0, 0, 0, 0, size, 1) for address in (destination, source))
    _add("cuGraphAddMemcpyNode", out, graph, dependencies, count, copy_inputs(target, origin, size, 1, 1))


@serves("cuGraphAddNode_v2", "cuGraphAddNode_v3")
def cuGraphAddNode(out: int, graph: int, dependencies: int, *rest: int) -> None:
    # (count, parameters), or (edge data, count, parameters)
    *edges, count, parameters = rest
    if any(edges):
        raise refuse("cuGraphAddNode", "graph edge data is not supported")
    kind, union = get_u64(parameters) & 0xFFFFFFFF, parameters + _UNION
    where = (out, graph, dependencies, count)
    if kind == _KERNEL_NODE:
        cuGraphAddKernelNode(*where, union)
    elif kind == _MEMSET_NODE:
        cuGraphAddMemsetNode(*where, union)
    elif kind == _MEMCPY_NODE:
        # flags, reserved, copyCtx, copyParams
        cuGraphAddMemcpyNode(*where, union + 16)
    elif kind == _EMPTY_NODE:
        rule_adapter("cuGraphAddEmptyNode")(*where)
    elif kind == _GRAPH_NODE:
        rule_adapter("cuGraphAddChildGraphNode")(*where, get_u64(union))
    elif kind in (_WAIT_NODE, _RECORD_NODE):
        name = "cuGraphAddEventWaitNode" if kind == _WAIT_NODE else "cuGraphAddEventRecordNode"
        rule_adapter(name)(*where, get_u64(union))
    else:
        raise refuse("cuGraphAddNode", f"nodes of type {kind} are not supported yet")


_EDGE_DATA_SIZE = 8  # CUgraphEdgeData: all 0 for an ordinary edge


def _neighbours(name: str, node: int, nodes: int, rest: tuple[int, ...]) -> None:
    *edges, count = rest
    rule_adapter(name)(node, nodes, count)
    if nodes and any(edges):
        put_bytes(edges[0], bytes(_EDGE_DATA_SIZE * get_u64(count)))


@serves("cuGraphNodeGetDependencies_v2")
def cuGraphNodeGetDependencies(node: int, dependencies: int, *rest: int) -> None:
    _neighbours("cuGraphNodeGetDependencies", node, dependencies, rest)


@serves("cuGraphNodeGetDependentNodes_v2")
def cuGraphNodeGetDependentNodes(node: int, dependents: int, *rest: int) -> None:
    _neighbours("cuGraphNodeGetDependentNodes", node, dependents, rest)


@serves("cuGraphAddDependencies_v2")
def cuGraphAddDependencies(graph: int, sources: int, targets: int, *rest: int) -> None:
    rule_adapter("cuGraphAddDependencies")(graph, sources, targets, *rest)


@serves("cuGraphRemoveDependencies_v2")
def cuGraphRemoveDependencies(graph: int, sources: int, targets: int, *rest: int) -> None:
    rule_adapter("cuGraphRemoveDependencies")(graph, sources, targets, *rest)


@serves("cuGraphGetEdges_v2")
def cuGraphGetEdges(graph: int, sources: int, targets: int, *rest: int) -> None:
    *edges, count = rest
    wanted = get_u64(count) if sources and targets else 0
    status, outs = api.driver_call("cuGraphGetEdges", [graph, wanted])
    if status:
        raise CudaError(status, "cuGraphGetEdges")
    number, from_nodes, to_nodes = outs
    put_u64_array(sources, from_nodes)
    put_u64_array(targets, to_nodes)
    put_u64(count, number)
    if wanted and any(edges):
        put_bytes(edges[0], bytes(_EDGE_DATA_SIZE * len(from_nodes)))
