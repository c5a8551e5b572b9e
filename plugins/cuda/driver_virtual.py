"""Driver API: virtual memory by hand (``cuMemAddressReserve``, ``cuMemCreate``, ``cuMemMap``), emulated on ordinary
allocations.

A reservation takes its memory from the quota at once, and mapping a physical allocation into it is bookkeeping. What
a physical allocation
holds follows it: when it is mapped somewhere else, its contents are copied there. So programs that grow a buffer by
remapping work; what
does not is one allocation mapped at two addresses at a time, and reservations larger than the quota.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

from migproxy_plugins.cuda import pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_i32, get_u32, put_bytes, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.session import on_fork

GRANULARITY = 2 << 20
_READ_WRITE = 3
_PROPERTIES = 32  # CUmemAllocationProp
_POSIX_FILE = 1


@dataclass
class _Physical:
    """A physical allocation: where its contents are."""

    size: int
    properties: bytes
    references: int = 1
    mapped: int = 0
    saved: int = 0


@dataclass
class _Reservation:
    """A range of addresses, inside a block of device memory."""

    size: int
    block: int
    maps: dict[int, tuple[int, int]] = field(default_factory=dict)  # address → (size, physical handle)
    access: dict[int, int] = field(default_factory=dict)  # address → CUmemAccess_flags


_lock = threading.RLock()
_physical: dict[int, _Physical] = {}
_reservations: dict[int, _Reservation] = {}
_numbers = itertools.count(1)


def _after_fork() -> None:
    """A child has none of its parent's reservations."""
    _physical.clear()
    _reservations.clear()


on_fork(_after_fork)


def _allocation(handle: int) -> _Physical:
    try:
        return _physical[handle]
    except KeyError:
        raise CudaError(st.INVALID_VALUE, f"no physical allocation {handle:#x}") from None


def _find(address: int, size: int = 1) -> tuple[int, _Reservation]:
    for base, reservation in _reservations.items():
        if base <= address and address + size <= base + reservation.size:
            return base, reservation
    raise CudaError(st.INVALID_VALUE, f"{size} bytes at {address:#x} are not reserved")


def is_reserved(address: int) -> bool:
    """Tell whether an address lies in a reservation made by hand."""
    with _lock:
        return any(base <= address < base + each.size for base, each in _reservations.items())


def _check_location(kind: int, number: int) -> None:
    if kind != pools.LOCATION_DEVICE:
        raise refuse("cuMemCreate", "physical allocations are device memory here")
    if not 0 <= number < api.device_count():
        raise CudaError(st.INVALID_DEVICE, f"no device {number}")


@serves()
def cuMemGetAllocationGranularity(granularity: int, properties: int, option: int) -> None:
    if option not in (0, 1) or not properties:
        raise CudaError(st.INVALID_VALUE)
    put_u64(granularity, GRANULARITY)


@serves()
def cuMemAddressReserve(pointer: int, size: int, alignment: int, address: int, flags: int) -> None:
    need_context()
    if not size or size % GRANULARITY or flags or alignment & (alignment - 1):
        raise CudaError(st.INVALID_VALUE)
    # The wanted address is a hint that CUDA need not follow.
    extra = alignment if alignment > GRANULARITY else 0
    block = api.mem_alloc(size + extra)
    base = (block + extra - 1) // extra * extra if extra else block
    with _lock:
        _reservations[base] = _Reservation(size, block)
    put_u64(pointer, base)


@serves()
def cuMemAddressFree(pointer: int, size: int) -> None:
    with _lock:
        reservation = _reservations.get(pointer)
        if reservation is None or reservation.size != size or reservation.maps:
            raise CudaError(st.INVALID_VALUE, "not a reservation, or memory is still mapped into it")
        for physical in _physical.values():
            if pointer <= physical.mapped < pointer + size:
                _save(physical)
        del _reservations[pointer]
    api.mem_free(reservation.block)


def _save(physical: _Physical) -> None:
    """Keep the contents of an allocation whose addresses go away."""
    physical.saved = api.mem_alloc(physical.size)
    api.memcpy_dtod(physical.saved, physical.mapped, physical.size)
    physical.mapped = 0


