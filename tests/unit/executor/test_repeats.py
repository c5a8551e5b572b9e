"""Library calls that the pump repeats: which it finds, what it calls, and when it forgets."""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.executor import dispatch, flight, pump_block, repeats
from migproxy.executor.dispatch import LibraryError
from migproxy.executor.repeat_tables_unsafe import NativeCall, Repeat, RepeatTables, compile_repeats

from .executor_rig import Rig

TWENTY = tuple(range(100, 122))
seen: list[tuple[Any, ...]] = []
status = 0


@ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * 22, ctypes.c_double, ctypes.c_float)
def wide(*arguments: Any) -> int:
    seen.append(arguments)
    return status


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_int)
def narrow(*arguments: Any) -> int:
    seen.append(arguments)
    return status


WIDE, NARROW = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in (wide, narrow))


def bits(kind: str, value: float) -> int:
    return int.from_bytes(struct.pack(kind, value), "little")


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    global status
    status = 0
    seen.clear()


def find(tables: RepeatTables, payload: bytes, stream: int = 0) -> int:
    buffer = ctypes.create_string_buffer(payload)
    return compile_repeats()["find"](tables.block, ctypes.addressof(buffer), len(payload), stream)


def native(*calls: NativeCall) -> Repeat:
    return Repeat(lambda: None, calls)


def test_all_arguments_arrive() -> None:
    tables = RepeatTables()
    call = NativeCall(WIDE, TWENTY, (bits("<d", 2.5), bits("<f", -1.5)))
    assert tables.enter(b"call", 0, 0, native(NativeCall(NARROW, (7, -2)), call), ("l", "f"), 0)
    assert compile_repeats()["repeat"](find(tables, b"call")) == 0
    assert seen == [(7, -2), (*TWENTY, 2.5, -1.5)]
    assert tables.counts() == Counter({("l", "f"): 1})


def test_every_byte_of_a_call_and_its_stream_counts() -> None:
    tables = RepeatTables()
    payload = bytes(range(200, 229))
    assert tables.enter(payload, 5, 0, native(NativeCall(NARROW, (1,))), ("l", "f"), 0)
    assert find(tables, payload, 5)
    assert not find(tables, payload, 6)
    assert not find(tables, payload[:-1], 5)
    assert not find(tables, payload + b"\0", 5)
    for position in range(len(payload)):
        other = bytearray(payload)
        other[position] ^= 1
        assert not find(tables, bytes(other), 5)


def test_a_full_table_takes_no_more_and_finds_all_it_has() -> None:
    tables = RepeatTables()
    call = native(NativeCall(NARROW, (1,)))
    taken = [tables.enter(b"%d" % number, 0, 0, call, ("l", "f"), 0) for number in range(repeats.MOST_RECORDS + 1)]
    assert taken == [True] * repeats.MOST_RECORDS + [False]
    assert len({find(tables, b"%d" % number) for number in range(repeats.MOST_RECORDS)}) == repeats.MOST_RECORDS
    assert not find(tables, b"%d" % repeats.MOST_RECORDS)
    tables.forget()
    assert len(tables) == 0
    assert not find(tables, b"1")
    assert tables.enter(b"1", 0, 0, call, ("l", "f"), 0)


@pytest.mark.parametrize(
    "calls",
    [
        (),
        (NativeCall(NARROW, (1,)),) * (repeats.MOST_CALLS + 1),
        (NativeCall(NARROW, (0,) * (repeats.MOST_WORDS + 1)),),
        (NativeCall(NARROW, (), (0, 0, 0)),),
    ],
)
def test_what_the_pump_cannot_call_is_not_entered(calls: tuple[NativeCall, ...]) -> None:
    assert not RepeatTables().enter(b"call", 0, 0, native(*calls), ("l", "f"), 0)


def test_a_longer_payload_than_a_slot_has_is_not_entered() -> None:
    payload = bytes(layout.INLINE_PAYLOAD + 1)
    assert not RepeatTables().enter(payload, 0, 0, native(NativeCall(NARROW, (1,))), ("l", "f"), 0)


def test_one_that_fails_is_not_found_again_and_the_calls_behind_it_are_not_made() -> None:
    global status
    status = 13
    tables = RepeatTables()
    assert tables.enter(b"call", 0, 0, native(*[NativeCall(NARROW, (7, 1))] * 2), ("l", "f"), 0)
    assert compile_repeats()["repeat"](find(tables, b"call")) == 13
    assert len(seen) == 1
    assert not find(tables, b"call")
    assert tables.counts() == Counter()


def test_what_a_function_without_status_returns_means_nothing() -> None:
    global status
    status = 13
    tables = RepeatTables()
    assert tables.enter(b"call", 0, 0, native(NativeCall(NARROW, (7, 1), status=False)), ("l", "f"), 0)
    assert compile_repeats()["repeat"](find(tables, b"call")) == 0


# -- through the pump -------------------------------------------------------------------------------------------------
class Plugins:
    """A plugin with one function, which Python and the pump carry out alike."""

    def __init__(self) -> None:
        self.served = 0

    def serve(self, library: str, function: str, arguments: list[Any], stream: int) -> None:
        self.served += 1
        if status:
            raise LibraryError({"type": "Error", "status": status, "message": "it failed"})

    def prepare(self, library: str, function: str, arguments: list[Any], stream: int) -> Repeat:
        run = lambda: self.serve(library, function, arguments, stream)  # noqa: E731
        return Repeat(run, (NativeCall(NARROW, tuple(arguments)),))

    def needs_lease(self, library: str, function: str) -> bool:
        return True

    def counts(self) -> Counter[str]:
        return Counter()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.state.plugins = Plugins()  # type: ignore[assignment]
    yield made
    made.close()


