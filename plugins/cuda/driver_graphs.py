"""Driver API: graphs. What a capture recorded is instantiated, launched and destroyed here; building by hand goes by
the rules."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_nodes import forget_graph
from migproxy_plugins.cuda.memory_unsafe import call_host_function, get_u64, put_u32, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api


@serves("cuGraphInstantiateWithFlags")
def cuGraphInstantiate(executable: int, graph: int, flags: int) -> None:
    if flags & ~0x8:
        raise refuse(
            "cuGraphInstantiate", f"flags {flags:#x} (device launch, automatic free, upload) are not supported"
        )
    made = api.graph_instantiate(graph)
    for handle, count in _held.get(graph, Counter()).items():
        _object(handle).references += count
        _held.setdefault(made, Counter())[handle] += count
    put_u64(executable, made)


@serves()
def cuGraphInstantiateWithParams(executable: int, graph: int, parameters: int) -> None:
    # CUDA_GRAPH_INSTANTIATE_PARAMS: flags, hUploadStream, hErrNode_out, result_out
    cuGraphInstantiate(executable, graph, get_u64(parameters) & ~0x2)
    put_u64(parameters + 16, 0)
    put_u32(parameters + 24, 0)


@serves()
def cuGraphLaunch(executable: int, stream: int) -> None:
    api.graph_launch(executable, stream)


@serves()
def cuGraphUpload(executable: int, stream: int) -> None:
    """Accepted: a hint, the first launch uploads."""


@serves()
def cuGraphDestroy(graph: int) -> None:
    api.graph_destroy(graph)
    forget_graph(graph)
    _drop_all(graph)


@serves()
def cuGraphExecDestroy(executable: int) -> None:
    api.graph_exec_destroy(executable)
    if executable in _held:
        # Its last launch may still use what the destructors free.
        api.context_synchronize()
        _drop_all(executable)


@dataclass
class _UserObject:
    """A reference-counted object of the function whose destructor runs when no graph holds it any more."""

    pointer: int
    destructor: int
    references: int


_objects: dict[int, _UserObject] = {}
#: graph or executable graph → object handle → references it holds.
_held: dict[int, Counter[int]] = {}
_numbers = itertools.count(1)


def _object(handle: int) -> _UserObject:
    try:
        return _objects[handle]
    except KeyError:
        raise CudaError(st.INVALID_VALUE, f"no user object {handle:#x}") from None


def _release(handle: int, count: int) -> None:
    item = _object(handle)
    if count > item.references:
        raise CudaError(st.INVALID_VALUE, "more references released than there are")
    item.references -= count
    if not item.references:
        del _objects[handle]
        call_host_function(item.destructor, item.pointer)


def _drop_all(graph: int) -> None:
    for handle, count in _held.pop(graph, Counter()).items():
        _release(handle, count)


@serves()
def cuUserObjectCreate(out: int, pointer: int, destructor: int, references: int, flags: int) -> None:
    # CU_USER_OBJECT_NO_DESTRUCTOR_SYNC is 1 and required.
    if not destructor or not references or flags != 1:
        raise CudaError(st.INVALID_VALUE)
    handle = layout.make_handle(layout.KIND_OBJECT, next(_numbers))
    _objects[handle] = _UserObject(pointer, destructor, references)
    put_u64(out, handle)


@serves()
def cuUserObjectRetain(handle: int, count: int) -> None:
    _object(handle).references += count


@serves()
def cuUserObjectRelease(handle: int, count: int) -> None:
    _release(handle, count)


@serves()
def cuGraphRetainUserObject(graph: int, handle: int, count: int, flags: int) -> None:
    # CU_GRAPH_USER_OBJECT_MOVE (1) hands the caller's own references over.
    if not flags & 1:
        _object(handle).references += count
    _held.setdefault(graph, Counter())[handle] += count


@serves()
def cuGraphReleaseUserObject(graph: int, handle: int, count: int) -> None:
    held = _held.get(graph, Counter())
    if held[handle] < count:
        raise CudaError(st.INVALID_VALUE, "the graph does not hold so many references")
    held[handle] -= count
    _release(handle, count)
