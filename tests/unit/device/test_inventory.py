"""The inventory against a stand-in for NVML."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from migproxy.device.choose import check_name, select, slices_to_serve
from migproxy.device.inventory import DriverBroken, Inventory, read_inventory, software_slice
from migproxy.errors import UsageError


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


class NotFound(NVMLError):
    pass


class Invalid(NVMLError):
    pass


class Nvml:
    """NVML with GPUs given as (name, memory, capability, list of MIG instances or None)."""

    NVMLError, NVMLError_NotSupported, NVMLError_NotFound = NVMLError, NotSupported, NotFound
    NVMLError_InvalidArgument = Invalid

    def __init__(
        self, *gpus: tuple[str, int, tuple[int, int], list[tuple[str, int] | None] | None], broken: str = ""
    ) -> None:
        self.gpus, self.broken, self.open = gpus, broken, 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return (index, None)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return f"GPU-{handle[0]:08x}" if handle[1] is None else f"MIG-{handle[0]:08x}{handle[1]:04x}-aa"

    def nvmlDeviceGetName(self, handle: Any) -> str:
        gpu = self.gpus[handle[0]]
        return gpu[0] if handle[1] is None else f"{gpu[0]} MIG {gpu[3][handle[1]][0]}"  # type: ignore[index]

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        gpu = self.gpus[handle[0]]
        return SimpleNamespace(total=gpu[1] if handle[1] is None else gpu[3][handle[1]][1])  # type: ignore[index]

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        return self.gpus[handle[0]][2]

    def nvmlDeviceGetMigMode(self, handle: Any) -> tuple[int, int]:
        instances = self.gpus[handle[0]][3]
        if instances is None:
            raise NotSupported
        return (1 if instances else 0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, position: int) -> Any:
        instances = self.gpus[handle[0]][3] or []
        if position >= len(instances) or instances[position] is None:
            raise NotFound
        return (handle[0], position)


MIXED = Nvml(
    ("GeForce", 8 << 30, (8, 6), None),
    ("H100", 80 << 30, (9, 0), [("1g.10gb", 10 << 30), None, ("3g.40gb", 40 << 30)]),
    ("A100", 40 << 30, (8, 0), []),
)


def test_whole_gpus_and_mig_instances_are_slices() -> None:
    inventory = read_inventory(MIXED, present=True)
    assert [(each.name, each.kind, each.memory >> 30, each.profile) for each in inventory.slices] == [
        ("gpu0", "gpu", 8, ""),
        ("MIG-000000010000-aa", "mig", 10, "1g.10gb"),
        ("MIG-000000010002-aa", "mig", 40, "3g.40gb"),
        ("gpu2", "gpu", 40, ""),
    ]
    assert (inventory.driver, inventory.mig_parents, MIXED.open) == ("580.1", ("gpu1",), 0)
    assert inventory.slices[0].visible == "GPU-00000000"


def serve(*names: str, nvml: Nvml | None = MIXED) -> list[str]:
    def read() -> Inventory:
        return read_inventory(nvml, present=nvml is not None)

    return [each.name for each in slices_to_serve(names, read=read)]


def test_auto_is_software_only_without_a_driver() -> None:
    assert serve(nvml=None) == ["software"]
    assert serve() == ["gpu0", "MIG-000000010000-aa", "MIG-000000010002-aa", "gpu2"]


def test_a_broken_driver_is_an_error_and_never_software() -> None:
    broken = Nvml(broken="driver/library version mismatch")
    with pytest.raises(DriverBroken, match="driver/library version mismatch"):
        serve("auto", nvml=broken)
    assert serve("software", nvml=broken) == ["software"]
    with pytest.raises(UsageError, match="choose --device software"):
        serve(nvml=Nvml())


def test_names() -> None:
    assert serve("2", "GPU-00000000", "software", "MIG-000000010002-aa") == [
        "gpu2",
        "gpu0",
        "software",
        "MIG-000000010002-aa",
    ]
    with pytest.raises(UsageError, match="gpu1 is in MIG mode: name one of its instances"):
        serve("1")
    with pytest.raises(UsageError, match="no device 'gpu7' here; there is: gpu0"):
        serve("7")
    for wrong in ("", "gpu", "GPU-", "cuda:0", "-1", "1.5", "MIG-", "software2", "\u0661"):
        with pytest.raises(UsageError, match="unknown device"):
            check_name(wrong)


def test_an_ambiguous_uuid_is_refused() -> None:
    slices = read_inventory(MIXED, present=True).slices
    with pytest.raises(UsageError, match="ambiguous"):
        select("MIG-00000001", [each for each in slices if each.kind == "mig"] + [software_slice(1 << 30)])


def test_the_software_slice_takes_at_most_half_of_the_machine() -> None:
    import os

    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert 0 < software_slice().memory <= half
    assert software_slice(1 << 30).memory == 1 << 30
