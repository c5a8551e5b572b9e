"""Stream-ordered memory pools (``cuMemPool*``, ``cudaMemPool*``), emulated on the session's stream-ordered allocator.

A pool of ours only counts: every allocation comes from the session's one device range, whose frees follow their
stream as a pool's do. So a pool holds no memory back, and its release threshold is remembered but changes nothing;
what it reports as reserved is what the driver's would hold until it is trimmed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from migproxy_plugins.cuda import graph_memory
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.registry import refuse
from migproxy_plugins.cuda.treatment import NO_POOL_EXPORT

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.session import on_fork

# CUmemPool_attribute / cudaMemPoolAttr
REUSE_FOLLOW_EVENT_DEPENDENCIES: Final = 1
REUSE_ALLOW_OPPORTUNISTIC: Final = 2
REUSE_ALLOW_INTERNAL_DEPENDENCIES: Final = 3
RELEASE_THRESHOLD: Final = 4
RESERVED_CURRENT: Final = 5
RESERVED_HIGH: Final = 6
USED_CURRENT: Final = 7
USED_HIGH: Final = 8
ALLOCATION_TYPE: Final = 9
EXPORT_HANDLE_TYPES: Final = 10
LOCATION_ID: Final = 11
LOCATION_TYPE: Final = 12
MAX_POOL_SIZE: Final = 13
HARDWARE_DECOMPRESS: Final = 14

_SWITCHES = (REUSE_FOLLOW_EVENT_DEPENDENCIES, REUSE_ALLOW_OPPORTUNISTIC, REUSE_ALLOW_INTERNAL_DEPENDENCIES)
#: Attributes whose value is a 32-bit int; the others are 64-bit.
INT_ATTRIBUTES: Final = frozenset(
    {1, 2, 3, ALLOCATION_TYPE, EXPORT_HANDLE_TYPES, LOCATION_ID, LOCATION_TYPE, HARDWARE_DECOMPRESS}
)

# CUmemAllocationType, CUmemLocationType
ALLOCATION_PINNED: Final = 1
ALLOCATION_MANAGED: Final = 2
LOCATION_NONE: Final = 0
LOCATION_DEVICE: Final = 1
LOCATION_HOST: Final = 2
LOCATION_HOST_NUMA: Final = 3
LOCATION_HOST_NUMA_CURRENT: Final = 4

_HOST_LOCATIONS = (LOCATION_HOST, LOCATION_HOST_NUMA, LOCATION_HOST_NUMA_CURRENT)

#: How the driver's pools grow.
CHUNK: Final = 32 << 20

_lock = threading.Lock()


@dataclass(eq=False)
class Pool:
    """One pool."""

    handle: int
    allocation_type: int = ALLOCATION_PINNED
    location_type: int = LOCATION_DEVICE
    location_id: int = 0
    max_size: int = 0
    is_default: bool = False
    release_threshold: int = 0
    switches: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_SWITCHES, 1))
    used: int = 0
    used_high: int = 0
    reserved: int = 0
    reserved_high: int = 0
    access: dict[tuple[int, int], int] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)
    #: Its memory is managed; it is pinned host memory. Every allocation asks.
    managed: bool = field(init=False)
    on_host: bool = field(init=False)

    def __post_init__(self) -> None:
        self.managed = self.allocation_type == ALLOCATION_MANAGED
        self.on_host = not self.managed and self.location_type in _HOST_LOCATIONS

    def account(self, size: int) -> None:
        """Count an allocation; the pool grows by whole chunks, as the driver's does."""
        self.used += size
        self.used_high = max(self.used_high, self.used)
        self.reserved = max(self.reserved, -(-self.used // CHUNK) * CHUNK)
        self.reserved_high = max(self.reserved_high, self.reserved)

    def trim(self, minimum: int) -> None:
        """Give back whole chunks that no allocation needs."""
        self.reserved = min(self.reserved, -(-max(self.used, minimum) // CHUNK) * CHUNK)


_pools: dict[int, Pool] = {}
_owner: dict[int, Pool] = {}
_numbers = itertools.count(1)
_current: dict[int, Pool] = {}
_defaults: dict[tuple[int, int, int], Pool] = {}


def _new(
    allocation_type: int, location_type: int, location_id: int, max_size: int = 0, *, is_default: bool = False
) -> Pool:
    pool = Pool(
        layout.make_handle(layout.KIND_POOL, next(_numbers)),
        allocation_type,
        location_type,
        location_id,
        max_size,
        is_default,
    )
    _pools[pool.handle] = pool
    return pool


def create(
    allocation_type: int = ALLOCATION_PINNED,
    location_type: int = LOCATION_DEVICE,
    location_id: int = 0,
    max_size: int = 0,
    handle_types: int = 0,
) -> int:
    """Make a pool and return its handle.

    Raises
    ------
    CudaError
        801 for pools that can be exported to other processes, 1 for locations that do not exist.
    """
    if handle_types:
        raise refuse("cuMemPoolCreate", NO_POOL_EXPORT)
    if allocation_type not in (ALLOCATION_PINNED, ALLOCATION_MANAGED):
        raise CudaError(st.INVALID_VALUE, f"cuMemPoolCreate: allocation type {allocation_type}")
    if location_type == LOCATION_DEVICE:
        if not 0 <= location_id < api.device_count():
            raise CudaError(st.INVALID_DEVICE, f"no device {location_id}")
    elif location_type == LOCATION_NONE:
        if allocation_type != ALLOCATION_MANAGED:
            raise CudaError(st.INVALID_VALUE, "only managed memory has no location")
    elif location_type not in _HOST_LOCATIONS:
        raise CudaError(st.INVALID_VALUE, f"cuMemPoolCreate: location type {location_type}")
    with _lock:
        return _new(allocation_type, location_type, location_id, max_size).handle


def destroy(handle: int) -> None:
    """Forget a pool; its live allocations stay valid until freed, as CUDA says."""
    with _lock:
        pool = _get(handle)
        if pool.is_default:
            raise CudaError(st.NOT_PERMITTED, "a default memory pool cannot be destroyed")
        del _pools[handle]
        for device, current in list(_current.items()):
            if current is pool:
                del _current[device]


def _get(handle: int) -> Pool:
    pool = _pools.get(handle)
    if pool is None:
        raise CudaError(st.INVALID_VALUE, f"no memory pool {handle:#x}")
    return pool


def default_pool(device: int, *, location_type: int = LOCATION_DEVICE, allocation_type: int = ALLOCATION_PINNED) -> int:
    """Return the default pool of a device (or of another location)."""
    if location_type == LOCATION_DEVICE and not 0 <= device < api.device_count():
        raise CudaError(st.INVALID_DEVICE, f"no device {device}")
    with _lock:
        key = (allocation_type, location_type, device)
        pool = _defaults.get(key)
        if pool is None:
            pool = _defaults[key] = _new(allocation_type, location_type, device, is_default=True)
        return pool.handle


def current_pool(device: int) -> int:
    """Return the pool that ``cuMemAllocAsync`` uses on `device`."""
    default = default_pool(device)
    with _lock:
        pool = _current.get(device)
        return default if pool is None else pool.handle


def set_current_pool(device: int, handle: int) -> None:
    """Make a device pool the one that ``cuMemAllocAsync`` uses."""
    if not 0 <= device < api.device_count():
        raise CudaError(st.INVALID_DEVICE, f"no device {device}")
    with _lock:
        pool = _get(handle)
        if pool.on_host or pool.managed:
            raise CudaError(st.INVALID_VALUE, "a host memory pool cannot be a device's current pool")
        _current[device] = pool


def get_attribute(handle: int, attribute: int) -> int:
    """Return an attribute; see `INT_ATTRIBUTES` for its width."""
    with _lock:
        pool = _get(handle)
        if attribute in pool.switches:
            return pool.switches[attribute]
        values = {
            RELEASE_THRESHOLD: pool.release_threshold,
            RESERVED_CURRENT: pool.reserved,
            RESERVED_HIGH: pool.reserved_high,
            USED_CURRENT: pool.used,
            USED_HIGH: pool.used_high,
            ALLOCATION_TYPE: pool.allocation_type,
            EXPORT_HANDLE_TYPES: 0,
            LOCATION_ID: pool.location_id,
            LOCATION_TYPE: pool.location_type,
            MAX_POOL_SIZE: pool.max_size,
            HARDWARE_DECOMPRESS: 0,
        }
        if attribute not in values:
            raise CudaError(st.INVALID_VALUE, f"memory pool attribute {attribute}")
        return values[attribute]


def set_attribute(handle: int, attribute: int, value: int) -> None:
    """Set an attribute; the high-water marks can only be reset to 0."""
    with _lock:
        pool = _get(handle)
        if attribute in pool.switches:
            pool.switches[attribute] = int(bool(value))
        elif attribute == RELEASE_THRESHOLD:
            pool.release_threshold = value
        elif attribute in (RESERVED_HIGH, USED_HIGH):
            if value:
                raise CudaError(st.INVALID_VALUE, "a high-water mark can only be reset to 0")
            if attribute == USED_HIGH:
                pool.used_high = pool.used
            else:
                pool.reserved_high = pool.reserved
        else:
            raise CudaError(st.INVALID_VALUE, f"memory pool attribute {attribute} cannot be set")


def trim_to(handle: int, minimum: int) -> None:
    """Release cached memory; a pool of ours only counts it."""
    with _lock:
        _get(handle).trim(minimum)


def get_access(handle: int, location_type: int, location_id: int) -> int:
    """Return ``CUmemAccess_flags`` (3: read and write)."""
    with _lock:
        pool = _get(handle)
        own = 3 if location_type == pool.location_type or pool.on_host or pool.managed else 0
        return pool.access.get((location_type, location_id), own)


def set_access(handle: int, location_type: int, location_id: int, flags: int) -> None:
    """Set the access of a location; the owning device's cannot be taken away."""
    with _lock:
        pool = _get(handle)
        if location_type == LOCATION_DEVICE and not 0 <= location_id < api.device_count():
            raise CudaError(st.INVALID_DEVICE, f"no device {location_id}")
        if flags == 0 and location_type == pool.location_type == LOCATION_DEVICE:
            raise CudaError(st.INVALID_DEVICE, "the owning device's access cannot be revoked")
        pool.access[(location_type, location_id)] = flags


def allocate(size: int, handle: int, stream: int) -> int:
    """``cuMemAllocFromPoolAsync``."""
    if api.is_captured(stream):
        from migproxy_plugins.cuda.driver_nodes import allocate_captured

        _get(handle)
        return allocate_captured(size, stream)
    with _lock:
        pool = _get(handle)
        if pool.max_size and pool.used + size > pool.max_size:
            raise CudaError(st.OUT_OF_MEMORY, "the memory pool's maximal size is reached")
    if pool.managed:
        pointer = api.mem_alloc_managed(size, 1)
    else:
        pointer = api.host_alloc(size) if pool.on_host else api.mem_alloc_async(size, stream)
    with _lock:
        pool.blocks[pointer] = size
        _owner[pointer] = pool
        pool.account(size)
    return pointer


def allocate_current(size: int, stream: int) -> int:
    """``cuMemAllocAsync``: from the current pool of the context's device."""
    return allocate(size, current_pool(api.context_device()), stream)


_on_free: list[Callable[[int], None]] = []


def on_free(listener: Callable[[int], None]) -> None:
    """Tell `listener` of every address that is freed."""
    _on_free.append(listener)


def free_linear(pointer: int) -> None:
    """``cuMemFree``: of whatever allocated it."""
    if graph_memory.block_of_graph(pointer):
        graph_memory.free(pointer)
    else:
        api.mem_free(pointer)
        forget(pointer)


def forget(pointer: int) -> Pool | None:
    """Take a freed pointer off its pool's account; return the pool."""
    for listener in _on_free:
        listener(pointer)
    pool = _owner.pop(pointer, None)
    if pool is not None:
        with _lock:
            pool.used -= pool.blocks.pop(pointer, 0)
    return pool


def free(pointer: int, stream: int) -> None:
    """``cuMemFreeAsync``."""
    if api.is_captured(stream):
        from migproxy_plugins.cuda.driver_nodes import free_captured

        free_captured(pointer, stream)
        return
    if graph_memory.block_of_graph(pointer):
        graph_memory.free(pointer)
        return
    pool = _owner.get(pointer)
    if pool is not None and (pool.on_host or pool.managed):
        # Work submitted before may still use it, and host memory has no stream-ordered free.
        api.stream_synchronize(stream)
        if pool.managed:
            api.mem_free(pointer)
        else:
            api.host_free(pointer)
    else:
        api.mem_free_async(pointer, stream)
    forget(pointer)


def pool_of(pointer: int) -> int:
    """Return the handle of the pool that owns `pointer`, 0 if none does."""
    pool = _owner.get(pointer)
    return 0 if pool is None else pool.handle


def _after_fork() -> None:
    """A child's pools start empty: what its parent allocated is not the child's."""
    _owner.clear()
    for pool in _pools.values():
        pool.blocks.clear()
        pool.used = pool.used_high = 0


on_fork(_after_fork)
