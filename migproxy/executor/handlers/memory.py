"""Device memory, arena segments, the end of the session."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import ProtocolError
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

#: The most a function may set each ``CUlimit`` to: stack per thread, printf buffer, malloc heap (its default on every
#: card is 8 MiB), nesting depth, pending launches, L2 fetch granularity, persisting L2 bytes.
LIMIT_CAPS = {0: 64 << 10, 1: 16 << 20, 2: 64 << 20, 3: 24, 4: 2048, 5: 128, 6: 0}
_decode_limit = msgspec.msgpack.Decoder(tuple[int, int]).decode


@handles(Op.NOP)
def nop(state: SessionState, command: Command) -> Result:
    return None


@handles(Op.MAP)
def map_memory(state: SessionState, command: Command) -> Result:
    address, size = layout.RANGE.unpack_from(command.payload)
    state.memory.map(address, size)
    state.publish_memory()
    return None


@handles(Op.UNMAP)
def unmap_memory(state: SessionState, command: Command) -> Result:
    address, size = layout.RANGE.unpack_from(command.payload)
    state.memory.unmap(address, size)
    state.sharing.withdraw_range(address, size)
    state.forget_plans()
    return None


@handles(Op.ALLOCATION)
def note_allocation(state: SessionState, command: Command) -> Result:
    address, size = layout.RANGE.unpack_from(command.payload)
    if size:
        state.memory.check_range(address, size)
    state.driver.note_allocation(address, size)
    return None


@handles(Op.FREE_MARK)
def free_mark(state: SessionState, command: Command) -> Result:
    state.mark_free()
    return None


@handles(Op.FETCH_REPLY)
def fetch_reply(state: SessionState, command: Command) -> Result:
    number = int.from_bytes(command.payload[:8], "little")
    data = state.take_kept(number)
    if data is None:
        raise ProtocolError(f"no reply is kept for command {number}")
    if len(data) > command.reply_capacity or not state.consumer.in_heap(command.reply_address, len(data)):
        raise ProtocolError("the reply buffer is too small or not in the arena")
    state.consumer.write_heap(command.reply_address, data)
    return None


@handles(Op.STATISTICS)
def statistics(state: SessionState, command: Command) -> Result:
    state.account()
    # A report leaves out what is 0, which here is not the same as what nobody measures.
    busy = {"gpu_busy_ns": state.counters["gpu_busy_ns"]} if "gpu_busy_ns" in state.counters else {}
    lived = time.monotonic_ns() - state.opened_ns
    return msgspec.msgpack.encode({**state.report(), **busy, "lived_ns": lived})


@handles(Op.CONTEXT_SET_LIMIT)
def context_set_limit(state: SessionState, command: Command) -> Result:
    limit, value = _decode_limit(command.payload)
    capped = min(value, LIMIT_CAPS.get(limit, 0))
    with state.charged():
        state.driver.call("cuCtxSetLimit", limit, capped)
    real = ctypes.c_uint64()
    state.driver.call("cuCtxGetLimit", ctypes.addressof(real), limit)
    return msgspec.msgpack.encode(real.value)


@handles(Op.CLOSE)
def close(state: SessionState, command: Command) -> Result:
    """Reply once what was submitted is done, so that device output is complete when the function exits.

    The reply names the library's function whose late error nobody has asked for: nobody can fetch more from now on.
    """
    number, late = command.number, state.late_error
    state.closing = True
    if state.sticky:
        return None
    failed = f"{late.get('library', '')}.{late.get('function', '')}" if late else ""
    data = failed.encode()[: layout.REPLY_INLINE]
    state.completions.after_stream(0, lambda status: state.reply(number, status, b"" if status else data))
    return PENDING
