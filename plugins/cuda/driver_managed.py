"""Driver API: hints about managed memory. It never moves here, so they are remembered, answered and change nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from migproxy_plugins.cuda import pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_i32, get_u64, get_u64_array, put_i32
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api

# CUmem_advise
_SET_READ_MOSTLY, _UNSET_READ_MOSTLY, _SET_PREFERRED, _UNSET_PREFERRED, _SET_ACCESSED_BY, _UNSET_ACCESSED_BY = range(
    1, 7
)
# CUmem_range_attribute
_READ_MOSTLY, _PREFERRED, _ACCESSED_BY, _LAST_PREFETCH = 1, 2, 3, 4
_PREFERRED_TYPE, _PREFERRED_ID, _PREFETCH_TYPE, _PREFETCH_ID = 5, 6, 7, 8
_CPU, _INVALID = -1, -2  # CU_DEVICE_CPU, CU_DEVICE_INVALID
_LOCATION_SIZE = 8  # CUmemLocation: type, id


@dataclass
class _Hints:
    """What was said of one allocation; locations are ordinals, `_CPU` or `_INVALID`."""

    read_mostly: bool = False
    preferred: int = _INVALID
    prefetched: int = _INVALID
    accessed_by: set[int] = field(default_factory=set)


#: base of a managed allocation → hints
_hints: dict[int, _Hints] = {}


def need_managed(what: str, pointer: int) -> _Hints:
    """Return the hints about managed memory.

    Raises
    ------
    CudaError
        1 for memory that is not managed.
    """
    facts = api.pointer_facts(pointer)
    if not facts.managed:
        raise CudaError(st.INVALID_VALUE, f"{what} of memory that is not managed")
    return _hints.setdefault(facts.base, _Hints())


def forget(base: int) -> None:
    """Forget what was said of an allocation that is freed."""
    _hints.pop(base, None)


pools.on_free(forget)


def _location(location: object) -> int:
    """Return the ordinal of a location: an integer (12.x), or a ``CUmemLocation`` by value as its bytes (type, id)."""
    if isinstance(location, bytes):
        kind, number = struct.unpack_from("<ii", location)
        if kind == pools.LOCATION_DEVICE and not 0 <= number < api.device_count():
            raise CudaError(st.INVALID_DEVICE, f"no device {number}")
        return int(number) if kind == pools.LOCATION_DEVICE else _CPU
    if not isinstance(location, int):
        return _INVALID
    number = location - (1 << 32) if location >= 1 << 31 else location
    if number != _CPU and not 0 <= number < api.device_count():
        raise CudaError(st.INVALID_DEVICE, f"no device {number}")
    return number


@serves("cuMemAdvise_v2")
def cuMemAdvise(pointer: int, size: int, advice: int, *location: object) -> None:
    hints = need_managed("cuMemAdvise", pointer)
    if advice not in range(1, 7):
        raise CudaError(st.INVALID_VALUE, f"advice {advice}")
    if advice in (_SET_READ_MOSTLY, _UNSET_READ_MOSTLY):
        hints.read_mostly = advice == _SET_READ_MOSTLY
    elif advice == _SET_PREFERRED:
        hints.preferred = _location(location[0])
    elif advice == _UNSET_PREFERRED:
        hints.preferred = _INVALID
    elif advice == _SET_ACCESSED_BY:
        hints.accessed_by.add(_location(location[0]))
    else:
        hints.accessed_by.discard(_location(location[0]))


@serves("cuMemPrefetchAsync_v2")
def cuMemPrefetchAsync(pointer: int, size: int, *rest: object) -> None:
    need_managed("cuMemPrefetchAsync", pointer).prefetched = _location(rest[0])


@serves("cuMemDiscardAndPrefetchBatchAsync")
def cuMemPrefetchBatchAsync(
    pointers: int, sizes: int, count: int, locations: int, indices: int, number: int, flags: int, stream: int
) -> None:
    _check_batch(count, flags, stream)
    starts = get_u64_array(indices, number) if number else []
    if not 0 < number <= count or starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= count:
        raise CudaError(st.INVALID_VALUE, "where the locations begin")
    where = [_location(get_bytes(locations + _LOCATION_SIZE * index, _LOCATION_SIZE)) for index in range(number)]
    all_hints = [need_managed("cuMemPrefetchBatchAsync", pointer) for pointer in get_u64_array(pointers, count)]
    for index, hints in enumerate(all_hints):
        hints.prefetched = where[sum(start <= index for start in starts) - 1]


@serves()
def cuMemDiscardBatchAsync(pointers: int, sizes: int, count: int, flags: int, stream: int) -> None:
    """Its content is undefined from now on, so it may as well stay."""
    _check_batch(count, flags, stream)
    for pointer in get_u64_array(pointers, count):
        need_managed("cuMemDiscardBatchAsync", pointer)


def _check_batch(count: int, flags: int, stream: int) -> None:
    if not count or flags:
        raise CudaError(st.INVALID_VALUE, "an empty batch, or flags")
    if stream in (0, 1, 2):
        raise refuse("cuMemPrefetchBatchAsync", "batches need a stream of their own")
    api.stream_flags(stream)


def _kind(location: int) -> int:
    if location == _INVALID:
        return pools.LOCATION_NONE
    return pools.LOCATION_HOST if location == _CPU else pools.LOCATION_DEVICE


@serves()
def cuMemRangeGetAttribute(data: int, size: int, attribute: int, pointer: int, count: int) -> None:
    hints = need_managed("cuMemRangeGetAttribute", pointer)
    if size < 4 or size % 4:
        raise CudaError(st.INVALID_VALUE, f"range attribute {attribute} of {size} bytes")
    if attribute == _ACCESSED_BY:
        known = sorted(hints.accessed_by, key=lambda location: location & 0xFFFFFFFF)
        known += [_INVALID] * (size // 4)
        for index in range(size // 4):
            put_i32(data + 4 * index, known[index])
        return
    values = {
        _READ_MOSTLY: int(hints.read_mostly),
        _PREFERRED: hints.preferred,
        _LAST_PREFETCH: hints.prefetched,
        _PREFERRED_TYPE: _kind(hints.preferred),
        _PREFERRED_ID: max(hints.preferred, 0),
        _PREFETCH_TYPE: _kind(hints.prefetched),
        _PREFETCH_ID: max(hints.prefetched, 0),
    }
    if attribute not in values or size != 4:
        raise CudaError(st.INVALID_VALUE, f"range attribute {attribute} of {size} bytes")
    put_i32(data, values[attribute])


@serves()
def cuMemRangeGetAttributes(data: int, sizes: int, attributes: int, number: int, pointer: int, count: int) -> None:
    for index in range(number):
        where, size = get_u64(data + 8 * index), get_u64(sizes + 8 * index)
        cuMemRangeGetAttribute(where, size, get_i32(attributes + 4 * index), pointer, count)


@serves()
def cuStreamAttachMemAsync(stream: int, pointer: int, length: int, flags: int) -> None:
    need_managed("cuStreamAttachMemAsync", pointer)
