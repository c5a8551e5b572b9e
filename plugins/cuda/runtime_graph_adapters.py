"""Adapters of the runtime API's functions on graphs that differ from the driver's: copies are described another way."""

from __future__ import annotations

import struct
from typing import Any

from migproxy_plugins.cuda import driver_any_node, driver_nodes
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.array_formats import element_bytes
from migproxy_plugins.cuda.arrays import array
from migproxy_plugins.cuda.driver_edges import check_edges
from migproxy_plugins.cuda.memory_unsafe import Buffer, get_bytes, get_u32, member, put_bytes
from migproxy_plugins.cuda.runtime.arrays import read_copy_3d
from migproxy_plugins.cuda.runtime_adapters import serves
from migproxy_plugins.cuda.status import CudaRuntimeStatus

_KERNEL_SIZE, _DRIVER_KERNEL_SIZE = 56, 72  # cudaKernelNodeParams, CUDA_KERNEL_NODE_PARAMS
# cudaMemcpy3DParms: srcArray, srcPos, srcPtr (ptr, pitch, xsize, ysize), dstArray, dstPos, dstPtr, extent, kind
_COPY = struct.Struct("<Q3Q4QQ3Q4Q3Qi4x")
_HOST, _DEVICE, _ARRAY = 1, 2, 3
_COPY_OFFSET = 32  # cudaGraphNodeParams: type, reserved; flags, reserved; cudaMemcpy3DParms
_DEFAULT_KIND = 4
_KINDS = range(5)


def _inputs(holder: int, parameters: int) -> list[Any]:
    return driver_nodes.copy_inputs(holder, *read_copy_3d(parameters))


def _inputs_1d(holder: int, destination: int, source: int, size: int, kind: int) -> list[Any]:
    if kind not in _KINDS:
        raise CudaRuntimeStatus(st.CUDART_INVALID_MEMCPY_DIRECTION, f"cudaMemcpyKind {kind}")
    return driver_nodes.copy_1d_inputs(holder, destination, source, size)


@serves()
def cudaGraphAddMemcpyNode(out: int, graph: int, dependencies: int, count: int, parameters: int) -> None:
    driver_nodes.add_copy(out, graph, dependencies, count, _inputs(graph, parameters))


@serves()
def cudaGraphAddMemcpyNode1D(
    out: int, graph: int, dependencies: int, count: int, destination: int, source: int, size: int, kind: int
) -> None:
    driver_nodes.add_copy(out, graph, dependencies, count, _inputs_1d(graph, destination, source, size, kind))


@serves()
def cudaGraphMemcpyNodeSetParams(node: int, parameters: int) -> None:
    driver_nodes.ask("cuGraphMemcpyNodeSetParams", node, _inputs(driver_nodes.graph_of(node), parameters))


@serves()
def cudaGraphMemcpyNodeSetParams1D(node: int, destination: int, source: int, size: int, kind: int) -> None:
    inputs = _inputs_1d(driver_nodes.graph_of(node), destination, source, size, kind)
    driver_nodes.ask("cuGraphMemcpyNodeSetParams", node, inputs)


@serves()
def cudaGraphExecMemcpyNodeSetParams(executable: int, node: int, parameters: int) -> None:
    driver_nodes.ask("cuGraphExecMemcpyNodeSetParams", executable, node, _inputs(executable, parameters))


@serves()
def cudaGraphExecMemcpyNodeSetParams1D(
    executable: int, node: int, destination: int, source: int, size: int, kind: int
) -> None:
    inputs = _inputs_1d(executable, destination, source, size, kind)
    driver_nodes.ask("cuGraphExecMemcpyNodeSetParams", executable, node, inputs)


def _side(fields: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return array, position and pointer of one side of a ``CUDA_MEMCPY3D``, and the bytes of its elements."""
    x, y, z, _, kind, host, device, handle, _, pitch, rows = fields
    if kind == _ARRAY:
        found = array(handle)
        element = element_bytes(found.format, found.channels)
        return (handle, x // element, y, z, 0, 0, 0, 0), element
    return (0, x, y, z, host if kind == _HOST else device, pitch, pitch, rows), 0


@serves()
def cudaGraphMemcpyNodeGetParams(node: int, parameters: int) -> None:
    fields = tuple(driver_nodes.copy_parameters(node))
    (source, from_element), (destination, to_element) = _side(fields[:11]), _side(fields[11:22])
    width = fields[22] // (max(from_element, to_element) or 1)
    put_bytes(parameters, _COPY.pack(*source, *destination, width, *fields[23:25], _DEFAULT_KIND))


@serves()
def cudaGraphKernelNodeGetParams(node: int, parameters: int) -> None:
    found = Buffer(_DRIVER_KERNEL_SIZE)
    driver_nodes.cuGraphKernelNodeGetParams(node, found.address)
    put_bytes(parameters, get_bytes(found.address, _KERNEL_SIZE))


def _is_copy(parameters: int) -> bool:
    return get_u32(parameters) == driver_any_node.MEMCPY


@serves()
def cudaGraphAddNode(out: int, graph: int, dependencies: int, *rest: int) -> None:
    *edges, count, parameters = rest
    if not _is_copy(parameters):
        driver_any_node.cuGraphAddNode(out, graph, dependencies, *rest)
        return
    check_edges("cudaGraphAddNode", edges[0] if edges else 0, count)
    cudaGraphAddMemcpyNode(out, graph, dependencies, count, parameters + _COPY_OFFSET)


@serves()
def cudaGraphAddNode_v2(out: int, graph: int, dependencies: int, edges: int, count: int, parameters: int) -> None:
    cudaGraphAddNode(out, graph, dependencies, edges, count, parameters)


@serves()
def cudaGraphNodeSetParams(node: int, parameters: int) -> None:
    if _is_copy(parameters):
        cudaGraphMemcpyNodeSetParams(node, parameters + _COPY_OFFSET)
    else:
        driver_any_node.cuGraphNodeSetParams(node, parameters)


@serves()
def cudaGraphExecNodeSetParams(executable: int, node: int, parameters: int) -> None:
    if _is_copy(parameters):
        cudaGraphExecMemcpyNodeSetParams(executable, node, parameters + _COPY_OFFSET)
    else:
        driver_any_node.cuGraphExecNodeSetParams(executable, node, parameters)


@serves()
def cudaGraphNodeGetParams(node: int, parameters: int) -> None:
    if driver_nodes.ask("cuGraphNodeGetType", node)[0] != driver_any_node.MEMCPY:
        driver_any_node.cuGraphNodeGetParams(node, parameters)
        return
    member(parameters, 0)
    put_bytes(parameters, driver_any_node.MEMCPY.to_bytes(4, "little").ljust(_COPY_OFFSET, b"\0"))
    cudaGraphMemcpyNodeGetParams(node, parameters + _COPY_OFFSET)


@serves()
def cudaGraphConditionalHandleCreate(out: int, graph: int, default: int, flags: int) -> None:
    driver_any_node.cuGraphConditionalHandleCreate(out, graph, 0, default, flags)
