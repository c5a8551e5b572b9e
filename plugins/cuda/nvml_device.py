"""NVML in a function: the lesser facts of the session's device, as far as the session knows them."""

from __future__ import annotations

import os
import struct

from migproxy_plugins.cuda.memory_unsafe import (
    get_bytes,
    get_string,
    get_u32,
    put_bytes,
    put_i32,
    put_u32,
    put_u64,
)
from migproxy_plugins.cuda.nvml import (
    DEVICE,
    INSUFFICIENT_SIZE,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    NvmlError,
    check_device,
    device_uuid,
    driver_version,
    pci_ids,
    pci_place,
    serves,
)

from migproxy.session import api

# CUdevice_attribute
_CLOCK, _ECC, _MEMORY_CLOCK, _BUS_WIDTH, _MULTIPROCESSORS, _MULTI_GPU_BOARD = 13, 32, 36, 37, 16, 84
# nvmlDeviceArchitecture_t by compute capability, the newest first
_ARCHITECTURES = (
    ((10, 0), 10),
    ((9, 0), 9),
    ((8, 9), 8),
    ((8, 0), 7),
    ((7, 5), 6),
    ((7, 0), 5),
    ((6, 0), 4),
    ((5, 0), 3),
)
#: Cores of a multiprocessor by compute capability; 128 for what is not listed.
_CORES = {(6, 0): 64, (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
_GRAPHICS_CLOCK, _SM_CLOCK, _MEMORY_CLOCK_TYPE = 0, 1, 2
_PCIE = 2  # nvmlBusType_t
_BRANCH = struct.Struct("<I80s")  # nvmlSystemDriverBranchInfo_t
_UUID_TEXT, _UUID_BINARY = 1, 2
# nvmlFieldValue_t: fieldId, scopeId, timestamp, latency, value's type, status, value
_FIELD_SIZE, _FIELD_STATUS = 40, 28


@serves("nvmlSystemDriverBranchInfo_t *, unsigned int")
def nvmlSystemGetDriverBranch(info: int, length: int) -> None:
    branch = b"r%s_00" % driver_version().split(b".")[0]
    if length <= len(branch):
        raise NvmlError(INSUFFICIENT_SIZE)
    put_bytes(info, _BRANCH.pack(get_u32(info), branch))


@serves("nvmlDevice_t, nvmlDeviceArchitecture_t *")
def nvmlDeviceGetArchitecture(device: int, architecture: int) -> None:
    check_device(device)
    capability = api.compute_capability(0)
    put_u32(architecture, next((number for least, number in _ARCHITECTURES if capability >= least), 0xFFFFFFFF))


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetBoardId(device: int, board: int) -> None:
    check_device(device)
    put_u32(board, int(api.device_pci_bus_id(0).split(":")[1], 16) << 8)


@serves("nvmlDevice_t, nvmlBusType_t *")
def nvmlDeviceGetBusType(device: int, kind: int) -> None:
    check_device(device)
    put_u32(kind, _PCIE)


@serves("nvmlDevice_t, nvmlClockType_t, unsigned int *")
def nvmlDeviceGetMaxClockInfo(device: int, kind: int, clock: int) -> None:
    check_device(device)
    known = api.device_facts().card.get(f"clock_{kind}_mhz")
    if known is not None:
        put_u32(clock, int(known))
    elif kind in (_GRAPHICS_CLOCK, _SM_CLOCK):
        put_u32(clock, api.device_attribute(_CLOCK, 0) // 1000)
    elif kind == _MEMORY_CLOCK_TYPE:
        put_u32(clock, api.device_attribute(_MEMORY_CLOCK, 0) // 1000)
    else:
        raise NvmlError(NOT_SUPPORTED)


@serves("nvmlDevice_t, nvmlEnableState_t *")
def nvmlDeviceGetDisplayActive(device: int, active: int) -> None:
    check_device(device)
    put_u32(active, 0)


@serves("nvmlDevice_t, nvmlEnableState_t *")
def nvmlDeviceGetDisplayMode(device: int, mode: int) -> None:
    nvmlDeviceGetDisplayActive(device, mode)


@serves("nvmlDevice_t, nvmlEnableState_t *, nvmlEnableState_t *")
def nvmlDeviceGetEccMode(device: int, current: int, pending: int) -> None:
    check_device(device)
    enabled = api.device_attribute(_ECC, 0)
    put_u32(current, enabled)
    put_u32(pending, enabled)


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetMaxMigDeviceCount(device: int, count: int) -> None:
    check_device(device)
    put_u32(count, 0)


@serves("nvmlDevice_t, unsigned int, nvmlDevice_t *")
def nvmlDeviceGetMigDeviceHandleByIndex(device: int, index: int, mig: int) -> None:
    check_device(device)
    raise NvmlError(NOT_FOUND)


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetMemoryBusWidth(device: int, width: int) -> None:
    check_device(device)
    put_u32(width, api.device_attribute(_BUS_WIDTH, 0))


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetNumGpuCores(device: int, cores: int) -> None:
    check_device(device)
    put_u32(cores, api.device_attribute(_MULTIPROCESSORS, 0) * _CORES.get(api.compute_capability(0), 128))


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetNumFans(device: int, fans: int) -> None:
    check_device(device)
    put_u32(fans, 0)


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceGetMultiGpuBoard(device: int, board: int) -> None:
    check_device(device)
    put_u32(board, api.device_attribute(_MULTI_GPU_BOARD, 0))


@serves("nvmlDevice_t, nvmlGpuVirtualizationMode_t *")
def nvmlDeviceGetVirtualizationMode(device: int, mode: int) -> None:
    check_device(device)
    put_u32(mode, 0)


@serves("nvmlDevice_t, nvmlDevice_t, int *")
def nvmlDeviceOnSameBoard(device: int, other: int, same: int) -> None:
    check_device(device)
    check_device(other)
    put_i32(same, 1)


@serves("nvmlDevice_t, nvmlDevice_t, nvmlGpuTopologyLevel_t *")
def nvmlDeviceGetTopologyCommonAncestor(device: int, other: int, level: int) -> None:
    check_device(device)
    check_device(other)
    put_u32(level, 0)


@serves("nvmlDevice_t, nvmlGpuTopologyLevel_t, unsigned int *, nvmlDevice_t *")
def nvmlDeviceGetTopologyNearestGpus(device: int, level: int, count: int, devices: int) -> None:
    check_device(device)
    put_u32(count, 0)


@serves("unsigned int, unsigned int *, nvmlDevice_t *")
def nvmlSystemGetTopologyGpuSet(cpu: int, count: int, devices: int) -> None:
    room = get_u32(count)
    put_u32(count, 1)
    if devices and room:
        put_u64(devices, DEVICE)


@serves("unsigned int *")
def nvmlUnitGetCount(count: int) -> None:
    put_u32(count, 0)


@serves("nvmlUUID_t const *, nvmlDevice_t *")
def nvmlDeviceGetHandleByUUIDV(uuid: int, device: int) -> None:
    # nvmlUUID_t: version, type, text or bytes
    kind = get_u32(uuid + 4) if uuid else 0
    if kind == _UUID_TEXT:
        found = get_string(uuid + 8) == device_uuid()
    elif kind == _UUID_BINARY:
        found = get_bytes(uuid + 8, 16) == api.device_uuid(0)
    else:
        raise NvmlError(INVALID_ARGUMENT)
    if not found:
        raise NvmlError(NOT_FOUND)
    put_u64(device, DEVICE)


@serves("nvmlDevice_t, int, nvmlFieldValue_t *")
def nvmlDeviceGetFieldValues(device: int, count: int, values: int) -> None:
    """Each field answers for itself, and none is the session's to tell."""
    check_device(device)
    if count <= 0 or not values:
        raise NvmlError(INVALID_ARGUMENT)
    for place in range(values, values + _FIELD_SIZE * count, _FIELD_SIZE):
        put_i32(place + _FIELD_STATUS, NOT_SUPPORTED)


def _put_set(words: int, count: int, members: set[int]) -> None:
    if count <= 0 or not words:
        raise NvmlError(INVALID_ARGUMENT)
    for index in range(count):
        put_u64(words + 8 * index, sum(1 << member % 64 for member in members if member // 64 == index))


@serves("nvmlDevice_t, unsigned int, unsigned long *")
def nvmlDeviceGetCpuAffinity(device: int, count: int, cpus: int) -> None:
    """All of the function's processors are equally far from the executor, through which it uses the device."""
    check_device(device)
    _put_set(cpus, count, os.sched_getaffinity(0))


@serves("nvmlDevice_t, unsigned int, unsigned long *, nvmlAffinityScope_t")
def nvmlDeviceGetCpuAffinityWithinScope(device: int, count: int, cpus: int, scope: int) -> None:
    nvmlDeviceGetCpuAffinity(device, count, cpus)


@serves("nvmlDevice_t, unsigned int, unsigned long *, nvmlAffinityScope_t")
def nvmlDeviceGetMemoryAffinity(device: int, count: int, nodes: int, scope: int) -> None:
    check_device(device)
    _put_set(nodes, count, {0})


@serves("nvmlDevice_t, nvmlDeviceCapabilities_t *")
def nvmlDeviceGetCapabilities(device: int, capabilities: int) -> None:
    check_device(device)
    # version (kept), mask: nothing beyond the ordinary
    put_u32(capabilities + 4, 0)


@serves("nvmlDevice_t, nvmlGridLicensableFeatures_t *")
def nvmlDeviceGetGridLicensableFeatures_v4(device: int, features: int) -> None:
    check_device(device)
    # isGridLicenseSupported, licensableFeaturesCount
    put_u32(features, 0)
    put_u32(features + 4, 0)


@serves("nvmlDevice_t, nvmlPciInfoExt_t *")
def nvmlDeviceGetPciInfoExt(device: int, info: int) -> None:
    check_device(device)
    # version (kept), domain, bus, device, pciDeviceId, pciSubSystemId, baseClass (display), subClass (3D), busId[32]
    text, *numbers = pci_place()
    put_bytes(info + 4, struct.pack("<7I32s", *numbers, *pci_ids(), 3, 2, text.encode()))


@serves("nvmlDevice_t, unsigned int *")
def nvmlDeviceIsMigDeviceHandle(device: int, is_mig: int) -> None:
    check_device(device)
    put_u32(is_mig, int(api.device_facts().kind == "mig"))


@serves("nvmlDevice_t, unsigned long long *")
def nvmlDeviceGetSupportedEventTypes(device: int, kinds: int) -> None:
    check_device(device)
    put_u64(kinds, 0)


@serves("nvmlDevice_t, nvmlEnableState_t *")
def nvmlDeviceGetPersistenceMode(device: int, mode: int) -> None:
    """The broker's executors keep the device initialised."""
    check_device(device)
    put_u32(mode, 1)
