"""Driver API: the order of a graph's nodes. Edges carry no data of their own here: ordinary ones are all there are."""

from __future__ import annotations

from migproxy_plugins.cuda import graph_memory
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_nodes import ask
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_u64, put_bytes, put_u64, put_u64_array
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError

EDGE_DATA_SIZE = 8  # CUgraphEdgeData: all 0 for an ordinary edge


def check_edges(what: str, edges: int, count: int) -> None:
    """Refuse edges that are not ordinary ones (of programmatic dependent launch)."""
    if edges and count and any(get_bytes(edges, EDGE_DATA_SIZE * count)):
        raise refuse(what, "edges of programmatic dependent launch are not supported")


def _neighbours(name: str, node: int, nodes: int, rest: tuple[int, ...]) -> None:
    *edges, count = rest
    rule_adapter(name)(node, nodes, count)
    if nodes and any(edges):
        put_bytes(edges[0], bytes(EDGE_DATA_SIZE * get_u64(count)))


@serves("cuGraphNodeGetDependencies_v2")
def cuGraphNodeGetDependencies(node: int, dependencies: int, *rest: int) -> None:
    _neighbours("cuGraphNodeGetDependencies", node, dependencies, rest)


@serves("cuGraphNodeGetDependentNodes_v2")
def cuGraphNodeGetDependentNodes(node: int, dependents: int, *rest: int) -> None:
    _neighbours("cuGraphNodeGetDependentNodes", node, dependents, rest)


@serves("cuGraphAddDependencies_v2")
def cuGraphAddDependencies(graph: int, sources: int, targets: int, *rest: int) -> None:
    *edges, count = rest
    check_edges("cuGraphAddDependencies", edges[0] if edges else 0, count)
    rule_adapter("cuGraphAddDependencies")(graph, sources, targets, count)


@serves("cuGraphRemoveDependencies_v2")
def cuGraphRemoveDependencies(graph: int, sources: int, targets: int, *rest: int) -> None:
    *edges, count = rest
    check_edges("cuGraphRemoveDependencies", edges[0] if edges else 0, count)
    if graph_memory.has_memory(graph):
        raise CudaError(st.NOT_SUPPORTED, "edges of a graph with memory nodes stay")
    rule_adapter("cuGraphRemoveDependencies")(graph, sources, targets, count)


@serves("cuGraphGetEdges_v2")
def cuGraphGetEdges(graph: int, sources: int, targets: int, *rest: int) -> None:
    *edges, count = rest
    wanted = get_u64(count) if sources and targets else 0
    number, from_nodes, to_nodes = ask("cuGraphGetEdges", graph, wanted)
    put_u64_array(sources, from_nodes)
    put_u64_array(targets, to_nodes)
    put_u64(count, number)
    if wanted and any(edges):
        put_bytes(edges[0], bytes(EDGE_DATA_SIZE * len(from_nodes)))
