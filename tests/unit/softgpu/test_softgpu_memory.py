"""Memory: allocation, address ranges, copies, fills, pinned memory, pools, and what is known of a pointer."""

from __future__ import annotations

import ctypes
import itertools
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from softgpu_session import Session, connected

from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.ranges import Room

INVALID_VALUE, OUT_OF_MEMORY, NOT_FOUND, NOT_SUPPORTED = 1, 2, 500, 801
GRANULE = 2 * MIB
PROP = struct.pack("<IIIiQQ", 1, 0, 1, 0, 0, 0)
ACCESS = struct.pack("<IiI", 1, 0, 3)


def _info(session: Session) -> tuple[int, int]:
    session.ok("cuMemGetInfo", session.at, session.at + 8)
    return struct.unpack("<QQ", session.out.raw[:16])


def _map(session: Session, size: int = GRANULE, at: int = 0) -> tuple[int, int]:
    base = at or session.u64("cuMemAddressReserve", size, 0, 0, 0)
    handle = session.u64("cuMemCreate", size, session.data(PROP), 0)
    session.ok("cuMemMap", base, size, 0, handle, 0)
    session.ok("cuMemSetAccess", base, size, session.data(ACCESS), 1)
    return base, handle


def test_what_is_written_is_read(session: Session) -> None:
    memory = session.alloc(10_000)
    data = bytes(range(256)) * 39
    session.write(memory + 7, data)
    assert session.read(memory + 7, len(data)) == data
    other = session.alloc(10_000)
    session.ok("cuMemcpyDtoD", other, memory, 10_000)
    assert session.read(other + 7, len(data)) == data


def test_new_memory_is_zero_even_after_another_used_it(session: Session) -> None:
    for _ in range(3):
        memory = session.alloc(200 * MIB)
        assert session.read(memory, 64) == bytes(64)
        assert session.read(memory + 200 * MIB - 64, 64) == bytes(64)
        session.ok("cuMemsetD8", memory, 0xAA, 200 * MIB)
        session.ok("cuMemFree", memory)


@pytest.mark.parametrize(("width", "name"), [(1, "cuMemsetD8"), (2, "cuMemsetD16"), (4, "cuMemsetD32")])
@pytest.mark.parametrize("count", [0, 1, 3, 100_001])
def test_fills(session: Session, width: int, name: str, count: int) -> None:
    memory = session.alloc(width * count + 8)
    value = 0x8C1D2E3F & ((1 << 8 * width) - 1)
    session.ok(name, memory, value, count)
    expected = value.to_bytes(width, "little") * count + bytes(8)
    assert session.read(memory, width * count + 8) == expected


def test_a_two_dimensional_fill_leaves_the_gaps(session: Session) -> None:
    session.ok("cuMemAllocPitch", session.at, session.at + 8, 100, 5, 4)
    memory, pitch = struct.unpack("<QQ", session.out.raw[:16])
    assert pitch % 512 == 0
    session.ok("cuMemsetD2D16", memory, pitch, 0x1234, 50, 5)
    rows = np.frombuffer(session.read(memory, pitch * 5), "<u2").reshape(5, -1)
    assert (rows[:, :50] == 0x1234).all()
    assert not rows[:, 50:].any()


def test_two_and_three_dimensional_copies(session: Session) -> None:
    source = np.arange(4 * 6 * 10, dtype=np.uint8).reshape(4, 6, 10)
    memory = session.alloc(8 * 8 * 16)
    copy = struct.pack(
        "<QQQQI4xQQQQQQ QQQQI4xQQQQQQ QQQ",
        *(2, 1, 1, 0, 1, source.ctypes.data, 0, 0, 0, 10, 6),
        *(3, 2, 0, 0, 2, 0, memory, 0, 0, 16, 8),
        *(5, 4, 2),
    )
    session.ok("cuMemcpy3D", session.data(copy))
    got = np.frombuffer(session.read(memory, 8 * 8 * 16), np.uint8).reshape(8, 8, 16)
    expected = np.zeros((8, 8, 16), np.uint8)
    expected[0:2, 2:6, 3:8] = source[1:3, 1:5, 2:7]
    assert (got == expected).all()

    back = np.zeros((4, 5), np.uint8)
    copy = struct.pack(
        "<QQI4xQQQQ QQI4xQQQQ QQ", *(3, 2, 2, 0, memory, 0, 16), *(0, 0, 1, back.ctypes.data, 0, 0, 5), *(5, 4)
    )
    session.ok("cuMemcpy2D", session.data(copy))
    assert (back == source[1, 1:5, 2:7]).all()


