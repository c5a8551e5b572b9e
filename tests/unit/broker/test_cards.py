"""What functions may know of the card under their slice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from migproxy.broker.cards import Cards
from migproxy.device.inventory import Slice, software_slice

from .broker_tools import Running


class NVMLError(Exception):
    pass


class Nvml:
    """NVML that tells some of what it is asked, and is too old for the rest."""

    NVMLError = NVMLError
    broken = False
    open = 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return 100 + index

    def nvmlDeviceGetModuleId(self, handle: int) -> int:
        return handle

    def nvmlDeviceGetSerial(self, handle: int) -> bytes:
        return b"1650"

    def nvmlDeviceGetBrand(self, handle: int) -> int:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return 1000 + kind

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: int) -> list[int]:
        return [100, 700]

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(pciDeviceId=0x233510DE, pciSubSystemId=7)


GPU = Slice("gpu1", "gpu", "GPU-1", 8 << 30, index=1)
TOLD = {
    "module_id": 101,
    "serial": "1650",
    "clock_0_mhz": 1000,
    "clock_1_mhz": 1001,
    "clock_2_mhz": 1002,
    "clock_3_mhz": 1003,
    "power_least_mw": 100,
    "power_most_mw": 700,
    "pci_device_id": 0x233510DE,
    "pci_subsystem_id": 7,
}


def test_a_card_is_read_for_all_its_slices() -> None:
    nvml = Nvml()
    instance = replace(GPU, name="MIG-1", kind="mig")
    cards = Cards([GPU, instance, software_slice(1 << 30)], nvml)
    assert cards.of(GPU) == cards.of(instance) == TOLD
    assert cards.of(software_slice(1 << 30)) == {}
    assert nvml.open == 0


def test_without_nvml_nothing_is_told() -> None:
    nvml = Nvml()
    nvml.broken = True
    assert Cards([GPU], nvml).of(GPU) == {}


def test_a_function_is_told_when_it_is_welcomed(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())  # type: ignore[arg-type]
    running = start(slices_served=[GPU], usage_seconds=0.0)
    assert running.peer().open().device.card == TOLD
