"""Device attributes: the session's, corrected by what this plugin adds or refuses itself."""

from __future__ import annotations

from typing import Final

from migproxy.session import api

#: CUdevice_attribute → value, whatever the device says. Every attribute that asks for what is refused by name is 0,
#: so that libraries
#: take the way that works.
OVERRIDES: Final[dict[int, int]] = {
    102: 1,  # VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    103: 0,  # HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    104: 0,  # HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
    105: 0,  # HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
    110: 0,  # GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
    112: 0,  # SPARSE_CUDA_ARRAY_SUPPORTED
    114: 0,  # TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
    115: 1,  # MEMORY_POOLS_SUPPORTED
    116: 0,  # GPU_DIRECT_RDMA_SUPPORTED
    119: 0,  # MEMPOOL_SUPPORTED_HANDLE_TYPES
    121: 0,  # DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
    124: 0,  # DMA_BUF_SUPPORTED
    125: 1,  # IPC_EVENT_SUPPORTED
    128: 0,  # HANDLE_TYPE_FABRIC_SUPPORTED
    132: 0,  # MULTICAST_SUPPORTED
    142: 1,  # HOST_NUMA_MEMORY_POOLS_SUPPORTED
    144: 1,  # HOST_MEMORY_POOLS_SUPPORTED
    145: 0,  # HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    146: 0,  # HOST_ALLOC_DMA_BUF_SUPPORTED
}


def device_attribute(attribute: int, device: int) -> int:
    """Return a ``CUdevice_attribute`` (``cudaDeviceAttr`` has the same numbers)."""
    known = OVERRIDES.get(attribute)
    return api.device_attribute(attribute, device) if known is None else known
