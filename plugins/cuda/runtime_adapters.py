"""Adapters of runtime API functions that differ from the driver's."""

from __future__ import annotations

import struct
from collections.abc import Callable

from migproxy_plugins.cuda import driver_entry, driver_memory, driver_streams, runtime_api
from migproxy_plugins.cuda.memory_unsafe import (
    get_string,
    put_bytes,
    put_i32,
    put_u64,
)
from migproxy_plugins.cuda.runtime.calls import check_device
from migproxy_plugins.cuda.treatment import table

from migproxy.session import api

Adapter = Callable[..., None]
RUNTIME: dict[str, Adapter] = {}


def serves(*, context: bool = True) -> Callable[[Adapter], Adapter]:
    """Register the decorated adapter under its own name; `context` makes the primary context current first."""

    def register(adapter: Adapter) -> Adapter:
        adapter.needs_no_context = not context  # type: ignore[attr-defined]
        RUNTIME[adapter.__name__] = adapter
        return adapter

    return register


@serves(context=False)
def cudaDriverGetVersion(version: int) -> None:
    put_i32(version, runtime_api.driver_get_version())


@serves(context=False)
def cudaGetDeviceCount(count: int) -> None:
    put_i32(count, runtime_api.get_device_count())


@serves(context=False)
def cudaGetDevice(device: int) -> None:
    put_i32(device, runtime_api.get_device())


@serves(context=False)
def cudaSetDevice(device: int) -> None:
    runtime_api.set_device(device)


@serves(context=False)
def cudaInitDevice(device: int, device_flags: int, flags: int) -> None:
    check_device(device)
    api.primary_context_retain(device)


@serves(context=False)
def cudaSetDeviceFlags(flags: int) -> None:
    from migproxy_plugins.cuda.driver_context import cuDevicePrimaryCtxSetFlags

    cuDevicePrimaryCtxSetFlags(0, flags)


@serves()
def cudaGetDeviceFlags(flags: int) -> None:
    from migproxy_plugins.cuda.driver_context import cuCtxGetFlags

    cuCtxGetFlags(flags)


@serves()
def cudaDeviceReset() -> None:
    api.context_synchronize()


@serves(context=False)
def cudaDeviceGetAttribute(value: int, attribute: int, device: int) -> None:
    put_i32(value, runtime_api.device_get_attribute(attribute, device))


@serves(context=False)
def cudaDeviceCanAccessPeer(result: int, device: int, peer: int) -> None:
    put_i32(result, int(runtime_api.device_can_access_peer(device, peer)))


@serves()
def cudaDeviceEnablePeerAccess(peer: int, flags: int) -> None:
    runtime_api.device_enable_peer_access(peer)


@serves()
def cudaDeviceDisablePeerAccess(peer: int) -> None:
    runtime_api.device_disable_peer_access(peer)


def _major() -> int:
    import cuda.bindings

    return int(cuda.bindings.__version__.split(".")[0])


@serves(context=False)
def cudaGetDeviceProperties(properties: int, device: int) -> None:
    found = runtime_api.get_device_properties(device)
    layout = table("runtime", _major())["structs"]["cudaDeviceProp"]
    data = bytearray(layout["size"])
    for name, offset, size, _ in layout["fields"]:
        value = found.get(name)
        if value is None:
            continue
        if isinstance(value, bytes):
            data[offset : offset + min(size, len(value))] = value[:size]
        elif isinstance(value, tuple):
            struct.pack_into(f"<{len(value)}i", data, offset, *value)
        else:
            data[offset : offset + size] = value.to_bytes(size, "little", signed=value < 0)
    put_bytes(properties, bytes(data))


@serves(context=False)
def cudaChooseDevice(device: int, properties: int) -> None:
    put_i32(device, 0)


@serves()
def cudaMalloc(pointer: int, size: int) -> None:
    put_u64(pointer, runtime_api.malloc(size))


@serves()
def cudaMallocPitch(pointer: int, pitch: int, width: int, height: int) -> None:
    address, row = runtime_api.malloc_pitch(width, height)
    put_u64(pointer, address)
    put_u64(pitch, row)


@serves()
def cudaMalloc3D(pitched: int, extent: bytes) -> None:
    width, height, depth = struct.unpack("<3Q", extent)
    address, row = runtime_api.malloc_pitch(width, height * depth)
    # cudaPitchedPtr: ptr, pitch, xsize, ysize
    put_bytes(pitched, struct.pack("<4Q", address, row, width, height))


@serves()
def cudaMallocManaged(pointer: int, size: int, flags: int) -> None:
    put_u64(pointer, runtime_api.malloc_managed(size, flags))


@serves()
def cudaFree(pointer: int) -> None:
    runtime_api.free(pointer)


@serves()
def cudaMallocAsync(pointer: int, size: int, stream: int) -> None:
    put_u64(pointer, runtime_api.malloc_async(size, stream))


@serves()
def cudaMallocFromPoolAsync(pointer: int, size: int, pool: int, stream: int) -> None:
    put_u64(pointer, runtime_api.malloc_from_pool_async(size, pool, stream))


