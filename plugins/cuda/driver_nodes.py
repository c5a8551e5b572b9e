"""Driver API: graph nodes of kernels, memsets, copies, host functions and memory.

The parameters travel unpacked, so that the executor checks handles and ranges and builds the driver's structs
itself. What a kernel node was given is remembered here, for a query returns pointers into memory that the library owns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from migproxy_plugins.cuda import graph_holdings, graph_memory
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_copies import COPY_3D, DEVICE, UNIFIED, Side, read_copy_3d
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import (
    KernelArguments,
    call_host_function,
    get_bytes,
    get_u64,
    get_u64_array,
    member,
    put_bytes,
    put_i32,
    put_u64,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api import staging
from migproxy.session.api.callbacks import host_function_token, release_host_function, stream_call_host_function
from migproxy.session.api.launch import gather
from migproxy.session.api.modules import function_facts, function_on_wire

# func, grid x y z, block x y z, sharedMemBytes, kernelParams, extra: the same in all versions and in the runtime API
_KERNEL = struct.Struct("<Q7I4xQQ")
_KERNEL_SIZE = 72  # with kern and ctx
# dst, pitch, value, elementSize, width, height
_MEMSET = struct.Struct("<QQIIQQ")
_HOST = struct.Struct("<QQ")  # fn, userData
# CUDA_MEM_ALLOC_NODE_PARAMS: pool properties, access descriptions and their number, size, address
_ALLOCATION_SIZE = 120
_SIZE_OFFSET, _POINTER_OFFSET = 104, 112
_ATTRIBUTE_SIZE = 64
ALLOCATION_NODE, FREE_NODE = 10, 11  # CUgraphNodeType

_kernels: dict[int, tuple[bytes, KernelArguments]] = {}
#: Token of a host function → what the node was given.
_host_functions: dict[int, tuple[int, int]] = {}
#: Graph → nodes made in it, node → its graph.
_of_graph: dict[int, list[int]] = {}
_graph_of: dict[int, int] = {}


def ask(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Have the executor carry out a driver function and return its outputs."""
    status, outs = api.driver_call(name, arguments)
    if status:
        raise CudaError(status, name)
    return outs


def forget_graph(graph: int) -> None:
    """Forget what the nodes of a destroyed graph were given."""
    for node in _of_graph.pop(graph, ()):
        forget_node(node)
    graph_memory.drop(graph)


def forget_node(node: int) -> None:
    """Forget what a destroyed node was given."""
    _graph_of.pop(node, None)
    _kernels.pop(node, None)
    graph_memory.forget_node(node)


def graph_of(node: int) -> int:
    """Return the graph a node was made in; 0 for captured and cloned ones."""
    return _graph_of.get(node, 0)


def forget_functions(tokens: set[int]) -> None:
    """Forget host functions that nothing calls any more."""
    for token in tokens:
        release_host_function(token)
        _host_functions.pop(token, None)


# -- what the executor is sent ---------------------------------------------------------------------------------------
def kernel_inputs(parameters: int) -> tuple[list[Any], tuple[bytes, KernelArguments]]:
    """Return a kernel node's parameters for the executor, and what a query answers."""
    data = get_bytes(parameters, _KERNEL.size)
    handle, *numbers, pointers, extra = _KERNEL.unpack(data)
    if not handle:
        handle = get_u64(parameters + _KERNEL.size)
    facts = function_facts(handle)
    packed = gather(facts, pointers, extra)
    return [facts.handle, *numbers, packed], _kernel_answer(handle, numbers, packed)


def _kernel_answer(function: int, numbers: list[int], packed: bytes) -> tuple[bytes, KernelArguments]:
    kept = KernelArguments(packed, function_facts(function).parameters)
    return _KERNEL.pack(function, *numbers, kept.address, 0).ljust(_KERNEL_SIZE, b"\0"), kept


def memset_inputs(parameters: int) -> list[Any]:
    """Return a memset node's parameters for the executor."""
    return list(_MEMSET.unpack(get_bytes(parameters, _MEMSET.size)))