def test_a_range_outside_the_allocation_is_refused(session: Session) -> None:
    memory, data = session.alloc(100), ctypes.create_string_buffer(200)
    at = ctypes.addressof(data)
    assert session.cuda.cuMemcpyHtoD(memory, at, 101) == INVALID_VALUE
    assert session.cuda.cuMemcpyDtoH(at, memory + 1, 100) == INVALID_VALUE
    assert session.cuda.cuMemsetD32(memory, 1, 26) == INVALID_VALUE
    assert session.cuda.cuMemsetD32(memory + 2, 1, 1) == INVALID_VALUE
    session.ok("cuMemFree", memory)
    assert session.cuda.cuMemcpyDtoH(at, memory, 1) == INVALID_VALUE
    assert session.cuda.cuMemFree(memory) == INVALID_VALUE


def test_a_copy_whose_memory_went_away_meanwhile_is_a_fault_not_a_crash(session: Session) -> None:
    base, handle = _map(session)
    stream = session.stream()
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuMemsetD8Async", base, 1, 100, stream)
    session.ok("cuMemUnmap", base, GRANULE)
    session.ok("cuMemRelease", handle)
    session.engine.gate.set()
    assert session.cuda.cuStreamSynchronize(stream) == 700


def test_out_of_memory_and_then_on(session: Session) -> None:
    before, total = _info(session)
    assert session.cuda.cuMemAlloc(session.at, total + 1) == OUT_OF_MEMORY
    memory = session.alloc(before - MIB)
    assert session.cuda.cuMemAlloc(session.at, 2 * MIB) == OUT_OF_MEMORY
    session.ok("cuMemFree", memory)
    assert _info(session) == (before, total)
    session.alloc(2 * MIB)


def test_reserved_addresses_get_memory_lose_it_and_get_other(session: Session) -> None:
    free, _ = _info(session)
    base = session.u64("cuMemAddressReserve", 4 * GRANULE, 0, 0, 0)
    assert base % GRANULE == 0
    assert session.cuda.cuMemcpyDtoH(session.at, base, 1) == INVALID_VALUE
    _, first = _map(session, at=base)
    _, second = _map(session, at=base + GRANULE)
    assert _info(session)[0] == free - 2 * GRANULE
    data = bytes(range(200)) * 50
    session.write(base + GRANULE - 5000, data)
    assert session.read(base + GRANULE - 5000, len(data)) == data
    session.ok("cuMemUnmap", base, 2 * GRANULE)
    assert session.cuda.cuMemAddressFree(base, GRANULE) == INVALID_VALUE
    session.ok("cuMemRelease", first)
    assert _info(session)[0] == free - GRANULE
    # The second allocation was kept: at another address it has its bytes.
    session.ok("cuMemMap", base + 2 * GRANULE, GRANULE, 0, second, 0)
    session.ok("cuMemSetAccess", base + 2 * GRANULE, GRANULE, session.data(ACCESS), 1)
    assert session.read(base + 2 * GRANULE, 5000) == data[5000:]
    session.ok("cuMemRelease", second)
    session.ok("cuMemUnmap", base + 2 * GRANULE, GRANULE)
    assert _info(session)[0] == free
    session.ok("cuMemAddressFree", base, 4 * GRANULE)


def test_released_memory_stays_while_it_is_mapped(session: Session) -> None:
    free, _ = _info(session)
    base, handle = _map(session)
    session.ok("cuMemRelease", handle)
    session.write(base, b"still here")
    assert session.read(base, 10) == b"still here"
    retained = session.u64("cuMemRetainAllocationHandle", base)
    session.ok("cuMemUnmap", base, GRANULE)
    assert _info(session)[0] == free - GRANULE
    session.ok("cuMemRelease", retained)
    assert _info(session)[0] == free


