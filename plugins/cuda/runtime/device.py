"""Devices and versions of the runtime API."""

from __future__ import annotations

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.attributes import device_attribute
from migproxy_plugins.cuda.runtime.calls import check_device, context_call, runtime_call
from migproxy_plugins.cuda.status import CudaRuntimeStatus

from migproxy.errors import CudaError
from migproxy.session import api

#: Attribute numbers (``CUdevice_attribute`` and ``cudaDeviceAttr`` are the same) of the integer fields of
#: ``cudaDeviceProp``.
PROPERTY_ATTRIBUTES: dict[str, int] = {
    "sharedMemPerBlock": 8,
    "regsPerBlock": 12,
    "warpSize": 10,
    "memPitch": 11,
    "maxThreadsPerBlock": 1,
    "clockRate": 13,
    "totalConstMem": 9,
    "major": 75,
    "minor": 76,
    "textureAlignment": 14,
    "texturePitchAlignment": 51,
    "deviceOverlap": 15,
    "multiProcessorCount": 16,
    "kernelExecTimeoutEnabled": 17,
    "integrated": 18,
    "canMapHostMemory": 19,
    "computeMode": 20,
    "maxTexture1D": 21,
    "maxTexture1DMipmap": 77,
    "maxTexture1DLinear": 69,
    "maxTextureCubemap": 52,
    "maxSurface1D": 55,
    "maxSurfaceCubemap": 66,
    "surfaceAlignment": 30,
    "concurrentKernels": 31,
    "ECCEnabled": 32,
    "pciBusID": 33,
    "pciDeviceID": 34,
    "pciDomainID": 50,
    "tccDriver": 35,
    "asyncEngineCount": 40,
    "unifiedAddressing": 41,
    "memoryClockRate": 36,
    "memoryBusWidth": 37,
    "l2CacheSize": 38,
    "persistingL2CacheMaxSize": 108,
    "maxThreadsPerMultiProcessor": 39,
    "streamPrioritiesSupported": 78,
    "globalL1CacheSupported": 79,
    "localL1CacheSupported": 80,
    "sharedMemPerMultiprocessor": 81,
    "regsPerMultiprocessor": 82,
    "managedMemory": 83,
    "isMultiGpuBoard": 84,
    "multiGpuBoardGroupID": 85,
    "hostNativeAtomicSupported": 86,
    "singleToDoublePrecisionPerfRatio": 87,
    "pageableMemoryAccess": 88,
    "concurrentManagedAccess": 89,
    "computePreemptionSupported": 90,
    "canUseHostPointerForRegisteredMem": 91,
    "cooperativeLaunch": 95,
    "cooperativeMultiDeviceLaunch": 96,
    "sharedMemPerBlockOptin": 97,
    "pageableMemoryAccessUsesHostPageTables": 100,
    "directManagedMemAccessFromHost": 101,
    "maxBlocksPerMultiProcessor": 106,
    "accessPolicyMaxWindowSize": 109,
    "reservedSharedMemPerBlock": 111,
    "hostRegisterSupported": 99,
    "sparseCudaArraySupported": 112,
    "hostRegisterReadOnlySupported": 113,
    "timelineSemaphoreInteropSupported": 114,
    "memoryPoolsSupported": 115,
    "gpuDirectRDMASupported": 116,
    "gpuDirectRDMAFlushWritesOptions": 117,
    "gpuDirectRDMAWritesOrdering": 118,
    "memoryPoolSupportedHandleTypes": 119,
    "clusterLaunch": 120,
    "deferredMappingCudaArraySupported": 121,
    "ipcEventSupported": 125,
    "unifiedFunctionPointers": 129,
}
#: Fields that are arrays of attributes.
PROPERTY_ARRAYS: dict[str, tuple[int, ...]] = {
    "maxThreadsDim": (2, 3, 4),
    "maxGridSize": (5, 6, 7),
    "maxTexture2D": (22, 23),
    "maxTexture2DMipmap": (73, 74),
    "maxTexture2DLinear": (70, 71, 72),
    "maxTexture2DGather": (45, 46),
    "maxTexture3D": (24, 25, 26),
    "maxTexture3DAlt": (47, 48, 49),
    "maxTexture1DLayered": (42, 43),
    "maxTexture2DLayered": (27, 28, 29),
    "maxTextureCubemapLayered": (53, 54),
    "maxSurface2D": (56, 57),
    "maxSurface3D": (58, 59, 60),
    "maxSurface1DLayered": (61, 62),
    "maxSurface2DLayered": (63, 64, 65),
    "maxSurfaceCubemapLayered": (67, 68),
}