def post(rig: Rig, *arguments: int, stream: int = 0) -> None:
    payload = msgspec.msgpack.encode(("a.library", "function", list(arguments)))
    rig.producer.submit(Op.LIBRARY_CALL, payload, stream=stream)
    rig.step()


def taught(rig: Rig, stream: int = 0) -> Plugins:
    """Make a call often enough that the pump has it."""
    plugins: Any = rig.state.plugins
    for _ in range(4):
        post(rig, 3, 4, stream=stream)
    served = plugins.served
    seen.clear()
    post(rig, 3, 4, stream=stream)
    assert plugins.served == served
    assert seen == [(3, 4)]
    return plugins  # type: ignore[no-any-return]


def test_the_pump_repeats_what_python_did(rig: Rig) -> None:
    plugins = taught(rig)
    served = plugins.served
    post(rig, 3, 5)
    assert plugins.served == served + 1, "another call is Python's"
    for _ in range(9):
        post(rig, 3, 4)
    assert plugins.served == served + 1
    assert rig.state.report()["calls_a.library.function"] == 15


def test_a_call_that_waits_is_pythons(rig: Rig) -> None:
    plugins = taught(rig)
    served = plugins.served
    payload = msgspec.msgpack.encode(("a.library", "function", [3, 4]))
    assert rig.call(Op.LIBRARY_CALL, payload) == (0, msgspec.msgpack.encode(None))
    assert plugins.served == served + 1


def test_what_fails_in_the_pump_is_told_by_python(rig: Rig) -> None:
    global status
    plugins = taught(rig)
    served, status = plugins.served, 13
    post(rig, 3, 4)
    assert plugins.served == served + 1
    assert rig.producer.take_deferred_status() == layout.DEFERRED_LIBRARY
    assert rig.state.late_error["status"] == 13


def test_it_is_forgotten_when_memory_is_unmapped(rig: Rig) -> None:
    plugins = taught(rig)
    served = plugins.served
    assert rig.call(Op.MAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))[0] == 0
    post(rig, 3, 4)
    assert plugins.served == served, "mapping takes nothing away"
    assert rig.call(Op.UNMAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))[0] == 0
    post(rig, 3, 4)
    assert plugins.served == served + 1
    assert rig.state.report()["calls_a.library.function"] == 7


def test_it_is_forgotten_when_a_stream_ends(rig: Rig) -> None:
    stream = layout.make_handle(layout.KIND_STREAM, 1)
    rig.producer.submit(Op.STREAM_CREATE, layout.CREATE.pack(stream, 0, 0))
    rig.step()
    plugins = taught(rig, stream)
    served = plugins.served
    rig.producer.submit(Op.STREAM_DESTROY, layout.HANDLE.pack(stream))
    rig.step()
    post(rig, 3, 4, stream=stream)
    assert seen == [(3, 4)]
    assert plugins.served == served + 1, "Python is to say that there is no such stream"


def test_after_a_fault_nothing_is_repeated(rig: Rig) -> None:
    plugins = taught(rig)
    served = plugins.served
    rig.state.note_status(700)
    post(rig, 3, 4)
    assert seen == [(3, 4)]
    assert plugins.served == served


def test_only_what_the_pump_does_not_do_reaches_python(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    taught(rig)
    reached = []
    monkeypatch.setitem(dispatch.HANDLERS, Op.LIBRARY_CALL, lambda state, command: reached.append(command.op))
    post(rig, 3, 4)
    assert not reached
    post(rig, 3, 6)
    assert reached == [Op.LIBRARY_CALL]


@pytest.fixture
def leased(rig: Rig) -> Rig:
    """A session that has its turn on the lease of a slice."""
    tables = rig.state.pump
    tables.open_flight()
    permit = ctypes.c_uint32(1)
    for offset, value in (
        (pump_block.LEASE_WORD, ctypes.addressof(permit)),
        (pump_block.LEASE_VALUE, 1),
        (pump_block.LEASE_BEGUN, 1),
    ):
        tables.set(offset, value)
    rig.permit = permit  # type: ignore[attr-defined]
    return rig


def test_what_is_repeated_is_marked_as_work_on_the_device(leased: Rig) -> None:
    taught(leased)
    marks = leased.state.pump.flight
    assert marks is not None
    before = marks.get(flight.BATCH_COUNT)
    for _ in range(3):
        post(leased, 3, 4)
    assert marks.get(flight.BATCH_COUNT) == before + 3
    assert marks.drained()
    assert marks.events(1)[0].what.startswith("kernel library.function and ")


def test_without_the_turn_nothing_is_repeated(leased: Rig) -> None:
    taught(leased)
    leased.permit.value = 0  # type: ignore[attr-defined]
    leased.producer.submit(Op.LIBRARY_CALL, msgspec.msgpack.encode(("a.library", "function", [3, 4])))
    assert leased.state.pump.run() == pump_block.REASON_LEASE
    assert seen == [(3, 4)], "the one of `taught`"
    leased.permit.value = 1  # type: ignore[attr-defined]
    leased.state.pump.set(pump_block.AGAIN, 1)
    leased.step()
    assert seen == [(3, 4)] * 2


def test_bounded_work_goes_alone_until_it_was_measured(leased: Rig) -> None:
    taught(leased)
    marks = leased.state.pump.flight
    assert marks is not None
    marks.drained()
    marks.bound(True)
    post(leased, 3, 4)
    assert seen[-1] == (3, 4)
    assert len(seen) == 2
    assert marks.drained()
