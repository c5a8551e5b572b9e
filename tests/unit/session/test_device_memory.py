"""The function's ledger of device memory, against a recorder in the place of the session."""

from __future__ import annotations

import random

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_ALIGN, DEVICE_GRANULE
from migproxy.errors import CudaError
from migproxy.session import stream_bins
from migproxy.session.device_memory import CHUNK_SPAN, KEEP_MAPPED, DeviceMemory

BASE = 0x4000_0000_0000


class FakeRing:
    def __init__(self) -> None:
        self.frees = 0
        self.other = 0

    def frees_retired(self) -> int:
        return self.frees

    def other_bytes(self) -> int:
        return self.other

    def note_range(self, pointer: int, base: int, size: int) -> None:
        """The hot path's cache of allocations."""

    def forget_range(self, base: int) -> None:
        """The hot path's cache of allocations."""

    def note_foreign(self, count: int) -> None:
        """The hot path's count of memory placed elsewhere."""

    def wait_frees_retired(self, count: int) -> None:
        self.frees = max(self.frees, count)


class FakeSession:
    """Carries MAP and UNMAP out as the executor would, and checks that they are allowed."""

    def __init__(self, quota: int) -> None:
        self.ring = FakeRing()
        self.mapped: dict[int, int] = {}
        self.quota = quota
        self.waits = 0

    def post(self, op: Op, payload: bytes) -> int:
        if op is Op.MAP:
            address, size = layout.RANGE.unpack(payload)
            assert address % DEVICE_GRANULE == 0
            assert size % DEVICE_GRANULE == 0
            assert all(address + size <= start or start + length <= address for start, length in self.mapped.items())
            self.mapped[address] = size
            assert sum(self.mapped.values()) + self.ring.other <= self.quota
        elif op is Op.UNMAP:
            address, size = layout.RANGE.unpack(payload)
            assert self.mapped.pop(address) == size
        else:
            assert op is Op.FREE_MARK
        return 0

    def call(self, op: Op, payload: bytes) -> bytes:
        assert op is Op.CONTEXT_SYNC
        self.waits += 1
        return b""

    def is_inherited(self, address: int) -> bool:
        return False

    def covers(self, address: int, size: int) -> bool:
        granules = {
            granule
            for start, length in self.mapped.items()
            for granule in range(start // DEVICE_GRANULE, (start + length) // DEVICE_GRANULE)
        }
        return granules.issuperset(range(address // DEVICE_GRANULE, (address + size - 1) // DEVICE_GRANULE + 1))


def make(quota: int = 1 << 30) -> tuple[DeviceMemory, FakeSession]:
    session = FakeSession(quota)
    return DeviceMemory(session, BASE, 64 << 30, quota), session  # type: ignore[arg-type]


def test_small_allocations_share_a_granule() -> None:
    memory, session = make()
    addresses = [memory.allocate(1000) for _ in range(100)]
    assert len(session.mapped) == 1
    assert len(set(addresses)) == 100
    assert all(address % DEVICE_ALIGN == 0 for address in addresses)


def test_allocations_never_overlap_and_are_mapped_while_they_live() -> None:
    memory, session = make(64 << 20)
    chooser = random.Random(7)
    live: dict[int, int] = {}
    refusals: set[int] = set()
    for _ in range(3000):
        if live and chooser.random() < 0.5:
            address = chooser.choice(sorted(live))
            del live[address]
            memory.free(address)
            if chooser.random() < 0.7:
                session.ring.frees = memory._frees
        else:
            size = chooser.choice([1, 511, 513, 4096, 100_000, DEVICE_GRANULE, DEVICE_GRANULE + 1, 9 << 20])
            try:
                address = memory.allocate(size)
            except CudaError as error:
                refusals.add(error.status)
                continue
            assert all(address + size <= start or start + length <= address for start, length in live.items())
            live[address] = size
        for start, length in live.items():
            assert session.covers(start, length)
    assert refusals == {2}
    for address in live:
        memory.free(address)
    session.ring.frees = memory._frees
    assert memory.info() == (64 << 20, 64 << 20)
    assert sum(session.mapped.values()) <= KEEP_MAPPED


def test_quota_is_decided_in_the_call() -> None:
    memory, session = make(16 << 20)
    first = memory.allocate(10 << 20)
    with pytest.raises(CudaError) as caught:
        memory.allocate(8 << 20)
    assert caught.value.status == 2
    memory.free(first)
    session.ring.frees = 1
    memory.allocate(16 << 20)


def test_a_refusal_waits_for_frees_on_their_way_first() -> None:
    memory, session = make(16 << 20)
    memory.free(memory.allocate(16 << 20))
    memory.allocate(16 << 20)
    assert session.waits == 1


def test_a_freed_address_is_not_reused_before_its_free_retired() -> None:
    memory, session = make()
    first = memory.allocate(4096)
    memory.free(first)
    second = memory.allocate(4096)
    assert second != first
    session.ring.frees = 1
    assert memory.allocate(4096) == first


def test_other_bytes_count() -> None:
    memory, session = make(16 << 20)
    session.ring.other = 10 << 20
    assert memory.info() == (6 << 20, 16 << 20)
    with pytest.raises(CudaError):
        memory.allocate(8 << 20)


def test_large_allocations_are_mapped_in_chunks() -> None:
    memory, session = make()
    memory.allocate(100 << 20)
    assert max(session.mapped.values()) <= CHUNK_SPAN
    assert sum(session.mapped.values()) == 100 << 20


@pytest.mark.parametrize("size", [0, -1])
def test_size_zero_is_refused(size: int) -> None:
    memory, _ = make()
    with pytest.raises(CudaError) as caught:
        memory.allocate(size)
    assert caught.value.status == 1


def test_free_of_what_was_not_allocated() -> None:
    memory, _ = make()
    address = memory.allocate(4096)
    for wrong in (address + 512, BASE + (1 << 30)):
        with pytest.raises(CudaError) as caught:
            memory.free(wrong)
        assert caught.value.status == 1
    memory.free(0)
    memory.free(address)
    with pytest.raises(CudaError):
        memory.free(address)


def test_find_and_ranges() -> None:
    memory, _ = make()
    address = memory.allocate(5000)
    assert memory.find(address + 4999) == (address, 5000)
    assert memory.find(address + 5000) is None
    memory.check_range(address + 1000, 4000)
    with pytest.raises(CudaError):
        memory.check_range(address + 1000, 4001)
    memory.adopt(0x7000_0000, 256)
    memory.check_range(0x7000_0010, 16)
    memory.disown(0x7000_0000)
    with pytest.raises(CudaError):
        memory.check_range(0x7000_0010, 16)


# -- in the order of a stream -----------------------------------------------------------------------------------------
def test_what_a_stream_freed_is_its_next_allocation() -> None:
    memory, session = make(64 << 20)
    first = memory.allocate_in_order(1000, 7)
    memory.free_in_order(first, 7)
    assert memory.find(first) is None, "it is no allocation meanwhile"
    assert memory.allocate_in_order(900, 7) == first, "nothing is waited for: the stream's order is enough"
    assert memory.find(first) == (first, 900)
    assert memory.allocate_in_order(1000, 7) != first
    assert session.ring.frees == 0
    assert session.waits == 0


def test_another_stream_or_none_gets_other_memory_until_all_work_is_done() -> None:
    memory, session = make(64 << 20)
    first = memory.allocate_in_order(1000, 7)
    memory.free_in_order(first, 7)
    assert memory.allocate_in_order(1000, 8) != first
    assert memory.allocate(1000) != first
    memory.end_stream(7)
    assert memory.allocate(1000) != first, "the work before the free may still run"
    session.ring.frees = 1
    assert memory.allocate(1000) == first


def test_what_is_kept_is_given_up_before_memory_runs_out() -> None:
    quota = 8 * DEVICE_GRANULE
    memory, session = make(quota)
    blocks = [memory.allocate_in_order(DEVICE_GRANULE, 7) for _ in range(8)]
    for block in blocks:
        memory.free_in_order(block, 7)
    assert memory.allocate(quota)
    assert session.waits == 1


def test_how_much_is_free_counts_what_is_kept() -> None:
    memory, _ = make(8 * DEVICE_GRANULE)
    before = memory.info()
    memory.free_in_order(memory.allocate_in_order(3 * DEVICE_GRANULE, 7), 7)
    assert memory.info() == before


def test_large_blocks_are_not_kept() -> None:
    memory, session = make(512 << 20)
    block = memory.allocate_in_order(stream_bins.MOST_BYTES + 1, 7)
    memory.free_in_order(block, 7)
    session.ring.frees = 1
    assert memory.allocate_in_order(stream_bins.MOST_BYTES + 1, 8) == block, "it went the ordinary way"


def test_not_more_blocks_are_kept_than_the_bound() -> None:
    bins = stream_bins.StreamBins()
    kept = [bins.put(1, 512, 512 * number) for number in range(1, stream_bins.MOST_BLOCKS + 2)]
    assert kept == [True] * stream_bins.MOST_BLOCKS + [False]
    assert bins.take(1, 512) == 512 * stream_bins.MOST_BLOCKS
    assert bins.put(2, 512, 8)
    assert list(bins.clear(2)) == [(8, 512)]
    assert len(list(bins.clear())) == stream_bins.MOST_BLOCKS - 1
    assert not list(bins.clear())


def test_an_unknown_pointer_is_refused_in_order_too() -> None:
    memory, _ = make(64 << 20)
    with pytest.raises(CudaError) as caught:
        memory.free_in_order(BASE + 512, 7)
    assert caught.value.status == 1
    block = memory.allocate_in_order(100, 7)
    memory.free_in_order(block, 7)
    with pytest.raises(CudaError):
        memory.free_in_order(block, 7)
    with pytest.raises(CudaError) as caught:
        memory.allocate_in_order(0, 7)
    assert caught.value.status == 1
