"""The executor's half of graphs beyond nodes with parameters: queries, updates, conditionals, capture into a graph."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from migproxy_plugins.cuda import memory_unsafe as raw
from migproxy_plugins.cuda.executor.graphs import known_handle

from migproxy.abi import layout
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.handlers.boxes import COPY_3D
from migproxy.executor.handlers.graphs import begin_capture, forget_inside, note_bodies

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_INVALID_VALUE = 1
_U64 = (1 << 64) - 1
# func, grid x y z, block x y z, sharedMemBytes, kernelParams, extra, kern, ctx
_KERNEL = struct.Struct("<Q7I4xQQQQ")
_MEMSET = struct.Struct("<QQIIQQ")
_HOST = struct.Struct("<QQ")
_UPDATE = struct.Struct("<i4xQQ")
# CUgraphNodeParams of a conditional node: type, reserved, handle, kind, number of bodies, their address, context
_CONDITIONAL = struct.Struct("<i12xQiI QQ")
_NODE_PARAMETERS_SIZE = 256
_CONDITIONAL_NODE = 13
_MAX_BODIES = 1 << 10
_MAX_DEPENDENCIES = 1 << 16
_ATTRIBUTE_SIZE = 64
#: Attributes whose value is more than numbers: an event, a node that the device may update.
_ATTRIBUTES_WITH_HANDLES = frozenset({7, 12, 13})
#: Where CUDA_MEMCPY3D has its arrays, and the kinds of memory that name them.
_COPY_ARRAYS = ((7, 4), (18, 15))
_OF_ARRAY = 3

Outputs = tuple[int, tuple[Any, ...]]


def _integers(values: Sequence[Any], count: int) -> list[int]:
    if len(values) != count or not all(isinstance(value, int) and 0 <= value <= _U64 for value in values):
        raise ProtocolError(f"{count} integers were expected")
    return list(values)


def _nodes(session: SessionState, handles: Any) -> ctypes.Array[ctypes.c_uint64]:
    if not isinstance(handles, list) or len(handles) > _MAX_DEPENDENCIES:
        raise ProtocolError("an array of nodes was expected")
    real = [session.handles.real(layout.KIND_GRAPH_NODE, node) for node in handles]
    return (ctypes.c_uint64 * len(real))(*real)


def _asked(driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any], size: int) -> tuple[int, Any]:
    (handle,) = _integers(packed, 1)
    buffer = ctypes.create_string_buffer(size)
    node = session.handles.real(layout.KIND_GRAPH_NODE, handle)
    return driver.status(name, node, ctypes.addressof(buffer)), buffer


def _kernel_parameters(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    status, buffer = _asked(driver, session, "cuGraphKernelNodeGetParams", packed, _KERNEL.size)
    if status:
        return status, ()
    real, *numbers, pointers, _, _, _ = _KERNEL.unpack(buffer.raw)
    found = [(handle, target) for handle, target in session.functions.items() if target.function == real]
    if not found:
        raise CudaError(_INVALID_VALUE, "a kernel that the session does not name any more")
    handle, target = found[0]
    arguments = bytearray(target.parameter_bytes)
    # What the driver answers with lives as long as the node.
    addresses = raw.get_u64_array(pointers, len(target.parameters))
    for (offset, size), address in zip(target.parameters, addresses, strict=True):
        arguments[offset : offset + size] = raw.get_bytes(address, size)
    return 0, (handle, *numbers, bytes(arguments))


def _memset_parameters(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    status, buffer = _asked(driver, session, "cuGraphMemsetNodeGetParams", packed, _MEMSET.size)
    return (status, ()) if status else (0, (buffer.raw,))


def _copy_parameters(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    status, buffer = _asked(driver, session, "cuGraphMemcpyNodeGetParams", packed, COPY_3D.size)
    if status:
        return status, ()
    fields = list(COPY_3D.unpack(buffer.raw))
    for place, kind in _COPY_ARRAYS:
        if fields[kind] == _OF_ARRAY:
            fields[place] = known_handle(session, layout.KIND_ARRAY, fields[place])
    return 0, (COPY_3D.pack(*fields),)


def _host_parameters(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    status, buffer = _asked(driver, session, "cuGraphHostNodeGetParams", packed, _HOST.size)
    return (status, ()) if status else (0, (_HOST.unpack(buffer.raw)[1],))


def _get_attribute(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    handle, attribute = _integers(packed, 2)
    value = ctypes.create_string_buffer(_ATTRIBUTE_SIZE)
    node = session.handles.real(layout.KIND_GRAPH_NODE, handle)
    if attribute in _ATTRIBUTES_WITH_HANDLES:
        raise CudaError(_INVALID_VALUE, f"attribute {attribute}")
    status = driver.status("cuGraphKernelNodeGetAttribute", node, attribute, ctypes.addressof(value))
    return (status, ()) if status else (0, (value.raw,))


def _set_attribute(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    handle, attribute = _integers(packed[:2], 2)
    data = packed[2] if len(packed) == 3 else None
    if not isinstance(data, bytes) or len(data) != _ATTRIBUTE_SIZE:
        raise ProtocolError("an attribute's value was expected")
    if attribute in _ATTRIBUTES_WITH_HANDLES:
        raise CudaError(_INVALID_VALUE, f"attribute {attribute}")
    value = ctypes.create_string_buffer(data, _ATTRIBUTE_SIZE)
    node = session.handles.real(layout.KIND_GRAPH_NODE, handle)
    return driver.status("cuGraphKernelNodeSetAttribute", node, attribute, ctypes.addressof(value)), ()


def _update(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    executable, graph = _integers(packed, 2)
    result = ctypes.create_string_buffer(_UPDATE.size)
    with session.charged():
        status = driver.status(
            "cuGraphExecUpdate",
            session.handles.real(layout.KIND_GRAPH_EXEC, executable),
            session.handles.real(layout.KIND_GRAPH, graph),
            ctypes.addressof(result),
        )
    # What the driver says of a failed update is an output too.
    why, node, before = _UPDATE.unpack(result.raw)
    named = [known_handle(session, layout.KIND_GRAPH_NODE, each) if each else 0 for each in (node, before)]
    return 0, (status, why, *named)


def _make_conditional(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    graph, default, flags = _integers(packed, 3)
    real = session.handles.real(layout.KIND_GRAPH, graph)
    made = ctypes.c_uint64()
    context = driver.out("cuCtxGetCurrent")
    status = driver.status(
        "cuGraphConditionalHandleCreate",
        *(ctypes.addressof(made), real, context, default & 0xFFFFFFFF, flags & 0xFFFFFFFF),
    )
    # Kernels take it as a parameter, so it is the driver's own number; the driver checks it against the graph.
    return (status, ()) if status else (0, (made.value,))


def _add_conditional(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    if len(packed) != 3 or not isinstance(packed[2], list):
        raise ProtocolError("graph, dependencies and parameters were expected")
    conditional, kind, bodies = _integers(packed[2], 3)
    if bodies > _MAX_BODIES:
        raise CudaError(_INVALID_VALUE, f"{bodies} bodies")
    graph, before = session.handles.real(layout.KIND_GRAPH, packed[0]), _nodes(session, packed[1])
    context = driver.out("cuCtxGetCurrent")
    data = _CONDITIONAL.pack(_CONDITIONAL_NODE, conditional, kind & 0xFFFFFFFF, bodies, 0, context)
    parameters = ctypes.create_string_buffer(data, _NODE_PARAMETERS_SIZE)
    made = ctypes.c_uint64()
    status = driver.status(
        "cuGraphAddNode",
        ctypes.addressof(made),
        graph,
        ctypes.addressof(before) if len(before) else 0,
        0,
        len(before),
        ctypes.addressof(parameters),
    )
    if status:
        return status, ()
    where = _CONDITIONAL.unpack_from(parameters.raw)[4]
    reals = raw.get_u64_array(where, bodies) if where else []
    node = session.handles.add(layout.KIND_GRAPH_NODE, made.value)
    note_bodies(session, made.value, reals)
    return 0, (node, [known_handle(session, layout.KIND_GRAPH, body) for body in reals])


def _destroy_node(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    (handle,) = _integers(packed, 1)
    node = session.handles.real(layout.KIND_GRAPH_NODE, handle)
    forget_inside(session, node)
    status = driver.status("cuGraphDestroyNode", node)
    if not status:
        session.handles.remove(layout.KIND_GRAPH_NODE, handle)
    return status, ()


def _capture_to_graph(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    if len(packed) != 3:
        raise ProtocolError("stream, graph and dependencies were expected")
    stream, graph = _integers(packed[:2], 2)
    real, before = session.handles.real(layout.KIND_GRAPH, graph), _nodes(session, packed[2])
    begin_capture(session, stream, (real, ctypes.addressof(before) if len(before) else 0, len(before)))
    return 0, ()


_SERVERS: Final[dict[str, Callable[[AnyDriver, SessionState, Sequence[Any]], Outputs]]] = {
    "cuGraphKernelNodeGetParams": _kernel_parameters,
    "cuGraphMemsetNodeGetParams": _memset_parameters,
    "cuGraphMemcpyNodeGetParams": _copy_parameters,
    "cuGraphHostNodeGetParams": _host_parameters,
    "cuGraphKernelNodeGetAttribute": _get_attribute,
    "cuGraphKernelNodeSetAttribute": _set_attribute,
    "cuGraphDestroyNode": _destroy_node,
    "cuGraphExecUpdate": _update,
    "cuGraphConditionalHandleCreate": _make_conditional,
    "cuGraphAddConditionalNode": _add_conditional,
    "cuStreamBeginCaptureToGraph": _capture_to_graph,
}
GRAPH_FUNCTIONS: Final = frozenset(_SERVERS)


def serve_graph(
    driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]
) -> tuple[int, tuple[Any, ...]]:
    """Carry out one of `GRAPH_FUNCTIONS`; see `executor.serve`."""
    return _SERVERS[name](driver, session, packed)
