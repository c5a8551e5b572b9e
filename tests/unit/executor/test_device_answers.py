"""Waits that the device itself answers, by a store behind the work that is waited for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.executor import pump_block

from .executor_rig import Rig
from .test_stream_waits import NOT_READY, Device, answered, ask, turn

#: In no time-stamp counter's past.
JUST_NOW = 1 << 62


class Writing(Device):
    """A device that stores what it was told once the test says so."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
        super().__init__(rig, monkeypatch)
        self.stores: list[tuple[int, int]] = []
        self.status = status
        made = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * 3, ctypes.c_uint32)(self._write)
        self._kept.append(made)
        rig.state.pump.set(pump_block.WRITE_VALUE, ctypes.cast(made, ctypes.c_void_p).value or 0)

    def _write(self, stream: int, address: int, value: int, flags: int) -> int:
        assert flags == 0, "the store comes after what the kernels stored"
        if not self.status:
            self.stores.append((address, value))
        return self.status

    def work_off(self) -> None:
        for address, value in self.stores:
            ctypes.c_uint64.from_address(address).value = value
        self.stores.clear()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    for offset in (pump_block.SPIN_TICKS, pump_block.LONG_TICKS):
        made.state.pump.set(offset, 0)
    made.state.pump.set(pump_block.LAST_WORK, JUST_NOW)
    yield made
    made.close()


@pytest.fixture
def device(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Writing:
    return Writing(rig, monkeypatch)


def line(rig: Rig, number: int) -> int:
    return rig.base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE


def test_the_function_goes_on_before_the_executor_has_seen_it(rig: Rig, device: Writing) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    assert device.stores == [(line(rig, number), number + 1)]
    assert answered(rig, number) is None
    device.work_off()
    assert answered(rig, number) == (0, b"")


def test_the_executor_answers_too_and_wakes_who_sleeps(rig: Rig, device: Writing) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    device.work_off()
    bell = rig.producer._words.function_bell.value
    device.streams[0] = 0
    turn(rig)
    assert rig.producer._words.function_bell.value != bell
    assert rig.state.pump.get(pump_block.WAIT_COUNT) == rig.state.pump.get(pump_block.STREAM_WAITS) == 0
    assert answered(rig, number) == (0, b"")


def test_a_command_after_the_answer_costs_no_event(rig: Rig, device: Writing) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    device.work_off()
    device.streams[0] = 0
    assert answered(rig, number) == (0, b"")
    rig.producer.submit(Op.MEMSET, b"nonsense")  # any command
    turn(rig)
    assert device.recorded == []
    assert rig.state.pump.get(pump_block.WAIT_COUNT) == 0


def test_a_device_that_may_just_have_finished_is_only_asked_at_first(rig: Rig, device: Writing) -> None:
    """A store to an idle device takes longer than to ask it."""
    rig.state.pump.set(pump_block.LAST_WORK, 0)
    rig.state.pump.set(pump_block.TELL_TICKS, 1 << 62)
    device.streams[0] = NOT_READY
    number = ask(rig)
    turn(rig)
    assert device.stores == []
    rig.state.pump.set(pump_block.TELL_TICKS, 0)
    turn(rig)
    assert device.stores == [(line(rig, number), number + 1)]
    device.work_off()
    assert answered(rig, number) == (0, b"")
    device.streams[0] = 0
    turn(rig)
    assert rig.state.pump.get(pump_block.WAIT_COUNT) == 0


def test_what_was_not_told_is_never_told_behind_later_work(rig: Rig, device: Writing) -> None:
    rig.state.pump.set(pump_block.LAST_WORK, 0)
    rig.state.pump.set(pump_block.TELL_TICKS, 1 << 62)
    device.streams[0] = NOT_READY
    number = ask(rig)
    rig.producer.submit(Op.MEMSET, b"nonsense")  # any command
    turn(rig)
    rig.state.pump.set(pump_block.TELL_TICKS, 0)
    turn(rig)
    assert device.stores == []
    (event,) = device.recorded
    device.events[event] = 0
    turn(rig)
    assert answered(rig, number) == (0, b"")


def test_a_copy_that_is_waited_for_is_answered_too(rig: Rig, device: Writing) -> None:
    assert rig.call(Op.MAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))[0] == 0
    device.streams[0] = NOT_READY
    copy = layout.COPY.pack(rig.heap + 4096, rig.device, 100)
    number = rig.producer.submit(Op.COPY_DTOH, copy, flags=layout.FLAG_WAIT)
    turn(rig)
    assert device.stores == [(line(rig, number), number + 1)]
    assert answered(rig, number) is None
    device.work_off()
    assert answered(rig, number) == (0, b"")
    for event in device.recorded:
        device.events[event] = 0
    turn(rig)


def test_with_streams_of_its_own_a_function_is_answered_by_the_executor(rig: Rig, device: Writing) -> None:
    """A store in the legacy stream would wait for them, which the function does not."""
    assert (
        rig.call(Op.STREAM_CREATE, layout.CREATE.pack(layout.KIND_STREAM << layout.HANDLE_KIND_SHIFT | 1, 0, 0))[0] == 0
    )
    device.streams[0] = NOT_READY
    number = ask(rig)
    assert device.stores == []
    device.streams[0] = 0
    turn(rig)
    assert answered(rig, number) == (0, b"")


def test_a_driver_that_cannot_is_not_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Writing(rig, monkeypatch, status=801)
    device.streams[0] = NOT_READY
    number = ask(rig)
    assert rig.state.pump.get(pump_block.WRITE_VALUE) == 0
    device.streams[0] = 0
    turn(rig)
    assert answered(rig, number) == (0, b"")


def test_a_fault_is_told_although_the_device_never_stores(rig: Rig, device: Writing) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    device.streams[0] = 700
    turn(rig)
    assert answered(rig, number) == (700, b"")


def test_a_line_that_an_open_wait_has_is_left_to_the_executor(rig: Rig, device: Writing) -> None:
    pump = rig.state.pump
    record = pump.get(pump_block.WAITS)
    ctypes.c_uint64.from_address(record).value = (layout.SLOT_COUNT * 7) | pump_block.OWN_EVENT  # the first line's
    ctypes.c_uint64.from_address(record + 8).value = 1234
    pump.set(pump_block.WAIT_COUNT, 1)
    device.events[1234] = NOT_READY
    device.streams[0] = NOT_READY
    first, second = ask(rig), ask(rig)
    assert first % layout.SLOT_COUNT == 0
    assert [value for _, value in device.stores] == [second + 1]
    device.streams[0] = device.events[1234] = 0


def test_on_the_software_gpu(rig: Rig) -> None:
    """The whole of it with a driver: its stream is held up, and its own store is the answer."""
    driver: Any = rig.state.driver
    driver.call("cuMemHostRegister", rig.base + layout.REPLY_OFFSET, layout.SLOT_COUNT * layout.REPLY_SIZE, 3)
    rig.state.pump.let_device_answer()
    gate = rig.heap + 4096
    driver.call("cuMemHostRegister", rig.heap, 1 << 20, 3)
    ctypes.c_uint32.from_address(gate).value = 0
    driver.call("cuStreamWaitValue32", 0, gate, 1, 0)  # greater or equal
    number = ask(rig)
    assert answered(rig, number) is None
    ctypes.c_uint32.from_address(gate).value = 1
    assert rig.producer.wait(number, 20.0) == (0, b""), "nobody but the device answers here"
