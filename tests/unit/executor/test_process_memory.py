"""Charging what the driver allocates: by NVML's count of this process, and by free memory where there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from migproxy.executor.process_memory import ProcessMemory

from .executor_rig import Rig

MIB = 1 << 20


class FakeNvml:
    """What `ProcessMemory` calls of pynvml."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self, processes: list[Any]) -> None:
        self.processes = processes

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
        if uuid.startswith(b"GPU-"):
            raise self.NVMLError_NotFound
        return uuid.decode()

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        assert handle.startswith("MIG-00010203-")
        return SimpleNamespace(free=5 * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return self.processes


class FakeDriver:
    kind = "gpu"

    def call(self, name: str, address: int, device: int) -> None:
        import ctypes

        assert name == "cuDeviceGetUuid"
        ctypes.memmove(address, bytes(range(16)), 16)


def meter(monkeypatch: pytest.MonkeyPatch, *processes: Any) -> ProcessMemory:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(list(processes)))
    return ProcessMemory(FakeDriver())  # type: ignore[arg-type]


def test_only_this_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=900 * MIB)
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=600 * MIB)
    found = meter(monkeypatch, neighbour, mine)
    assert found.used() == 600 * MIB
    assert found.free() == 5 * MIB


def test_where_nvml_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meter(monkeypatch).used() == 0
    assert meter(monkeypatch, SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)).used() == 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_measured_sum_replaces_the_charge(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.state.counts_by_process = True
    rig.state.process_memory = meter(monkeypatch, SimpleNamespace(pid=os.getpid(), usedGpuMemory=7 * MIB))
    rig.state.memory.charge_other(50 * MIB)
    with rig.state.charged():
        pass
    assert rig.state.memory.other_bytes == 7 * MIB


def test_free_memory_counts_in_both_directions(rig: Rig) -> None:
    driver = rig.state.driver
    before = rig.state.memory.other_bytes
    with rig.state.charged():
        taken = driver.out("cuMemAlloc", 8 * MIB)
    assert rig.state.memory.other_bytes == before + 8 * MIB
    with rig.state.charged():
        driver.call("cuMemFree", taken)
    assert rig.state.memory.other_bytes == before
