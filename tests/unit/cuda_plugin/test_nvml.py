"""The session's view of NVML: one device, the quota, nothing that can be set."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import FakeSession
from migproxy_plugins.cuda import nvml

from migproxy.session import api


@pytest.fixture
def pynvml(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A pynvml of our own, patched."""
    pytest.importorskip("pynvml")
    import importlib.util

    monkeypatch.setattr(api, "init", lambda: None)
    monkeypatch.setattr(api, "driver_version", lambda: 12080)
    monkeypatch.setattr(api, "mem_get_info", lambda: (700, 1000))
    monkeypatch.setattr(api, "compute_capability", lambda d=0: (9, 0))
    monkeypatch.setattr(api, "device_facts", lambda: SimpleNamespace(kind="software"))
    monkeypatch.setattr(nvml._Library, "users", 0)
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
