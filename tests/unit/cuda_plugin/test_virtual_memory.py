"""Virtual memory by hand: contents follow the physical allocation, whatever is unmapped, freed and mapped again."""

from __future__ import annotations

import ctypes
import struct

import pytest
from c_values import Bytes, Out
from conftest import FakeSession
from migproxy_plugins.cuda import registry

from migproxy.session import api

D = registry.load()
MIB = 1 << 20
PROPERTIES = Bytes(struct.pack("<4iQ8s", 1, 1, 1, 0, 0, b""))
ACCESS = Bytes(struct.pack("<3i", 1, 0, 3))


def call(name: str, *arguments: int) -> int:
    return registry.status_of(D[name])(*arguments)


@pytest.fixture(autouse=True)
def room(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "mem_get_info", lambda: (1 << 30, 1 << 30))


def reserve(size: int) -> int:
    out = Out()
    assert call("cuMemAddressReserve", out.at, size, 0, 0, 0) == 0
    return int(out.value)


def create(size: int) -> int:
    out = Out()
    assert call("cuMemCreate", out.at, size, PROPERTIES.at, 0) == 0
    return int(out.value)


def test_contents_follow_the_allocation(session: FakeSession) -> None:
    handle, first, second = create(2 * MIB), reserve(2 * MIB), reserve(4 * MIB)
    assert call("cuMemMap", first, 2 * MIB, 0, handle, 0) == 0
    assert call("cuMemSetAccess", first, 2 * MIB, ACCESS.at, 1) == 0
    flags = Out()
    assert call("cuMemGetAccess", flags.at, 0, first + 5) == 0
    assert flags.value == 3
    ctypes.memmove(first, b"contents", 8)
    assert call("cuMemMap", second, 2 * MIB, 0, handle, 0) == 801
    assert call("cuMemAddressFree", first, 2 * MIB) == 1
    assert call("cuMemUnmap", first, 2 * MIB) == 0
    assert call("cuMemAddressFree", first, 2 * MIB) == 0
    assert call("cuMemMap", second + 2 * MIB, 2 * MIB, 0, handle, 0) == 0
    assert ctypes.string_at(second + 2 * MIB, 8) == b"contents"
    assert call("cuMemRelease", handle) == 0
    retained = Out()
    assert call("cuMemRetainAllocationHandle", retained.at, second + 3 * MIB) == 0
    assert retained.value == handle
    assert call("cuMemRelease", handle) == 0
    assert call("cuMemUnmap", second + 2 * MIB, 2 * MIB) == 0
    assert call("cuMemRelease", handle) == 1
    assert call("cuMemAddressFree", second, 4 * MIB) == 0
    assert session.blocks == {}


def test_what_cannot_be(session: FakeSession) -> None:
    handle, base = create(2 * MIB), reserve(2 * MIB)
    assert call("cuMemMap", base, 4 * MIB, 0, handle, 0) == 1
    assert call("cuMemMap", base + 4096, 2 * MIB, 0, handle, 0) == 1
    assert call("cuMemUnmap", base, 2 * MIB) == 1
    assert call("cuMemSetAccess", base, 2 * MIB, ACCESS.at, 1) == 1
    assert call("cuMemCreate", Out().at, MIB, PROPERTIES.at, 0) == 1
    assert call("cuMemAddressReserve", Out().at, 100, 0, 0, 0) == 1
    assert call("cuMemAddressReserve", Out().at, 1 << 40, 0, 0, 0) == 2
    host = Bytes(struct.pack("<4iQ8s", 1, 0, 2, 0, 0, b""))
    assert call("cuMemCreate", Out().at, 2 * MIB, host.at, 0) == 801
    assert call("cuMemRelease", handle) == 0
    assert call("cuMemAddressFree", base, 2 * MIB) == 0
