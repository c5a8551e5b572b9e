"""Allocation, its errors, and what is known of an address."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from transports import Host

from migproxy.errors import CudaError

Read = Callable[[int, int], bytes]
Device = Callable[[bytes | int], int]
MIB = 1 << 20


def fails(status: int) -> Any:
    return pytest.raises(CudaError, check=lambda error: error.status == status)


def test_allocations_are_aligned_and_apart(cuda: Any, device: Device) -> None:
    sizes = (1, 255, 256, 257, 100_000, 3 * MIB)
    pointers = [device(size) for size in sizes]
    assert all(pointer % 256 == 0 for pointer in pointers)
    ranges = sorted(zip(pointers, sizes, strict=True))
    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(ranges))


def test_nothing_cannot_be_allocated(cuda: Any) -> None:
    with fails(1):
        cuda.mem_alloc(0)


def test_only_allocations_can_be_freed(cuda: Any) -> None:
    pointer = cuda.mem_alloc(4096)
    with fails(1):
        cuda.mem_free(pointer + 256)
    cuda.mem_free(pointer)
    with fails(1):
        cuda.mem_free(pointer)


def test_address_range(cuda: Any, device: Device) -> None:
    pointer = device(12_345)
    assert cuda.mem_address_range(pointer) == (pointer, 12_345)
    assert cuda.mem_address_range(pointer + 12_344) == (pointer, 12_345)


def test_free_memory_follows_allocations(cuda: Any) -> None:
    before, total = cuda.mem_get_info()
    assert 0 < before <= total
    pointer = cuda.mem_alloc(64 * MIB)
    during, _ = cuda.mem_get_info()
    assert before - during >= 64 * MIB
    cuda.mem_free(pointer)
    cuda.context_synchronize()
    after, _ = cuda.mem_get_info()
    assert after >= during + 64 * MIB


def test_out_of_memory_leaves_everything_usable(cuda: Any, device: Device, read: Read) -> None:
    kept = device(b"kept" * 1000)
    free, total = cuda.mem_get_info()
    with fails(2):
        cuda.mem_alloc(total + MIB)
    with fails(2):
        cuda.mem_alloc(free + 2 * MIB)
    assert read(kept, 4000) == b"kept" * 1000
    cuda.mem_free(cuda.mem_alloc(MIB))


def test_memory_of_freed_allocations_can_be_had_again(cuda: Any) -> None:
    free, _ = cuda.mem_get_info()
    size = free // 4  # other tests may use the same GPU at the same time
    for _ in range(16):
        pointer = cuda.mem_alloc(size)
        cuda.memset(pointer, 1, 1, 4096)
        cuda.mem_free(pointer)


def test_memory_types(cuda: Any, device: Device) -> None:
    pinned = cuda.host_alloc(4096)
    pageable = Host(4096)
    assert cuda.memory_type(device(4096)) == 2
    assert cuda.memory_type(pinned + 100) == 1
    assert cuda.memory_type(pageable.address) == 0
    cuda.host_free(pinned)
    assert cuda.memory_type(pinned) == 0


def test_pinned_memory_is_ordinary_memory_too(cuda: Any, device: Device) -> None:
    pinned = cuda.host_alloc(100_000)
    ctypes.memset(pinned, 7, 100_000)
    pointer = device(100_000)
    stream = cuda.stream_create(1)
    cuda.memcpy_htod(pointer, pinned, 100_000, stream)
    cuda.stream_synchronize(stream)
    ctypes.memset(pinned, 0, 100_000)
    cuda.memcpy_dtoh(pinned, pointer, 100_000, stream)
    cuda.stream_synchronize(stream)
    assert ctypes.string_at(pinned, 100_000) == bytes([7]) * 100_000
    cuda.stream_destroy(stream)
    cuda.host_free(pinned)


def test_pinned_memory_is_freed_once(cuda: Any) -> None:
    pinned = cuda.host_alloc(4096)
    cuda.host_free(pinned)
    with fails(1):
        cuda.host_free(pinned)


def test_stream_ordered_allocation(cuda: Any, read: Read) -> None:
    stream = cuda.stream_create(1)
    pointers = [cuda.mem_alloc_async(100_000, stream) for _ in range(3)]
    for value, pointer in enumerate(pointers):
        cuda.memset(pointer, value, 1, 100_000, stream)
    cuda.stream_synchronize(stream)
    assert [read(pointer, 100_000) for pointer in pointers] == [bytes([value]) * 100_000 for value in range(3)]
    for pointer in pointers:
        cuda.mem_free_async(pointer, stream)
    cuda.stream_synchronize(stream)
    cuda.stream_destroy(stream)
