"""Memory and copies of the runtime API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from migproxy_plugins.cuda import mapped, pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.runtime.calls import check_device, context_call
from migproxy_plugins.cuda.status import CudaRuntimeStatus

from migproxy.session import api

# cudaMemcpyKind
HOST_TO_HOST: Final = 0
HOST_TO_DEVICE: Final = 1
DEVICE_TO_HOST: Final = 2
DEVICE_TO_DEVICE: Final = 3
DEFAULT: Final = 4

# cudaMemoryType
MEMORY_UNREGISTERED: Final = 0
MEMORY_HOST: Final = 1
MEMORY_DEVICE: Final = 2
MEMORY_MANAGED: Final = 3

_CPU_DEVICE = -1
# cudaMemoryAdvise: set and unset read mostly, preferred location, accessed by; the last two name a device.
_ADVICE = range(1, 7)
_ADVICE_OF_DEVICES = (3, 5, 6)


@dataclass(frozen=True, slots=True)
class RuntimePointer:
    """What ``cudaPointerGetAttributes`` tells: ``type`` is a ``cudaMemoryType``; ``device`` −2 for unregistered
    memory."""

    type: int
    device: int
    device_pointer: int
    host_pointer: int


@context_call
def malloc(size: int) -> int:
    """``cudaMalloc``; size 0 gives a null pointer and no error."""
    return api.mem_alloc(size) if size else 0


@context_call
def malloc_pitch(width: int, height: int) -> tuple[int, int]:
    """``cudaMallocPitch``: (pointer, pitch)."""
    if width == 0 or height == 0:
        return 0, 0
    pitch = (width + 511) // 512 * 512
    return api.mem_alloc(pitch * height), pitch


@context_call
def malloc_managed(size: int, flags: int = 1) -> int:
    """``cudaMallocManaged``."""
    if size == 0:
        raise CudaRuntimeStatus(st.INVALID_VALUE, "cudaMallocManaged of 0 bytes")
    return api.mem_alloc_managed(size, flags)


@context_call
def free(pointer: int) -> None:
    """``cudaFree``; a null pointer only makes the context."""
    if pointer:
        pools.free_linear(pointer)


@context_call
def malloc_async(size: int, stream: int) -> int:
    """``cudaMallocAsync``."""
    return pools.allocate_current(size, stream) if size else 0


@context_call
def malloc_from_pool_async(size: int, pool: int, stream: int) -> int:
    """``cudaMallocFromPoolAsync``."""
    return pools.allocate(size, pool, stream) if size else 0


@context_call
def free_async(pointer: int, stream: int) -> None:
    """``cudaFreeAsync``."""
    if pointer:
        pools.free(pointer, stream)


@context_call
def host_alloc(size: int, flags: int = 0) -> int:
    """``cudaHostAlloc``: pinned memory, mapped at the same address on the device whatever the flags say."""
    if flags & ~0x7:
        raise CudaRuntimeStatus(st.INVALID_VALUE, f"cudaHostAlloc flags {flags:#x}")
    return api.host_alloc(size, flags) if size else 0


@context_call
def free_host(pointer: int) -> None:
    """``cudaFreeHost``."""
    if pointer:
        api.host_free(pointer)


@context_call
def host_register(pointer: int, size: int, flags: int = 0) -> None:
    """``cudaHostRegister``."""
    api.host_register(pointer, size, flags)


@context_call
def host_unregister(pointer: int) -> None:
    """``cudaHostUnregister``."""
    api.host_unregister(pointer)


@context_call
def host_get_device_pointer(pointer: int) -> int:
    """``cudaHostGetDevicePointer``."""
    return api.host_device_pointer(pointer)


@context_call
def mem_get_info() -> tuple[int, int]:
    """``cudaMemGetInfo``: (free, total) of the quota."""
    return api.mem_get_info()


@context_call
def pointer_get_attributes(pointer: int) -> RuntimePointer:
    """``cudaPointerGetAttributes``."""
    facts = api.pointer_facts(pointer)
    if facts.memory_type == 0:
        return RuntimePointer(MEMORY_UNREGISTERED, -2, 0, pointer)
    kind = MEMORY_MANAGED if facts.managed else MEMORY_HOST if facts.memory_type == 1 else MEMORY_DEVICE
    return RuntimePointer(kind, facts.device, facts.device_pointer, facts.host_pointer)


@context_call
def pointer_memory_type(pointer: int) -> int:
    """The ``cudaMemoryType`` of an address."""
    return pointer_get_attributes(pointer).type


def _copy(destination: int, source: int, size: int, kind: int, stream: int | None) -> None:
    if size == 0:
        return
    if kind == HOST_TO_DEVICE:
        mapped.to_device(destination, source, size, stream)
    elif kind == DEVICE_TO_HOST:
        mapped.to_host(destination, source, size, stream)
    elif kind == DEVICE_TO_DEVICE:
        mapped.on_device(destination, source, size, stream)
    elif kind in (DEFAULT, HOST_TO_HOST):
        api.memcpy(destination, source, size, stream)
    else:
        raise CudaRuntimeStatus(st.CUDART_INVALID_MEMCPY_DIRECTION, f"cudaMemcpyKind {kind}")


@context_call
def memcpy(destination: int, source: int, size: int, kind: int) -> None:
    """``cudaMemcpy``."""
    _copy(destination, source, size, kind, None)


@context_call
def memcpy_async(destination: int, source: int, size: int, kind: int, stream: int) -> None:
    """``cudaMemcpyAsync``."""
    _copy(destination, source, size, kind, stream)


@context_call
def memcpy_peer(
    destination: int, to_device: int, source: int, from_device: int, size: int, stream: int | None = None
) -> None:
    """``cudaMemcpyPeer`` and, with a stream, ``cudaMemcpyPeerAsync``; both devices are the session's one."""
    check_device(to_device)
    check_device(from_device)
    _copy(destination, source, size, DEVICE_TO_DEVICE, stream)