def copy_inputs(holder: int, destination: Side, source: Side, width: int, height: int, depth: int) -> list[Any]:
    """Return a copy node's parameters for the executor: two sides as in `layout.BOX`, and the extent.

    `holder` is the graph, or what was instantiated from it, that holds blocks for pageable memory.
    """
    extent = width, height, depth

    def side(one: Side, *, to_host: bool) -> list[int]:
        box = one.box(extent)
        if box.array:
            return [layout.BOX_ARRAY, box.x, box.y, box.z, box.at, 0, 0]
        box = api.Box(box.at, box.pitch or width, box.rows or height)
        facts = api.pointer_facts(box.at)
        if facts.memory_type == DEVICE and not facts.managed:
            return [layout.BOX_DEVICE, 0, 0, 0, box.at, box.pitch, box.rows]
        if min(extent) > 0:
            box = staging.place(holder, box, extent, to_host=to_host)
        return [layout.BOX_HOST, 0, 0, 0, box.at, box.pitch, box.rows]

    return [*side(destination, to_host=True), *side(source, to_host=False), *extent]


def host_inputs(parameters: int) -> tuple[list[Any], tuple[int, int]]:
    """Return a host node's parameters for the executor (the number under which it is called), and what a query
    answers."""
    function, data = _HOST.unpack(get_bytes(parameters, _HOST.size))
    return [_token(function, data)], (function, data)


def _token(function: int, data: int) -> int:
    """Return the number under which a graph calls a C function."""
    if not function:
        raise CudaError(st.INVALID_VALUE, "a host node without a function")
    token = host_function_token(lambda: call_host_function(function, data), repeated=True)
    _host_functions[token] = function, data
    return token


def call_captured(stream: int, function: int, data: int) -> None:
    """Call a C function from a stream that is being captured: the graph gets a host node."""
    graph, _ = _captured(stream)
    token = _token(function, data)
    stream_call_host_function(stream, token)
    graph_holdings.add_function(graph, token)


# -- adding, changing, asking ----------------------------------------------------------------------------------------
def _add(name: str, out: int, graph: int, dependencies: int, count: int, inputs: list[Any]) -> int:
    if count and not dependencies:
        raise CudaError(st.INVALID_VALUE, "an array is NULL")
    (node,) = ask(name, graph, get_u64_array(dependencies, count), inputs)
    put_u64(out, node)
    note_node(graph, node)
    return int(node)


def note_node(graph: int, node: int) -> None:
    """Note that `node` ends with `graph`."""
    _of_graph.setdefault(graph, []).append(node)
    _graph_of[node] = graph


@serves()
def cuGraphAddKernelNode(out: int, graph: int, dependencies: int, count: int, parameters: int) -> None:
    inputs, answer = kernel_inputs(parameters)
    _kernels[_add("cuGraphAddKernelNode", out, graph, dependencies, count, inputs)] = answer


@serves()
def cuGraphKernelNodeSetParams(node: int, parameters: int) -> None:
    inputs, answer = kernel_inputs(parameters)
    ask("cuGraphKernelNodeSetParams", node, inputs)
    _kernels[node] = answer


@serves()
def cuGraphExecKernelNodeSetParams(executable: int, node: int, parameters: int) -> None:
    ask("cuGraphExecKernelNodeSetParams", executable, node, kernel_inputs(parameters)[0])


@serves()
def cuGraphKernelNodeGetParams(node: int, parameters: int) -> None:
    if node not in _kernels:
        # Of a captured or cloned node: the executor tells, and the array of pointers is ours.
        handle, *numbers, packed = ask("cuGraphKernelNodeGetParams", node)
        _kernels[node] = _kernel_answer(function_on_wire(handle), numbers, packed)
    put_bytes(parameters, _kernels[node][0])


@serves()
def cuGraphKernelNodeGetAttribute(node: int, attribute: int, value: int) -> None:
    put_bytes(value, ask("cuGraphKernelNodeGetAttribute", node, attribute)[0])


