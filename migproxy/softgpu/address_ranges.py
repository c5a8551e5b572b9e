"""What lies in the software GPU's address space: reservations, mappings, allocations, pinned host memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from migproxy.softgpu.card import Device


@dataclass
class Physical:
    """Memory made by ``cuMemCreate``: it lives in its mapping, or parked when it has none but is still held."""

    device: Device
    size: int
    prop: bytes
    references: int = 1
    handle: int = 0
    parked: int = 0
    mapping: Mapping | None = None
    touched: bool = False  # it may hold something: access was given once
    fd: int = -1  # of the file that it lies in, once it was shared; it was taken from another process, if `taken`
    taken: bool = False


@dataclass
class Reservation:
    base: int
    size: int


@dataclass
class Mapping:
    base: int
    size: int
    memory: Physical
    access: dict[int, int] = field(default_factory=dict)  # device ordinal → access flags

    @property
    def device(self) -> Device:
        return self.memory.device


@dataclass
class Allocation:
    """Memory with an address of its own: ``cuMemAlloc``, managed, pool or a module's globals."""

    base: int
    size: int
    extent: int
    device: Device
    context_handle: int
    buffer_id: int
    managed: bool = False
    pool: int = 0
    sync_memops: bool = False
    freeing: bool = False  # a stream-ordered free is under way


@dataclass
class HostRange:
    base: int
    size: int
    flags: int
    owned: int  # bytes to unmap when freed; 0 for registered memory
    context_handle: int
    device: Device
    buffer_id: int
