"""Formats of array elements: the driver API's ``CUarray_format``, and the runtime API's channel descriptors."""

from __future__ import annotations

from typing import Final

UNSIGNED_8, UNSIGNED_16, UNSIGNED_32 = 0x01, 0x02, 0x03
SIGNED_8, SIGNED_16, SIGNED_32 = 0x08, 0x09, 0x0A
HALF, FLOAT = 0x10, 0x20
NV12 = 0xB0
#: Unsigned and signed normalised integers of 8 and 16 bits with 1, 2 and 4 channels, in this order.
_NORMALIZED = range(0xC0, 0xCC)
#: Block-compressed formats: BC1 to BC7, each twice; a block of 4×4 elements has 8 bytes in BC1 and BC4, else 16.
_COMPRESSED = range(0x91, 0x9F)
_SMALL_BLOCKS = (0x91, 0x92, 0x97, 0x98)

CHANNEL_BYTES: Final = {
    UNSIGNED_8: 1, UNSIGNED_16: 2, UNSIGNED_32: 4, SIGNED_8: 1, SIGNED_16: 2, SIGNED_32: 4, HALF: 2, FLOAT: 4,
    **{form: 1 if (form - 0xC0) % 6 < 3 else 2 for form in _NORMALIZED},
}  # fmt: skip
INTEGERS: Final = frozenset({UNSIGNED_8, UNSIGNED_16, UNSIGNED_32, SIGNED_8, SIGNED_16, SIGNED_32})

# cudaChannelFormatKind
_SIGNED, _UNSIGNED, _FLOAT, _NONE, _RUNTIME_NV12, _RUNTIME_NORMALIZED, _RUNTIME_COMPRESSED = 0, 1, 2, 3, 4, 5, 17


def element_bytes(form: int, channels: int) -> int:
    """Return the bytes of an element with all its channels; 0 for formats whose elements are no whole bytes."""
    return CHANNEL_BYTES.get(form, 0) * channels


def array_bytes(width: int, height: int, depth: int, form: int, channels: int) -> int:
    """Return at least how many bytes an array takes."""
    rows, slices = max(height, 1), max(depth, 1)
    if form in _COMPRESSED:
        return -(-width // 4) * -(-rows // 4) * (8 if form in _SMALL_BLOCKS else 16) * slices
    if form == NV12:
        return width * rows * slices * 3 // 2
    return width * rows * slices * max(element_bytes(form, channels), 1)


def from_channels(bits: tuple[int, int, int, int], kind: int) -> tuple[int, int] | None:
    """Return ``CUarray_format`` and channels of a ``cudaChannelFormatDesc``, None if there is no such format."""
    channels = sum(1 for each in bits if each)
    if kind == _RUNTIME_NV12:
        return NV12, 3
    if _RUNTIME_NORMALIZED <= kind < _RUNTIME_COMPRESSED:
        return _NORMALIZED[kind - _RUNTIME_NORMALIZED], (1, 2, 4)[(kind - _RUNTIME_NORMALIZED) % 3]
    if _RUNTIME_COMPRESSED <= kind < _RUNTIME_COMPRESSED + len(_COMPRESSED):
        return _COMPRESSED[kind - _RUNTIME_COMPRESSED], max(channels, 1)
    if channels not in (1, 2, 4) or len({each for each in bits if each}) != 1 or not all(bits[:channels]):
        return None
    form = {
        (_UNSIGNED, 8): UNSIGNED_8, (_UNSIGNED, 16): UNSIGNED_16, (_UNSIGNED, 32): UNSIGNED_32,
        (_SIGNED, 8): SIGNED_8, (_SIGNED, 16): SIGNED_16, (_SIGNED, 32): SIGNED_32,
        (_FLOAT, 16): HALF, (_FLOAT, 32): FLOAT,
    }.get((kind, bits[0]))  # fmt: skip
    return None if form is None else (form, channels)


def to_channels(form: int, channels: int) -> tuple[tuple[int, int, int, int], int]:
    """Return bits and kind of the ``cudaChannelFormatDesc`` of a format."""
    if form == NV12:
        return (8, 8, 8, 0), _RUNTIME_NV12
    if form in _COMPRESSED:
        return (8, 8, 8, 8), _RUNTIME_COMPRESSED + form - _COMPRESSED.start
    size = 8 * CHANNEL_BYTES.get(form, 0)
    bits = tuple(size if each < channels else 0 for each in range(4))
    if form in _NORMALIZED:
        return (bits[0], bits[1], bits[2], bits[3]), _RUNTIME_NORMALIZED + form - _NORMALIZED.start
    kind = _FLOAT if form in (HALF, FLOAT) else _UNSIGNED if form in (1, 2, 3) else _SIGNED
    return (bits[0], bits[1], bits[2], bits[3]), kind if size else _NONE