@serves()
def cuGraphKernelNodeSetAttribute(node: int, attribute: int, value: int) -> None:
    ask("cuGraphKernelNodeSetAttribute", node, attribute, get_bytes(value, _ATTRIBUTE_SIZE))


@serves()
def cuGraphAddMemsetNode(
    out: int, graph: int, dependencies: int, count: int, parameters: int, context: int = 0
) -> None:
    _add("cuGraphAddMemsetNode", out, graph, dependencies, count, memset_inputs(parameters))


@serves()
def cuGraphMemsetNodeSetParams(node: int, parameters: int) -> None:
    ask("cuGraphMemsetNodeSetParams", node, memset_inputs(parameters))


@serves()
def cuGraphExecMemsetNodeSetParams(executable: int, node: int, parameters: int, context: int = 0) -> None:
    ask("cuGraphExecMemsetNodeSetParams", executable, node, memset_inputs(parameters))


@serves()
def cuGraphMemsetNodeGetParams(node: int, parameters: int) -> None:
    put_bytes(parameters, ask("cuGraphMemsetNodeGetParams", node)[0])


@serves()
def cuGraphMemcpyNodeGetParams(node: int, parameters: int) -> None:
    put_bytes(parameters, COPY_3D.pack(*copy_parameters(node)))


def copy_parameters(node: int) -> list[int]:
    """Return the fields of a copy node's ``CUDA_MEMCPY3D``, with the memory that its blocks stand for."""
    fields = list(COPY_3D.unpack(ask("cuGraphMemcpyNodeGetParams", node)[0]))
    for host in (5, 16):
        found = staging.original(fields[host])
        if found is not None:
            fields[host], fields[host + 4], fields[host + 5] = found.at, found.pitch, found.rows
    return fields


@serves()
def cuGraphAddMemcpyNode(
    out: int, graph: int, dependencies: int, count: int, parameters: int, context: int = 0
) -> None:
    _add("cuGraphAddMemcpyNode", out, graph, dependencies, count, copy_inputs(graph, *read_copy_3d(parameters)))


@serves()
def cuGraphMemcpyNodeSetParams(node: int, parameters: int) -> None:
    ask("cuGraphMemcpyNodeSetParams", node, copy_inputs(graph_of(node), *read_copy_3d(parameters)))


@serves()
def cuGraphExecMemcpyNodeSetParams(executable: int, node: int, parameters: int, context: int = 0) -> None:
    ask("cuGraphExecMemcpyNodeSetParams", executable, node, copy_inputs(executable, *read_copy_3d(parameters)))


def copy_1d_inputs(holder: int, destination: int, source: int, size: int) -> list[Any]:
    """Return the executor's parameters of a copy of `size` bytes (``cudaGraphAddMemcpyNode1D`` and its kin)."""
    target, origin = (Side(UNIFIED, address, 0, 0, 0, 0, size, 1) for address in (destination, source))
    return copy_inputs(holder, target, origin, size, 1, 1)


def add_copy(out: int, graph: int, dependencies: int, count: int, inputs: list[Any]) -> None:
    """Add a copy node of parameters made by `copy_inputs`."""
    _add("cuGraphAddMemcpyNode", out, graph, dependencies, count, inputs)


def _with_function(holder: int, parameters: int, submit: Callable[[list[Any]], int]) -> None:
    inputs, _ = host_inputs(parameters)
    (token,) = inputs
    try:
        submit(inputs)
    except BaseException:
        forget_functions({token})
        raise
    graph_holdings.add_function(holder, token)


def _changed(name: str, *arguments: Any) -> int:
    ask(name, *arguments)
    return 0


@serves()
def cuGraphAddHostNode(out: int, graph: int, dependencies: int, count: int, parameters: int) -> None:
    _with_function(
        graph, parameters, lambda inputs: _add("cuGraphAddHostNode", out, graph, dependencies, count, inputs)
    )


@serves()
def cuGraphHostNodeSetParams(node: int, parameters: int) -> None:
    _with_function(graph_of(node), parameters, lambda inputs: _changed("cuGraphHostNodeSetParams", node, inputs))


