"""Driver API: device, host and managed memory, pointer queries, and the exports of virtual memory."""

from __future__ import annotations

import threading

from migproxy_plugins.cuda import pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.memory_unsafe import get_i32, get_u64, put_i32, put_u32, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api

# CUpointer_attribute
_CONTEXT = 1
_MEMORY_TYPE = 2
_DEVICE_POINTER = 3
_HOST_POINTER = 4
_SYNC_MEMOPS = 6
_BUFFER_ID = 7
_IS_MANAGED = 8
_DEVICE_ORDINAL = 9
_IPC_CAPABLE = 10
_RANGE_START = 11
_RANGE_SIZE = 12
_MAPPED = 13
_ALLOWED_HANDLE_TYPES = 14
_RDMA_CAPABLE = 15
_ACCESS_FLAGS = 16
_MEMPOOL_HANDLE = 17
_MAPPING_SIZE = 18
_MAPPING_BASE = 19
_MEMORY_BLOCK_ID = 20
_HW_DECOMPRESS = 21
#: CU_MEMORYTYPE_DEVICE
_DEVICE = 2
_WIDE = frozenset(
    {
        _CONTEXT,
        _DEVICE_POINTER,
        _HOST_POINTER,
        _BUFFER_ID,
        _RANGE_START,
        _RANGE_SIZE,
        _ALLOWED_HANDLE_TYPES,
        _MEMPOOL_HANDLE,
        _MAPPING_SIZE,
        _MAPPING_BASE,
        _MEMORY_BLOCK_ID,
    }
)

#: Alignment of a pitched row: the texture pitch alignment of every current device is smaller.
PITCH = 512

_lock = threading.Lock()
_host_flags: dict[int, int] = {}
_sync_memops: set[int] = set()


@serves()
def cuMemAlloc(pointer: int, size: int) -> None:
    need_context()
    if not size:
        raise CudaError(st.INVALID_VALUE, "cuMemAlloc of 0 bytes")
    put_u64(pointer, api.mem_alloc(size))


@serves()
def cuMemAllocPitch(pointer: int, pitch: int, width: int, height: int, element: int) -> None:
    need_context()
    if not width or not height or element not in (4, 8, 16):
        raise CudaError(st.INVALID_VALUE)
    row = (width + PITCH - 1) // PITCH * PITCH
    put_u64(pointer, api.mem_alloc(row * height))
    put_u64(pitch, row)


@serves()
def cuMemFree(pointer: int) -> None:
    need_context()
    if pointer:
        pools.free_linear(pointer)


@serves()
def cuMemGetInfo(free: int, total: int) -> None:
    need_context()
    left, quota = api.mem_get_info()
    put_u64(free, left)
    put_u64(total, quota)


@serves()
def cuMemGetAddressRange(base: int, size: int, pointer: int) -> None:
    facts = api.pointer_facts(pointer)
    if not facts.device_pointer:
        raise CudaError(st.NOT_FOUND if pointer else st.INVALID_VALUE, "not device memory")
    start, length = facts.base, facts.size
    put_u64(base, start)
    put_u64(size, length)


@serves()
def cuMemAllocHost(pointer: int, size: int) -> None:
    cuMemHostAlloc(pointer, size, 0)


@serves()
def cuMemHostAlloc(pointer: int, size: int, flags: int) -> None:
    need_context()
    if not size or flags & ~0x7:
        raise CudaError(st.INVALID_VALUE, f"cuMemHostAlloc({size}, {flags:#x})")
    address = api.host_alloc(size, flags)
    with _lock:
        # A context maps host memory whatever the flags say, as natively with unified addressing.
        _host_flags[address] = flags | 0x2
    put_u64(pointer, address)


@serves()
def cuMemFreeHost(pointer: int) -> None:
    api.host_free(pointer)
    with _lock:
        _host_flags.pop(pointer, None)
    pools.forget(pointer)


@serves()
def cuMemHostGetDevicePointer(device_pointer: int, pointer: int, flags: int) -> None:
    if flags:
        raise CudaError(st.INVALID_VALUE)
    put_u64(device_pointer, api.host_device_pointer(pointer))


@serves()
def cuMemHostGetFlags(flags: int, pointer: int) -> None:
    with _lock:
        known = _host_flags.get(pointer)
    if known is None:
        raise CudaError(st.INVALID_VALUE, "not page-locked memory")
    put_u32(flags, known)


