"""Driver API: graph nodes of any type by their common struct of parameters, and conditional nodes, which need it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from migproxy_plugins.cuda import driver_nodes as nodes
from migproxy_plugins.cuda import graph_holdings
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_edges import check_edges
from migproxy_plugins.cuda.driver_graphs import cuGraphAddChildGraphNode
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import (
    Cell,
    LentArrays,
    get_bytes,
    get_u32,
    get_u64,
    get_u64_array,
    member,
    put_bytes,
    put_u64,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError

# CUgraphNodeType
KERNEL, MEMCPY, MEMSET, HOST, GRAPH, EMPTY, WAIT, RECORD = range(8)
ALLOCATION, FREE, BATCH, CONDITIONAL = 10, 11, 12, 13
_UNION = 16  # CUgraphNodeParams: type, reserved, then the union
_COPY = _UNION + 16  # after flags, reserved and copyCtx
# CUDA_CONDITIONAL_NODE_PARAMS: handle, type, size, phGraph_out
_CONDITIONAL = struct.Struct("<Qii")
_BODIES_OFFSET = 16
_bodies = LentArrays(1 << 12)
#: What conditional nodes were made with.
_conditionals: dict[int, bytes] = {}
_PARAMETERS_SIZE = 256

_Setter = Callable[..., None]
_SETTERS: Final[dict[int, tuple[_Setter, _Setter, int]]] = {
    KERNEL: (nodes.cuGraphKernelNodeSetParams, nodes.cuGraphExecKernelNodeSetParams, _UNION),
    MEMCPY: (nodes.cuGraphMemcpyNodeSetParams, nodes.cuGraphExecMemcpyNodeSetParams, _COPY),
    MEMSET: (nodes.cuGraphMemsetNodeSetParams, nodes.cuGraphExecMemsetNodeSetParams, _UNION),
    HOST: (nodes.cuGraphHostNodeSetParams, nodes.cuGraphExecHostNodeSetParams, _UNION),
}
_HANDLE_SETTERS: Final = {
    WAIT: ("cuGraphEventWaitNodeSetEvent", "cuGraphExecEventWaitNodeSetEvent"),
    RECORD: ("cuGraphEventRecordNodeSetEvent", "cuGraphExecEventRecordNodeSetEvent"),
    GRAPH: ("", "cuGraphExecChildGraphNodeSetParams"),
}


def _not_supported(kind: int) -> CudaError:
    return refuse("CUgraphNodeParams", f"nodes of type {kind} are not supported")


@serves("cuGraphAddNode_v2", "cuGraphAddNode_v3")
def cuGraphAddNode(out: int, graph: int, dependencies: int, *rest: int) -> None:
    # (count, parameters), or (edge data, count, parameters)
    *edges, count, parameters = rest
    check_edges("cuGraphAddNode", edges[0] if edges else 0, count)
    kind, union = get_u32(parameters), parameters + _UNION
    where = (out, graph, dependencies, count)
    if kind == KERNEL:
        nodes.cuGraphAddKernelNode(*where, union)
    elif kind == MEMSET:
        nodes.cuGraphAddMemsetNode(*where, union)
    elif kind == MEMCPY:
        nodes.cuGraphAddMemcpyNode(*where, parameters + _COPY)
    elif kind == HOST:
        nodes.cuGraphAddHostNode(*where, union)
    elif kind == EMPTY:
        rule_adapter("cuGraphAddEmptyNode")(*where)
    elif kind == GRAPH:
        cuGraphAddChildGraphNode(*where, get_u64(union), moves=get_u32(union + 8) == 1)
    elif kind in (WAIT, RECORD):
        name = "cuGraphAddEventWaitNode" if kind == WAIT else "cuGraphAddEventRecordNode"
        rule_adapter(name)(*where, get_u64(union))
    elif kind == ALLOCATION:
        nodes.cuGraphAddMemAllocNode(*where, union)
    elif kind == FREE:
        nodes.cuGraphAddMemFreeNode(*where, get_u64(union))
    elif kind == CONDITIONAL:
        _add_conditional(*where, union)
    else:
        raise _not_supported(kind)


def _add_conditional(out: int, graph: int, dependencies: int, count: int, union: int) -> None:
    handle, kind, size = _CONDITIONAL.unpack(get_bytes(union, _CONDITIONAL.size))
    if size <= 0:
        raise CudaError(st.INVALID_VALUE, "a conditional node without bodies")
    before = get_u64_array(dependencies, count)
    node, bodies = nodes.ask("cuGraphAddConditionalNode", graph, before, [handle, kind, size])
    nodes.note_node(graph, node)
    for body in bodies:
        graph_holdings.add_part(graph, body, node)
    where = _bodies.address(bodies)
    put_u64(union + _BODIES_OFFSET, where)
    _conditionals[node] = _CONDITIONAL.pack(handle, kind, size) + where.to_bytes(8, "little")
    put_u64(out, node)


@serves()
def cuGraphConditionalHandleCreate(out: int, graph: int, context: int, default: int, flags: int) -> None:
    put_u64(out, nodes.ask("cuGraphConditionalHandleCreate", graph, default, flags)[0])


@serves("cuGraphNodeSetParams_v2")
def cuGraphNodeSetParams(node: int, parameters: int) -> None:
    kind = get_u32(parameters)
    if kind in _SETTERS:
        setter, _, offset = _SETTERS[kind]
        setter(node, parameters + offset)
    elif kind in (WAIT, RECORD):
        rule_adapter(_HANDLE_SETTERS[kind][0])(node, get_u64(parameters + _UNION))
    else:
        raise _not_supported(kind)


@serves()
def cuGraphExecNodeSetParams(executable: int, node: int, parameters: int) -> None:
    kind = get_u32(parameters)
    if kind in _SETTERS:
        _, setter, offset = _SETTERS[kind]
        setter(executable, node, parameters + offset)
    elif kind in _HANDLE_SETTERS:
        rule_adapter(_HANDLE_SETTERS[kind][1])(executable, node, get_u64(parameters + _UNION))
    else:
        raise _not_supported(kind)


@serves()
def cuGraphNodeGetParams(node: int, parameters: int) -> None:
    union = member(parameters, _UNION)
    kind = Cell()
    nodes.cuGraphNodeGetType(node, kind.address)
    put_bytes(parameters, kind.value.to_bytes(4, "little").ljust(_PARAMETERS_SIZE, b"\0"))
    if kind.value == KERNEL:
        nodes.cuGraphKernelNodeGetParams(node, union)
    elif kind.value == MEMCPY:
        nodes.cuGraphMemcpyNodeGetParams(node, parameters + _COPY)
    elif kind.value == MEMSET:
        nodes.cuGraphMemsetNodeGetParams(node, union)
    elif kind.value == HOST:
        nodes.cuGraphHostNodeGetParams(node, union)
    elif kind.value == GRAPH:
        rule_adapter("cuGraphChildGraphNodeGetGraph")(node, union)
    elif kind.value == WAIT:
        rule_adapter("cuGraphEventWaitNodeGetEvent")(node, union)
    elif kind.value == RECORD:
        rule_adapter("cuGraphEventRecordNodeGetEvent")(node, union)
    elif kind.value == ALLOCATION:
        nodes.cuGraphMemAllocNodeGetParams(node, union)
    elif kind.value == FREE:
        nodes.cuGraphMemFreeNodeGetParams(node, union)
    elif kind.value == CONDITIONAL and node in _conditionals:
        put_bytes(union, _conditionals[node])
    elif kind.value != EMPTY:
        raise _not_supported(kind.value)
