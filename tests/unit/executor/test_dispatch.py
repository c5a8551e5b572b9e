"""What an executor does with commands, in one process: a real arena, the software GPU, and hostile input."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migproxy.abi import layout
from migproxy.abi.ops import OPERATIONS, Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.executor import dispatch, pump_block
from migproxy.executor.handlers.launch import LaunchTarget

from .executor_rig import QUOTA, WINDOW, Rig


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.state.closing = False
    shared.producer.take_deferred_status()
    return shared


def test_map_copy_memset_copy_back(rig: Rig) -> None:
    assert rig.call(Op.MAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))[0] == 0
    ctypes.memmove(rig.heap, bytes(range(100)), 100)
    assert rig.call(Op.COPY_HTOD, layout.COPY.pack(rig.device + 64, rig.heap, 100))[0] == 0
    assert rig.call(Op.MEMSET, layout.MEMSET.pack(rig.device + 64, 0x0807, 2, 3))[0] == 0
    assert rig.call(Op.COPY_DTOH, layout.COPY.pack(rig.heap + 4096, rig.device + 64, 100))[0] == 0
    assert ctypes.string_at(rig.heap + 4096, 100) == b"\x07\x08" * 3 + bytes(range(6, 100))
    assert rig.call(Op.UNMAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))[0] == 0


@pytest.mark.parametrize(
    ("address", "size"),
    [(1, DEVICE_GRANULE), (0, 4096), (-DEVICE_GRANULE, DEVICE_GRANULE), (0, 0), (WINDOW, DEVICE_GRANULE)],
)
def test_mapping_outside_the_rules_is_refused(rig: Rig, address: int, size: int) -> None:
    assert rig.call(Op.MAP, layout.RANGE.pack(rig.device + address, size))[0] == 1


def test_the_executor_holds_the_quota(rig: Rig) -> None:
    start = rig.device + (512 << 20)
    assert rig.call(Op.MAP, layout.RANGE.pack(start, QUOTA))[0] == 0
    assert rig.call(Op.MAP, layout.RANGE.pack(start + QUOTA, DEVICE_GRANULE))[0] == 2
    assert rig.call(Op.UNMAP, layout.RANGE.pack(start, QUOTA))[0] == 0


def test_an_error_without_reply_surfaces_at_the_next_wait(rig: Rig) -> None:
    rig.producer.submit(Op.COPY_DTOD, layout.COPY.pack(rig.device, rig.device + 4096, 100))
    rig.step()
    assert rig.producer.take_deferred_status() == 1
    assert rig.producer.take_deferred_status() == 0


@pytest.mark.parametrize("kind", [layout.KIND_STREAM, layout.KIND_EVENT, layout.KIND_FUNCTION, 0, 0xFFFFFF])
def test_foreign_handles_are_invalid(rig: Rig, kind: int) -> None:
    handle = kind << layout.HANDLE_KIND_SHIFT | 77
    assert rig.call(Op.STREAM_SYNC, b"", stream=handle or 5)[0] == 400
    assert rig.call(Op.EVENT_QUERY, layout.HANDLE.pack(handle))[0] == 400
    assert rig.call(Op.LAUNCH, layout.LAUNCH.pack(handle, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0))[0] == 400


def test_host_addresses_outside_the_arena_are_refused(rig: Rig) -> None:
    secret = ctypes.create_string_buffer(b"secret")
    rig.call(Op.MAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))
    for address, size in ((ctypes.addressof(secret), 6), (rig.base, 64), (rig.heap + (4 << 20) - 1, 2), (rig.heap, -1)):
        status, _ = rig.call(Op.COPY_HTOD, layout.COPY.pack(rig.device, address, size & (1 << 64) - 1))
        assert status == layout.STATUS_PROTOCOL
        assert rig.state.closing
        rig.state.closing = False
    rig.call(Op.UNMAP, layout.RANGE.pack(rig.device, DEVICE_GRANULE))


def test_an_impossible_head_is_refused(rig: Rig) -> None:
    head = ctypes.c_uint64.from_address(rig.base + layout.HEAD_OFFSET)
    before = head.value
    head.value = before + layout.SLOT_COUNT + 1
    assert rig.state.pump.run() == pump_block.REASON_BAD_HEAD
    head.value = before


def statistics(rig: Rig) -> dict[str, int]:
    """Ask for the counters, whose reply does not fit into its line."""
    status, data = rig.call(Op.STATISTICS, b"")
    assert status == layout.STATUS_TOO_LONG
    size = int.from_bytes(data, "little")
    asked = rig.producer.submit(
        Op.FETCH_REPLY,
        (rig.state.pump.tail - 1).to_bytes(8, "little"),
        flags=layout.FLAG_WAIT,
        reply_address=rig.heap,
        reply_capacity=size,
    )
    rig.step()
    assert rig.producer.wait(asked, 5.0)[0] == 0
    return msgspec.msgpack.decode(ctypes.string_at(rig.heap, size), type=dict[str, int])


def test_long_replies_are_fetched(rig: Rig) -> None:
    assert "quota_bytes" in statistics(rig)


def test_no_time_on_the_device_is_not_the_same_as_nobody_measuring_it(rig: Rig) -> None:
    assert statistics(rig)["lived_ns"] > 0
    assert "gpu_busy_ns" not in statistics(rig)

    def account() -> None:
        rig.state.counters["gpu_busy_ns"] = 0

    rig.state.account = account
    assert statistics(rig)["gpu_busy_ns"] == 0


#: Operations that end or stall the rig by design.
_NOT_FUZZED = {Op.CLOSE, Op.HOST_CALLBACK, Op.CAPTURE_BEGIN}
_WORD = st.one_of(st.integers(0, 64), st.integers(0, (1 << 64) - 1), st.sampled_from([layout.make_handle(0x41, 1)]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    op=st.one_of(st.sampled_from([op for op in OPERATIONS if op not in _NOT_FUZZED]), st.integers(50, 0xFFFF)),
    words=st.lists(_WORD, max_size=12),
    tail=st.binary(max_size=40),
    stream=st.one_of(st.just(0), _WORD),
    waits=st.booleans(),
)
def test_any_bytes_get_an_answer(rig: Rig, op: int, words: list[int], tail: bytes, stream: int, waits: bool) -> None:
    """Whatever lies in a slot, the executor answers it or notes a status, and goes on."""
    rig.state.closing = False
    payload = b"".join(word.to_bytes(8, "little") for word in words) + tail
    flags = layout.FLAG_WAIT if waits else 0
    number = rig.producer.submit(op, payload, stream=stream, flags=flags)
    rig.step()
    if waits:
        rig.producer.wait(number, 5.0)
    rig.producer.take_deferred_status()
    assert rig.state.sticky == 0
    assert rig.call(Op.STREAM_SYNC, b"")[0] == 0


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op not in _NOT_FUZZED])
def test_a_spilled_payload_outside_the_arena_is_refused(rig: Rig, op: Op) -> None:
    for address, size in ((0, 64), (rig.heap, 1 << 31), (rig.base, 8)):
        number = rig.producer.submit(op, b"", flags=layout.FLAG_WAIT, spill=(address, size))
        rig.step()
        assert rig.producer.wait(number, 5.0)[0] == layout.STATUS_PROTOCOL
        rig.state.closing = False


def test_a_question_that_stays_open_does_not_block_the_ring(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait may take for ever; its reply line comes round every 4096 commands."""
    monkeypatch.setitem(dispatch.HANDLERS, Op.STATISTICS, lambda *_: dispatch.PENDING)
    open_question = rig.producer.submit(Op.STATISTICS, b"", flags=layout.FLAG_WAIT)
    rig.step()
    for number in range(1, layout.SLOT_COUNT - 4):
        rig.producer.submit(Op.NOP, b"")
        if number % 200 == 0:
            rig.step()
    rig.step()
    numbers: list[int] = []

    def ask() -> None:
        for _ in range(8):
            numbers.append(rig.producer.submit(Op.NOP, b"", flags=layout.FLAG_WAIT))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10.0)
    assert len(numbers) == 8
    assert open_question + layout.SLOT_COUNT in range(numbers[0], numbers[-1])
    assert open_question + layout.SLOT_COUNT not in numbers
    rig.step()
    assert [rig.producer.wait(number, 5.0)[0] for number in numbers] == [0] * 8


