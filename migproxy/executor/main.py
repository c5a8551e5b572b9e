"""Serving one session: prepare the device and the arena, then carry out commands until the session ends.

One thread does everything that touches the ring and the device; a second only listens to the broker. The loop never
blocks
while work is on its way: it takes commands, polls completion records, and sleeps on its bell when there is neither.
"""

from __future__ import annotations

import _thread
import ctypes
import logging
import os
import socket

from migproxy.abi import control, layout, protocol
from migproxy.abi.ops import Op
from migproxy.abi.sharing import Given, Taken
from migproxy.arena import segment
from migproxy.arena.account import QuotaAccount
from migproxy.arena.ring import Command, Consumer
from migproxy.errors import CudaError, MigproxyError, SessionError
from migproxy.executor import bootstrap, pump_block
from migproxy.executor.device_memory import DeviceMemory
from migproxy.executor.dispatch import carry_out, load_handlers
from migproxy.executor.driver import AnyDriver
from migproxy.executor.facts import read_facts
from migproxy.executor.handlers.callbacks import HostFunctions
from migproxy.executor.lease import LeaseClient
from migproxy.executor.opened import OpenDevice, open_device
from migproxy.executor.plugin_host import PluginHost
from migproxy.executor.pump_tables import PumpTables
from migproxy.executor.state import SessionState
from migproxy.executor.turns import Alone, make_turns

log = logging.getLogger("migproxy.executor")

_PR_SET_TIMERSLACK = 29
#: An idle executor wakes this often, to notice what no bell announces.
IDLE_NAP = 1.0


def serve(spec: control.SessionSpec, fds: list[int], sock: socket.socket, opened: OpenDevice | None = None) -> None:
    """Serve one session until it ends.

    Parameters
    ----------
    spec : control.SessionSpec
    fds : list of int
        Descriptors of the arena's segments.
    sock : socket.socket
        The control socket to the broker.
    opened : OpenDevice, optional
        The session's device, if it was opened in advance by this thread.
    """
    load_handlers()
    _sleep_precisely()
    opened = opened or open_device(spec.device)
    driver, process, context_bytes = opened.driver, opened.memory, opened.context_bytes
    arena_base, arena_end = _map_arena(spec, fds)
    device_base = driver.out(
        "cuMemAddressReserve", spec.windows.device_size, protocol.DEVICE_GRANULE, spec.windows.device_base, 0
    )
    windows = control.Windows(arena_base, spec.windows.arena_size, device_base, spec.windows.device_size)
    facts = read_facts(driver, spec.quota, context_bytes)
    heap_start = arena_base + layout.HEAP_OFFSET
    _register_host_memory(driver, heap_start, arena_end - heap_start)
    consumer = Consumer(arena_base, [(heap_start, arena_end - heap_start)])
    window = device_base, device_base + spec.windows.device_size
    tables = PumpTables(driver, arena_base, (heap_start, arena_end), window)
    if driver.kind == "gpu":
        # The software GPU would need the interpreter for it, which is what waits.
        _register_host_memory(driver, arena_base + layout.REPLY_OFFSET, layout.SLOT_COUNT * layout.REPLY_SIZE)
        tables.let_device_answer()
    account = _open_account(spec, fds)
    memory = DeviceMemory(driver, device_base, spec.windows.device_size, spec.quota, tables, account)
    memory.charge_other(context_bytes)
    state = SessionState(driver, consumer, memory, tables, spec, facts)
    state.handles.limit(spec.handles, spec.modules, spec.kernels, account)
    state.host_functions = HostFunctions(state)
    state.plugins = PluginHost(state, spec.plugins)
    state.sharing.connect(lambda message, received: bootstrap.send(sock, message, received))
    state.process_memory = process
    state.counts_by_process = process.used() > 0
    state.publish_memory()
    lease = _open_lease(spec, fds, sock)
    consumer.set_state(layout.STATE_READY)
    bootstrap.send(sock, control.Ready(windows=windows, device=facts))
    # Hundreds of events are made here, while the function maps its arena.
    turns = make_turns(state, lease)
    state.account = turns.account
    _thread.start_new_thread(_listen, (state, sock, arena_end, turns))
    try:
        run(state, turns)
    finally:
        turns.account()
        consumer.set_state(layout.STATE_CLOSED)
        bootstrap.send(sock, control.Report(counters=state.report()))