@serves()
def cudaFreeAsync(pointer: int, stream: int) -> None:
    runtime_api.free_async(pointer, stream)


@serves()
def cudaMallocHost(pointer: int, size: int) -> None:
    cudaHostAlloc(pointer, size, 0)


@serves()
def cudaHostAlloc(pointer: int, size: int, flags: int) -> None:
    if size:
        driver_memory.cuMemHostAlloc(pointer, size, flags)
    else:
        put_u64(pointer, 0)


@serves()
def cudaFreeHost(pointer: int) -> None:
    if pointer:
        driver_memory.cuMemFreeHost(pointer)


@serves()
def cudaPointerGetAttributes(attributes: int, pointer: int) -> None:
    found = runtime_api.pointer_get_attributes(pointer)
    # cudaPointerAttributes: type, device, devicePointer, hostPointer
    put_bytes(attributes, struct.pack("<iiQQ", found.type, found.device, found.device_pointer, found.host_pointer))


@serves()
def cudaMemcpy(destination: int, source: int, size: int, kind: int) -> None:
    runtime_api.memcpy(destination, source, size, kind)


@serves()
def cudaMemcpyAsync(destination: int, source: int, size: int, kind: int, stream: int) -> None:
    runtime_api.memcpy_async(destination, source, size, kind, stream)


@serves()
def cudaMemcpyPeer(destination: int, to_device: int, source: int, from_device: int, size: int) -> None:
    runtime_api.memcpy_peer(destination, to_device, source, from_device, size)


@serves()
def cudaMemcpyPeerAsync(
    destination: int, to_device: int, source: int, from_device: int, size: int, stream: int
) -> None:
    runtime_api.memcpy_peer(destination, to_device, source, from_device, size, stream)


@serves()
def cudaMemcpy2D(
    destination: int, to_pitch: int, source: int, from_pitch: int, width: int, height: int, kind: int
) -> None:
    runtime_api.memcpy_2d(destination, to_pitch, source, from_pitch, width, height, kind)


@serves()
def cudaMemcpy2DAsync(
    destination: int, to_pitch: int, source: int, from_pitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    runtime_api.memcpy_2d(destination, to_pitch, source, from_pitch, width, height, kind, stream)


@serves()
def cudaMemset(pointer: int, value: int, size: int) -> None:
    runtime_api.memset(pointer, value, size)


@serves()
def cudaMemsetAsync(pointer: int, value: int, size: int, stream: int) -> None:
    runtime_api.memset_async(pointer, value, size, stream)


@serves()
def cudaMemset2D(pointer: int, pitch: int, value: int, width: int, height: int) -> None:
    runtime_api.memset_2d(pointer, pitch, value, width, height)


@serves()
def cudaMemset2DAsync(pointer: int, pitch: int, value: int, width: int, height: int, stream: int) -> None:
    runtime_api.memset_2d(pointer, pitch, value, width, height, stream)


@serves()
def cudaMemset3D(pitched: bytes, value: int, extent: bytes) -> None:
    _set_3d(pitched, value, extent, None)


@serves()
def cudaMemset3DAsync(pitched: bytes, value: int, extent: bytes, stream: int) -> None:
    _set_3d(pitched, value, extent, stream)


def _set_3d(pitched: bytes, value: int, extent: bytes, stream: int | None) -> None:
    pointer, pitch, _, rows = struct.unpack("<4Q", pitched)
    width, height, depth = struct.unpack("<3Q", extent)
    for k in range(depth):
        runtime_api.memset_2d(pointer + k * pitch * rows, pitch, value, width, height, stream)


@serves()
def cudaStreamCreate(stream: int) -> None:
    driver_streams.cuStreamCreate(stream, 0)


@serves()
def cudaEventCreate(event: int) -> None:
    driver_streams.cuEventCreate(event, 0)


@serves()
def cudaFuncGetAttributes(attributes: int, function: int) -> None:
    # sharedSizeBytes, constSizeBytes, localSizeBytes (size_t), maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion,
    # cacheModeCA, maxDynamicSharedSizeBytes, preferredShmemCarveout (int)
    value = {a: api.function_attribute(function, a) for a in range(10)}
    data = struct.pack("<3Q7i", value[1], value[2], value[3], value[0], *(value[a] for a in (4, 5, 6, 7, 8, 9)))
    put_bytes(attributes, data)


@serves(context=False)
def cudaGetDriverEntryPoint(symbol: int, pointer: int, flags: int, status: int) -> None:
    _entry_point(symbol, pointer, status)


@serves(context=False)
def cudaGetDriverEntryPointByVersion(symbol: int, pointer: int, version: int, flags: int, status: int) -> None:
    _entry_point(symbol, pointer, status)


def _entry_point(symbol: int, pointer: int, status: int) -> None:
    address = driver_entry.entry(get_string(symbol).decode("utf-8", "replace"))
    put_u64(pointer, address)
    # cudaDriverEntryPointQueryResult: 0 success, 1 symbol not found
    put_i32(status, 0 if address else 1)


@serves()
def cudaKernelSetAttributeForDevice(kernel: int, attribute: int, value: int, device: int) -> None:
    check_device(device)
    api.function_set_attribute(kernel, attribute, value)
