"""What graphs, and what was instantiated from them, hold of the function: user objects and host functions.

User objects are reference-counted objects of the function whose destructor runs when nothing holds them any more. A
graph inside another (a child graph) holds its own, which end with its node.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import call_host_function, put_u64
from migproxy_plugins.cuda.registry import serves

from migproxy.abi import layout
from migproxy.errors import CudaError


@dataclass
class _UserObject:
    """One object; its destructor runs with the last reference."""

    pointer: int
    destructor: int
    references: int


@dataclass
class Holding:
    """What one graph or executable graph holds."""

    objects: Counter[int] = field(default_factory=Counter)
    functions: set[int] = field(default_factory=set)
    #: Graphs inside this one → the node each is in, 0 if that is not known.
    parts: dict[int, int] = field(default_factory=dict)


_objects: dict[int, _UserObject] = {}
_holdings: dict[int, Holding] = {}
_numbers = itertools.count(1)


def _of(holder: int) -> Holding:
    return _holdings.setdefault(holder, Holding())


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


def holds(holder: int) -> bool:
    """Tell whether `holder`, or a graph inside it, holds anything."""
    found = _holdings.get(holder)
    return found is not None and (bool(found.functions) or any(found.objects.values()) or any(map(holds, found.parts)))


def parts(graph: int) -> list[int]:
    """Return the graphs inside a graph: those of child graph nodes that held something, and conditional bodies."""
    return list(_holdings[graph].parts) if graph in _holdings else []


def add_function(holder: int, token: int) -> None:
    """Make `holder` hold a host function."""
    _of(holder).functions.add(token)


def add_part(graph: int, inside: int, node: int = 0) -> None:
    """Note that `inside` is the child graph of a node of `graph`."""
    _of(graph).parts[inside] = node


def inherit(holder: int, graph: int, *, whole: bool = False) -> None:
    """Make `holder` hold what `graph` holds; with `whole`, what the graphs inside it hold as well."""
    found = _holdings.get(graph)
    if found is None:
        return
    mine = _of(holder)
    for handle, count in found.objects.items():
        _object(handle).references += count
        mine.objects[handle] += count
    mine.functions |= found.functions
    for part in found.parts if whole else ():
        inherit(holder, part, whole=True)


def take(holder: int) -> Holding | None:
    """Take what `holder` holds off it; see `give_back`."""
    return _holdings.pop(holder, None)


def give_back(holding: Holding | None) -> None:
    """Release what `take` returned."""
    if holding is None:
        return
    from migproxy_plugins.cuda.driver_nodes import forget_functions

    for part in list(holding.parts):
        drop(part)
    forget_functions(holding.functions.difference(*(other.functions for other in _holdings.values())))
    for handle, count in holding.objects.items():
        if count:
            _release(handle, count)


def drop(holder: int) -> None:
    """`holder` ended."""
    give_back(take(holder))


def drop_part(graph: int, node: int) -> None:
    """A node of `graph` ended, with its child graph if it had one."""
    found = _holdings.get(graph)
    for part in [part for part, owner in found.parts.items() if owner == node] if found is not None else ():
        assert found is not None
        del found.parts[part]
        drop(part)


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
    else:
        _object(handle)
    _of(graph).objects[handle] += count


@serves()
def cuGraphReleaseUserObject(graph: int, handle: int, count: int) -> None:
    found = _holdings.get(graph)
    if found is None or found.objects[handle] < count:
        raise CudaError(st.INVALID_VALUE, "the graph does not hold so many references")
    found.objects[handle] -= count
    if not found.objects[handle]:
        del found.objects[handle]
    _release(handle, count)