@context_call
def memcpy_2d(
    destination: int,
    destination_pitch: int,
    source: int,
    source_pitch: int,
    width: int,
    height: int,
    kind: int,
    stream: int | None = None,
) -> None:
    """``cudaMemcpy2D`` and, with a stream, ``cudaMemcpy2DAsync``."""
    if not 0 <= kind <= DEFAULT:
        raise CudaRuntimeStatus(st.CUDART_INVALID_MEMCPY_DIRECTION, f"cudaMemcpyKind {kind}")
    if width > destination_pitch or width > source_pitch:
        raise CudaRuntimeStatus(st.CUDART_INVALID_PITCH, "a row is wider than its pitch")
    if width and height:
        api.memcpy_2d(destination, destination_pitch, source, source_pitch, width, height, stream)


@context_call
def memset(pointer: int, value: int, size: int) -> None:
    """``cudaMemset``."""
    if size:
        mapped.fill(1, pointer, value & 0xFF, size, None)


@context_call
def memset_async(pointer: int, value: int, size: int, stream: int) -> None:
    """``cudaMemsetAsync``."""
    if size:
        mapped.fill(1, pointer, value & 0xFF, size, stream)


@context_call
def memset_2d(pointer: int, pitch: int, value: int, width: int, height: int, stream: int | None = None) -> None:
    """``cudaMemset2D`` and, with a stream, ``cudaMemset2DAsync``."""
    if width and height:
        api.memset_2d(pointer, pitch, value & 0xFF, 1, width, height, stream)


@context_call
def device_get_default_mem_pool(device: int) -> int:
    """``cudaDeviceGetDefaultMemPool``."""
    return pools.default_pool(device)


@context_call
def device_get_mem_pool(device: int) -> int:
    """``cudaDeviceGetMemPool``."""
    return pools.current_pool(device)


@context_call
def device_set_mem_pool(device: int, pool: int) -> None:
    """``cudaDeviceSetMemPool``."""
    pools.set_current_pool(device, pool)


@context_call
def mem_pool_create(
    allocation_type: int = pools.ALLOCATION_PINNED,
    location_type: int = pools.LOCATION_DEVICE,
    location_id: int = 0,
    handle_types: int = 0,
    max_size: int = 0,
) -> int:
    """``cudaMemPoolCreate``."""
    return pools.create(allocation_type, location_type, location_id, max_size, handle_types)


@context_call
def mem_pool_destroy(pool: int) -> None:
    """``cudaMemPoolDestroy``."""
    pools.destroy(pool)


@context_call
def mem_pool_trim_to(pool: int, minimum: int) -> None:
    """``cudaMemPoolTrimTo``."""
    pools.trim_to(pool, minimum)


@context_call
def mem_pool_get_attribute(pool: int, attribute: int) -> int:
    """``cudaMemPoolGetAttribute``."""
    return pools.get_attribute(pool, attribute)


@context_call
def mem_pool_set_attribute(pool: int, attribute: int, value: int) -> None:
    """``cudaMemPoolSetAttribute``."""
    pools.set_attribute(pool, attribute, value)


@context_call
def mem_prefetch_async(pointer: int, size: int, device: int, stream: int) -> None:
    """``cudaMemPrefetchAsync``: for managed memory only, as natively."""
    if not api.pointer_facts(pointer).managed:
        raise CudaRuntimeStatus(st.INVALID_VALUE, "cudaMemPrefetchAsync of memory that is not managed")
    if device != _CPU_DEVICE:
        check_device(device)


@context_call
def mem_advise(pointer: int, size: int, advice: int, device: int) -> None:
    """``cudaMemAdvise``: for managed memory only, as natively."""
    if not api.pointer_facts(pointer).managed:
        raise CudaRuntimeStatus(st.INVALID_VALUE, "cudaMemAdvise of memory that is not managed")
    if advice not in _ADVICE:
        raise CudaRuntimeStatus(st.INVALID_VALUE, f"cudaMemoryAdvise {advice}")
    if device != _CPU_DEVICE and advice in _ADVICE_OF_DEVICES:
        check_device(device)
