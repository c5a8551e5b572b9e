"""Calls marshalled as they are: driver functions by the cuda plugin's table, and functions of GPU libraries by their
plugins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from migproxy.abi.ops import Op
from migproxy.executor.dispatch import Refused, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: Functions of libraries that may allocate whenever they are called.
_ALLOCATES = re.compile("create|plan|init|workspace|destroy", re.IGNORECASE)
_decode_driver = msgspec.msgpack.Decoder(tuple[str, list[Any]]).decode
_decode_library = msgspec.msgpack.Decoder(tuple[str, str, list[Any]]).decode


@handles(Op.DRIVER_CALL)
def driver_call(state: SessionState, command: Command) -> Result:
    name, arguments = _decode_driver(command.payload)
    status, outs = state.plugins.driver(name, arguments)
    return msgspec.msgpack.encode((status, list(outs)))


@handles(Op.LIBRARY_CALL)
def library_call(state: SessionState, command: Command) -> Result:
    library, function, arguments = _decode_library(command.payload)
    server = state.plugins.library(library)
    if server is None:
        raise Refused(f"library {library!r} has no plugin on this broker's allow-list")
    known = state.called_libraries
    if (library, function) in known and not _ALLOCATES.search(function):
        result = server(library, function, arguments, command.stream)
    else:
        # Asking the driver for its free memory costs more than most calls. Libraries allocate when a handle or plan is
        # made and when a function runs for the first time (its code, its workspace), so only these are measured.
        with state.charged():
            result = server(library, function, arguments, command.stream)
        known.add((library, function))
    return msgspec.msgpack.encode(result)