@serves()
def cuMemHostRegister(pointer: int, size: int, flags: int) -> None:
    need_context()
    if flags & ~0xF:
        raise CudaError(st.INVALID_VALUE)
    api.host_register(pointer, size, flags)
    with _lock:
        _host_flags[pointer] = flags | 0x2


@serves()
def cuMemHostUnregister(pointer: int) -> None:
    api.host_unregister(pointer)
    with _lock:
        _host_flags.pop(pointer, None)


@serves()
def cuMemAllocManaged(pointer: int, size: int, flags: int) -> None:
    need_context()
    if not size or flags not in (1, 2):
        raise CudaError(st.INVALID_VALUE)
    put_u64(pointer, api.mem_alloc_managed(size, flags))


def _pointer_attribute(attribute: int, pointer: int, facts: api.PointerFacts) -> int:
    """Return one ``CUpointer_attribute`` of memory that CUDA knows."""
    if attribute == _SYNC_MEMOPS:
        return int(facts.base in _sync_memops)
    values = {
        _CONTEXT: api.primary_context_retain(facts.device),
        _MEMORY_TYPE: facts.memory_type,
        _DEVICE_POINTER: facts.device_pointer,
        _HOST_POINTER: facts.host_pointer,
        _BUFFER_ID: facts.base,
        _IS_MANAGED: int(facts.managed),
        _DEVICE_ORDINAL: facts.device,
        _IPC_CAPABLE: int(facts.memory_type == _DEVICE and not facts.managed and not pools.pool_of(facts.base)),
        _RANGE_START: facts.base,
        _RANGE_SIZE: facts.size,
        _MAPPED: 1,
        _ALLOWED_HANDLE_TYPES: 0,
        _RDMA_CAPABLE: 0,
        _ACCESS_FLAGS: 3,
        _MEMPOOL_HANDLE: pools.pool_of(facts.base),
        _MAPPING_SIZE: facts.size,
        _MAPPING_BASE: facts.base,
        _MEMORY_BLOCK_ID: facts.base,
        _HW_DECOMPRESS: 0,
    }
    if attribute not in values:
        raise CudaError(st.INVALID_VALUE, f"pointer attribute {attribute}")
    value = values[attribute]
    if (attribute == _HOST_POINTER and not value) or (attribute == _DEVICE_POINTER and not value):
        raise CudaError(st.INVALID_VALUE, "the memory has no such pointer")
    return value


def _put(attribute: int, address: int, value: int) -> None:
    if attribute in _WIDE:
        put_u64(address, value)
    else:
        put_i32(address, value)


@serves()
def cuPointerGetAttribute(data: int, attribute: int, pointer: int) -> None:
    facts = api.pointer_facts(pointer)
    if facts.memory_type == 0:
        raise CudaError(st.INVALID_VALUE, "not memory of CUDA")
    _put(attribute, data, _pointer_attribute(attribute, pointer, facts))


@serves()
def cuPointerGetAttributes(count: int, attributes: int, data: int, pointer: int) -> None:
    facts = api.pointer_facts(pointer)
    for index in range(count):
        attribute, address = get_i32(attributes + 4 * index), get_u64(data + 8 * index)
        try:
            # Unlike the single query, this one answers 0 for what the memory does not have; −2 is cudaInvalidDeviceId.
            value = _pointer_attribute(attribute, pointer, facts) if facts.memory_type else 0
        except CudaError:
            value = 0
        if not facts.memory_type and attribute == _DEVICE_ORDINAL:
            value = -2
        _put(attribute, address, value)


@serves()
def cuPointerSetAttribute(value: int, attribute: int, pointer: int) -> None:
    facts = api.pointer_facts(pointer)
    if facts.memory_type == 0 or attribute != _SYNC_MEMOPS:
        raise CudaError(st.INVALID_VALUE)
    if get_i32(value):
        _sync_memops.add(facts.base)
    else:
        _sync_memops.discard(facts.base)


_VIRTUAL = "memory leaves its session by CUDA IPC handles only, and backs no sparse arrays"


def _refused(name: str, why: str) -> None:
    def adapter(*arguments: object) -> None:
        raise refuse(name, why)

    adapter.__name__ = adapter.__qualname__ = name
    adapter.refused = why  # type: ignore[attr-defined]
    serves()(adapter)


for _name in (
    "cuMemExportToShareableHandle",
    "cuMemImportFromShareableHandle",
    "cuMemGetHandleForAddressRange",
    "cuMemMapArrayAsync",
):
    _refused(_name, _VIRTUAL)
