"""Device and host memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from migproxy.errors import CudaError
from migproxy.session.api.context import context_synchronize
from migproxy.session.api.streams import resolve
from migproxy.session.session import current, inherited_address, on_fork, opened

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_NOT_SUPPORTED = 801
CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712
CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713

UNREGISTERED = 0
HOST = 1
DEVICE = 2

_host_lock = threading.Lock()
_host_blocks: dict[int, int] = {}
_registered: dict[int, int] = {}
#: Registered arena memory (NumPy arrays): page-locked already, and free to use as such.
_registered_arena: dict[int, int] = {}
_managed: set[int] = set()


def _after_fork() -> None:
    """A child keeps what its parent had page-locked as ordinary memory; freeing it there changes nothing."""
    global _host_lock
    _host_lock = threading.Lock()
    _host_blocks.clear()
    _registered.clear()
    _registered_arena.clear()
    _managed.clear()


on_fork(_after_fork)


@dataclass(frozen=True, slots=True)
class PointerFacts:
    """What CUDA's pointer queries tell of an address.

    Attributes
    ----------
    memory_type : int
        0 unregistered host memory, 1 page-locked host memory, 2 device memory.
    device : int
        Device ordinal.
    device_pointer, host_pointer : int
        0 where there is none.
    base, size : int
        The allocation that holds the address; 0 for unregistered memory.
    managed : bool
    """

    memory_type: int
    device: int
    device_pointer: int
    host_pointer: int
    base: int
    size: int
    managed: bool = False


def mem_alloc(size: int) -> int:
    """Allocate device memory; needs no reply.

    Raises
    ------
    CudaError
        1 for size 0, 2 beyond the quota.
    """
    return current().device.allocate(size)


def mem_free(pointer: int) -> None:
    """Free device or managed memory; what a forked child inherited is the parent's and stays as it is."""
    if inherited_address(pointer):
        return
    if pointer in _managed:
        _managed.discard(pointer)
        host_free(pointer)
        return
    current().device.free(pointer)


def mem_get_info() -> tuple[int, int]:
    """Return (free, total) bytes of the function's quota."""
    return current().device.info()


def mem_address_range(pointer: int) -> tuple[int, int]:
    """Return (base, size) of the allocation that holds `pointer`."""
    found = current().device.find(pointer)
    if found is None:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    return found


def mem_alloc_async(size: int, stream: int) -> int:
    """Allocate device memory in stream order; memory is placed at once, since addresses are chosen here."""
    return current().device.allocate_in_order(size, resolve(stream))


def mem_free_async(pointer: int, stream: int) -> None:
    """Free device memory behind the work of a stream."""
    current().device.free_in_order(pointer, resolve(stream))


def mem_alloc_managed(size: int, flags: int) -> int:
    """Allocate memory that host and kernels reach at one address: page-locked arena memory.

    Kernels reach it over the link, nothing migrates; what CUDA promises of managed memory on a device with concurrent
    managed access holds.

    Parameters
    ----------
    size : int
    flags : int
        ``CU_MEM_ATTACH_GLOBAL`` (1) or ``CU_MEM_ATTACH_HOST`` (2).
    """
    if flags not in (1, 2):
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    address = host_alloc(size)
    with _host_lock:
        _managed.add(address)
    return address


def host_alloc(size: int, flags: int = 0) -> int:
    """Allocate page-locked host memory in the arena; kernels see it at the same address."""
    if size <= 0:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    address = current().allocate(size)
    with _host_lock:
        _host_blocks[address] = size
        _tell_pinned()
    return address


def host_free(pointer: int) -> None:
    """Free memory of `host_alloc`; waits for work that may still use it, as ``cuMemFreeHost`` does."""
    if pointer == 0 or inherited_address(pointer):
        return
    with _host_lock:
        size = _host_blocks.pop(pointer, None)
        _managed.discard(pointer)
        _tell_pinned()
    if size is None:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    session = current()
    context_synchronize()
    session.heap.free(pointer)


