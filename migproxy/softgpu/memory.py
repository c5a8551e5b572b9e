"""Memory functions: allocation, address ranges, host memory, and what is known about a pointer."""

from __future__ import annotations

import struct

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.address_ranges import Allocation, HostRange, Mapping, Physical, Reservation
from migproxy.softgpu.card import GRANULARITY, PITCH_ALIGNMENT, Device
from migproxy.softgpu.contexts import ContextApi
from migproxy.softgpu.state import Context, entry, need, signed32
from migproxy.softgpu.streams import synchronize_context

_PROP = struct.Struct("<IIIiQQ")  # type, requestedHandleTypes, location type, location id, win32 data, flags
_ACCESS = struct.Struct("<IiI")  # location type, location id, flags
_LOCATION_DEVICE = 1
_TYPE_PINNED = 1
_POSIX_FILE = 1
_UNSUPPORTED = status.NOT_SUPPORTED
_MEMORY_HOST, _MEMORY_DEVICE = 1, 2
_HOST_ALLOC_FLAGS = 0x7
_HOST_REGISTER_FLAGS = 0xF


class MemoryApi(ContextApi):
    """``cuMem*`` without copies, fills and pools; ``cuPointer*``."""

    # ---- cuMemAlloc ---------------------------------------------------------------------------------------------

    @entry
    def cuMemAlloc(self, dptr: int, bytesize: int) -> None:
        context = self.context()
        need(dptr and bytesize > 0, f"allocation of {bytesize} bytes")
        raw.write_u64(dptr, self.space.allocate(context.device, bytesize, context.handle).base)

    @entry
    def cuMemAllocPitch(self, dptr: int, pPitch: int, WidthInBytes: int, Height: int, ElementSizeBytes: int) -> None:
        context = self.context()
        need(dptr and pPitch and WidthInBytes > 0 and Height > 0 and ElementSizeBytes in (4, 8, 16))
        pitch = -(-WidthInBytes // PITCH_ALIGNMENT) * PITCH_ALIGNMENT
        raw.write_u64(dptr, self.space.allocate(context.device, pitch * Height, context.handle).base)
        raw.write_u64(pPitch, pitch)

    @entry
    def cuMemAllocManaged(self, dptr: int, bytesize: int, flags: int) -> None:
        context = self.context()
        need(dptr and bytesize > 0 and flags in (1, 2), f"managed allocation of {bytesize} bytes, flags {flags}")
        allocation = self.space.allocate(context.device, bytesize, context.handle, managed=True)
        raw.write_u64(dptr, allocation.base)

    @entry
    def cuMemFree(self, dptr: int) -> None:
        context = self.context()
        if dptr == 0:
            return
        need(self.space.allocations.at(dptr), f"{dptr:#x} was not allocated, or is freed already")
        # As on a GPU: the free waits for all work that might still use the memory.
        synchronize_context(context)
        context.check()
        self.space.free(dptr)

    @entry
    def cuMemGetInfo(self, free: int, total: int) -> None:
        device = self.context().device
        need(free and total)
        raw.write_u64(free, device.total - device.used)
        raw.write_u64(total, device.total)

    @entry
    def cuMemGetAddressRange(self, pbase: int, psize: int, dptr: int) -> None:
        self.context()
        with self.space.lock:
            found = self.space.allocations.find(dptr) or self.space.mappings.find(dptr) or self.space.host.find(dptr)
        if found is None:
            raise CudaError(status.NOT_FOUND, f"{dptr:#x} is not device memory")
        if pbase:
            raw.write_u64(pbase, found.base)
        if psize:
            raw.write_u64(psize, found.size)

    # ---- virtual memory management ------------------------------------------------------------------------------

    @entry
    def cuMemGetAllocationGranularity(self, granularity: int, prop: int, option: int) -> None:
        need(granularity and prop and option in (0, 1))
        self._check_prop(prop)
        raw.write_u64(granularity, GRANULARITY)

    def _check_prop(self, prop: int) -> Device:
        kind, handles, place, ordinal, _, _ = raw.unpack(_PROP, prop)
        need(kind == _TYPE_PINNED, f"allocation type {kind}")
        need(place == _LOCATION_DEVICE, "memory at the host is not supported", status.NOT_SUPPORTED)
        need(handles in (0, _POSIX_FILE), "handles other than descriptors of files are not supported", _UNSUPPORTED)
        return self.device(ordinal)

    @entry
    def cuMemAddressReserve(self, ptr: int, size: int, alignment: int, addr: int, flags: int) -> None:
        need(ptr and size > 0 and size % GRANULARITY == 0 and flags == 0, f"reservation of {size} bytes")
        need(alignment & (alignment - 1) == 0, f"alignment {alignment}")
        raw.write_u64(ptr, self.space.reserve(size, max(alignment, GRANULARITY), addr))

    @entry
    def cuMemAddressFree(self, ptr: int, size: int) -> None:
        self.space.unreserve(ptr, size)

    @entry
    def cuMemCreate(self, handle: int, size: int, prop: int, flags: int) -> None:
        need(handle and prop and flags == 0 and size > 0 and size % GRANULARITY == 0, f"allocation of {size} bytes")
        memory = self.space.create(self._check_prop(prop), size, raw.read_bytes(prop, _PROP.size))
        memory.handle = self.handles.add(memory)
        raw.write_u64(handle, memory.handle)

    def _physical(self, handle: int) -> Physical:
        return self.handles.get(handle, Physical, status.INVALID_VALUE)

    @entry
    def cuMemRelease(self, handle: int) -> None:
        memory = self._physical(handle)
        if self.space.release(memory):
            self.handles.drop(handle)

    @entry
    def cuMemMap(self, ptr: int, size: int, offset: int, handle: int, flags: int) -> None:
        need(flags == 0 and offset == 0 and size > 0 and (ptr | size) % GRANULARITY == 0, "unaligned mapping")
        self.space.map(ptr, size, self._physical(handle))

    @entry
    def cuMemUnmap(self, ptr: int, size: int) -> None:
        need(size > 0 and (ptr | size) % GRANULARITY == 0, "unaligned range")
        self.space.unmap(ptr, size)

    @entry
    def cuMemSetAccess(self, ptr: int, size: int, desc: int, count: int) -> None:
        need(desc and count > 0 and size > 0)
        for index in range(count):
            place, ordinal, flags = raw.unpack(_ACCESS, desc + index * _ACCESS.size)
            need(place == _LOCATION_DEVICE, "access for the host is not supported", status.NOT_SUPPORTED)
            self.space.set_access(ptr, size, self.device(ordinal), flags)

    @entry
    def cuMemGetAccess(self, flags: int, location: int, ptr: int) -> None:
        need(flags and location)
        place, ordinal = raw.read_u32(location), raw.read_i32(location + 4)
        need(place == _LOCATION_DEVICE, f"location type {place}")
        with self.space.lock:
            mapping = self.space.mappings.find(ptr)
        if mapping is None:
            raise CudaError(status.INVALID_VALUE, f"{ptr:#x} is not mapped")
        raw.write_u64(flags, mapping.access.get(self.device(ordinal).ordinal, 0))

    @entry
    def cuMemGetAllocationPropertiesFromHandle(self, prop: int, handle: int) -> None:
        need(prop)
        raw.write_bytes(prop, self._physical(handle).prop)

    @entry
    def cuMemRetainAllocationHandle(self, handle: int, addr: int) -> None:
        need(handle)
        with self.space.lock:
            mapping = self.space.mappings.find(addr)
            if mapping is None:
                raise CudaError(status.INVALID_VALUE, f"{addr:#x} is not mapped")
            memory = mapping.memory
            if not memory.references:
                memory.handle = self.handles.add(memory)
            memory.references += 1
        raw.write_u64(handle, memory.handle)

    @entry
    def cuMemExportToShareableHandle(self, shareableHandle: int, handle: int, handleType: int, flags: int) -> None:
        need(shareableHandle and handleType == _POSIX_FILE and flags == 0, f"handle type {handleType}")
        memory = self._physical(handle)
        need(_PROP.unpack(memory.prop)[1] == _POSIX_FILE, "the memory was not made to be shared")
        # Moving it into a file takes it away from what runs. Whoever calls is the one that submits.
        need(memory.fd >= 0 or self._still(), "memory is shared while nothing runs", status.NOT_READY)
        raw.write_i32(shareableHandle, self.space.share(memory))

    def _still(self) -> bool:
        """Whether no stream has anything to do."""
        contexts = {*self.primary.values(), *self.handles.of_kind(Context)}
        return all(stream.queue.idle() for context in contexts for stream in list(context.streams))

    @entry
    def cuMemImportFromShareableHandle(self, handle: int, osHandle: int, shHandleType: int) -> None:
        need(handle and shHandleType == _POSIX_FILE, f"handle type {shHandleType}")
        prop = _PROP.pack(_TYPE_PINNED, _POSIX_FILE, _LOCATION_DEVICE, 0, 0, 0)
        memory = self.space.take(self.context().device, signed32(osHandle), prop)
        memory.handle = self.handles.add(memory)
        raw.write_u64(handle, memory.handle)

    # ---- host memory --------------------------------------------------------------------------------------------

    @entry
    def cuMemHostAlloc(self, pp: int, bytesize: int, Flags: int) -> None:
        self._host_alloc(pp, bytesize, Flags)

    @entry
    def cuMemAllocHost(self, pp: int, bytesize: int) -> None:
        self._host_alloc(pp, bytesize, 0)

    def _host_alloc(self, out: int, size: int, flags: int) -> None:
        context = self.context()
        need(out and not flags & ~_HOST_ALLOC_FLAGS, f"host allocation of {size} bytes, flags {flags}")
        if size == 0:
            raw.write_u64(out, 0)
            return
        raw.write_u64(out, self.space.host_allocate(size, flags, context.handle, context.device).base)

    @entry
    def cuMemFreeHost(self, p: int) -> None:
        context = self.context()
        if p == 0:
            return
        synchronize_context(context)
        context.check()
        self.space.host_free(p)

    @entry
    def cuMemHostRegister(self, p: int, bytesize: int, Flags: int) -> None:
        context = self.context()
        need(p and bytesize > 0 and not Flags & ~_HOST_REGISTER_FLAGS, f"host range of {bytesize} bytes")
        need(not self.space.owns(p), "device memory cannot be registered")
        self.space.host_register(p, bytesize, Flags, context.handle, context.device)

    @entry
    def cuMemHostUnregister(self, p: int) -> None:
        context = self.context()
        synchronize_context(context)
        self.space.host_unregister(p)

    def _pinned(self, address: int) -> HostRange:
        with self.space.lock:
            pinned = self.space.host.find(address)
        if pinned is None:
            raise CudaError(status.INVALID_VALUE, f"{address:#x} is not pinned host memory")
        return pinned

    @entry
    def cuMemHostGetDevicePointer(self, pdptr: int, p: int, Flags: int) -> None:
        self.context()
        need(pdptr and Flags == 0)
        self._pinned(p)
        raw.write_u64(pdptr, p)

    @entry
    def cuMemHostGetFlags(self, pFlags: int, p: int) -> None:
        self.context()
        need(pFlags)
        raw.write_u32(pFlags, self._pinned(p).flags)

    # ---- managed memory: the host's own paging does what prefetch and advice ask for ------------------------------

    @entry
    def cuMemPrefetchAsync(self, devPtr: int, count: int, *rest: int) -> None:
        # CUDA 12: (…, device, stream); CUDA 13: (…, location by value in one register, flags, stream).
        need(len(rest) in (2, 3), "cuMemPrefetchAsync takes 4 or 5 arguments")
        self.stream(rest[-1])
        self.managed(devPtr, count)

    @entry
    def cuMemAdvise(self, devPtr: int, count: int, advice: int, device: int) -> None:
        need(1 <= advice <= 6, f"advice {advice}")
        self.managed(devPtr, count)

    def managed(self, address: int, count: int) -> Allocation:
        """The managed allocation that holds a range."""
        self.context()
        with self.space.lock:
            found = self.space.allocations.find(address)
        if found is None or not found.managed or address + count > found.base + found.size:
            raise CudaError(status.INVALID_VALUE, f"[{address:#x}, +{count:#x}) is not managed memory")
        return found

    # ---- pointers -----------------------------------------------------------------------------------------------

    # Even a context with a fault tells what it knows of a pointer.

    @entry
    def cuPointerGetAttribute(self, data: int, attribute: int, ptr: int) -> None:
        need(self.current(), "this thread has no current context", status.INVALID_CONTEXT)
        need(data)
        found = self._lookup(ptr)
        if found is None:
            raise CudaError(status.INVALID_VALUE, f"{ptr:#x} is not known to the driver")
        self._pointer_attribute(data, attribute, ptr, found)

    @entry
    def cuPointerGetAttributes(self, numAttributes: int, attributes: int, data: int, ptr: int) -> None:
        need(self.current(), "this thread has no current context", status.INVALID_CONTEXT)
        need(numAttributes > 0 and attributes and data)
        wanted = raw.read_array_u32(attributes, numAttributes)
        places = raw.read_array_u64(data, numAttributes)
        found = self._lookup(ptr)
        for attribute, place in zip(wanted, places, strict=True):
            if found is None:
                with self.space.lock:
                    reserved = self.space.reservations.find(ptr)
                _unknown_pointer(place, attribute, reserved)
            else:
                self._pointer_attribute(place, attribute, ptr, found)

    @entry
    def cuPointerSetAttribute(self, value: int, attribute: int, ptr: int) -> None:
        self.context()
        need(value and attribute == 6, f"pointer attribute {attribute} cannot be set")
        with self.space.lock:
            found = self.space.allocations.find(ptr)
        if found is None:
            raise CudaError(status.INVALID_VALUE, f"{ptr:#x} is not device memory")
        found.sync_memops = bool(raw.read_i32(value))

    def _lookup(self, address: int) -> Allocation | Mapping | HostRange | None:
        with self.space.lock:
            return (
                self.space.allocations.find(address)
                or self.space.mappings.find(address)
                or self.space.host.find(address)
            )

    def _pointer_attribute(
        self, out: int, attribute: int, address: int, found: Allocation | Mapping | HostRange
    ) -> None:
        host = isinstance(found, HostRange)
        allocation = found if isinstance(found, Allocation) else None
        managed = allocation is not None and allocation.managed
        if attribute == 1:  # CONTEXT; memory that is mapped or of a pool has none
            free = isinstance(found, Mapping) or (allocation is not None and allocation.pool)
            raw.write_u64(out, 0 if free else found.context_handle)  # type: ignore[union-attr]
        elif attribute == 2:  # MEMORY_TYPE
            raw.write_u32(out, _MEMORY_HOST if host else _MEMORY_DEVICE)
        elif attribute == 3:  # DEVICE_POINTER
            raw.write_u64(out, address)
        elif attribute == 4:  # HOST_POINTER
            need(host or managed, f"{address:#x} has no host pointer")
            raw.write_u64(out, address)
        elif attribute == 6:  # SYNC_MEMOPS
            raw.write_u32(out, int(managed or (allocation is not None and allocation.sync_memops)))
        elif attribute in (7, 20):  # BUFFER_ID, MEMORY_BLOCK_ID
            raw.write_u64(out, found.memory.handle if isinstance(found, Mapping) else found.buffer_id)
        elif attribute == 8:  # IS_MANAGED
            raw.write_u8(out, int(managed))
        elif attribute == 9:  # DEVICE_ORDINAL
            raw.write_i32(out, found.device.ordinal)
        elif attribute in (10, 15, 21):  # IS_LEGACY_CUDA_IPC_, IS_GPU_DIRECT_RDMA_, IS_HW_DECOMPRESS_CAPABLE
            raw.write_u8(out, 0)
        elif attribute in (11, 12):  # RANGE_START_ADDR, RANGE_SIZE: of mapped memory, those of the reservation
            whole = (self.space.reservations.find(address) if isinstance(found, Mapping) else None) or found
            raw.write_u64(out, whole.base if attribute == 11 else whole.size)
        elif attribute in (18, 19):  # MAPPING_SIZE, MAPPING_BASE_ADDR
            raw.write_u64(out, found.base if attribute == 19 else found.size)
        elif attribute == 13:  # MAPPED
            raw.write_u8(out, 1)
        elif attribute == 14:  # ALLOWED_HANDLE_TYPES
            raw.write_u64(out, 0)
        elif attribute == 16:  # ACCESS_FLAGS
            raw.write_u32(out, max(found.access.values(), default=0) if isinstance(found, Mapping) else 3)
        elif attribute == 17:  # MEMPOOL_HANDLE
            raw.write_u64(out, allocation.pool if allocation is not None else 0)
        else:
            raise CudaError(status.NOT_SUPPORTED, f"pointer attribute {attribute}")


def _unknown_pointer(out: int, attribute: int, reserved: Reservation | None) -> None:
    """What ``cuPointerGetAttributes`` says about memory that is the host's own: nothing, and no error."""
    if attribute in (11, 12):
        # As the driver: without a range the result stays as it was.
        if reserved is not None:
            raw.write_u64(out, reserved.base if attribute == 11 else reserved.size)
    elif attribute in (1, 3, 4, 7, 14, 17, 18, 19, 20):
        raw.write_u64(out, 0)
    elif attribute == 9:
        raw.write_i32(out, -2)
    elif attribute in (2, 6, 16):
        raw.write_u32(out, 0)
    elif attribute in (8, 10, 13, 15, 21):
        raw.write_u8(out, 0)
    else:
        raise CudaError(status.NOT_SUPPORTED, f"pointer attribute {attribute}")