@serves()
def cuMemCreate(handle: int, size: int, properties: int, flags: int) -> None:
    need_context()
    if not size or size % GRANULARITY or flags or not properties:
        raise CudaError(st.INVALID_VALUE)
    if get_i32(properties) != pools.ALLOCATION_PINNED:
        raise CudaError(st.INVALID_VALUE, "the allocation type must be pinned")
    if get_i32(properties + 4) not in (0, _POSIX_FILE):
        raise refuse("cuMemCreate", "memory cannot leave its session")
    _check_location(get_i32(properties + 8), get_i32(properties + 12))
    if size > api.mem_get_info()[0] and not _reservations:
        raise CudaError(st.OUT_OF_MEMORY)
    with _lock:
        number = layout.make_handle(layout.KIND_ALLOCATION, next(_numbers))
        _physical[number] = _Physical(size, get_bytes(properties, _PROPERTIES))
    put_u64(handle, number)


@serves()
def cuMemRelease(handle: int) -> None:
    with _lock:
        physical = _allocation(handle)
        physical.references -= 1
        _drop_unused(handle, physical)


def _drop_unused(handle: int, physical: _Physical) -> None:
    in_use = any(owner == handle for r in _reservations.values() for _, owner in r.maps.values())
    if physical.references <= 0 and not in_use:
        del _physical[handle]
        if physical.saved:
            api.mem_free(physical.saved)


@serves()
def cuMemMap(pointer: int, size: int, offset: int, handle: int, flags: int) -> None:
    if offset or flags or size % GRANULARITY:
        raise CudaError(st.INVALID_VALUE)
    with _lock:
        physical = _allocation(handle)
        _, reservation = _find(pointer, size)
        if size != physical.size:
            raise CudaError(st.INVALID_VALUE, "an allocation is mapped whole")
        if any(a < pointer + size and pointer < a + s for a, (s, _) in reservation.maps.items()):
            raise CudaError(st.INVALID_VALUE, "something is mapped there already")
        if any(owner == handle for r in _reservations.values() for _, owner in r.maps.values()):
            raise refuse("cuMemMap", "one allocation at two addresses is not supported")
        source = physical.saved or physical.mapped
        if source and source != pointer:
            api.memcpy_dtod(pointer, source, size)
        if physical.saved:
            api.mem_free(physical.saved)
        physical.saved, physical.mapped = 0, pointer
        reservation.maps[pointer] = (size, handle)


@serves()
def cuMemUnmap(pointer: int, size: int) -> None:
    with _lock:
        _, reservation = _find(pointer, size)
        inside = [a for a, (s, _) in reservation.maps.items() if pointer <= a and a + s <= pointer + size]
        if sum(reservation.maps[a][0] for a in inside) != size:
            raise CudaError(st.INVALID_VALUE, "not everything there is mapped whole")
        for address in inside:
            _, handle = reservation.maps.pop(address)
            reservation.access.pop(address, None)
            _drop_unused(handle, _allocation(handle))


@serves()
def cuMemSetAccess(pointer: int, size: int, descriptions: int, count: int) -> None:
    with _lock:
        _, reservation = _find(pointer, size)
        covered = [a for a, (s, _) in reservation.maps.items() if pointer <= a and a + s <= pointer + size]
        if sum(reservation.maps[a][0] for a in covered) != size:
            raise CudaError(st.INVALID_VALUE, "not everything there is mapped")
        for entry in range(descriptions, descriptions + 12 * count, 12):
            _check_location(get_i32(entry), get_i32(entry + 4))
            for address in covered:
                reservation.access[address] = get_u32(entry + 8)


@serves()
def cuMemGetAccess(flags: int, location: int, pointer: int) -> None:
    with _lock:
        _, reservation = _find(pointer)
        for address, (size, _) in reservation.maps.items():
            if address <= pointer < address + size:
                put_u64(flags, reservation.access.get(address, 0))
                return
    raise CudaError(st.INVALID_VALUE, "nothing is mapped there")


@serves()
def cuMemRetainAllocationHandle(handle: int, pointer: int) -> None:
    with _lock:
        _, reservation = _find(pointer)
        for address, (size, owner) in reservation.maps.items():
            if address <= pointer < address + size:
                _allocation(owner).references += 1
                put_u64(handle, owner)
                return
    raise CudaError(st.INVALID_VALUE, "nothing is mapped there")


@serves()
def cuMemGetAllocationPropertiesFromHandle(properties: int, handle: int) -> None:
    put_bytes(properties, _allocation(handle).properties)