def _sleep_precisely() -> None:
    """Have naps end when they are to end: by default the kernel adds up to 50 µs to each."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000))


def _open_lease(spec: control.SessionSpec, fds: list[int], sock: socket.socket) -> LeaseClient | None:
    """Open the slice's compute lease, if there is one: its page is the descriptor behind the arena's."""
    if spec.lease_place < 0:
        return None
    return LeaseClient(fds[len(spec.segment_sizes)], spec.lease_place, lambda message: bootstrap.send(sock, message))


def _open_account(spec: control.SessionSpec, fds: list[int]) -> QuotaAccount | None:
    """Open the function's quota account: its page is the descriptor behind the lease's."""
    if spec.account_place < 0:
        return None
    position = len(spec.segment_sizes) + (spec.lease_place >= 0)
    return QuotaAccount(fds[position], spec.account_place, spec.quota, writable=True)


def run(state: SessionState, turns: Alone) -> None:
    """Carry out commands until the session closes: the pump does the hot ones, Python the rest, in order."""
    consumer, completions, tables = state.consumer, state.completions, state.pump
    naps = 0
    while True:
        tables.set(pump_block.PYTHON_PENDING, int(bool(completions)))
        tables.set(pump_block.RESTED, naps)
        reason = tables.run()
        consumer.tail = tables.tail
        held_back = False
        if reason in _COMMAND_IN_HAND:
            if not turns.may_carry_out(reason) or (state.sharing.events and waits_for_others(state)):
                tables.set(pump_block.AGAIN, 1)
                held_back = True
            elif reason == pump_block.REASON_LEASE and not turns.by_hand:
                # The turn has come: what else is to be looked after has time until its first work is on its way.
                tables.set(pump_block.AGAIN, 1)
                naps = 0
                continue
            elif reason == pump_block.REASON_ERROR:
                _report(state)
            else:
                turns.carry_out(lambda: carry_out(state, _command(state)))
        elif reason == pump_block.REASON_BAD_HEAD:
            log.warning("session %s: the ring's head is impossible", state.spec.session_id)
            state.closing = True
        fault = tables.get(pump_block.FAULT)
        if fault:
            tables.set(pump_block.FAULT, 0)
            state.note_status(fault)
            state.consumer.set_deferred_status(fault)
        if completions:
            completions.poll()
            if state.sticky:
                completions.fail_all(state.sticky)
        state.publish_frees()
        state.sharing.look()
        # A record that was the last one has made the pump return as from work: after it there is nothing left to do.
        resting = reason in (pump_block.REASON_IDLE, pump_block.REASON_NAP) and not tables.outstanding()
        turns.look(idle=resting and not completions)
        if state.closing and not completions:
            return
        if held_back:
            turns.hold(naps)
            naps += 1
        elif (
            reason == pump_block.REASON_IDLE
            and not tables.outstanding()
            and not completions
            and not state.sharing.waiting
        ):
            naps = 0
            consumer.sleep(IDLE_NAP)
        elif reason == pump_block.REASON_NAP or reason == pump_block.REASON_IDLE:
            consumer.sleep(turns.rest(naps))
            naps += 1
        else:
            naps = 0


_COMMAND_IN_HAND = frozenset(
    (
        pump_block.REASON_COMMAND,
        pump_block.REASON_ERROR,
        pump_block.REASON_EVENTS,
        pump_block.REASON_LEASE,
        pump_block.REASON_FULL,
    )
)


def waits_for_others(state: SessionState) -> bool:
    """Tell whether the command in hand has a stream wait for an event that another session has yet to reach.

    On a slice with a lease such a command is held back, with all behind it: once issued, it would keep the lease from
    the session that has to compute until the event is reached.
    """
    raw = state.pump.command()
    if state.spec.lease_place < 0 or state.capturing or raw[0] | raw[1] << 8 != Op.STREAM_WAIT_EVENT:
        return False
    handle, _ = layout.EVENT.unpack_from(raw, layout.PAYLOAD_OFFSET)
    return state.sharing.must_wait(handle)


def _command(state: SessionState) -> Command:
    """Return the command that the pump has in hand."""
    return state.consumer.parse(state.pump.command(), state.consumer.tail - 1)


def _report(state: SessionState) -> None:
    """Report the driver's error behind the command in hand, which the pump carried out."""
    state.fail(_command(state), state.pump.get(pump_block.STATUS), state.driver.detail)


def _map_arena(spec: control.SessionSpec, fds: list[int]) -> tuple[int, int]:
    """Map the arena's segments at the proposed address, or at one free here; returns its start and end."""
    base = spec.windows.arena_base
    try:
        segment.reserve_at(base, spec.windows.arena_size)
    except OSError:
        base = segment.find_window(spec.windows.arena_size)
        segment.reserve_at(base, spec.windows.arena_size)
    address = base
    for fd, size in zip(fds, spec.segment_sizes, strict=False):
        segment.map_over(fd, address, size)
        os.close(fd)
        address += size
    return base, address


def _register_host_memory(driver: AnyDriver, address: int, size: int) -> None:
    """Page-lock arena memory, so that the GPU copies from it and to it directly and kernels reach it by address."""
    # CU_MEMHOSTREGISTER_PORTABLE | DEVICEMAP
    driver.call("cuMemHostRegister", address, size, 3)


def _listen(state: SessionState, sock: socket.socket, arena_end: int, turns: Alone) -> None:
    """Map the further segments that the broker sends; end the process when the broker is gone."""
    end = arena_end
    while True:
        try:
            message, fds = bootstrap.receive(sock)
        except (SessionError, OSError):
            os._exit(0)
        if isinstance(message, control.EndSession):
            state.closing = True
            state.consumer.wake()
            continue
        if isinstance(message, control.TraceNow):
            bootstrap.send(sock, control.TraceEvents(turns.events(message.after)))
            continue
        if isinstance(message, control.ReportNow):
            turns.account()
            bootstrap.send(sock, control.Report(counters=state.report()))
            continue
        if isinstance(message, Given | Taken):
            state.sharing.receive(message, fds)
            continue
        if not isinstance(message, control.MapSegment) or len(fds) != 1:
            continue
        reason = ""
        try:
            segment.map_over(fds[0], end, message.size)
            state.driver.call("cuCtxSetCurrent", state.driver.out("cuDevicePrimaryCtxRetain", 0))
            _register_host_memory(state.driver, end, message.size)
            state.consumer.add_heap(end, message.size)
            end += message.size
            state.pump.set(pump_block.HEAP_END, end)
        except (OSError, CudaError, MigproxyError) as error:
            reason = str(error)
        finally:
            os.close(fds[0])
        bootstrap.send(sock, control.SegmentMapped(size=0 if reason else message.size, reason=reason))
