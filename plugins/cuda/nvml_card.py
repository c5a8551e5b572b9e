"""NVML in a function: the card under the slice, as the broker read it when it started.

These are facts that never change and settings that nobody keeps secret. What follows the card's load (link speed,
power, clocks of the moment) would tell of the neighbours and is refused, or is the most that it can be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from migproxy_plugins.cuda.memory_unsafe import get_u32, put_bytes, put_string, put_u32, put_u64
from migproxy_plugins.cuda.nvml import (
    INSUFFICIENT_SIZE,
    NOT_SUPPORTED,
    NvmlError,
    check_device,
    serves,
)

from migproxy.session import api

#: C function → fact; all are (device, unsigned int *).
_NUMBERS = {
    "nvmlDeviceGetModuleId": "module_id",
    "nvmlDeviceGetPowerManagementLimit": "power_limit_mw",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit_mw",
    "nvmlDeviceGetPowerManagementDefaultLimit": "power_default_mw",
    "nvmlDeviceGetMaxPcieLinkGeneration": "pcie_generation",
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": "pcie_gpu_generation",
    "nvmlDeviceGetMaxPcieLinkWidth": "pcie_width",
    # An idle card's link slows down: the speed of the moment says whether anybody uses it.
    "nvmlDeviceGetCurrPcieLinkGeneration": "pcie_generation",
    "nvmlDeviceGetCurrPcieLinkWidth": "pcie_width",
}
#: C function → fact; all are (device, char *, length).
_TEXTS = {
    "nvmlDeviceGetSerial": "serial",
    "nvmlDeviceGetBoardPartNumber": "part_number",
    "nvmlDeviceGetVbiosVersion": "vbios",
}
_MODES_LENGTH = 2048
#: Compute capability from which on cards can be divided with MIG.
_MIG_SINCE = (8, 0)


def card_number(fact: str) -> int:
    """Return a fact of the card that is a number; NVML's not-supported status where the broker could not read it."""
    found = api.device_facts().card.get(fact)
    if not isinstance(found, int):
        raise NvmlError(NOT_SUPPORTED)
    return found


def _card_text(fact: str) -> bytes:
    found = api.device_facts().card.get(fact)
    if not isinstance(found, str):
        raise NvmlError(NOT_SUPPORTED)
    return found.encode()


def _number(name: str, fact: str) -> Callable[[int, int], None]:
    def tell(device: int, value: int) -> None:
        check_device(device)
        put_u32(value, card_number(fact))

    tell.__name__ = tell.__qualname__ = name
    return tell


def _text(name: str, fact: str) -> Callable[[int, int, int], None]:
    def tell(device: int, buffer: int, length: int) -> None:
        check_device(device)
        text = _card_text(fact)
        if length <= len(text):
            raise NvmlError(INSUFFICIENT_SIZE)
        put_string(buffer, length, text)

    tell.__name__ = tell.__qualname__ = name
    return tell


for _name, _fact in _NUMBERS.items():
    serves("nvmlDevice_t, unsigned int *")(_number(_name, _fact))
for _name, _fact in _TEXTS.items():
    serves("nvmlDevice_t, char *, unsigned int")(_text(_name, _fact))


@serves("nvmlDevice_t, unsigned int *, unsigned int *")
def nvmlDeviceGetPowerManagementLimitConstraints(device: int, least: int, most: int) -> None:
    check_device(device)
    put_u32(least, card_number("power_least_mw"))
    put_u32(most, card_number("power_most_mw"))


@serves("nvmlDevice_t, nvmlPdi_t *")
def nvmlDeviceGetPdi(device: int, identifier: int) -> None:
    check_device(device)
    # version (kept), value
    put_u64(identifier + 8, card_number("pdi"))


@serves("nvmlDevice_t, nvmlDevicePerfModes_t *")
def nvmlDeviceGetPerformanceModes(device: int, modes: int) -> None:
    check_device(device)
    # version (kept), text
    put_string(modes + 4, _MODES_LENGTH, _card_text("performance_modes"))


@serves("nvmlDevice_t, nvmlPlatformInfo_t *")
def nvmlDeviceGetPlatformInfo(device: int, info: int) -> None:
    """Tell the card's module; its place in the data centre is the operator's, and all zero."""
    check_device(device)
    module = card_number("module_id")
    # version (kept), ibGuid, serial number of chassis or rack, slot, tray, host, peer type, module
    put_bytes(info, struct.pack("<I16s16s5B", get_u32(info), b"", b"", 0, 0, 0, 0, module & 0xFF))


@serves("nvmlDevice_t, unsigned int *, unsigned int *")
def nvmlDeviceGetMigMode(device: int, current: int, pending: int) -> None:
    """The slice is all there is, a whole card or an instance: neither has instances that a function could use."""
    check_device(device)
    if api.compute_capability(0) < _MIG_SINCE:
        raise NvmlError(NOT_SUPPORTED)
    put_u32(current, 0)
    put_u32(pending, 0)


@serves("nvmlDevice_t, nvmlDeviceAddressingMode_t *")
def nvmlDeviceGetAddressingMode(device: int, mode: int) -> None:
    """None: kernels do not reach the function's ordinary memory, whatever the card can do."""
    check_device(device)
    # version (kept), value
    put_u32(mode + 4, 0)


@serves("nvmlDevice_t, nvmlC2cModeInfo_v1_t *")
def nvmlDeviceGetC2cModeInfoV(device: int, info: int) -> None:
    check_device(device)
    put_u32(info, 0)
