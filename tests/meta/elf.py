"""What a shared object needs from others: the little of ELF that this takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_SHT_DYNSYM, _SHT_DYNAMIC = 11, 6
_DT_NEEDED = 1


@dataclass(frozen=True)
class Needs:
    """Undefined symbols, needed libraries, and the raw content for a look at its strings."""

    symbols: frozenset[str]
    libraries: frozenset[str]
    content: bytes


def needs(path: Path) -> Needs:
    """Read a 64-bit little-endian shared object."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [_SECTION.unpack_from(data, table + size * index) for index in range(count)]

    def text(section: int, offset: int) -> str:
        start = sections[section][4] + offset
        return data[start : data.index(b"\0", start)].decode()

    symbols, libraries = set(), set()
    for _, kind, _, _, offset, length, link, _, _, _ in sections:
        if kind == _SHT_DYNSYM:
            for name, _, _, index, _, _ in _SYMBOL.iter_unpack(data[offset : offset + length]):
                if index == 0 and name:
                    symbols.add(text(link, name))
        elif kind == _SHT_DYNAMIC:
            for tag, value in _DYNAMIC.iter_unpack(data[offset : offset + length]):
                if tag == _DT_NEEDED:
                    libraries.add(text(link, value))
    return Needs(frozenset(symbols), frozenset(libraries), data)
