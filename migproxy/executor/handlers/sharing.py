"""CUDA IPC: giving memory and events to other sessions of the owner, and taking theirs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from migproxy.abi import layout, sharing
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

_TOKEN = struct.Struct(f"<{sharing.TOKEN_BYTES}s")
#: Handle that the function chose, token.
_EVENT = struct.Struct(f"<Q{sharing.TOKEN_BYTES}s")


@handles(Op.IPC_GIVE_MEMORY)
def give_memory(state: SessionState, command: Command) -> Result:
    base, size = layout.RANGE.unpack_from(command.payload)
    state.sharing.give_memory(command.number, base, size)
    return PENDING


@handles(Op.IPC_GIVE_EVENT)
def give_event(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    state.sharing.give_event(command.number, handle)
    return PENDING


@handles(Op.IPC_TAKE_MEMORY)
def take_memory(state: SessionState, command: Command) -> Result:
    (token,) = _TOKEN.unpack_from(command.payload)
    state.sharing.take_memory(command.number, token)
    return PENDING


@handles(Op.IPC_TAKE_EVENT)
def take_event(state: SessionState, command: Command) -> Result:
    handle, token = _EVENT.unpack_from(command.payload)
    if state.pump.holds_event(handle):
        # The pump knows nothing of events that another session has to reach first.
        raise CudaError(400, f"event handle {handle:#x}")
    state.handles.require_room(layout.KIND_EVENT)
    state.sharing.take_event(command.number, token, handle)
    return PENDING


@handles(Op.IPC_CLOSE_MEMORY)
def close_memory(state: SessionState, command: Command) -> Result:
    (base,) = layout.HANDLE.unpack_from(command.payload)
    state.sharing.close_memory(command.number, base)
    return PENDING


@handles(Op.IPC_WITHDRAW)
def withdraw(state: SessionState, command: Command) -> Result:
    (base,) = layout.HANDLE.unpack_from(command.payload)
    state.sharing.withdraw(base)
    return None
