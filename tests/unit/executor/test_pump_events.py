"""Events in the pump: made, asked and ended without Python, and used again without a memory of their former life."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import dispatch, pump_block

from . import executor_rig
from .executor_rig import Rig


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.producer.take_deferred_status()
    return shared


def event(number: int) -> int:
    return layout.make_handle(layout.KIND_EVENT, number)


def create(rig: Rig, number: int, flags: int = 0) -> int:
    rig.producer.submit(Op.EVENT_CREATE, layout.CREATE.pack(event(number), flags, 0))
    rig.step()
    assert rig.producer.take_deferred_status() == 0
    return event(number)


def destroy(rig: Rig, handle: int) -> None:
    rig.producer.submit(Op.EVENT_DESTROY, layout.HANDLE.pack(handle))
    rig.step()
    assert rig.producer.take_deferred_status() == 0


def ask(rig: Rig, handle: int, op: Op = Op.EVENT_QUERY) -> int:
    return rig.call(op, layout.HANDLE.pack(handle))[0]


def record(rig: Rig, handle: int) -> None:
    rig.producer.submit(Op.EVENT_RECORD, layout.EVENT.pack(handle, 0))
    rig.step()
    assert rig.producer.take_deferred_status() == 0


def python_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the operations that reach Python."""

    seen: list[int] = []
    real = dispatch.carry_out

    def carry_out(state: object, command: object) -> None:
        seen.append(command.op)  # type: ignore[attr-defined]
        real(state, command)  # type: ignore[arg-type]

    monkeypatch.setattr(executor_rig, "carry_out", carry_out)
    return seen


@pytest.mark.parametrize("flags", [0, 2])
def test_the_second_event_needs_no_python(rig: Rig, flags: int, monkeypatch: pytest.MonkeyPatch) -> None:
    destroy(rig, create(rig, 10 + flags, flags))
    seen = python_calls(rig, monkeypatch)
    handle = create(rig, 20 + flags, flags)
    assert ask(rig, handle) == 0
    record(rig, handle)
    assert ask(rig, handle, Op.EVENT_SYNC) == 0
    assert ask(rig, handle) == 0
    destroy(rig, handle)
    assert seen == []
    assert ask(rig, handle) == 400


@pytest.mark.parametrize("flags", [1, 3])
def test_other_events_are_pythons(rig: Rig, flags: int) -> None:
    handle = create(rig, 30 + flags, flags)
    record(rig, handle)
    assert ask(rig, handle, Op.EVENT_SYNC) == 0
    destroy(rig, handle)
    assert ask(rig, handle) == 400


def test_times_of_recycled_events(rig: Rig) -> None:
    pair = struct.Struct("<QQ")
    for handle in [create(rig, 40), create(rig, 41)]:
        record(rig, handle)
        destroy(rig, handle)
    first, second = create(rig, 42), create(rig, 43)
    assert rig.call(Op.EVENT_ELAPSED, pair.pack(first, second))[0] == 400  # as natively: not recorded yet
    record(rig, first)
    assert rig.call(Op.EVENT_ELAPSED, pair.pack(first, second))[0] == 400
    record(rig, second)
    assert ask(rig, second, Op.EVENT_SYNC) == 0
    assert rig.call(Op.EVENT_ELAPSED, pair.pack(first, second))[0] == 0
    destroy(rig, first)
    destroy(rig, second)


def test_hostile_handles_are_refused(rig: Rig) -> None:
    handle = create(rig, 50)
    for wrong in (
        0,
        50,
        event(0),
        event(51),
        event(1 << 16),
        event((1 << 40) - 1),
        layout.make_handle(layout.KIND_STREAM, 50),
    ):
        assert ask(rig, wrong) == 400
        assert ask(rig, wrong, Op.EVENT_SYNC) == 400
        assert rig.call(Op.EVENT_DESTROY, layout.HANDLE.pack(wrong))[0] == 400
    for again in (handle, layout.make_handle(layout.KIND_STREAM, 5)):
        assert rig.call(Op.EVENT_CREATE, layout.CREATE.pack(again, 0, 0))[0] == 400
    destroy(rig, handle)


def test_numbers_beyond_the_table_are_pythons(rig: Rig) -> None:
    handle = create(rig, pump_block.TABLE_SIZE + 5)
    record(rig, handle)
    assert ask(rig, handle, Op.EVENT_SYNC) == 0
    assert rig.state.handles.counts()["event"] == 1
    destroy(rig, handle)
    assert ask(rig, handle) == 400


def test_many_events_at_a_time(rig: Rig) -> None:
    """More than the stacks hold: none is lost, and the spare ones for completion records are left."""
    handles = [create(rig, 1000 + index, index % 2 * 2) for index in range(400)]
    assert rig.state.handles.counts()["event"] == 400
    assert len({rig.state.handles.real(layout.KIND_EVENT, handle) for handle in handles}) == 400
    for handle in handles:
        record(rig, handle)
    assert rig.call(Op.CONTEXT_SYNC, b"")[0] == 0
    for handle in handles:
        assert ask(rig, handle) == 0
        destroy(rig, handle)
    assert rig.state.pump.get(pump_block.LENT) == 0
    assert "event" not in rig.state.handles.counts()
