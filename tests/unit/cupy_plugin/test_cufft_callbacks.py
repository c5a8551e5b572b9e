"""What cuFFT is given for a callback stays where it is until the plan is gone: cuFFT reads it when the plan is made."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from migproxy_plugins.cupy import jit_callbacks_unsafe as unsafe
from migproxy_plugins.cupy import serving_fft
from migproxy_plugins.cupy.serving import EXTRA, Serving

from migproxy.errors import CudaError, ProtocolError

PLAN, INVALID_PLAN = 0x5E00_0000_0000, 1
NAME, IMAGE, DATA = "twice", b"LTO-IR" * 1000, 0x7000_0000


class CuFFTError(Exception):
    pass


class FakeCufft:
    """Keeps what it gets as cuFFT does, by address, and reads it when a plan is made."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, ...]] = []
        self.read: list[tuple[str, bytes, int]] = []

    def set_jit_callback(self, handle: int, name: int, image: int, size: int, kind: int, data: int) -> int:
        if handle != 77:
            return INVALID_PLAN
        self.kept.append((name, image, size, data))
        return 0

    def create(self) -> int:
        return 77

    def check_result(self, status: int) -> None:
        if status:
            raise CuFFTError(status)

    def Plan1d(self, *arguments: Any, prealloc_plan: int = 0) -> Any:
        for name, image, size, data in self.kept:
            value = ctypes.c_uint64.from_address(data).value
            self.read.append((ctypes.string_at(name).decode(), ctypes.string_at(image, size), value))
        return SimpleNamespace(handle=prealloc_plan)


class FakeServer(Serving):
    def __init__(self, module: FakeCufft) -> None:
        self.software = False
        self.objects = {}
        self.context = SimpleNamespace(check_range=self.check_range)
        self._module = module

    def module(self, name: str) -> Any:
        return self._module

    def check_range(self, address: int, size: int) -> None:
        if address != DATA:
            raise CudaError(1)


@pytest.fixture
def cufft(monkeypatch: pytest.MonkeyPatch) -> FakeCufft:
    made = FakeCufft()
    monkeypatch.setattr(unsafe, "_function", lambda: made.set_jit_callback)
    monkeypatch.setattr(serving_fft, "_callbacks", {})
    return made


def call(server: Serving, name: str, *arguments: Any) -> None:
    EXTRA[serving_fft.CUFFT, name](server, *arguments)


def test_a_callback_is_there_when_the_plan_is_made(cufft: FakeCufft) -> None:
    server = FakeServer(cufft)
    call(server, "create", PLAN)
    for kind in (0, 4):
        # As they arrive: in memory of the command's own, which the next one overwrites.
        call(server, "setJITCallback", PLAN, NAME, bytes(bytearray(IMAGE)), kind, DATA)
    gc.collect()
    rubbish = [bytes(len(IMAGE)) for _ in range(100)] + [b"x" * size for size in range(64)]
    call(server, "Plan1d", PLAN, 16, 41, 17)
    assert cufft.read == [(NAME, IMAGE, DATA)] * 2
    assert len(serving_fft._callbacks[PLAN]) == 2
    call(server, "destroyPlan", PLAN)
    assert not serving_fft._callbacks
    assert not server.objects
    del rubbish


def test_no_callback_is_an_address_of_nobody_nor_for_what_is_no_plan(cufft: FakeCufft) -> None:
    server = FakeServer(cufft)
    call(server, "create", PLAN)
    with pytest.raises(CudaError):
        call(server, "setJITCallback", PLAN, NAME, IMAGE, 0, DATA + 8)
    with pytest.raises(ProtocolError):
        call(server, "setJITCallback", PLAN, IMAGE, NAME, 0, 0)
    call(server, "Plan1d", PLAN, 16, 41, 17)
    with pytest.raises(ProtocolError):
        call(server, "setJITCallback", PLAN, NAME, IMAGE, 0, 0)
    server.objects[PLAN + 16] = ("cufft plan", serving_fft._Prepared(78))
    with pytest.raises(CuFFTError):
        call(server, "setJITCallback", PLAN + 16, NAME, IMAGE, 0, 0)
    assert not serving_fft._callbacks


def test_a_plan_takes_so_many_and_no_more(cufft: FakeCufft) -> None:
    server = FakeServer(cufft)
    call(server, "create", PLAN)
    for _ in range(serving_fft._MOST_CALLBACKS):
        call(server, "setJITCallback", PLAN, NAME, IMAGE, 0, 0)
    with pytest.raises(ProtocolError):
        call(server, "setJITCallback", PLAN, NAME, IMAGE, 0, 0)