def host_register(pointer: int, size: int, flags: int = 0) -> None:
    """Page-lock host memory.

    Arena memory (NumPy arrays of the function) is page-locked already and from now on counts as such. Other memory is
    noted as registered; copies from and to it are staged all the same, and kernels cannot reach it.
    """
    if size <= 0 or not pointer:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    arena = current().heap.owns(pointer)
    with _host_lock:
        if any(_overlaps(blocks, pointer, size) for blocks in (_registered, _registered_arena, _host_blocks)):
            raise CudaError(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
        (_registered_arena if arena else _registered)[pointer] = size
        _tell_pinned()


def host_unregister(pointer: int) -> None:
    """Undo `host_register`."""
    with _host_lock:
        if _registered.pop(pointer, None) is None and _registered_arena.pop(pointer, None) is None:
            # Inside a registered range, but not where it begins.
            inside = any(_overlaps(blocks, pointer, 1) for blocks in (_registered, _registered_arena))
            raise CudaError(CUDA_ERROR_INVALID_VALUE if inside else CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
        _tell_pinned()


def _overlaps(blocks: dict[int, int], pointer: int, size: int) -> bool:
    return any(start < pointer + size and pointer < start + length for start, length in blocks.items())


#: NumPy arrays are what programs register; which of them lie outside: docs/decisions/arena-numpy.md.
UNMAPPABLE = (
    "mapping the ordinary memory at {pointer:#x}: a kernel reaches memory of cuMemHostAlloc, and NumPy arrays that were"
    " made after the first call to CUDA and have 4 KiB, with numba.cuda imported any size"
)


def host_device_pointer(pointer: int) -> int:
    """Return the device address of page-locked memory: the same one.

    Raises
    ------
    CudaError
        1 for memory that is not page-locked, 801 for registered memory outside the arena, which kernels cannot reach.
    """
    if find_host_block(pointer):
        return pointer
    if _find(_registered, pointer):
        if current().heap.owns(pointer):
            return pointer
        raise CudaError(CUDA_ERROR_NOT_SUPPORTED, UNMAPPABLE.format(pointer=pointer))
    raise CudaError(CUDA_ERROR_INVALID_VALUE)


def _tell_pinned() -> None:
    """Tell the hot path which arena blocks are page-locked now; the lock is held."""
    session = opened()
    if session is not None:
        session.ring.note_pinned({**_host_blocks, **_registered_arena})


def _find(blocks: dict[int, int], pointer: int) -> tuple[int, int] | None:
    with _host_lock:
        size = blocks.get(pointer)
        if size is not None:
            return pointer, size
        for base, size in blocks.items():
            if base <= pointer < base + size:
                return base, size
    return None


def find_host_block(pointer: int) -> tuple[int, int] | None:
    """Return (base, size) of the page-locked block that holds `pointer`."""
    return _find(_host_blocks, pointer) or _find(_registered_arena, pointer)


def is_managed(pointer: int) -> bool:
    """Tell whether `pointer` lies in managed memory."""
    found = _find(_host_blocks, pointer) if _managed else None
    return found is not None and found[0] in _managed


def is_page_locked(pointer: int, size: int) -> bool:
    """Tell whether [pointer, pointer + size) lies in one page-locked block of the arena, managed ones included."""
    found = find_host_block(pointer)
    return found is not None and pointer + size <= found[0] + found[1]


def note_host_block(address: int, size: int) -> None:
    """Count arena memory of `mignificient_malloc` as page-locked."""
    with _host_lock:
        _host_blocks[address] = size
        _tell_pinned()


def forget_host_block(address: int) -> int | None:
    """Undo `note_host_block`; returns the size, or None if it was not noted."""
    with _host_lock:
        size = _host_blocks.pop(address, None)
        _tell_pinned()
        return size


def pointer_facts(pointer: int) -> PointerFacts:
    """Return what CUDA's pointer queries tell of `pointer`; NumPy arrays count as unregistered wherever they lie."""
    found = current().device.find(pointer)
    if found is not None:
        return PointerFacts(DEVICE, 0, pointer, 0, *found)
    found = find_host_block(pointer)
    if found is not None:
        managed = found[0] in _managed
        return PointerFacts(DEVICE if managed else HOST, 0, pointer, pointer, *found, managed)
    found = _find(_registered, pointer)
    if found is not None:
        return PointerFacts(HOST, 0, 0, pointer, *found)
    return PointerFacts(UNREGISTERED, 0, 0, 0, 0, 0)
