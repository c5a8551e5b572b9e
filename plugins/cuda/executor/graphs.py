"""The executor's half of graph nodes with parameters: structs are built here, from values that were checked here."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from migproxy_plugins.cuda.rules import VERSION_WITHOUT_EDGE_DATA

from migproxy.abi import layout
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.driver import NativeDriver
from migproxy.executor.handlers.boxes import COPY_3D, side_of_copy

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_KERNEL = struct.Struct("<Q7I4xQQQQ")
_MEMSET = struct.Struct("<QQIIQQ")
_HOST = struct.Struct("<QQ")
_INVALID_VALUE = 1
_INVALID_HANDLE = 400
_MAX_DEPENDENCIES = 1 << 16


class _Struct:
    """A parameter struct in memory of ours, with what it points to."""

    def __init__(self, data: bytes, *kept: Any) -> None:
        self._buffer = ctypes.create_string_buffer(data, len(data))
        self._kept = kept
        self.address = ctypes.addressof(self._buffer)


def _integers(values: Any, count: int) -> list[int]:
    if not isinstance(values, list) or len(values) != count or not all(isinstance(v, int) for v in values):
        raise ProtocolError(f"{count} integers were expected")
    return values


def _kernel(session: SessionState, inputs: Any) -> _Struct:
    if not isinstance(inputs, list) or len(inputs) != 9 or not isinstance(inputs[8], bytes):
        raise ProtocolError("a kernel node's parameters were expected")
    handle, *numbers = _integers(inputs[:8], 8)
    target = session.functions.get(handle)
    if target is None:
        raise CudaError(_INVALID_HANDLE, f"function {handle:#x}")
    packed: bytes = inputs[8]
    if len(packed) < target.parameter_bytes or any(not 0 <= n < 1 << 32 for n in numbers):
        raise CudaError(_INVALID_VALUE, "a kernel node's parameters")
    arguments = ctypes.create_string_buffer(packed, max(1, len(packed)))
    base = ctypes.addressof(arguments)
    pointers = (ctypes.c_uint64 * max(1, len(target.parameters)))(*[base + offset for offset, _ in target.parameters])
    data = _KERNEL.pack(target.function, *numbers, ctypes.addressof(pointers), 0, 0, 0)
    return _Struct(data, arguments, pointers)


def _memset(session: SessionState, inputs: Any) -> _Struct:
    address, pitch, value, element, width, height = _integers(inputs, 6)
    if element not in (1, 2, 4) or width <= 0 or height <= 0 or (height > 1 and pitch < width * element):
        raise CudaError(_INVALID_VALUE, "a memset node's parameters")
    length = pitch * (height - 1) + width * element
    # Page-locked memory has one address on both sides.
    if not session.consumer.in_heap(address, length):
        session.memory.check_range(address, length)
    return _Struct(_MEMSET.pack(address, pitch, value & 0xFFFFFFFF, element, width, height))


def _copy(session: SessionState, inputs: Any) -> _Struct:
    values = _integers(inputs, 17)
    extent = values[14], values[15], values[16]
    source, destination = (side_of_copy(session, tuple(side), *extent) for side in (values[7:14], values[:7]))
    return _Struct(COPY_3D.pack(*source, *destination, *extent))


def _host(session: SessionState, inputs: Any) -> _Struct:
    (token,) = _integers(inputs, 1)
    return _Struct(_HOST.pack(session.host_functions.address, token))


_BUILDERS: Final[dict[str, Callable[[SessionState, Any], _Struct]]] = {
    "Kernel": _kernel,
    "Memset": _memset,
    "Memcpy": _copy,
    "Host": _host,
}

#: Functions served here → (kinds of the handles before the parameters, builder's key, whether a context comes last)
NODE_FUNCTIONS: Final[dict[str, tuple[tuple[int, ...], str, bool]]] = {"cuGraphGetEdges": ((), "", False)}
for _key in _BUILDERS:
    _context = _key in ("Memset", "Memcpy")
    NODE_FUNCTIONS[f"cuGraphAdd{_key}Node"] = ((layout.KIND_GRAPH,), _key, _context)
    NODE_FUNCTIONS[f"cuGraph{_key}NodeSetParams"] = ((layout.KIND_GRAPH_NODE,), _key, False)
    NODE_FUNCTIONS[f"cuGraphExec{_key}NodeSetParams"] = (
        (layout.KIND_GRAPH_EXEC, layout.KIND_GRAPH_NODE),
        _key,
        _context,
    )


def serve_edges(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> tuple[int, tuple[Any, ...]]:
    """``cuGraphGetEdges``: inputs graph and capacity; outputs the number, and the two ends of each edge."""
    graph, capacity = _integers(list(packed), 2)
    if not 0 <= capacity <= _MAX_DEPENDENCIES:
        raise ProtocolError("a capacity was expected")
    real = session.handles.real(layout.KIND_GRAPH, graph)
    sources, targets = (ctypes.c_uint64 * max(1, capacity))(), (ctypes.c_uint64 * max(1, capacity))()
    count = ctypes.c_uint64(capacity)
    where = (ctypes.addressof(sources), ctypes.addressof(targets)) if capacity else (0, 0)
    arguments = (real, *where, ctypes.addressof(count))
    if isinstance(driver, NativeDriver):
        status = driver.function("cuGraphGetEdges", len(arguments), VERSION_WITHOUT_EDGE_DATA)(*arguments)
    else:
        status = driver.status("cuGraphGetEdges", *arguments)
    if status:
        return status, ()
    found = min(count.value, capacity)
    ends = [
        [known_handle(session, layout.KIND_GRAPH_NODE, node) for node in each[:found]] for each in (sources, targets)
    ]
    return 0, (count.value, *ends)


def known_handle(session: SessionState, kind: int, real: int) -> int:
    """Return the session's handle of an object, entering it if the session did not make it itself."""
    for handle, known in session.handles.all(kind).items():
        if known == real:
            return handle
    return session.handles.add(kind, real)


def serve_node(
    driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]
) -> tuple[int, tuple[Any, ...]]:
    """Carry out one of `NODE_FUNCTIONS`; see `executor.serve`."""
    if name == "cuGraphGetEdges":
        return serve_edges(driver, session, packed)
    kinds, key, needs_context = NODE_FUNCTIONS[name]
    adds = name.startswith("cuGraphAdd")
    if len(packed) != len(kinds) + 1 + adds:
        raise ProtocolError(f"{name}: {len(packed)} arguments")
    handles = [session.handles.real(kind, handle) for kind, handle in zip(kinds, packed, strict=False)]
    parameters = _BUILDERS[key](session, packed[-1])
    tail = [parameters.address]
    if needs_context:
        tail.append(driver.out("cuCtxGetCurrent"))
    if not adds:
        return driver.status(name, *handles, *tail), ()
    before = packed[1]
    if not isinstance(before, list) or len(before) > _MAX_DEPENDENCIES:
        raise ProtocolError("an array of nodes was expected")
    nodes = (ctypes.c_uint64 * len(before))(*[session.handles.real(layout.KIND_GRAPH_NODE, node) for node in before])
    array = ctypes.addressof(nodes) if before else 0
    made = ctypes.c_uint64()
    with session.charged():
        status = driver.status(name, ctypes.addressof(made), *handles, array, len(before), *tail)
    return (status, ()) if status else (0, (session.handles.add(layout.KIND_GRAPH_NODE, made.value),))
