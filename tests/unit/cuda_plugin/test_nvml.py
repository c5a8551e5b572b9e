"""The session's view of NVML: one device, the quota, nothing that can be set."""

from __future__ import annotations

import ctypes
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import FakeSession
from migproxy_plugins.cuda import nvml, nvml_usage

from migproxy.session import api


@pytest.fixture
def card() -> dict[str, int | str]:
    """What the broker read of the card."""
    return {}


@pytest.fixture
def pynvml(session: FakeSession, card: dict[str, int | str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A pynvml of our own, patched."""
    pytest.importorskip("pynvml")
    import importlib.util

    monkeypatch.setattr(api, "init", lambda: None)
    monkeypatch.setattr(api, "driver_version", lambda: 12080)
    monkeypatch.setattr(api, "mem_get_info", lambda: (700, 1000))
    monkeypatch.setattr(api, "compute_capability", lambda d=0: (9, 0))
    monkeypatch.setattr(api, "device_facts", lambda: SimpleNamespace(kind="software", card=card))
    monkeypatch.setattr(nvml._Library, "users", 0)
    monkeypatch.setattr(nvml_usage, "_seen", nvml_usage._Seen())
    spec = importlib.util.find_spec("pynvml")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # It makes its error classes in the module of this name.
    monkeypatch.setitem(sys.modules, "pynvml", module)
    spec.loader.exec_module(module)
    nvml.patch_pynvml(module)
    return module


def test_the_slice_is_the_only_device(pynvml: Any) -> None:
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 1
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetName(device) == "Fake"
    uuid = pynvml.nvmlDeviceGetUUID(device)
    assert uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert ctypes.cast(pynvml.nvmlDeviceGetHandleByUUID(uuid), ctypes.c_void_p).value == nvml.DEVICE
    assert pynvml.nvmlSystemGetDriverVersion() == "570.00"
    assert pynvml.nvmlDeviceGetCudaComputeCapability(device) == (9, 0)
    for index, error in ((1, pynvml.NVML_ERROR_INVALID_ARGUMENT),):
        with pytest.raises(pynvml.NVMLError) as caught:
            pynvml.nvmlDeviceGetHandleByIndex(index)
        assert caught.value.value == error
    pynvml.nvmlShutdown()


def test_memory_is_the_quota(pynvml: Any) -> None:
    device = pynvml.nvmlDeviceGetHandleByIndex(0) if pynvml.nvmlInit() is None else None
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    assert (memory.total, memory.free, memory.used) == (1000, 700, 300)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
    assert (memory.total, memory.reserved, memory.free, memory.used) == (1000, 0, 700, 300)
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    assert process.usedGpuMemory == 300
    assert pynvml.nvmlDeviceGetGraphicsRunningProcesses(device) == []
    assert pynvml.nvmlDeviceGetPciInfo(device).bus == 0x3B


def test_the_rest_is_refused(pynvml: Any) -> None:
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPersistenceMode(device, 1)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTemperature(device, 0)


def test_before_and_after_use_it_is_not_initialised(pynvml: Any) -> None:
    for _ in range(2):
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
        pynvml.nvmlInit()
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
        assert pynvml.nvmlDeviceGetCount() == 1
        pynvml.nvmlShutdown()


def test_the_lesser_facts_are_the_devices(pynvml: Any, session: FakeSession) -> None:
    session.attributes |= {13: 1_400_000, 32: 1, 36: 6_000_000, 37: 384, 84: 0}
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetArchitecture(device) == pynvml.NVML_DEVICE_ARCH_HOPPER
    assert pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_SM) == 1400
    assert pynvml.nvmlDeviceGetEccMode(device) == [1, 1]
    assert pynvml.nvmlDeviceGetNumGpuCores(device) == 4 * 128
    assert pynvml.nvmlDeviceGetMemoryBusWidth(device) == 384
    assert pynvml.nvmlDeviceGetTopologyNearestGpus(device, 0) == []
    (field,) = pynvml.nvmlDeviceGetFieldValues(device, [pynvml.NVML_FI_DEV_MEMORY_TEMP])
    assert field.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    pynvml.nvmlShutdown()


CARD: dict[str, int | str] = {
    "brand": 14,
    "module_id": 3,
    "pdi": (1 << 63) + 5,
    "serial": "1650123",
    "part_number": "900-2G520",
    "vbios": "96.00.A5",
    "performance_modes": "perf=0, nvclockmax=1980",
    "power_limit_mw": 700_000,
    "power_default_mw": 700_000,
    "power_least_mw": 200_000,
    "power_most_mw": 700_000,
    "pcie_generation": 5,
    "pcie_gpu_generation": 5,
    "pcie_width": 16,
    "pci_device_id": 0x233510DE,
    "pci_subsystem_id": 0x18BE10DE,
    "clock_3_mhz": 1545,
}


def test_the_cards_unchanging_facts_are_told(pynvml: Any, card: dict[str, int | str]) -> None:
    card |= CARD
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetModuleId(device) == 3
    assert pynvml.nvmlDeviceGetPdi(device) == CARD["pdi"]
    assert pynvml.nvmlDeviceGetBrand(device) == 14
    assert pynvml.nvmlDeviceGetSerial(device) == "1650123"
    assert pynvml.nvmlDeviceGetBoardPartNumber(device) == "900-2G520"
    assert pynvml.nvmlDeviceGetVbiosVersion(device) == "96.00.A5"
    assert pynvml.nvmlDeviceGetPerformanceModes(device) == "perf=0, nvclockmax=1980"
    assert pynvml.nvmlDeviceGetPowerManagementLimit(device) == 700_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(device) == 700_000
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(device) == [200_000, 700_000]
    assert pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_VIDEO) == 1545
    assert pynvml.nvmlDeviceGetPciInfo(device).pciDeviceId == 0x233510DE
    for name in ("Max", "GpuMax", "Curr"):
        assert getattr(pynvml, f"nvmlDeviceGet{name}PcieLinkGeneration")(device) == 5
    assert pynvml.nvmlDeviceGetCurrPcieLinkWidth(device) == 16
    platform = pynvml.c_nvmlPlatformInfo_v2_t()
    platform.version = pynvml.nvmlPlatformInfo_v2
    pynvml.nvmlDeviceGetPlatformInfo(device, ctypes.byref(platform))
    assert bytes(platform) == struct.pack("<I36xB3x", pynvml.nvmlPlatformInfo_v2, 3)


def test_what_nobody_could_read_of_the_card_is_refused(pynvml: Any) -> None:
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    for name in ("ModuleId", "Serial", "PowerManagementLimit", "PerformanceModes", "Pdi"):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            getattr(pynvml, f"nvmlDeviceGet{name}")(device)


def test_what_tells_of_neighbours_is_refused(pynvml: Any, card: dict[str, int | str]) -> None:
    card |= CARD
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    for name, *arguments in (
        ("PowerUsage",),
        ("TotalEnergyConsumption",),
        ("PcieThroughput", pynvml.NVML_PCIE_UTIL_TX_BYTES),
        ("ClockInfo", pynvml.NVML_CLOCK_SM),
        ("CurrentClockFreqs",),
        ("PerformanceState",),
        ("BAR1MemoryInfo",),
    ):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            getattr(pynvml, f"nvmlDeviceGet{name}")(device, *arguments)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlEventSetCreate()


def test_the_slice_has_no_modes(pynvml: Any) -> None:
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetMigMode(device) == [0, 0]
    assert pynvml.nvmlDeviceGetAddressingMode(device) == 0
    assert pynvml.nvmlDeviceGetC2cModeInfoV1(device).isC2cEnabled == 0


def test_utilisation_is_the_sessions_own(pynvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counters: dict[str, int] = {}
    monkeypatch.setattr(api, "statistics", counters.copy)
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(device)

    def share(lived_ms: int, busy_ms: int) -> int:
        counters.update(lived_ns=lived_ms * 1_000_000, gpu_busy_ns=busy_ms * 1_000_000)
        rates = pynvml.nvmlDeviceGetUtilizationRates(device)
        assert rates.memory == 30
        return int(rates.gpu)

    assert share(1000, 250) == 25, "of the session so far"
    assert share(1100, 350) == 25, "too soon for another"
    assert share(2000, 1250) == 100
    assert share(3000, 1250) == 0
    nvml_usage._forget(None)
    assert share(1000, 400) == 40, "a fork's own session"