def test_a_free_address_hint_is_honoured(session: Session) -> None:
    base = session.u64("cuMemAddressReserve", 2 * GRANULE, 0, 0, 0)
    session.ok("cuMemAddressFree", base, 2 * GRANULE)
    assert session.u64("cuMemAddressReserve", 2 * GRANULE, 0, base, 0) == base
    assert session.u64("cuMemAddressReserve", 2 * GRANULE, 0, base, 0) != base


def test_mapped_memory_without_access_is_no_memory(session: Session) -> None:
    base = session.u64("cuMemAddressReserve", GRANULE, 0, 0, 0)
    handle = session.u64("cuMemCreate", GRANULE, session.data(PROP), 0)
    session.ok("cuMemMap", base, GRANULE, 0, handle, 0)
    assert session.cuda.cuMemcpyDtoH(session.at, base, 1) == INVALID_VALUE
    assert session.cuda.cuMemMap(base, GRANULE, 0, handle, 0) == INVALID_VALUE


def test_use_after_free_faults_at_the_address() -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from softgpu_session import connected\n"
        "import ctypes\n"
        "s = connected(); m = s.alloc(100); ctypes.c_uint8.from_address(m).value = 1\n"
        "print('mapped', flush=True); s.ok('cuMemFree', m); ctypes.c_uint8.from_address(m).value = 1\n"
    )
    here = [path for path in sys.path if path]
    done = subprocess.run([sys.executable, "-c", script, *here], capture_output=True, timeout=60)
    assert done.stdout == b"mapped\n"
    assert done.returncode == -11


def test_pinned_copies_are_asynchronous_and_pageable_ones_are_not(session: Session) -> None:
    memory, stream = session.alloc(1 << 20), session.stream()
    pinned = session.u64("cuMemHostAlloc", 1 << 20, 0)
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuMemcpyHtoDAsync", memory, pinned, 1 << 20, stream)
    ctypes.memset(pinned, 5, 1 << 20)  # the copy has not read it yet
    small = ctypes.create_string_buffer(b"\x09" * 16)
    session.ok("cuMemcpyHtoDAsync", memory, ctypes.addressof(small), 16, stream)
    ctypes.memset(ctypes.addressof(small), 0, 16)  # staged: the copy has its own bytes
    assert session.cuda.cuStreamQuery(stream) == 600
    session.engine.gate.set()
    into = ctypes.create_string_buffer(1 << 20)
    session.ok("cuMemcpyDtoHAsync", ctypes.addressof(into), memory, 1 << 20, stream)
    assert into.raw == b"\x09" * 16 + b"\x05" * ((1 << 20) - 16)


def test_host_memory_is_registered_once(session: Session) -> None:
    data = ctypes.create_string_buffer(1 << 16)
    at = ctypes.addressof(data)
    session.ok("cuMemHostRegister", at, 1 << 16, 1)
    assert session.cuda.cuMemHostRegister(at + 100, 10, 0) == 712
    assert session.u64("cuMemHostGetDevicePointer", at + 8, 0) == at + 8
    session.ok("cuMemHostGetFlags", session.at, at)
    session.ok("cuMemHostUnregister", at)
    assert session.cuda.cuMemHostUnregister(at) == 713
    assert session.cuda.cuMemHostGetDevicePointer(session.at, at, 0) == INVALID_VALUE


def _attribute(session: Session, attribute: int, address: int, size: int = 8) -> int:
    session.ok("cuPointerGetAttribute", session.at, attribute, address)
    return int.from_bytes(session.out.raw[:size], "little")


