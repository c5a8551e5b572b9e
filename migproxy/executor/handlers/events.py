"""Events."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

_PAIR = struct.Struct("<QQ")
_FLOAT = struct.Struct("<f")
_INTERPROCESS = 4


@handles(Op.EVENT_CREATE)
def event_create(state: SessionState, command: Command) -> Result:
    handle, flags, _ = layout.CREATE.unpack_from(command.payload)
    if flags & _INTERPROCESS and state.pump.holds_event(handle):
        # The pump knows nothing of events that another session has to reach first.
        raise CudaError(400, f"event handle {handle:#x}")
    event = state.driver.out("cuEventCreate", flags & 7)
    state.handles.enter(layout.KIND_EVENT, handle, event)
    if flags == 0 and state.pump.holds_event(handle):
        state.pump.recycle_timed_event(handle)
    return None


@handles(Op.EVENT_DESTROY)
def event_destroy(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call("cuEventDestroy", state.handles.remove(layout.KIND_EVENT, handle))
    state.sharing.withdraw(handle)
    return None


@handles(Op.EVENT_RECORD)
def event_record(state: SessionState, command: Command) -> Result:
    handle, _flags = layout.EVENT.unpack_from(command.payload)
    state.driver.call("cuEventRecord", state.handles.real(layout.KIND_EVENT, handle), state.stream(command.stream))
    state.pump.mark_recorded(handle)
    return None


@handles(Op.EVENT_QUERY)
def event_query(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    event = state.handles.real(layout.KIND_EVENT, handle)
    if not state.pump.is_fresh(handle):
        state.driver.call("cuEventQuery", event)
    return None


@handles(Op.EVENT_SYNC)
def event_sync(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    event = state.handles.real(layout.KIND_EVENT, handle)
    if state.pump.is_fresh(handle):
        return None
    number = command.number
    if handle in state.sharing.events:
        state.sharing.wait_for(number, handle)
        return PENDING
    state.completions.after_event(event, lambda status: state.reply(number, status))
    return PENDING


@handles(Op.EVENT_ELAPSED)
def event_elapsed(state: SessionState, command: Command) -> Result:
    handles = _PAIR.unpack_from(command.payload)
    start, end = (state.handles.real(layout.KIND_EVENT, handle) for handle in handles)
    if any(map(state.pump.is_fresh, handles)):
        raise CudaError(400, "an event that was not recorded")
    value = ctypes.c_float()
    state.driver.call("cuEventElapsedTime", ctypes.addressof(value), start, end)
    return _FLOAT.pack(value.value)
