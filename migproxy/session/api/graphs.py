"""Graphs, captured or built by hand."""

from __future__ import annotations

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.session.api import staging
from migproxy.session.api.context import context_synchronize
from migproxy.session.api.streams import resolve
from migproxy.session.session import current


def graph_instantiate(graph: int, flags: int = 0) -> int:
    """Return an executable graph; `flags` as of ``cuGraphInstantiateWithFlags``."""
    reply = current().call(Op.GRAPH_INSTANTIATE, layout.EVENT.pack(graph, flags))
    made = msgspec.msgpack.decode(reply, type=int)
    staging.inherit(made, graph)
    return made


def graph_launch(executable: int, stream: int) -> None:
    """Launch an executable graph into `stream`."""
    wire = resolve(stream)

    def submit() -> None:
        current().post(Op.GRAPH_LAUNCH, layout.HANDLE.pack(executable), stream=wire)

    if staging.uses(executable):
        staging.launch(executable, stream, submit)
    else:
        submit()


def graph_destroy(graph: int) -> None:
    """Destroy a graph; waits, so that a stale handle fails in its call."""
    current().call(Op.GRAPH_DESTROY, layout.HANDLE.pack(graph))
    staging.drop(graph)


def graph_exec_destroy(executable: int) -> None:
    """Destroy an executable graph; waits, so that a stale handle fails in its call."""
    current().call(Op.GRAPH_DESTROY, layout.HANDLE.pack(executable))
    if staging.uses(executable):
        # Its last launch may still use the blocks.
        context_synchronize()
        staging.drop(executable)
