"""Launch constants: what a second compilation may take as fixed when a kernel is launched often in the same way.

Bounds, strides and grid sizes that LLVM knows turn index arithmetic and loop counts into constants, which is what lets
it vectorise kernels whose loops run once for each thread. Addresses are never taken as fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORD = 8
#: words at least this large look like addresses (or like two values packed together)
_ADDRESS = 1 << 32


@dataclass(frozen=True, slots=True)
class Constants:
    """The launch shape, and the parameter bytes that are fixed: `known` has one flag a byte."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    data: bytes
    known: bytes

    def word(self, offset: int, size: int) -> int | None:
        """The value of `size` parameter bytes at an offset, if they are fixed."""
        if offset < 0 or self.known[offset : offset + size] != b"\1" * size:
            return None
        return int.from_bytes(self.data[offset : offset + size], "little")

    def field(self, name: str) -> int | None:
        """A field of the context that the launch shape fixes."""
        if name in ("ntx", "nty", "ntz"):
            return self.block["xyz".index(name[2])]
        if name in ("ncx", "ncy", "ncz"):
            return self.grid["xyz".index(name[2])]
        if name == "threads":
            return self.block[0] * self.block[1] * self.block[2]
        return None

    def limit(self, name: str) -> int | None:
        """A field's exclusive upper bound."""
        if name in ("cx", "cy", "cz"):
            return self.grid["xyz".index(name[1])]
        return None


def constants(
    grid: tuple[int, int, int], block: tuple[int, int, int], data: bytes, layout: list[tuple[int, int]]
) -> Constants:
    """What is fixed in a launch with these parameters."""
    known = bytearray(len(data))
    for offset, size in layout:
        at = offset
        while at < offset + size:
            step = min(_WORD, offset + size - at)
            if step < _WORD or int.from_bytes(data[at : at + step], "little") < _ADDRESS:
                known[at : at + step] = b"\1" * step
            at += step
    fixed = bytes(byte if flag else 0 for byte, flag in zip(data, known, strict=True))
    return Constants(grid, block, fixed, bytes(known))
