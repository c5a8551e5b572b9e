"""Device memory: address ranges, the memory behind them, and who may touch it.

Device memory is ordinary memory of this process at the same address. What has no memory has no access either
(``PROT_NONE``), so that a kernel that leaves its memory faults, and a freed range faults until its address comes round
again. New memory is always zero: real cards do not promise that, but a tenant must not see another's data.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import shared
from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.address_ranges import Allocation, HostRange, Mapping, Physical, Reservation
from migproxy.softgpu.card import GRANULARITY, Device
from migproxy.softgpu.ranges import RangeMap, Room

_PROTECTION = {0: raw.PROT_NONE, 1: raw.PROT_READ, 3: raw.PROT_READ | raw.PROT_WRITE}
_READ_WRITE = raw.PROT_READ | raw.PROT_WRITE


def round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class AddressSpace:
    """All addresses of one driver instance."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.reservations: RangeMap[Reservation] = RangeMap()
        self.mappings: RangeMap[Mapping] = RangeMap()
        self.allocations: RangeMap[Allocation] = RangeMap()
        self.host: RangeMap[HostRange] = RangeMap()
        self._rooms: list[Room] = []
        self._touching = 0
        self._quiet = threading.Condition(self.lock)
        self._buffer_ids = 0
        self._noted: dict[int, int] | None = None

    # ---- who may touch what -------------------------------------------------------------------------------------

    def accessible(self, address: int, size: int) -> bool:
        """Whether the device may use all of ``[address, address + size)``."""
        found = self.allocations.find(address)
        if found is not None:
            return address + size <= found.base + found.size
        mapped = self.mappings.covers(address, size)
        if mapped is not None:
            return all(any(mapping.access.values()) for mapping in mapped)
        pinned = self.host.find(address)
        return pinned is not None and address + size <= pinned.base + pinned.size

    def owns(self, address: int) -> bool:
        """Whether ``address`` is device memory, or could become it: reserved, but nothing there."""
        return (
            self.allocations.find(address) is not None
            or self.reservations.find(address) is not None
            or any(room.base <= address < room.base + room.size for room in self._rooms)
        )

    def require(self, address: int, size: int, code: int = status.INVALID_VALUE) -> None:
        if size > 0 and not self.accessible(address, size):
            raise CudaError(code, f"[{address:#x}, {address + size:#x}) is not accessible device memory")

    def note(self, base: int, size: int) -> None:
        """For check mode: an allocation that the application placed in a mapping, or (size 0) gave up."""
        with self.lock:
            if self._noted is None:
                self._noted = {}
            written.forget(base)
            self._noted.pop(base, None)
            if size:
                self._noted[base] = size
                written.track(base, size)

    def bounds(self) -> list[tuple[int, int, int]]:
        """What kernels may access, for check mode: start, end, and the record of what was written (0: all)."""
        with self.lock:
            found = [(item.base, item.base + item.size, written.record(item.base)) for item in self.allocations]
            if self._noted is None:
                found += [(item.base, item.base + item.size, 0) for item in self.mappings if any(item.access.values())]
            else:
                found += [(base, base + size, written.record(base)) for base, size in self._noted.items()]
                found += [(item.base, item.base + item.size, 0) for item in self.mappings if item.memory.taken]
            found += [(item.base, item.base + item.size, 0) for item in self.host]
        return sorted(found)

    @contextmanager
    def touching(self, *ranges: tuple[int, int]) -> Iterator[None]:
        """Keep the device ranges mapped while the host side copies or fills them.

        A range that is gone by now is the illegal-address fault of a real copy engine, not a crash of this process.
        """
        with self.lock:
            for address, size in ranges:
                self.require(address, size, status.ILLEGAL_ADDRESS)
            self._touching += 1
        try:
            yield
        finally:
            with self.lock:
                self._touching -= 1
                if not self._touching:
                    self._quiet.notify_all()

    def _wait_quiet(self) -> None:
        """With the lock held: wait until no copy is in flight, so that a range can go."""
        while self._touching:
            self._quiet.wait()

    def next_buffer_id(self) -> int:
        self._buffer_ids += 1
        return self._buffer_ids

    # ---- cuMemAlloc ---------------------------------------------------------------------------------------------

    def allocate(
        self, device: Device, size: int, context_handle: int, *, managed: bool = False, pool: int = 0
    ) -> Allocation:
        """Allocate zeroed memory with a guard page behind it; ``CUDA_ERROR_OUT_OF_MEMORY`` when the card is full."""
        extent = round_up(size, raw.PAGE)
        alignment = GRANULARITY if extent >= GRANULARITY else raw.PAGE
        with self.lock:
            if device.used + extent > device.total:
                raise CudaError(
                    status.OUT_OF_MEMORY, f"{size} bytes asked, {device.total - device.used} of {device.total} free"
                )
            base = self._take_room(device, extent + raw.PAGE, alignment)
            try:
                raw.protect(base, extent, _READ_WRITE)
            except OSError as error:
                self._give_room(base, extent + raw.PAGE)
                raise CudaError(status.OUT_OF_MEMORY, f"the host refuses {extent} bytes: {error}") from error
            if extent >= GRANULARITY:
                raw.advise_huge(base, extent)
            allocation = Allocation(
                base, size, extent, device, context_handle, self.next_buffer_id(), managed=managed, pool=pool
            )
            self.allocations.add(allocation)
            device.used += extent
            if not managed:  # which the host writes, too
                written.track(base, size)
            return allocation

    def free(self, address: int) -> Allocation:
        with self.lock:
            allocation = self.allocations.at(address)
            if allocation is None:
                raise CudaError(status.INVALID_VALUE, f"{address:#x} was not allocated, or is freed already")
            self._wait_quiet()
            if self.allocations.at(address) is not allocation:
                raise CudaError(status.INVALID_VALUE, f"{address:#x} was freed by another thread")
            raw.discard(allocation.base, allocation.extent)
            written.forget(allocation.base)
            self.allocations.remove(address)
            self._give_room(allocation.base, allocation.extent + raw.PAGE)
            allocation.device.used -= allocation.extent
            return allocation

    def _take_room(self, device: Device, size: int, alignment: int) -> int:
        for room in self._rooms:
            if (base := room.take(size, alignment)) is not None:
                return base
        want = max(device.total * 4, round_up(size + alignment, GRANULARITY))
        try:
            room = Room(raw.reserve(want), want)
        except OSError as error:
            raise CudaError(status.OUT_OF_MEMORY, f"the host refuses {want} bytes of addresses: {error}") from error
        self._rooms.append(room)
        base = room.take(size, alignment)
        if base is None:
            raise CudaError(status.OUT_OF_MEMORY, f"no room for {size} bytes")
        return base

    def _give_room(self, base: int, size: int) -> None:
        for room in self._rooms:
            if room.base <= base < room.base + room.size:
                room.give(base, size)
                return

    # ---- virtual memory management ------------------------------------------------------------------------------

    def reserve(self, size: int, alignment: int, hint: int) -> int:
        with self.lock:
            slack = alignment if alignment > raw.PAGE else 0
            try:
                if hint and hint % max(alignment, GRANULARITY) == 0:
                    base = raw.reserve(size, hint)
                    if base == hint:
                        self.reservations.add(Reservation(base, size))
                        return base
                    raw.unreserve(base, size)
                whole = raw.reserve(size + slack)
                base = round_up(whole, max(alignment, raw.PAGE))
                if base > whole:
                    raw.unreserve(whole, base - whole)
                if whole + slack > base:
                    raw.unreserve(base + size, whole + slack - base)
            except OSError as error:
                raise CudaError(status.OUT_OF_MEMORY, f"the host refuses {size} bytes of addresses: {error}") from error
            self.reservations.add(Reservation(base, size))
            return base

    def unreserve(self, base: int, size: int) -> None:
        with self.lock:
            reservation = self.reservations.at(base)
            if reservation is None or reservation.size != size:
                raise CudaError(status.INVALID_VALUE, f"[{base:#x}, +{size:#x}) is not a whole reservation")
            if self.mappings.overlapping(base, size):
                raise CudaError(status.INVALID_VALUE, "memory is still mapped in the reservation")
            raw.unreserve(base, size)
            self.reservations.remove(base)

    def create(self, device: Device, size: int, prop: bytes) -> Physical:
        with self.lock:
            if device.used + size > device.total:
                raise CudaError(
                    status.OUT_OF_MEMORY, f"{size} bytes asked, {device.total - device.used} of {device.total} free"
                )
            device.used += size
            return Physical(device, size, prop)

    def release(self, memory: Physical) -> bool:
        """Drop one reference; True when the handle is dead. The memory goes when it is not mapped either."""
        with self.lock:
            if memory.references <= 0:
                raise CudaError(status.INVALID_VALUE, "released more often than created and retained")
            memory.references -= 1
            if memory.references:
                return False
            self._drop_if_unused(memory)
            return True

    def _drop_if_unused(self, memory: Physical) -> None:
        if memory.references or memory.mapping is not None:
            return
        if memory.parked:
            raw.unreserve(memory.parked, memory.size)
            memory.parked = 0
        if memory.fd >= 0:
            os.close(memory.fd)
            memory.fd = -1
        memory.device.used -= memory.size

    def map(self, base: int, size: int, memory: Physical) -> None:
        with self.lock:
            if size != memory.size:
                raise CudaError(status.NOT_SUPPORTED, f"{size} bytes mapped of an allocation of {memory.size}")
            reservation = self.reservations.find(base)
            if reservation is None or base + size > reservation.base + reservation.size:
                raise CudaError(status.INVALID_VALUE, f"[{base:#x}, +{size:#x}) is not within one reservation")
            if self.mappings.overlapping(base, size):
                raise CudaError(status.INVALID_VALUE, f"[{base:#x}, +{size:#x}) is mapped already")
            if memory.mapping is not None:
                raise CudaError(
                    status.NOT_SUPPORTED, "the software GPU maps an allocation at one address at a time, not at two"
                )
            if memory.fd >= 0:
                self._map_file(base, memory, raw.PROT_NONE)
            elif memory.parked:
                raw.move_pages(memory.parked, base, size)
                raw.unreserve(memory.parked, size)
                memory.parked = 0
                raw.protect(base, size, raw.PROT_NONE)
            memory.mapping = Mapping(base, size, memory)
            self.mappings.add(memory.mapping)

    def unmap(self, base: int, size: int) -> None:
        with self.lock:
            self._wait_quiet()
            found = self.mappings.overlapping(base, size)
            if found and (found[0].base < base or found[-1].base + found[-1].size > base + size):
                raise CudaError(status.INVALID_VALUE, f"[{base:#x}, +{size:#x}) cuts through a mapping")
            for mapping in found:
                memory = mapping.memory
                if memory.references and memory.touched and memory.fd < 0:
                    try:
                        memory.parked = raw.reserve(memory.size)
                    except OSError as error:
                        raise CudaError(status.OUT_OF_MEMORY, str(error)) from error
                    raw.move_pages(mapping.base, memory.parked, memory.size)
                else:
                    raw.discard(mapping.base, mapping.size)
                memory.mapping = None
                self.mappings.remove(mapping.base)
                self._drop_if_unused(memory)

    def set_access(self, base: int, size: int, device: Device, flags: int) -> None:
        with self.lock:
            if flags not in _PROTECTION:
                raise CudaError(status.INVALID_VALUE, f"access flags {flags}")
            for mapping in self._whole_mappings(base, size):
                mapping.access[device.ordinal] = flags
                mapping.memory.touched = mapping.memory.touched or flags != 0
                # One process serves all devices: the strongest access of any of them holds for all.
                try:
                    raw.protect(mapping.base, mapping.size, _PROTECTION[max(mapping.access.values())])
                except OSError as error:
                    raise CudaError(status.OUT_OF_MEMORY, str(error)) from error
                raw.advise_huge(mapping.base, mapping.size)

    # ---- memory that other processes have too -------------------------------------------------------------------

    def share(self, memory: Physical) -> int:
        """Return a descriptor of the file that the memory lies in; it is put into one at the first time.

        Nothing may run that uses it meanwhile; while a copy does, the call fails with ``CUDA_ERROR_NOT_READY``.
        """
        with self.lock:
            if memory.fd < 0:
                if self._touching:
                    raise CudaError(status.NOT_READY, "memory is shared while nothing uses it")
                self._put_into_file(memory)
            return os.dup(memory.fd)

    def _put_into_file(self, memory: Physical) -> None:
        mapping = memory.mapping
        try:
            memory.fd = shared.create("migproxy-device-memory", memory.size)
        except OSError as error:
            raise CudaError(status.OUT_OF_MEMORY, f"the host refuses a file of {memory.size} bytes: {error}") from error
        if mapping is not None:
            protection = _PROTECTION[max(mapping.access.values(), default=0)]
            if memory.touched:
                raw.protect(mapping.base, mapping.size, raw.PROT_READ)
                raw.copy_to_file(memory.fd, mapping.base, mapping.size)
            for base, size in (self._noted or {}).items():
                if mapping.base <= base < mapping.base + mapping.size:
                    written.mark(base, size)  # others may write anything from now on
            self._map_file(mapping.base, memory, protection)
        elif memory.parked:
            raw.copy_to_file(memory.fd, memory.parked, memory.size)
            raw.unreserve(memory.parked, memory.size)
            memory.parked = 0

    def _map_file(self, base: int, memory: Physical, protection: int) -> None:
        try:
            raw.map_file(base, memory.size, memory.fd, protection)
        except OSError as error:
            raise CudaError(status.OUT_OF_MEMORY, f"the host refuses {memory.size} bytes: {error}") from error

    def take(self, device: Device, fd: int, prop: bytes) -> Physical:
        """Make memory of a file that another process shared; the descriptor stays the caller's."""
        size = shared.size_of(fd)
        if size <= 0 or size % GRANULARITY:
            raise CudaError(status.INVALID_VALUE, "the descriptor is of no device memory")
        memory = self.create(device, size, prop)
        memory.fd, memory.touched, memory.taken = os.dup(fd), True, True
        return memory

    def _whole_mappings(self, base: int, size: int) -> list[Mapping]:
        found = self.mappings.covers(base, size)
        if not found or found[0].base != base or found[-1].base + found[-1].size != base + size:
            raise CudaError(status.INVALID_VALUE, f"[{base:#x}, +{size:#x}) is not a range of whole mappings")
        return found

    # ---- host memory --------------------------------------------------------------------------------------------

    def host_allocate(self, size: int, flags: int, context_handle: int, device: Device) -> HostRange:
        with self.lock:
            extent = round_up(size, raw.PAGE)
            try:
                base = raw.reserve(extent)
                raw.protect(base, extent, _READ_WRITE)
            except OSError as error:
                raise CudaError(status.OUT_OF_MEMORY, f"the host refuses {size} bytes: {error}") from error
            pinned = HostRange(base, size, flags, extent, context_handle, device, self.next_buffer_id())
            self.host.add(pinned)
            return pinned

    def host_register(self, address: int, size: int, flags: int, context_handle: int, device: Device) -> None:
        with self.lock:
            if self.host.overlapping(address, size):
                raise CudaError(status.HOST_MEMORY_ALREADY_REGISTERED, f"[{address:#x}, +{size:#x})")
            self.host.add(HostRange(address, size, flags, 0, context_handle, device, self.next_buffer_id()))

    def host_free(self, address: int) -> None:
        with self.lock:
            pinned = self.host.at(address)
            if pinned is None or not pinned.owned:
                raise CudaError(status.INVALID_VALUE, f"{address:#x} is not allocated host memory")
            self._wait_quiet()
            self.host.remove(address)
            raw.unreserve(pinned.base, pinned.owned)

    def host_unregister(self, address: int) -> None:
        with self.lock:
            pinned = self.host.at(address)
            if pinned is None and self.host.find(address) is not None:
                raise CudaError(status.INVALID_VALUE, f"{address:#x} is inside a registered range, not its start")
            if pinned is None or pinned.owned:
                raise CudaError(status.HOST_MEMORY_NOT_REGISTERED, f"{address:#x} is not registered")
            self._wait_quiet()
            self.host.remove(address)

    def pinned(self, address: int, size: int) -> bool:
        """Whether all of a host range is pinned, so that a copy of it may be truly asynchronous."""
        found = self.host.find(address)
        return found is not None and address + size <= found.base + found.size
