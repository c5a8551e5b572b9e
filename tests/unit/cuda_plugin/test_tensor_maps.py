"""Tensor maps: what the function is asked for is what the executor's driver is asked for."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
from c_values import Bytes
from conftest import FakeSession
from migproxy_plugins.cuda import executor, registry

from migproxy.errors import ProtocolError
from migproxy.session import api


class Driver:
    """Keeps what it was called with, arrays read out."""

    kind = "software"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def status(self, name: str, out: int, *arguments: int) -> int:
        assert out % 64 == 0
        if name == "cuTensorMapReplaceAddress":
            assert ctypes.string_at(out, 128) == b"\xab" * 128
            ctypes.memset(out, 0xCD, 128)
            return 0
        kind, rank, address, extents, strides, *rest = arguments
        self.seen = [name, kind, rank, address]
        self.seen += [
            list((ctypes.c_uint64 * size).from_address(at)) for at, size in ((extents, rank), (strides, rank - 1))
        ]
        if name == "cuTensorMapEncodeTiled":
            self.seen += [list((ctypes.c_uint32 * rank).from_address(at)) for at in rest[:2]] + rest[2:]
        else:
            self.seen += [list((ctypes.c_int32 * (rank - 2)).from_address(at)) for at in rest[:2]] + rest[2:4]
            self.seen += [list((ctypes.c_uint32 * rank).from_address(rest[4])), *rest[5:]]
        ctypes.memset(out, 0xAB, 128)
        return 0


@pytest.fixture
def driver(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(api, "driver_call", lambda name, packed: executor.serve(made, session, name, list(packed)))  # type: ignore[arg-type]
    return made


def call(name: str, *arguments: int) -> int:
    return registry.status_of(registry.load()[name])(*arguments)


def numbers(form: str, *values: int) -> int:
    return Bytes(struct.pack(f"<{len(values)}{form}", *values)).at


def test_tiled_and_replaced(driver: Driver) -> None:
    out = Bytes(bytes(128))
    extents, strides = numbers("Q", 64, 32, 16), numbers("Q", 128, 4096)
    arguments = (7, 3, 0x7000, extents, strides, numbers("I", 8, 4, 2), numbers("I", 1, 1, 1), 0, 2, 1, 0)
    assert call("cuTensorMapEncodeTiled", out.at, *arguments) == 0
    assert driver.seen == [
        "cuTensorMapEncodeTiled", 7, 3, 0x7000, [64, 32, 16], [128, 4096], [8, 4, 2], [1, 1, 1], 0, 2, 1, 0,
    ]  # fmt: skip
    assert out.data == b"\xab" * 128
    assert call("cuTensorMapReplaceAddress", out.at, 0x9000) == 0
    assert out.data == b"\xcd" * 128


def test_image_to_column(driver: Driver) -> None:
    out = Bytes(bytes(128))
    corners = numbers("i", -1, -2), numbers("i", 1, 0)
    arguments = (7, 4, 0x7000, numbers("Q", 64, 32, 16, 8), numbers("Q", 128, 4096, 65536), *corners)
    assert call("cuTensorMapEncodeIm2col", out.at, *arguments, 64, 16, numbers("I", 1, 1, 1, 1), 0, 1, 2, 1) == 0
    assert driver.seen[6:] == [[-1, -2], [1, 0], 64, 16, [1, 1, 1, 1], 0, 1, 2, 1]


@pytest.mark.parametrize("rank", [0, 6, 1 << 20])
def test_dimensions_there_are_not(driver: Driver, rank: int) -> None:
    assert (
        call("cuTensorMapEncodeTiled", Bytes(bytes(128)).at, 7, rank, 0x7000, *[numbers("Q", 1)] * 4, 0, 0, 0, 0) == 1
    )


def test_malformed_requests_are_refused(driver: Driver, session: FakeSession) -> None:
    good = [[7, 2, 0x7000], [4, 4], [16], [], [], [2, 2], [], [1, 1], [0, 0, 0, 0]]
    for place, wrong in ((1, [4]), (2, [16, 16]), (5, [2]), (7, "no"), (8, [0, 0, 0])):
        packed = [*good[:place], wrong, *good[place + 1 :]]
        with pytest.raises(ProtocolError):
            executor.serve(driver, session, "cuTensorMapEncodeTiled", packed)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        executor.serve(driver, session, "cuTensorMapReplaceAddress", [b"short", 0])  # type: ignore[arg-type]
