"""What NVML tells of a card beyond CUDA's attributes, as far as every function on it may know it: facts that never
change, and settings as they were when they were read.

How busy the card is, how warm, and what it draws stays out: that would tell a function what its neighbours do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

#: nvmlClockType_t: graphics, multiprocessors, memory, video.
CLOCKS: Final = range(4)

_CALLS: Final[dict[str, str]] = {
    "brand": "nvmlDeviceGetBrand",
    "module_id": "nvmlDeviceGetModuleId",
    "pdi": "nvmlDeviceGetPdi",
    "serial": "nvmlDeviceGetSerial",
    "part_number": "nvmlDeviceGetBoardPartNumber",
    "vbios": "nvmlDeviceGetVbiosVersion",
    "performance_modes": "nvmlDeviceGetPerformanceModes",
    "power_limit_mw": "nvmlDeviceGetPowerManagementLimit",
    "power_default_mw": "nvmlDeviceGetPowerManagementDefaultLimit",
    "pcie_generation": "nvmlDeviceGetMaxPcieLinkGeneration",
    "pcie_gpu_generation": "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "pcie_width": "nvmlDeviceGetMaxPcieLinkWidth",
}


def read_card(nvml: Any, handle: Any) -> dict[str, int | str]:
    """Return what NVML tells of a card, by name; what it does not tell is absent.

    Parameters
    ----------
    nvml : module
        `pynvml`, initialised. An old one has fewer functions.
    handle
        Of the whole card.
    """
    found: dict[str, int | str] = {}

    def note(names: tuple[str, ...], ask: Callable[[], tuple[Any, ...]]) -> None:
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            for name, value in zip(names, ask(), strict=True):
                found[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    for name, function in _CALLS.items():
        note((name,), lambda function=function: (getattr(nvml, function)(handle),))  # type: ignore[misc]
    for kind in CLOCKS:
        note((f"clock_{kind}_mhz",), lambda kind=kind: (nvml.nvmlDeviceGetMaxClockInfo(handle, kind),))  # type: ignore[misc]
    note(
        ("power_least_mw", "power_most_mw"),
        lambda: tuple(nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)),
    )

    def pci() -> tuple[int, int]:
        info = nvml.nvmlDeviceGetPciInfo(handle)
        return info.pciDeviceId, info.pciSubSystemId

    note(("pci_device_id", "pci_subsystem_id"), pci)
    return found
