"""Copies and memsets, and when they are done."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from transports import Host

from migproxy.errors import CudaError

Read = Callable[[int, int], bytes]
Device = Callable[[bytes | int], int]

SIZES = (1, 3, 4095, 65_536, 65_537, 1_000_003, (5 << 20) + 7)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_to_the_device_and_back(cuda: Any, device: Device, size: int, asynchronous: bool) -> None:
    content, back = Host(noise(size)), Host(size)
    pointer = device(size)
    stream = cuda.stream_create(1) if asynchronous else None
    cuda.memcpy_htod(pointer, content.address, size, stream)
    cuda.memcpy_dtoh(back.address, pointer, size, stream)
    if stream is not None:
        cuda.stream_synchronize(stream)
        cuda.stream_destroy(stream)
    assert back.data == content.data


@pytest.mark.parametrize("size", SIZES)
def test_pageable_memory_may_change_once_the_copy_has_returned(
    cuda: Any, device: Device, read: Read, size: int
) -> None:
    content = Host(noise(size))
    pointer = device(size)
    stream = cuda.stream_create(1)
    cuda.memcpy_htod(pointer, content.address, size, stream)
    content.fill(0)
    cuda.stream_synchronize(stream)
    cuda.stream_destroy(stream)
    assert read(pointer, size) == noise(size)


def test_parts_at_odd_offsets(cuda: Any, device: Device, read: Read) -> None:
    pointer = device(bytes(1000))
    content = Host(noise(100))
    cuda.memcpy_htod(pointer + 333, content.address + 1, 77)
    assert read(pointer, 1000) == bytes(333) + noise(100)[1:78] + bytes(1000 - 333 - 77)
    back = Host(bytes(50))
    cuda.memcpy_dtoh(back.address + 3, pointer + 340, 11)
    assert back.data == bytes(3) + noise(100)[8:19] + bytes(50 - 14)


@pytest.mark.parametrize("size", [1, 4095, 3 << 20])
def test_device_to_device(cuda: Any, device: Device, read: Read, size: int) -> None:
    source, target = device(noise(size)), device(size)
    cuda.memcpy_dtod(target, source, size)
    assert read(target, size) == noise(size)


def test_the_direction_follows_from_the_addresses(cuda: Any, device: Device) -> None:
    content, back = Host(noise(5000)), Host(5000)
    first, second = device(5000), device(5000)
    cuda.memcpy(first, content.address, 5000)
    cuda.memcpy(second, first, 5000)
    cuda.memcpy(back.address, second, 5000)
    assert back.data == content.data
    cuda.memcpy(back.address, content.address + 1, 100)
    assert back.data[:100] == content.data[1:101]


def test_copies_of_nothing(cuda: Any, device: Device) -> None:
    pointer = device(16)
    host = Host(1)
    cuda.memcpy_htod(pointer, host.address, 0)
    cuda.memcpy_dtod(pointer, pointer, 0)
    cuda.memset(pointer, 1, 1, 0)


def test_addresses_without_memory_are_refused(cuda: Any, device: Device) -> None:
    host = Host(64)
    for call in (
        lambda: cuda.memcpy_htod(0x1000, host.address, 64),
        lambda: cuda.memcpy_dtoh(host.address, 0x1000, 64),
        lambda: cuda.memset(0x1000, 0, 1, 64),
        lambda: cuda.memcpy_dtod(device(64), 0x1000, 64),
    ):
        with pytest.raises(CudaError, check=lambda error: error.status == 1):
            call()


@pytest.mark.parametrize(("bytes_", "value"), [(1, 0xAB), (2, 0xBEEF), (4, 0xDEADBEEF)])
def test_memset(cuda: Any, device: Device, read: Read, bytes_: int, value: int) -> None:
    pointer = device(bytes(4096))
    cuda.memset(pointer + 16, value, bytes_, 100)
    inside = value.to_bytes(bytes_, "little") * 100
    assert read(pointer, 4096) == bytes(16) + inside + bytes(4096 - 16 - len(inside))


def test_memset_of_rows(cuda: Any, device: Device, read: Read) -> None:
    pointer = device(bytes(64 * 5))
    cuda.memset_2d(pointer, 64, 9, 1, 10, 4)
    assert read(pointer, 64 * 5) == (bytes([9]) * 10 + bytes(54)) * 4 + bytes(64)
