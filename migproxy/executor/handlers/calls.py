"""Calls marshalled as they are: driver functions by the cuda plugin's table, and functions of GPU libraries by their
plugins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from migproxy.abi.ops import Op
from migproxy.errors import ProtocolError
from migproxy.executor.dispatch import Result, handles
from migproxy.executor.repeat_tables_unsafe import call_name

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: Functions of libraries that may allocate whenever they are called.
_ALLOCATES = re.compile("create|plan|init|workspace|destroy", re.IGNORECASE)
_decode_driver = msgspec.msgpack.Decoder(tuple[str, list[Any]]).decode
_MOST_PLANS = 4096
_LONGEST_PLAN = 2048
_encode = msgspec.msgpack.Encoder().encode
_decode_library = msgspec.msgpack.Decoder(tuple[str, str, list[Any]]).decode


@handles(Op.DRIVER_CALL)
def driver_call(state: SessionState, command: Command) -> Result:
    name, arguments = _decode_driver(command.payload)
    status, outs = state.plugins.driver(name, arguments)
    return _encode((status, list(outs)))


@handles(Op.LATE_ERROR)
def late_error(state: SessionState, command: Command) -> Result:
    """Tell, once, the library's error that the deferred status announced."""
    facts, state.late_error = state.late_error, {}
    return _encode(facts)


@handles(Op.LIBRARY_CALL)
def library_call(state: SessionState, command: Command) -> Result:
    plan = state.plans.get((command.stream, command.payload))
    if plan is not None:
        called, repeat = plan
        state.library_calls[called] += 1
        return _encode(repeat())
    library, function, arguments = _decode_library(command.payload)
    return _serve(state, command, library, function, arguments)


@handles(Op.LIBRARY_QUERY)
def library_query(state: SessionState, command: Command) -> Result:
    """A call that does not use the multiprocessors, so it was let through without the lease: the plugin must agree."""
    library, function, arguments = _decode_library(command.payload)
    if state.plugins.needs_lease(library, function):
        raise ProtocolError(f"{library}.{function} needs the compute lease")
    return _serve(state, command, library, function, arguments)


def _serve(state: SessionState, command: Command, library: str, function: str, arguments: list[Any]) -> Result:
    if (library, function) in state.called_libraries and not _ALLOCATES.search(function):
        result = state.plugins.serve(library, function, arguments, command.stream)
        _keep_plan(state, command, library, function, arguments)
    else:
        # Asking the driver for its free memory costs more than most calls. Libraries allocate when a handle or plan is
        # made and when a function runs for the first time (its code, its workspace), so only these are measured.
        state.forget_plans()
        with state.charged():
            result = state.plugins.serve(library, function, arguments, command.stream)
        state.called_libraries.add((library, function))
    # Names that no table has raised above, so a function cannot make this grow.
    state.library_calls[library, function] += 1
    return _encode(result)


def _keep_plan(state: SessionState, command: Command, library: str, function: str, arguments: list[Any]) -> None:
    """Keep what repeats the call: loops make the same call on the same addresses again and again.

    A plan was checked when it was made; it is forgotten when memory is unmapped or an object is made or destroyed.
    """
    key = command.stream, command.payload
    if len(command.payload) > _LONGEST_PLAN:
        return
    if key not in state.seen_calls:
        # Worth preparing from the second time on.
        if len(state.seen_calls) >= _MOST_PLANS:
            state.seen_calls.clear()
        state.seen_calls.add(key)
        return
    plan = state.plugins.prepare(library, function, arguments, command.stream)
    if plan is not None:
        if len(state.plans) >= _MOST_PLANS:
            state.forget_plans()
        state.plans[key] = (library, function), plan
        if not command.waits:
            # From here on the pump does it, as long as nothing is waited for.
            flight, name = state.pump.flight, call_name(library, function)
            estimates = flight.estimates_of(name, name) if flight is not None else 0
            real = state.stream(command.stream)
            state.pump.repeats.enter(command.payload, command.stream, real, plan, (library, function), estimates)
