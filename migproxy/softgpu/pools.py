"""Stream-ordered memory: ``cuMemAllocAsync`` and memory pools.

An allocation is there at once; a free happens when its stream reaches it. When the card is full, frees that are under
way are waited for before the allocation fails, as a pool does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import NodeKind
from migproxy.softgpu.card import Device
from migproxy.softgpu.launch import LaunchApi
from migproxy.softgpu.state import entry, need
from migproxy.softgpu.streams import synchronize_context

_PROPS = struct.Struct("<IIIiQQ")  # allocation type, handle types, location type, location id, win32 data, largest size
_RELEASE_THRESHOLD = 4
_RESERVED_CURRENT, _RESERVED_HIGH, _USED_CURRENT, _USED_HIGH = 5, 6, 7, 8


@dataclass(eq=False)
class Pool:
    """A memory pool. It keeps nothing back: what is freed is the card's again."""

    device: Device
    limit: int = 0
    used: int = 0
    high: int = 0
    settings: dict[int, int] = field(default_factory=lambda: {1: 1, 2: 1, 3: 1, 4: 0})
    access: dict[int, int] = field(default_factory=dict)
    handle: int = 0


class PoolApi(LaunchApi):
    """``cuMemAllocAsync``, ``cuMemFreeAsync``, ``cuMemPool*``, ``cuDevice*MemPool``."""

    def _pools(self) -> dict[int, tuple[Pool, Pool]]:
        """For each device its default pool and its current one."""
        if not hasattr(self, "_pool_table"):
            self._pool_table: dict[int, tuple[Pool, Pool]] = {}
        return self._pool_table

    def _device_pools(self, device: Device) -> tuple[Pool, Pool]:
        table = self._pools()
        with self.lock:
            if device.ordinal not in table:
                pool = Pool(device)
                pool.handle = self.handles.add(pool)
                table[device.ordinal] = (pool, pool)
            return table[device.ordinal]

    @entry
    def cuDeviceGetDefaultMemPool(self, pool_out: int, dev: int) -> None:
        need(pool_out)
        raw.write_u64(pool_out, self._device_pools(self.device(dev))[0].handle)

    @entry
    def cuDeviceGetMemPool(self, pool: int, dev: int) -> None:
        need(pool)
        raw.write_u64(pool, self._device_pools(self.device(dev))[1].handle)

    @entry
    def cuDeviceSetMemPool(self, dev: int, pool: int) -> None:
        device = self.device(dev)
        found = self._pool(pool)
        need(found.device is device, "a pool of another device")
        self._pools()[device.ordinal] = (self._device_pools(device)[0], found)

    # CUDA 13's form: by location and type of memory.

    def _located(self, location: int, kind: int) -> Device:
        need(location and raw.read_u32(location) == 1, "pools at the host are not supported", status.NOT_SUPPORTED)
        need(kind == 1, f"allocation type {kind} is not supported", status.NOT_SUPPORTED)
        return self.device(raw.read_i32(location + 4))

    @entry
    def cuMemGetDefaultMemPool(self, pool_out: int, location: int, type: int) -> None:
        need(pool_out)
        raw.write_u64(pool_out, self._device_pools(self._located(location, type))[0].handle)

    @entry
    def cuMemGetMemPool(self, pool: int, location: int, type: int) -> None:
        need(pool)
        raw.write_u64(pool, self._device_pools(self._located(location, type))[1].handle)

    @entry
    def cuMemSetMemPool(self, location: int, type: int, pool: int) -> None:
        device, found = self._located(location, type), self._pool(pool)
        need(found.device is device, "a pool of another device")
        self._pools()[device.ordinal] = (self._device_pools(device)[0], found)

    def _pool(self, handle: int) -> Pool:
        return self.handles.get(handle, Pool, status.INVALID_VALUE)

    @entry
    def cuMemPoolCreate(self, pool: int, poolProps: int) -> None:
        need(pool and poolProps)
        kind, handles, place, ordinal, _, limit = raw.unpack(_PROPS, poolProps)
        need(kind == 1, f"allocation type {kind}")
        need(place == 1, "pools at the host are not supported", status.NOT_SUPPORTED)
        need(handles == 0, "pools shared with other processes are not supported", status.NOT_SUPPORTED)
        made = Pool(self.device(ordinal), limit)
        made.handle = self.handles.add(made)
        raw.write_u64(pool, made.handle)

    @entry
    def cuMemPoolDestroy(self, pool: int) -> None:
        found = self._pool(pool)
        default, current = self._device_pools(found.device)
        need(found is not default, "a default pool cannot be destroyed")
        if current is found:
            self._pools()[found.device.ordinal] = (default, default)
        self.handles.drop(pool)

    @entry
    def cuMemPoolTrimTo(self, pool: int, minBytesToKeep: int) -> None:
        # The pool keeps nothing back, so there is nothing to give.
        self._pool(pool)

    @entry
    def cuMemPoolGetAttribute(self, pool: int, attr: int, value: int) -> None:
        found = self._pool(pool)
        need(value)
        if attr in (1, 2, 3):
            raw.write_i32(value, found.settings[attr])
        elif attr == _RELEASE_THRESHOLD:
            raw.write_u64(value, found.settings[attr])
        elif attr in (_RESERVED_CURRENT, _USED_CURRENT):
            raw.write_u64(value, found.used)
        elif attr in (_RESERVED_HIGH, _USED_HIGH):
            raw.write_u64(value, found.high)
        else:
            need(False, f"pool attribute {attr}")

    @entry
    def cuMemPoolSetAttribute(self, pool: int, attr: int, value: int) -> None:
        found = self._pool(pool)
        need(value)
        if attr in (1, 2, 3):
            found.settings[attr] = raw.read_i32(value)
        elif attr == _RELEASE_THRESHOLD:
            found.settings[attr] = raw.read_u64(value)
        elif attr in (_RESERVED_HIGH, _USED_HIGH):
            need(raw.read_u64(value) == 0, "high marks can only be reset")
            found.high = found.used
        else:
            need(False, f"pool attribute {attr} cannot be set")

    @entry
    def cuMemPoolSetAccess(self, pool: int, map: int, count: int) -> None:
        found = self._pool(pool)
        for index in range(count):
            place, ordinal = raw.read_u32(map + 12 * index), raw.read_i32(map + 12 * index + 4)
            flags = raw.read_u32(map + 12 * index + 8)
            need(place == 1 and flags in (0, 3), "pools allow read and write, or nothing")
            need(self.device(ordinal) is not found.device or flags == 3, "the pool's own device keeps its access")
            found.access[ordinal] = flags

    @entry
    def cuMemPoolGetAccess(self, flags: int, memPool: int, location: int) -> None:
        found = self._pool(memPool)
        need(flags and location and raw.read_u32(location) == 1)
        device = self.device(raw.read_i32(location + 4))
        raw.write_u32(flags, 3 if device is found.device else found.access.get(device.ordinal, 0))

    @entry
    def cuMemAllocAsync(self, dptr: int, bytesize: int, hStream: int) -> None:
        device = self.stream(hStream).context.device
        self._allocate(dptr, bytesize, self._device_pools(device)[1], hStream)

    @entry
    def cuMemAllocFromPoolAsync(self, dptr: int, bytesize: int, pool: int, hStream: int) -> None:
        self._allocate(dptr, bytesize, self._pool(pool), hStream)

    def _allocate(self, out: int, size: int, pool: Pool, handle: int) -> None:
        stream = self.stream(handle)
        need(out)
        need(stream.capture is None, "allocations in graphs are not supported", status.NOT_SUPPORTED)
        if size == 0:
            raw.write_u64(out, 0)
            return
        need(not pool.limit or pool.used + size <= pool.limit, "the pool is full", status.OUT_OF_MEMORY)
        context = stream.context
        try:
            allocation = self.space.allocate(pool.device, size, context.handle, pool=pool.handle)
        except CudaError:
            synchronize_context(context)
            context.check()
            allocation = self.space.allocate(pool.device, size, context.handle, pool=pool.handle)
        with self.lock:
            pool.used += allocation.extent
            pool.high = max(pool.high, pool.used)
        raw.write_u64(out, allocation.base)

    @entry
    def cuMemFreeAsync(self, dptr: int, hStream: int) -> None:
        stream = self.stream(hStream)
        if dptr == 0:
            return
        need(stream.capture is None, "frees in graphs are not supported", status.NOT_SUPPORTED)
        found = self.space.allocations.at(dptr)
        if found is None or found.freeing:
            raise CudaError(status.INVALID_VALUE, f"{dptr:#x} was not allocated, or is freed already")
        found.freeing = True

        def run() -> None:
            freed = self.space.free(dptr)
            pool = self.handles.find(freed.pool)
            if isinstance(pool, Pool):
                with self.lock:
                    pool.used -= freed.extent

        stream.submit(NodeKind.MEM_FREE, run)