def test_a_launch_with_clusters_names_them_to_the_driver(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def launch(config: int, function: int, parameters: int, extra: int) -> int:
        (pointer,) = struct.unpack("<Q", ctypes.string_at(parameters, 8))
        attributes, count = struct.unpack_from("<QI", ctypes.string_at(config, 56), 40)
        seen.extend(
            (ctypes.string_at(config, 32), ctypes.string_at(attributes, 72 * count), ctypes.string_at(pointer, 4))
        )
        assert (function, extra) == (0xF00, 0)
        return 0

    monkeypatch.setattr(rig.state.driver.device, "cuLaunchKernelEx", launch)  # type: ignore[union-attr]
    handle = layout.make_handle(layout.KIND_FUNCTION, 77)
    rig.state.functions[handle] = LaunchTarget(0xF00, [(0, 4)], 4)
    sizes = 4, 1, 1, 32, 1, 1
    cluster = layout.CLUSTER.pack(2, 1, 1, 1)
    head = layout.LAUNCH.pack(handle, *sizes, 128, layout.LAUNCH_COOPERATIVE, 4, 0)
    assert rig.call(Op.LAUNCH_EX, head + cluster + b"parm")[0] == 0
    config, attributes, parameter = seen
    assert struct.unpack("<7I", config[:28]) == (*sizes, 128)
    assert [struct.unpack_from("<I4x3I", attributes, 72 * index) for index in range(3)] == [
        (4, 2, 1, 1), (5, 1, 0, 0), (2, 1, 0, 0),
    ]  # fmt: skip
    assert parameter == b"parm"
    assert rig.call(Op.LAUNCH_EX, head + cluster + b"par")[0] == 1
    stale = layout.LAUNCH.pack(handle + 1, *sizes, 128, 0, 4, 0)
    assert rig.call(Op.LAUNCH_EX, stale + cluster + b"parm")[0] == 400
    del rig.state.functions[handle]
