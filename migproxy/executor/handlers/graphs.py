"""Stream capture and graphs."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import pump_block
from migproxy.executor.dispatch import Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: Relaxed: the pump itself makes calls on this thread that a stricter mode would count against the capture; the
#: function's
#: mode is enforced in the function.
_CAPTURE_RELAXED = 2
_CHILD_GRAPH = 4  # CUgraphNodeType
#: What may be asked of the driver when a graph is instantiated: the nodes' priorities. Freeing on launch is the
#: function's, whose ledger the graph's memory comes from; the first launch uploads; a launch from the device takes the
#: driver's own handle, which the function has not.
_INSTANTIATE_FLAGS = 0x8

#: Real conditional node → its real bodies, which end with it.
_bodies: WeakKeyDictionary[SessionState, dict[int, list[int]]] = WeakKeyDictionary()


def begin_capture(state: SessionState, stream: int, into: tuple[int, int, int] | None = None) -> None:
    """Capture a stream (its handle), into a new graph or one that there is (graph, address of nodes, their number)."""
    real = state.stream(stream)
    if into is None:
        state.driver.call("cuStreamBeginCapture", real, _CAPTURE_RELAXED)
    else:
        graph, nodes, count = into
        state.driver.call("cuStreamBeginCaptureToGraph", real, graph, nodes, 0, count, _CAPTURE_RELAXED)
    state.capturing[stream] = real
    state.pump.set(pump_block.CAPTURING, 1)


@handles(Op.CAPTURE_BEGIN)
def capture_begin(state: SessionState, command: Command) -> Result:
    begin_capture(state, command.stream)
    return None


@handles(Op.CAPTURE_END)
def capture_end(state: SessionState, command: Command) -> Result:
    stream = state.stream(command.stream)
    state.capturing.pop(command.stream, None)
    state.pump.set(pump_block.CAPTURING, int(bool(state.capturing)))
    graph = state.driver.out("cuStreamEndCapture", before=(stream,))
    # A query during the capture may have named the graph already.
    known = [handle for handle, real in state.handles.all(layout.KIND_GRAPH).items() if real == graph]
    return msgspec.msgpack.encode(known[0] if known else state.handles.add(layout.KIND_GRAPH, graph))


@handles(Op.GRAPH_INSTANTIATE)
def graph_instantiate(state: SessionState, command: Command) -> Result:
    handle, flags = layout.EVENT.unpack_from(command.payload)
    graph = state.handles.real(layout.KIND_GRAPH, handle)
    with state.charged():
        executable = state.driver.out("cuGraphInstantiateWithFlags", graph, flags & _INSTANTIATE_FLAGS)
    return msgspec.msgpack.encode(state.handles.add(layout.KIND_GRAPH_EXEC, executable))


@handles(Op.GRAPH_LAUNCH)
def graph_launch(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call("cuGraphLaunch", state.handles.real(layout.KIND_GRAPH_EXEC, handle), state.stream(command.stream))
    return None


def note_bodies(state: SessionState, node: int, bodies: list[int]) -> None:
    """Note the bodies of a conditional node."""
    _bodies.setdefault(state, {})[node] = bodies


def _inside(state: SessionState, node: int) -> list[int]:
    """Return the real graphs that end with a real node."""
    bodies = _bodies.get(state, {}).pop(node, None)
    if bodies is not None:
        return bodies
    if state.driver.out("cuGraphNodeGetType", before=(node,), kind=ctypes.c_uint32) == _CHILD_GRAPH:
        return [state.driver.out("cuGraphChildGraphNodeGetGraph", before=(node,))]
    return []


def forget_inside(state: SessionState, node: int) -> None:
    """Take the graphs that end with a real node out of the tables."""
    inside = _inside(state, node)
    for graph in inside:
        forget_parts(state, graph)
    graphs = state.handles.all(layout.KIND_GRAPH)
    for handle in [handle for handle, real in graphs.items() if real in inside]:
        state.handles.remove(layout.KIND_GRAPH, handle)


def forget_parts(state: SessionState, graph: int) -> None:
    """Take a real graph's nodes, and the graphs in it, out of the tables: their handles must not outlive them."""
    known = state.handles.all(layout.KIND_GRAPH_NODE)
    graphs = state.handles.all(layout.KIND_GRAPH)
    if not known and len(graphs) < 2:
        return
    count = ctypes.c_uint64()
    state.driver.call("cuGraphGetNodes", graph, 0, ctypes.addressof(count))
    nodes = (ctypes.c_uint64 * count.value)()
    if count.value:
        state.driver.call("cuGraphGetNodes", graph, ctypes.addressof(nodes), ctypes.addressof(count))
    if len(graphs) > 1:
        for node in nodes:
            forget_inside(state, node)
    gone = set(nodes)
    for handle in [handle for handle, real in known.items() if real in gone]:
        state.handles.remove(layout.KIND_GRAPH_NODE, handle)


@handles(Op.GRAPH_DESTROY)
def graph_destroy(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    kind = handle >> layout.HANDLE_KIND_SHIFT
    if kind == layout.KIND_GRAPH:
        forget_parts(state, state.handles.real(kind, handle))
    name = "cuGraphExecDestroy" if kind == layout.KIND_GRAPH_EXEC else "cuGraphDestroy"
    state.driver.call(name, state.handles.remove(kind, handle))
    return None
