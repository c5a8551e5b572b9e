"""Streams and what waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import pump_block
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState


@handles(Op.STREAM_CREATE)
def stream_create(state: SessionState, command: Command) -> Result:
    handle, flags, priority = layout.CREATE.unpack_from(command.payload)
    stream = state.driver.out("cuStreamCreateWithPriority", flags & 1, priority & 0xFFFFFFFF)
    state.handles.enter(layout.KIND_STREAM, handle, stream)
    return None


@handles(Op.STREAM_DESTROY)
def stream_destroy(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    stream = state.handles.remove(layout.KIND_STREAM, handle)
    state.forget_plans()
    state.end_stream(stream)
    if state.capturing.pop(handle, None) is not None:
        state.pump.set(pump_block.CAPTURING, int(bool(state.capturing)))
    return None


@handles(Op.STREAM_WAIT_EVENT)
def stream_wait_event(state: SessionState, command: Command) -> Result:
    handle, flags = layout.EVENT.unpack_from(command.payload)
    event = state.handles.real(layout.KIND_EVENT, handle)
    if state.pump.is_fresh(handle):
        return None
    state.driver.call("cuStreamWaitEvent", state.stream(command.stream), event, flags)
    return None


@handles(Op.STREAM_SYNC)
def stream_sync(state: SessionState, command: Command) -> Result:
    number = command.number
    stream = state.stream(command.stream)
    if state.capturing and stream in state.capturing.values():
        # The driver refuses, and invalidates the capture.
        state.driver.call("cuStreamSynchronize", stream)
    state.completions.after_stream(stream, lambda status: state.reply(number, status))
    return PENDING


@handles(Op.STREAM_QUERY)
def stream_query(state: SessionState, command: Command) -> Result:
    state.driver.call("cuStreamQuery", state.stream(command.stream))
    return None


@handles(Op.CONTEXT_SYNC)
def context_sync(state: SessionState, command: Command) -> Result:
    """Reply once every stream of the session has done what was submitted so far."""
    number = command.number
    state.after_everything(lambda status: state.reply(number, status))
    return PENDING