@serves()
def cuGraphExecHostNodeSetParams(executable: int, node: int, parameters: int) -> None:
    _with_function(
        executable, parameters, lambda inputs: _changed("cuGraphExecHostNodeSetParams", executable, node, inputs)
    )


@serves()
def cuGraphHostNodeGetParams(node: int, parameters: int) -> None:
    (token,) = ask("cuGraphHostNodeGetParams", node)
    found = _host_functions.get(token)
    if found is None:
        raise refuse("cuGraphHostNodeGetParams", "a captured host function has no C function")
    put_bytes(parameters, _HOST.pack(*found))


# -- memory ----------------------------------------------------------------------------------------------------------
def _empty(graph: int, dependencies: list[int]) -> int:
    (node,) = ask("cuGraphAddEmptyNode", graph, dependencies)
    note_node(graph, node)
    return int(node)


@serves()
def cuGraphAddMemAllocNode(out: int, graph: int, dependencies: int, count: int, parameters: int) -> None:
    pointer = graph_memory.allocate(get_u64(member(parameters, _SIZE_OFFSET)))
    try:
        node = _empty(graph, get_u64_array(dependencies, count))
    except BaseException:
        graph_memory.abandon(pointer)
        raise
    put_u64(parameters + _POINTER_OFFSET, pointer)
    graph_memory.add_allocation(graph, node, pointer, get_bytes(parameters, _ALLOCATION_SIZE))
    put_u64(out, node)


@serves()
def cuGraphAddMemFreeNode(out: int, graph: int, dependencies: int, count: int, pointer: int) -> None:
    graph_memory.check_free(graph, pointer)
    node = _empty(graph, get_u64_array(dependencies, count))
    graph_memory.add_free(graph, node, pointer)
    put_u64(out, node)


@serves()
def cuGraphMemAllocNodeGetParams(node: int, parameters: int) -> None:
    found = graph_memory.allocation(node)
    if found is None:
        raise CudaError(st.INVALID_VALUE, "no allocation node")
    put_bytes(parameters, found[1])


@serves()
def cuGraphMemFreeNodeGetParams(node: int, pointer: int) -> None:
    found = graph_memory.freed(node)
    if found is None:
        raise CudaError(st.INVALID_VALUE, "no free node")
    put_u64(pointer, found)


@serves()
def cuGraphNodeGetType(node: int, kind: int) -> None:
    if graph_memory.allocation(node) is not None:
        put_i32(kind, ALLOCATION_NODE)
    elif graph_memory.freed(node) is not None:
        put_i32(kind, FREE_NODE)
    else:
        rule_adapter("cuGraphNodeGetType")(node, kind)


def _captured(stream: int) -> tuple[int, list[int]]:
    """Return the graph that a stream is captured into, and the nodes that its next one follows."""
    _, _, graph, dependencies, _ = ask("cuStreamGetCaptureInfo", stream)
    return graph, dependencies


def _append(stream: int, graph: int, dependencies: list[int]) -> int:
    node = _empty(graph, dependencies)
    ask("cuStreamUpdateCaptureDependencies", stream, [node], 1)  # CU_STREAM_SET_CAPTURE_DEPENDENCIES
    return node


def allocate_captured(size: int, stream: int) -> int:
    """Allocate on a stream that is being captured: the graph gets an allocation node."""
    graph, dependencies = _captured(stream)
    pointer = graph_memory.allocate(size)
    try:
        node = _append(stream, graph, dependencies)
    except BaseException:
        graph_memory.abandon(pointer)
        raise
    # Pool properties of pinned device memory, no access descriptions.
    properties = struct.pack("<iiii", 1, 0, 1, 0).ljust(_SIZE_OFFSET, b"\0")
    graph_memory.add_allocation(graph, node, pointer, properties + struct.pack("<QQ", size, pointer))
    return pointer


def free_captured(pointer: int, stream: int) -> None:
    """Free on a stream that is being captured: the graph gets a free node."""
    graph, dependencies = _captured(stream)
    graph_memory.check_free(graph, pointer)
    graph_memory.add_free(graph, _append(stream, graph, dependencies), pointer)
