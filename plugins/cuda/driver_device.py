"""Driver API: initialisation, versions, devices, error texts."""

from __future__ import annotations

import struct

from migproxy_plugins.cuda import graph_memory
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.attributes import device_attribute
from migproxy_plugins.cuda.memory_unsafe import (
    Strings,
    get_string,
    get_u64,
    put_bytes,
    put_i32,
    put_string,
    put_u64,
)
from migproxy_plugins.cuda.registry import serves

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.softgpu.errors_table import ERRORS

_strings = Strings()


def check_device(device: int) -> None:
    """Raise ``CUDA_ERROR_INVALID_DEVICE`` unless `device` exists."""
    if not 0 <= device < api.device_count():
        raise CudaError(st.INVALID_DEVICE, f"no device {device}")


@serves()
def cuInit(flags: int) -> None:
    if flags:
        raise CudaError(st.INVALID_VALUE, f"cuInit flags {flags}")
    api.init()


@serves()
def cuDriverGetVersion(version: int) -> None:
    put_i32(version, api.driver_version())


@serves()
def cuGetErrorName(status: int, text: int) -> None:
    _error_text(status, text, 0)


@serves()
def cuGetErrorString(status: int, text: int) -> None:
    _error_text(status, text, 1)


def _error_text(status: int, text: int, which: int) -> None:
    entry = ERRORS.get(status)
    if entry is None:
        put_u64(text, 0)
        raise CudaError(st.INVALID_VALUE, f"no CUresult {status}")
    put_u64(text, _strings.address(entry[which].encode()))


@serves()
def cuDeviceGetCount(count: int) -> None:
    put_i32(count, api.device_count())


@serves()
def cuDeviceGet(device: int, ordinal: int) -> None:
    check_device(ordinal)
    put_i32(device, ordinal)


@serves()
def cuDeviceGetAttribute(value: int, attribute: int, device: int) -> None:
    check_device(device)
    put_i32(value, device_attribute(attribute, device))


@serves()
def cuDeviceGetName(name: int, length: int, device: int) -> None:
    check_device(device)
    put_string(name, length, api.device_name(device).encode())


@serves("cuDeviceGetUuid_v2")
def cuDeviceGetUuid(uuid: int, device: int) -> None:
    check_device(device)
    put_bytes(uuid, api.device_uuid(device))


@serves()
def cuDeviceGetLuid(luid: int, mask: int, device: int) -> None:
    check_device(device)
    raise CudaError(st.NOT_SUPPORTED, "cuDeviceGetLuid: LUIDs exist on Windows only")


@serves()
def cuDeviceTotalMem(size: int, device: int) -> None:
    check_device(device)
    put_u64(size, api.device_total_memory(device))


@serves()
def cuDeviceComputeCapability(major: int, minor: int, device: int) -> None:
    check_device(device)
    capability = api.compute_capability(device)
    put_i32(major, capability[0])
    put_i32(minor, capability[1])


@serves()
def cuDeviceGetProperties(properties: int, device: int) -> None:
    # CUdevprop: maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3], sharedMemPerBlock, totalConstantMemory,
    # SIMDWidth, memPitch, regsPerBlock, clockRate, textureAlign
    check_device(device)
    attributes = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
    put_bytes(properties, struct.pack("<14i", *(device_attribute(a, device) for a in attributes)))


@serves()
def cuDeviceGetPCIBusId(text: int, length: int, device: int) -> None:
    check_device(device)
    put_string(text, length, api.device_pci_bus_id(device).encode())


@serves()
def cuDeviceGetByPCIBusId(device: int, text: int) -> None:
    wanted = get_string(text).decode("utf-8", "replace").lower()
    for ordinal in range(api.device_count()):
        if wanted and api.device_pci_bus_id(ordinal).lower().endswith(wanted):
            put_i32(device, ordinal)
            return
    raise CudaError(st.INVALID_DEVICE, f"no device at {wanted!r}")


@serves()
def cuDeviceCanAccessPeer(result: int, device: int, peer: int) -> None:
    check_device(device)
    check_device(peer)
    put_i32(result, 0)


@serves()
def cuDeviceGetP2PAttribute(value: int, attribute: int, source: int, destination: int) -> None:
    check_device(source)
    check_device(destination)
    # A device is not its own peer, and a session has one device.
    raise CudaError(st.INVALID_DEVICE, "cuDeviceGetP2PAttribute of one device")


@serves()
def cuDeviceGetExecAffinitySupport(supported: int, kind: int, device: int) -> None:
    check_device(device)
    put_i32(supported, 0)


@serves()
def cuDeviceGetTexture1DLinearMaxWidth(width: int, array_format: int, channels: int, device: int) -> None:
    check_device(device)
    put_u64(width, device_attribute(69, device))


@serves()
def cuProfilerStart() -> None:
    """Accepted: there is nothing to profile in the function's process."""


@serves()
def cuProfilerStop() -> None:
    """Accepted, as `cuProfilerStart`."""


@serves()
def cuFlushGPUDirectRDMAWrites(target: int, scope: int) -> None:
    raise CudaError(st.NOT_SUPPORTED, "cuFlushGPUDirectRDMAWrites: no RDMA reaches a session's memory")


@serves()
def cuDeviceGetGraphMemAttribute(device: int, attribute: int, value: int) -> None:
    check_device(device)
    put_u64(value, graph_memory.attribute(attribute))


@serves()
def cuDeviceGraphMemTrim(device: int) -> None:
    check_device(device)
    graph_memory.trim()


@serves()
def cuDeviceSetGraphMemAttribute(device: int, attribute: int, value: int) -> None:
    check_device(device)
    graph_memory.reset_mark(attribute, get_u64(value))
