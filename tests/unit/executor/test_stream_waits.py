"""Waits for a stream: it is asked itself until more is submitted, and only what was submitted before is waited for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import dispatch, pump_block

from .executor_rig import Rig

NOT_READY = 600


class Device:
    """A driver's streams and events, of which the test says when they are done."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: dict[int, int] = {}
        self.events: dict[int, int] = {}
        self.asked: list[str] = []
        self.recorded: list[int] = []
        self._kept: list[Any] = []
        for offset, function, parameters in (
            (pump_block.STREAM_QUERY, self._stream, 1),
            (pump_block.EVENT_QUERY, self._event, 1),
            (pump_block.EVENT_RECORD, self._record, 2),
        ):
            before = rig.state.pump.get(offset)
            rig.state.pump.set(offset, self._pointer(function, parameters))
            self._kept.append((offset, before))

    def _pointer(self, function: Callable[..., int], parameters: int) -> int:
        made = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * parameters)(function)
        self._kept.append(made)
        return ctypes.cast(made, ctypes.c_void_p).value or 0

    def _stream(self, stream: int) -> int:
        self.asked.append("stream")
        return self.streams.get(stream, 0)

    def _event(self, event: int) -> int:
        self.asked.append("event")
        return self.events.get(event, 0)

    def _record(self, event: int, stream: int) -> int:
        self.recorded.append(event)
        self.events[event] = self.streams.get(stream, 0)
        return 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.state.pump.set(pump_block.SPIN_TICKS, 0)
    yield made
    made.close()


@pytest.fixture
def device(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(rig, monkeypatch)


def turn(rig: Rig) -> int:
    """Let the executor look once at what there is."""
    state = rig.state
    reason = state.pump.run()
    state.consumer.tail = state.pump.tail
    if reason == pump_block.REASON_COMMAND:
        dispatch.carry_out(state, state.consumer.parse(state.pump.command(), state.pump.tail - 1))
    return reason


def ask(rig: Rig, op: Op = Op.STREAM_SYNC) -> int:
    number = rig.producer.submit(op, b"", flags=layout.FLAG_WAIT)
    turn(rig)
    return number


def answered(rig: Rig, number: int) -> tuple[int, bytes] | None:
    try:
        return rig.producer.wait(number, 0)
    except TimeoutError:
        return None


def test_a_wait_asks_the_stream_and_records_nothing(rig: Rig, device: Device) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    turn(rig)
    assert answered(rig, number) is None
    assert device.recorded == []
    device.streams[0] = 0
    turn(rig)
    assert answered(rig, number) == (0, b"")
    assert "event" not in device.asked
    assert rig.state.pump.get(pump_block.STREAM_WAITS) == 0


def test_what_is_submitted_later_is_not_waited_for(rig: Rig, device: Device) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    rig.producer.submit(Op.MEMSET, b"nonsense")  # any command, whoever carries it out
    turn(rig)
    (event,) = device.recorded
    assert answered(rig, number) is None
    device.events[event] = 0  # what was submitted before is done, and the stream goes on
    turn(rig)
    assert answered(rig, number) == (0, b"")


def test_several_threads_wait(rig: Rig, device: Device) -> None:
    device.streams[0] = NOT_READY
    numbers = [ask(rig) for _ in range(3)]
    assert len(device.recorded) == 2, "the last one asks the stream"
    device.streams[0] = 0
    for event in device.recorded:
        device.events[event] = 0
    turn(rig)
    assert [answered(rig, number) for number in numbers] == [(0, b"")] * 3
    assert rig.state.pump.get(pump_block.WAIT_COUNT) == 0


def test_a_fault_reaches_who_waits(rig: Rig, device: Device) -> None:
    device.streams[0] = NOT_READY
    number = ask(rig)
    device.streams[0] = 700
    turn(rig)
    assert answered(rig, number) == (700, b"")
    assert rig.state.pump.get(pump_block.FAULT) == 700


def test_hung_work_is_answered_by_number(rig: Rig, device: Device) -> None:
    device.streams[0] = NOT_READY
    numbers = [ask(rig) for _ in range(2)]
    assert sorted(rig.state.pump.take_waits()) == numbers
    assert rig.state.pump.get(pump_block.STREAM_WAITS) == 0
    assert not rig.state.pump.outstanding()


@pytest.mark.parametrize("status", [0, NOT_READY])
def test_a_query_is_answered_at_once(rig: Rig, device: Device, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    reached: list[int] = []
    monkeypatch.setattr(dispatch, "carry_out", lambda state, command: reached.append(command.op))
    device.streams[0] = status
    number = ask(rig, Op.STREAM_QUERY)
    assert answered(rig, number) == (status, b"")
    assert reached == []
    assert rig.state.pump.counters()["stream_query"] == 1
