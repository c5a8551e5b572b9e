"""Driver functions that are marshalled as they are, argument by argument; both halves derive their part from this
table.

A rule lists the C function's arguments in order:

===============  =====================================================================================================
``i32`` …        a C integer, passed as it is (``i32``, ``u32``, ``i64``, ``u64``)
``device``       an ordinal; 0 is the only one
``h:KIND``       a handle of `KIND`, translated by the session's table; 0 stays 0
``hs:KIND``      an array of handles; its length is the ``count`` argument that follows
``count``        the length of the array before it
``oh:KIND``      output: a new object of `KIND`, entered into the session's table
``oi:i32`` …     output: a C integer
``oh?:KIND``     output: a handle the session already knows (the object is looked up, not entered)
``ohs:KIND``     output: an array of known or new objects; its length is the ``capacity`` argument that follows
``capacity``     in and out: the capacity of the array before it, and how many there are; an array of NULL asks for
the number only
``oa:KIND``      output: the address of an array of objects of `KIND`; its length is the ``oi:u64`` that follows
``p:BYTES``      a device address, of which BYTES bytes are touched; checked against the session's memory
===============  =====================================================================================================

Whatever is not listed is not callable this way, whoever asks: the executor looks the name up here.
"""

from __future__ import annotations

from typing import Final

from migproxy.abi import layout

KINDS: Final[dict[str, int]] = {
    name.removeprefix("KIND_"): value
    for name, value in vars(layout).items()
    if name.startswith("KIND_") and isinstance(value, int)
}

_NODE = ("oh:GRAPH_NODE", "h:GRAPH", "hs:GRAPH_NODE", "count")

RULES: Final[dict[str, tuple[str, ...]]] = {
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags": ("oi:i32", "h:FUNCTION", "i32", "u64", "u32"),
    "cuOccupancyAvailableDynamicSMemPerBlock": ("oi:u64", "h:FUNCTION", "i32", "i32"),
    "cuStreamWriteValue32": ("h:STREAM", "p:4", "u32", "u32"),
    "cuStreamWriteValue64": ("h:STREAM", "p:8", "u64", "u32"),
    "cuStreamWaitValue32": ("h:STREAM", "p:4", "u32", "u32"),
    "cuStreamWaitValue64": ("h:STREAM", "p:8", "u64", "u32"),
    "cuStreamIsCapturing": ("h:STREAM", "oi:i32"),
    "cuStreamGetCaptureInfo": ("h:STREAM", "oi:i32", "oi:u64", "oh?:GRAPH", "oa:GRAPH_NODE", "oi:u64"),
    "cuStreamUpdateCaptureDependencies": ("h:STREAM", "hs:GRAPH_NODE", "count", "u32"),
    "cuGraphCreate": ("oh:GRAPH", "u32"),
    "cuGraphClone": ("oh:GRAPH", "h:GRAPH"),
    "cuGraphAddEmptyNode": _NODE,
    "cuGraphAddChildGraphNode": (*_NODE, "h:GRAPH"),
    "cuGraphAddEventRecordNode": (*_NODE, "h:EVENT"),
    "cuGraphAddEventWaitNode": (*_NODE, "h:EVENT"),
    "cuGraphAddDependencies": ("h:GRAPH", "hs:GRAPH_NODE", "hs:GRAPH_NODE", "count"),
    "cuGraphRemoveDependencies": ("h:GRAPH", "hs:GRAPH_NODE", "hs:GRAPH_NODE", "count"),
    "cuGraphNodeGetType": ("h:GRAPH_NODE", "oi:i32"),
    "cuGraphGetNodes": ("h:GRAPH", "ohs:GRAPH_NODE", "capacity"),
    "cuGraphGetRootNodes": ("h:GRAPH", "ohs:GRAPH_NODE", "capacity"),
    "cuGraphNodeGetDependencies": ("h:GRAPH_NODE", "ohs:GRAPH_NODE", "capacity"),
    "cuGraphNodeGetDependentNodes": ("h:GRAPH_NODE", "ohs:GRAPH_NODE", "capacity"),
    "cuGraphNodeFindInClone": ("oh?:GRAPH_NODE", "h:GRAPH_NODE", "h:GRAPH"),
    "cuGraphChildGraphNodeGetGraph": ("h:GRAPH_NODE", "oh?:GRAPH"),
    "cuGraphEventRecordNodeGetEvent": ("h:GRAPH_NODE", "oh?:EVENT"),
    "cuGraphEventRecordNodeSetEvent": ("h:GRAPH_NODE", "h:EVENT"),
    "cuGraphEventWaitNodeGetEvent": ("h:GRAPH_NODE", "oh?:EVENT"),
    "cuGraphEventWaitNodeSetEvent": ("h:GRAPH_NODE", "h:EVENT"),
    "cuGraphExecEventRecordNodeSetEvent": ("h:GRAPH_EXEC", "h:GRAPH_NODE", "h:EVENT"),
    "cuGraphExecEventWaitNodeSetEvent": ("h:GRAPH_EXEC", "h:GRAPH_NODE", "h:EVENT"),
    "cuGraphExecChildGraphNodeSetParams": ("h:GRAPH_EXEC", "h:GRAPH_NODE", "h:GRAPH"),
    "cuGraphNodeSetEnabled": ("h:GRAPH_EXEC", "h:GRAPH_NODE", "u32"),
    "cuGraphNodeGetEnabled": ("h:GRAPH_EXEC", "h:GRAPH_NODE", "oi:u32"),
    "cuGraphKernelNodeCopyAttributes": ("h:GRAPH_NODE", "h:GRAPH_NODE"),
    "cuGraphExecGetFlags": ("h:GRAPH_EXEC", "oi:u64"),
    "cuGraphGetId": ("h:GRAPH", "oi:u32"),
    "cuGraphExecGetId": ("h:GRAPH_EXEC", "oi:u32"),
    "cuGraphNodeGetLocalId": ("h:GRAPH_NODE", "oi:u32"),
    "cuGraphNodeGetToolsId": ("h:GRAPH_NODE", "oi:u64"),
    "cuGraphNodeGetContainingGraph": ("h:GRAPH_NODE", "oh?:GRAPH"),
}

#: Functions whose newest version takes edge data as well; the rules are for the versions before CUDA 12.3.
WITHOUT_EDGE_DATA: Final = frozenset(
    {
        "cuGraphAddDependencies",
        "cuGraphNodeGetDependencies",
        "cuGraphNodeGetDependentNodes",
        "cuGraphRemoveDependencies",
        "cuStreamGetCaptureInfo",
        "cuStreamUpdateCaptureDependencies",
    }
)
VERSION_WITHOUT_EDGE_DATA: Final = 12000
#: Functions that drivers have since this version only.
SINCE: Final = dict.fromkeys(
    (
        "cuGraphGetId",
        "cuGraphExecGetId",
        "cuGraphNodeGetLocalId",
        "cuGraphNodeGetToolsId",
        "cuGraphNodeGetContainingGraph",
    ),
    13010,
)


def arity(name: str) -> int:
    """Return how many C arguments a rule's function takes."""
    return len(RULES[name])