def test_what_is_known_of_a_pointer(session: Session) -> None:
    memory, pinned = session.alloc(5000), session.u64("cuMemHostAlloc", 100, 0)
    managed = session.u64("cuMemAllocManaged", 100, 1)
    mapped, _ = _map(session)
    context = session.u64("cuCtxGetCurrent")
    assert [_attribute(session, 2, at, 4) for at in (memory, pinned, managed, mapped)] == [2, 1, 2, 2]
    assert [_attribute(session, 1, at) for at in (memory, pinned, mapped)] == [context, context, 0]
    assert [_attribute(session, 8, at, 1) for at in (memory, managed)] == [0, 1]
    assert _attribute(session, 11, memory + 4999) == memory
    assert _attribute(session, 12, memory + 4999) == 5000
    assert _attribute(session, 4, pinned + 3) == pinned + 3
    assert session.cuda.cuPointerGetAttribute(session.at, 4, memory) == INVALID_VALUE
    assert session.cuda.cuPointerGetAttribute(session.at, 2, session.at) == INVALID_VALUE
    assert _attribute(session, 7, memory) != _attribute(session, 7, managed)

    kinds = (ctypes.c_uint32 * 3)(2, 9, 3)
    values = (ctypes.c_uint64 * 3)(77, 77, 77)
    places = (ctypes.c_uint64 * 3)(*[ctypes.addressof(values) + 8 * index for index in range(3)])
    where = ctypes.addressof(kinds), ctypes.addressof(places)
    session.ok("cuPointerGetAttributes", 3, *where, session.at)
    assert (values[0] & 0xFFFFFFFF, ctypes.c_int32(values[1]).value, values[2]) == (0, -2, 0)


def test_the_range_of_an_address(session: Session) -> None:
    memory = session.alloc(700)
    session.ok("cuMemGetAddressRange", session.at, session.at + 8, memory + 699)
    assert struct.unpack("<QQ", session.out.raw[:16]) == (memory, 700)
    assert session.cuda.cuMemGetAddressRange(session.at, 0, memory + 700) == NOT_FOUND


def test_a_stream_ordered_free_happens_in_its_place(session: Session) -> None:
    stream = session.stream()
    pool = session.u64("cuDeviceGetMemPool", 0)
    memory = session.u64("cuMemAllocAsync", 100 * MIB, stream)
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuMemsetD8Async", memory, 3, 100 * MIB, stream)
    session.ok("cuMemFreeAsync", memory, stream)
    assert session.cuda.cuMemFreeAsync(memory, stream) == INVALID_VALUE
    session.ok("cuMemPoolGetAttribute", pool, 7, session.at)
    assert ctypes.c_uint64.from_address(session.at).value == 100 * MIB
    session.engine.gate.set()
    # The card has 256 MiB: this has to wait for the free and then succeeds.
    second = session.u64("cuMemAllocAsync", 200 * MIB, stream)
    session.ok("cuStreamSynchronize", stream)
    assert second


def test_what_is_not_there_is_refused_and_counted(session: Session) -> None:
    assert session.cuda.cuIpcGetMemHandle(session.at, session.alloc(4)) == NOT_SUPPORTED
    assert session.cuda.unsupported == {"cuIpcGetMemHandle": 1}
    fabric = session.data(struct.pack("<IIIiQQ", 1, 8, 1, 0, 0, 0))
    assert session.cuda.cuMemCreate(session.at, GRANULE, fabric, 0) == NOT_SUPPORTED


def test_arrays(session: Session) -> None:
    array = session.u64("cuArrayCreate", session.data(struct.pack("<QQII", 30, 4, 0x20, 1)))
    source = np.arange(120, dtype=np.float32).reshape(4, 30)
    back = np.zeros_like(source)
    ends = [(1, source.ctypes.data, 0, 0, 120), (3, 0, 0, array, 0), (1, back.ctypes.data, 0, 0, 120)]
    for start, end in itertools.pairwise(ends):
        copy = struct.pack("<QQI4xQQQQ QQI4xQQQQ QQ", 0, 0, *start, 0, 0, *end, 120, 4)
        session.ok("cuMemcpy2D", session.data(copy))
    assert (back == source).all()
    session.ok("cuArrayGetDescriptor", session.at, array)
    assert struct.unpack("<QQII", session.out.raw[:24]) == (30, 4, 0x20, 1)
    session.ok("cuArrayDestroy", array)


