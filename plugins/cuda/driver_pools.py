"""Driver API: stream-ordered allocation and memory pools, on `migproxy_plugins.cuda.pools`."""

from __future__ import annotations

from migproxy_plugins.cuda import pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import get_i32, get_u32, get_u64, put_i32, put_u64
from migproxy_plugins.cuda.registry import refuse, serves
from migproxy_plugins.cuda.treatment import NO_POOL_EXPORT

from migproxy.errors import CudaError


@serves()
def cuMemAllocAsync(pointer: int, size: int, stream: int) -> None:
    put_u64(pointer, pools.allocate_current(size, stream) if size else 0)


@serves()
def cuMemAllocFromPoolAsync(pointer: int, size: int, pool: int, stream: int) -> None:
    put_u64(pointer, pools.allocate(size, pool, stream) if size else 0)


@serves()
def cuMemFreeAsync(pointer: int, stream: int) -> None:
    pools.free(pointer, stream)


@serves()
def cuDeviceGetDefaultMemPool(pool: int, device: int) -> None:
    put_u64(pool, pools.default_pool(device))


@serves()
def cuDeviceGetMemPool(pool: int, device: int) -> None:
    put_u64(pool, pools.current_pool(device))


@serves()
def cuDeviceSetMemPool(device: int, pool: int) -> None:
    pools.set_current_pool(device, pool)


def _location(address: int) -> tuple[int, int]:
    """Return (type, id) of a ``CUmemLocation``."""
    if not address:
        raise CudaError(st.INVALID_VALUE, "no location")
    return get_i32(address), get_i32(address + 4)


@serves()
def cuMemGetDefaultMemPool(pool: int, location: int, allocation_type: int) -> None:
    kind, number = _location(location)
    put_u64(pool, pools.default_pool(number, location_type=kind, allocation_type=allocation_type))


@serves()
def cuMemGetMemPool(pool: int, location: int, allocation_type: int) -> None:
    kind, number = _location(location)
    if kind == pools.LOCATION_DEVICE and allocation_type == pools.ALLOCATION_PINNED:
        put_u64(pool, pools.current_pool(number))
    else:
        put_u64(pool, pools.default_pool(number, location_type=kind, allocation_type=allocation_type))


@serves()
def cuMemSetMemPool(location: int, allocation_type: int, pool: int) -> None:
    kind, number = _location(location)
    if kind != pools.LOCATION_DEVICE or allocation_type != pools.ALLOCATION_PINNED:
        raise refuse("cuMemSetMemPool", "only a device's pool of pinned allocations can be replaced")
    pools.set_current_pool(number, pool)


@serves()
def cuMemPoolCreate(pool: int, properties: int) -> None:
    # CUmemPoolProps: allocType, handleTypes, location (type, id), win32SecurityAttributes, maxSize, usage
    handle = pools.create(
        get_i32(properties),
        get_i32(properties + 8),
        get_i32(properties + 12),
        get_u64(properties + 24),
        get_i32(properties + 4),
    )
    put_u64(pool, handle)


@serves()
def cuMemPoolDestroy(pool: int) -> None:
    pools.destroy(pool)


@serves()
def cuMemPoolTrimTo(pool: int, minimum: int) -> None:
    pools.trim_to(pool, minimum)


@serves()
def cuMemPoolGetAttribute(pool: int, attribute: int, value: int) -> None:
    found = pools.get_attribute(pool, attribute)
    if attribute in pools.INT_ATTRIBUTES:
        put_i32(value, found)
    else:
        put_u64(value, found)


@serves()
def cuMemPoolSetAttribute(pool: int, attribute: int, value: int) -> None:
    pools.set_attribute(pool, attribute, get_i32(value) if attribute in pools.INT_ATTRIBUTES else get_u64(value))


@serves()
def cuMemPoolGetAccess(flags: int, pool: int, location: int) -> None:
    put_i32(flags, pools.get_access(pool, *_location(location)))


@serves()
def cuMemPoolSetAccess(pool: int, descriptions: int, count: int) -> None:
    # CUmemAccessDesc: location (type, id), flags
    for address in range(descriptions, descriptions + 12 * count, 12):
        pools.set_access(pool, get_i32(address), get_i32(address + 4), get_u32(address + 8))


def _no_export(name: str) -> CudaError:
    return refuse(name, NO_POOL_EXPORT)


@serves()
def cuMemPoolExportToShareableHandle(handle: int, pool: int, handle_type: int, flags: int) -> None:
    raise _no_export("cuMemPoolExportToShareableHandle")


@serves()
def cuMemPoolImportFromShareableHandle(pool: int, handle: int, handle_type: int, flags: int) -> None:
    raise _no_export("cuMemPoolImportFromShareableHandle")


@serves()
def cuMemPoolExportPointer(data: int, pointer: int) -> None:
    raise _no_export("cuMemPoolExportPointer")


@serves()
def cuMemPoolImportPointer(pointer: int, pool: int, data: int) -> None:
    raise _no_export("cuMemPoolImportPointer")
