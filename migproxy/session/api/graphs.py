"""Graphs made by stream capture."""

from __future__ import annotations

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.session.api.streams import resolve
from migproxy.session.session import current


def graph_instantiate(graph: int) -> int:
    """Return an executable graph."""
    reply = current().call(Op.GRAPH_INSTANTIATE, layout.HANDLE.pack(graph))
    return msgspec.msgpack.decode(reply, type=int)


def graph_launch(executable: int, stream: int) -> None:
    """Launch an executable graph into `stream`."""
    current().post(Op.GRAPH_LAUNCH, layout.HANDLE.pack(executable), stream=resolve(stream))


def graph_destroy(graph: int) -> None:
    """Destroy a graph."""
    current().post(Op.GRAPH_DESTROY, layout.HANDLE.pack(graph))


def graph_exec_destroy(executable: int) -> None:
    """Destroy an executable graph."""
    current().post(Op.GRAPH_DESTROY, layout.HANDLE.pack(executable))
