"""The executor's half: carries out the driver functions of `rules.RULES` on the real driver (or the software GPU's)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from migproxy_plugins.cuda import memory_unsafe as raw
from migproxy_plugins.cuda.executor.arrays import ARRAY_FUNCTIONS, serve_array
from migproxy_plugins.cuda.executor.clusters import CLUSTER_FUNCTIONS, serve_clusters
from migproxy_plugins.cuda.executor.graph_objects import GRAPH_FUNCTIONS, serve_graph
from migproxy_plugins.cuda.executor.graphs import NODE_FUNCTIONS, known_handle, serve_node
from migproxy_plugins.cuda.executor.tensormaps import TENSOR_MAP_FUNCTIONS, serve_tensor_map
from migproxy_plugins.cuda.rules import KINDS, RULES, SINCE, VERSION_WITHOUT_EDGE_DATA, WITHOUT_EDGE_DATA

from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.dispatch import Refused
from migproxy.executor.driver import NativeDriver
from migproxy.executor.plugin_host import DRIVER_LIBRARY

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_INVALID_DEVICE = 101
_MAX_ARRAY = 1 << 20
_BITS = {"i32": 32, "u32": 32, "i64": 64, "u64": 64}


def serve(driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]) -> tuple[int, tuple[Any, ...]]:
    """Carry out one call.

    Parameters
    ----------
    driver : AnyDriver
    session : SessionState
    name : str
        A key of `RULES`, or a name that one of the modules here serves.
    packed : sequence
        The inputs in order.

    Returns
    -------
    status : int
        The driver's ``CUresult``.
    outs : tuple
        The outputs in order; empty when the call failed.

    Raises
    ------
    Refused
        The table does not have `name`.
    ProtocolError
        The arguments do not fit the rule.
    CudaError
        400 for handles that are not the session's, 1 for addresses outside its memory.
    """
    if name in NODE_FUNCTIONS:
        return serve_node(driver, session, name, packed)
    if name in ARRAY_FUNCTIONS:
        return serve_array(driver, session, name, packed)
    if name in TENSOR_MAP_FUNCTIONS:
        return serve_tensor_map(driver, session, name, packed)
    if name in CLUSTER_FUNCTIONS:
        return serve_clusters(driver, session, name, packed)
    if name in GRAPH_FUNCTIONS:
        return serve_graph(driver, session, name, packed)
    rule = RULES.get(name)
    if rule is None:
        raise Refused(f"{name} is not in the cuda plugin's table")
    call = _Call(session, rule, list(packed))
    version = VERSION_WITHOUT_EDGE_DATA if name in WITHOUT_EDGE_DATA else SINCE.get(name)
    with session.charged():
        if version is not None and isinstance(driver, NativeDriver):
            function = driver.function(name, len(call.arguments), version)
            status = function(*call.arguments)
        else:
            status = driver.status(name, *call.arguments)
    return (status, ()) if status else (0, call.outputs())


class _Half:
    """What the plugin host asks the executor half for."""

    LIBRARIES = (DRIVER_LIBRARY,)

    @staticmethod
    def serve(context: Any, library: str, function: str, arguments: list[Any]) -> tuple[int, tuple[Any, ...]]:
        """Carry out a driver function for the session of `context`."""
        return serve(context.driver, context.state, function, arguments)

    @staticmethod
    def needs_lease(library: str, function: str) -> bool:
        """None of these uses the multiprocessors."""
        return False


HALF = _Half()


class _Call:
    """One call's C arguments, and the buffers they point to."""

    def __init__(self, session: SessionState, rule: tuple[str, ...], inputs: list[Any]) -> None:
        self._session = session
        self._rule = rule
        self._buffers: list[Any] = []  # outputs, in order
        self._inputs: list[Any] = []
        self._lists: list[int] = []
        self.arguments: list[int] = []
        rest = iter(inputs)
        try:
            for index, kind in enumerate(rule):
                self.arguments.append(self._argument(kind, rest, rule[index + 1 : index + 2]))
        except StopIteration:
            raise ProtocolError(f"too few arguments: {len(inputs)}") from None
        if next(rest, None) is not None:
            raise ProtocolError(f"too many arguments: {len(inputs)}")

    def _keep(self, buffer: Any) -> int:
        self._buffers.append(buffer)
        return ctypes.addressof(buffer)

    def _real(self, kind: int, handle: Any) -> int:
        if not isinstance(handle, int):
            raise ProtocolError("a handle must be an integer")
        return self._session.handles.real(kind, handle) if handle else 0

    def _argument(self, kind: str, rest: Any, following: tuple[str, ...]) -> int:
        name, _, detail = kind.partition(":")
        if name in ("oh", "oh?", "oi", "oa"):
            return self._keep(ctypes.c_uint64())
        if name == "ohs":
            capacity = self._capacity(next(rest))
            self._buffers.append(ctypes.c_uint64(capacity))
            array = (ctypes.c_uint64 * capacity)() if capacity else None
            self._buffers.append(array)
            return ctypes.addressof(array) if array is not None else 0
        if name == "capacity":
            return ctypes.addressof(self._buffers[-2])
        if name == "count":
            if len(set(self._lists)) > 1:
                raise ProtocolError("arrays of different lengths")
            return self._lists[0]
        value = next(rest)
        if name == "hs":
            if not isinstance(value, list) or len(value) > _MAX_ARRAY:
                raise ProtocolError("an array of handles was expected")
            self._lists.append(len(value))
            real = [self._real(KINDS[detail], handle) for handle in value]
            array = (ctypes.c_uint64 * len(real))(*real)
            self._inputs.append(array)
            return ctypes.addressof(array) if real else 0
        if name == "h":
            return self._real(KINDS[detail], value)
        if not isinstance(value, int):
            raise ProtocolError("an integer was expected")
        if name == "p":
            # Page-locked memory has one address on both sides.
            if not self._session.consumer.in_heap(value, int(detail)):
                self._session.memory.check_range(value, int(detail))
            return value
        if name == "device":
            if value != 0:
                raise CudaError(_INVALID_DEVICE)
            return 0
        return value & ((1 << _BITS[name]) - 1)

    @staticmethod
    def _capacity(value: Any) -> int:
        if not isinstance(value, int) or not 0 <= value <= _MAX_ARRAY:
            raise ProtocolError("a capacity was expected")
        return value

    def outputs(self) -> tuple[Any, ...]:
        """Return what the call wrote, handles entered into the session's tables."""
        outs: list[Any] = []
        buffers = iter(self._buffers)
        for kind in self._rule:
            name, _, detail = kind.partition(":")
            if name in ("oh", "oh?"):
                outs.append(self._handle(KINDS[detail], next(buffers).value, known=name == "oh?"))
            elif name == "oi":
                raw = next(buffers).value & ((1 << _BITS[detail]) - 1)
                signed = detail[0] == "i" and raw >> (_BITS[detail] - 1)
                outs.append(raw - (1 << _BITS[detail]) if signed else raw)
            elif name == "oa":
                outs.append(self._given_array(KINDS[detail], next(buffers).value))
            elif name == "ohs":
                count, array = next(buffers).value, next(buffers)
                found = array[: min(count, len(array))] if array is not None else []
                outs.append([self._handle(KINDS[detail], real, known=True) for real in found])
                outs.append(count)
        return tuple(outs)

    def _given_array(self, kind: int, address: int) -> list[int]:
        """Return the objects of an array that the driver lent; the count is the output after it."""
        count = self._buffers[-1].value if address else 0
        reals = raw.get_u64_array(address, count) if count else ()
        return [self._handle(kind, real, known=True) for real in reals]

    def _handle(self, kind: int, real: int, *, known: bool) -> int:
        if not real:
            return 0
        if known:
            return known_handle(self._session, kind, real)
        return self._session.handles.add(kind, real)
