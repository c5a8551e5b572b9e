"""Stream capture and graphs."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import pump
from migproxy.executor.dispatch import Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: Relaxed: the pump itself makes calls on this thread that a stricter mode would count against the capture; the
#: function's
#: mode is enforced in the function.
_CAPTURE_RELAXED = 2


@handles(Op.CAPTURE_BEGIN)
def capture_begin(state: SessionState, command: Command) -> Result:
    stream = state.stream(command.stream)
    state.driver.call("cuStreamBeginCapture", stream, _CAPTURE_RELAXED)
    state.capturing[command.stream] = stream
    state.pump.set(pump.CAPTURING, 1)
    return None


@handles(Op.CAPTURE_END)
def capture_end(state: SessionState, command: Command) -> Result:
    stream = state.stream(command.stream)
    state.capturing.pop(command.stream, None)
    state.pump.set(pump.CAPTURING, int(bool(state.capturing)))
    graph = state.driver.out("cuStreamEndCapture", before=(stream,))
    # A query during the capture may have named the graph already.
    known = [handle for handle, real in state.handles.all(layout.KIND_GRAPH).items() if real == graph]
    return msgspec.msgpack.encode(known[0] if known else state.handles.add(layout.KIND_GRAPH, graph))


@handles(Op.GRAPH_INSTANTIATE)
def graph_instantiate(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    graph = state.handles.real(layout.KIND_GRAPH, handle)
    with state.charged():
        executable = state.driver.out("cuGraphInstantiateWithFlags", graph, 0)
    return msgspec.msgpack.encode(state.handles.add(layout.KIND_GRAPH_EXEC, executable))


@handles(Op.GRAPH_LAUNCH)
def graph_launch(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call("cuGraphLaunch", state.handles.real(layout.KIND_GRAPH_EXEC, handle), state.stream(command.stream))
    return None


def _forget_nodes(state: SessionState, graph: int) -> None:
    """Take a graph's nodes out of the tables: their handles must not outlive them."""
    known = state.handles.all(layout.KIND_GRAPH_NODE)
    if not known:
        return
    count = ctypes.c_uint64()
    state.driver.call("cuGraphGetNodes", graph, 0, ctypes.addressof(count))
    if not count.value:
        return
    nodes = (ctypes.c_uint64 * count.value)()
    state.driver.call("cuGraphGetNodes", graph, ctypes.addressof(nodes), ctypes.addressof(count))
    gone = set(nodes)
    for handle in [handle for handle, real in known.items() if real in gone]:
        state.handles.remove(layout.KIND_GRAPH_NODE, handle)


@handles(Op.GRAPH_DESTROY)
def graph_destroy(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    kind = handle >> layout.HANDLE_KIND_SHIFT
    if kind == layout.KIND_GRAPH:
        _forget_nodes(state, state.handles.real(kind, handle))
    name = "cuGraphExecDestroy" if kind == layout.KIND_GRAPH_EXEC else "cuGraphDestroy"
    state.driver.call(name, state.handles.remove(kind, handle))
    return None