def test_a_context_takes_its_memory_with_it() -> None:
    session = connected(CardSpec(memory=64 * MIB))
    session.alloc(50 * MIB)
    session.ok("cuDevicePrimaryCtxReset", 0)
    session.ok("cuCtxSetCurrent", session.u64("cuDevicePrimaryCtxRetain", 0))
    session.alloc(50 * MIB)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.sampled_from([1, 4, 16])), max_size=60))
def test_room_is_disjoint_and_all_of_it_comes_back(steps: list[tuple[bool, int, int]]) -> None:
    room = Room(1024, 256)
    taken: list[tuple[int, int]] = []
    for take, size, alignment in steps:
        if take or not taken:
            base = room.take(size, alignment)
            if base is None:
                continue
            assert base % alignment == 0
            assert base >= 1024
            assert base + size <= 1280
            assert all(base + size <= other or other + length <= base for other, length in taken)
            taken.append((base, size))
        else:
            room.give(*taken.pop(size % len(taken)))
    for piece in taken:
        room.give(*piece)
    assert room.take(256, 1) == 1024


def test_linear_copies_of_arrays_cross_rows(session: Session) -> None:
    array = session.u64("cuArrayCreate", session.data(struct.pack("<QQII", 10, 3, 0x01, 1)))
    data = bytes(range(30))
    session.ok("cuMemcpyHtoA", array, 0, session.data(data), 30)
    memory = session.alloc(30)
    session.ok("cuMemcpyAtoD", memory, array, 7, 20)
    assert session.read(memory, 20) == data[7:27]
    session.ok("cuMemcpyDtoA", array, 0, memory, 20)
    session.ok("cuMemcpyAtoH", session.at, array, 0, 30)
    assert session.out.raw[:30] == data[7:27] + data[20:]
    assert session.cuda.cuMemcpyAtoH(session.at, array, 1, 30) == INVALID_VALUE


def test_a_batch_of_memory_operations(session: Session) -> None:
    stream, memory = session.stream(), session.alloc(16)
    session.write(memory, struct.pack("<QQ", 7, 0))
    batch = struct.pack("<I4xQQI4xQQ", 4, memory, 7, 1, 0, 0) + struct.pack("<I4xQQI4xQQ", 5, memory + 8, 9, 0, 0, 0)
    session.ok("cuStreamBatchMemOp", stream, 2, session.data(batch), 0)
    session.ok("cuStreamSynchronize", stream)
    assert session.read(memory, 16) == struct.pack("<QQ", 7, 9)


def test_managed_ranges_answer_as_without_advice(session: Session) -> None:
    managed = session.u64("cuMemAllocManaged", 4096, 1)
    session.ok("cuMemAdvise", managed, 4096, 1, 0)
    session.ok("cuMemPrefetchAsync", managed, 4096, 0, 0)
    session.ok("cuMemRangeGetAttribute", session.at, 4, 2, managed, 4096)
    assert ctypes.c_int32.from_address(session.at).value == -2
    assert session.cuda.cuMemRangeGetAttribute(session.at, 4, 2, session.alloc(4), 4) == INVALID_VALUE


def test_a_batch_of_copies(session: Session) -> None:
    stream, memory = session.stream(), session.alloc(12)
    sources = [session.data(b"abcd"), session.data(b"efgh")]
    lists = [struct.pack("<QQ", memory, memory + 8), struct.pack("<QQ", *sources), struct.pack("<QQ", 4, 4)]
    session.ok("cuMemcpyBatchAsync", *[session.data(item) for item in lists], 2, 0, 0, 0, stream)
    session.ok("cuStreamSynchronize", stream)
    assert session.read(memory, 12) == b"abcd\0\0\0\0efgh"


def test_pools_by_location(session: Session) -> None:
    place = session.data(struct.pack("<Ii", 1, 0))
    assert session.u64("cuMemGetDefaultMemPool", place, 1) == session.u64("cuDeviceGetDefaultMemPool", 0)
    session.ok("cuMemSetMemPool", place, 1, session.u64("cuMemGetMemPool", place, 1))
    assert session.cuda.cuMemGetMemPool(session.at, session.data(struct.pack("<Ii", 2, 0)), 1) == NOT_SUPPORTED