def attribute_or_zero(attribute: int, device: int) -> int:
    """Return a device attribute, 0 where the driver does not know it (as ``cudaGetDeviceProperties`` leaves such
    fields)."""
    try:
        return device_attribute(attribute, device)
    except CudaError:
        return 0


@runtime_call
def driver_get_version() -> int:
    """``cudaDriverGetVersion``."""
    return api.driver_version()


@runtime_call
def get_device_count() -> int:
    """``cudaGetDeviceCount``."""
    return api.device_count()


@runtime_call
def get_device() -> int:
    """``cudaGetDevice``: the calling thread's device; makes no context."""
    return api.context_device() if api.context_get_current() else 0


@runtime_call
def set_device(device: int) -> None:
    """``cudaSetDevice``: makes the device's primary context current, as CUDA 12 does."""
    check_device(device)
    api.context_set_current(api.primary_context_retain(device))
    api.primary_context_release(device)


@context_call
def device_synchronize() -> None:
    """``cudaDeviceSynchronize``."""
    api.context_synchronize()


@runtime_call
def device_get_attribute(attribute: int, device: int) -> int:
    """``cudaDeviceGetAttribute``."""
    check_device(device)
    return device_attribute(attribute, device)


@runtime_call
def device_get_pci_bus_id(device: int) -> str:
    """``cudaDeviceGetPCIBusId``."""
    check_device(device)
    return api.device_pci_bus_id(device)


@runtime_call
def device_get_by_pci_bus_id(bus_id: str) -> int:
    """``cudaDeviceGetByPCIBusId``."""
    for device in range(api.device_count()):
        if api.device_pci_bus_id(device).lower().endswith(bus_id.lower()):
            return device
    raise CudaRuntimeStatus(st.INVALID_DEVICE, f"no device at {bus_id!r}")


@runtime_call
def device_can_access_peer(device: int, peer: int) -> bool:
    """``cudaDeviceCanAccessPeer``: a session has one slice, so never."""
    check_device(device)
    check_device(peer)
    return False


@runtime_call
def device_enable_peer_access(peer: int) -> None:
    """``cudaDeviceEnablePeerAccess``: refused, a session's only peer would be itself."""
    check_device(peer)
    raise CudaRuntimeStatus(st.INVALID_DEVICE, "a session has one device")


@runtime_call
def device_disable_peer_access(peer: int) -> None:
    """``cudaDeviceDisablePeerAccess``: refused with ``cudaErrorPeerAccessNotEnabled``."""
    check_device(peer)
    raise CudaRuntimeStatus(705, "peer access was never enabled: a session has one device")


@context_call
def device_get_limit(limit: int) -> int:
    """``cudaDeviceGetLimit``."""
    return api.context_get_limit(limit)


@context_call
def device_set_limit(limit: int, value: int) -> None:
    """``cudaDeviceSetLimit``."""
    api.context_set_limit(limit, value)


@context_call
def device_get_stream_priority_range() -> tuple[int, int]:
    """``cudaDeviceGetStreamPriorityRange``: (least, greatest)."""
    return api.stream_priority_range()


@runtime_call
def get_device_properties(device: int) -> dict[str, int | bytes | tuple[int, ...]]:
    """``cudaGetDeviceProperties`` as a dict of the struct's field names; arrays are tuples, ``name``, ``uuid`` and
    ``luid`` bytes."""
    check_device(device)
    properties: dict[str, int | bytes | tuple[int, ...]] = {
        "name": api.device_name(device).encode(),
        "uuid": api.device_uuid(device),
        "luid": bytes(8),
        "luidDeviceNodeMask": 0,
        "totalGlobalMem": api.device_total_memory(device),
    }
    for field, attribute in PROPERTY_ATTRIBUTES.items():
        properties[field] = attribute_or_zero(attribute, device)
    for field, attributes in PROPERTY_ARRAYS.items():
        properties[field] = tuple(attribute_or_zero(attribute, device) for attribute in attributes)
    return properties
