"""Bit-level conversions between floating formats, for constants and models."""

from __future__ import annotations

import struct


def convert_bits(bits: int, have: int, want: int) -> int:
    """Convert the bits of a float of `have` bits to one of `want` bits (32 or 64), round to nearest even."""
    if have == want:
        return bits
    fmt = {32: "<f", 64: "<d"}
    data = bits.to_bytes(have // 8, "little")
    value: float = struct.unpack(fmt[have], data)[0]
    if want == 16:
        return int.from_bytes(struct.pack("<e", value), "little")
    try:
        return int.from_bytes(struct.pack(fmt[want], value), "little")
    except OverflowError:
        return 0x7F800000 | (0x80000000 if value < 0 else 0)
