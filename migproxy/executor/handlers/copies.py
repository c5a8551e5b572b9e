"""Copies and memsets. Host addresses must lie in the arena, device addresses in the session's mapped memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

_MEMSETS = {1: "cuMemsetD8Async", 2: "cuMemsetD16Async", 4: "cuMemsetD32Async"}


def _host(state: SessionState, address: int, size: int) -> None:
    if not state.consumer.in_heap(address, size):
        raise ProtocolError(f"{size} bytes at {address:#x} are not in the arena")


def finish_copy(state: SessionState, command: Command, stream: int) -> Result:
    """Note the host memory in use; reply once the copy is done if the function waits for it."""
    if not command.waits:
        if not state.is_captured(stream):
            state.host_memory_used(command.number, stream)
        return None
    number = command.number

    def done(status: int) -> None:
        state.reply(number, status)

    state.completions.after_stream(stream, done)
    return PENDING


@handles(Op.COPY_HTOD)
def copy_htod(state: SessionState, command: Command) -> Result:
    dst, src, size = layout.COPY.unpack_from(command.payload)
    _host(state, src, size)
    state.memory.check_range(dst, size)
    stream = state.stream(command.stream)
    state.driver.call("cuMemcpyHtoDAsync", dst, src, size, stream)
    state.counters["bytes_htod"] += size
    return finish_copy(state, command, stream)


@handles(Op.COPY_DTOH)
def copy_dtoh(state: SessionState, command: Command) -> Result:
    dst, src, size = layout.COPY.unpack_from(command.payload)
    _host(state, dst, size)
    state.memory.check_range(src, size)
    stream = state.stream(command.stream)
    state.driver.call("cuMemcpyDtoHAsync", dst, src, size, stream)
    state.counters["bytes_dtoh"] += size
    return finish_copy(state, command, stream)


@handles(Op.COPY_WITHIN)
def copy_within(state: SessionState, command: Command) -> Result:
    """Copy from one place of the arena to another: managed memory is there."""
    dst, src, size = layout.COPY.unpack_from(command.payload)
    _host(state, dst, size)
    _host(state, src, size)
    stream = state.stream(command.stream)
    if state.is_captured(stream):
        state.driver.call("cuMemcpyAsync", dst, src, size, stream)  # a node of the graph; nothing runs, or waits, now
    else:
        function, place = state.host_copies.place(dst, src, size)
        try:
            state.driver.call("cuLaunchHostFunc", stream, function, place)
        except CudaError:
            state.host_copies.abandon()
            raise
    return finish_copy(state, command, stream)


@handles(Op.COPY_DTOD)
def copy_dtod(state: SessionState, command: Command) -> Result:
    dst, src, size = layout.COPY.unpack_from(command.payload)
    state.memory.check_range(dst, size)
    state.memory.check_range(src, size)
    state.driver.call("cuMemcpyDtoDAsync", dst, src, size, state.stream(command.stream))
    state.counters["bytes_dtod"] += size
    return None


@handles(Op.MEMSET)
def memset(state: SessionState, command: Command) -> Result:
    dst, value, element, count = layout.MEMSET.unpack_from(command.payload)
    name = _MEMSETS.get(element)
    if name is None:
        raise CudaError(1, f"memset of {element}-byte elements")
    # Managed memory is arena memory that kernels and memsets reach at its own address.
    if not state.consumer.in_heap(dst, element * count):
        state.memory.check_range(dst, element * count)
    state.driver.call(name, dst, value, count, state.stream(command.stream))
    return None
