"""Load kept object code without LLVM.

The object files that `compiler` makes are simple: large code model, one kind of relocation (a 64-bit absolute
address), names of this project and of CPython and the C library. Loading one takes a millisecond; importing llvmlite
for it would take fifty. What is not that simple is left to LLVM: `load` returns None then.

Precondition of `load`: the bytes are an object file that LLVM wrote for this machine and this project, unchanged. Its
code will be run.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterable

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_MAGIC = b"\x7fELF\x02\x01\x01"
_RELOCATABLE, _X86_64 = 1, 62
_SYMBOLS, _STRINGS, _RELOCATIONS, _NOTHING = 2, 3, 4, 8  # sh_type: SYMTAB, STRTAB, RELA, NOBITS
_ALLOCATED = 2  # sh_flags
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00
_ABSOLUTE_64 = 1  # R_X86_64_64

#: Mappings of loaded code; they live as long as the process.
_loaded: list[mmap.mmap] = []

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def load(code: bytes, names: Iterable[str], find: Callable[[str], int | None]) -> dict[str, int] | None:
    """Map an object file's sections, relocate them, and return the addresses of `names`; None if LLVM must do it.

    Parameters
    ----------
    code : bytes
        The object file.
    names : iterable of str
        Symbols that it defines.
    find : callable
        Address of a symbol that it does not define, or None.
    """
    header = _HEADER.unpack_from(code)
    if not header[0].startswith(_MAGIC) or header[1] != _RELOCATABLE or header[2] != _X86_64:
        return None
    offset, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(code, offset + size * index) for index in range(count)]
    places: dict[int, int] = {}
    end = 0
    for index, (_, kind, flags, _, _, length, _, _, align, _) in enumerate(sections):
        if flags & _ALLOCATED and kind != _RELOCATIONS and length:
            end = -(-end // max(align, 1)) * max(align, 1)
            places[index] = end
            end += length
    if not end:
        return None
    length = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for index, place in places.items():
        section = sections[index]
        if section[1] != _NOTHING:
            memory[place : place + section[5]] = code[section[4] : section[4] + section[5]]
    symbols = _read_symbols(code, sections, places, base, find)
    if symbols is None:
        return None
    for section in sections:
        if section[1] == _RELOCATIONS and section[7] in places:
            for at in range(section[4], section[4] + section[5], _RELOCATION.size):
                where, what, addend = _RELOCATION.unpack_from(code, at)
                target = symbols[what >> 32][1]
                if what & 0xFFFFFFFF != _ABSOLUTE_64 or target is None:
                    return None
                value = (target + addend) & 0xFFFF_FFFF_FFFF_FFFF
                struct.pack_into("<Q", memory, places[section[7]] + where, value)
    if _mprotect(base, length, mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    _loaded.append(memory)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # code runs even after modules are cleared at exit
    defined = {name: address for name, address in symbols if address is not None}
    return {name: defined[name] for name in names} if set(names) <= defined.keys() else None


def _read_symbols(
    code: bytes,
    sections: list[tuple[int, ...]],
    places: dict[int, int],
    base: int,
    find: Callable[[str], int | None],
) -> list[tuple[str, int | None]] | None:
    """Return every symbol's name and address (None: nowhere); None if there is no table."""
    for section in sections:
        if section[1] == _SYMBOLS:
            strings = sections[section[6]]
            table = code[strings[4] : strings[4] + strings[5]]
            found: list[tuple[str, int | None]] = []
            for at in range(section[4], section[4] + section[5], _SYMBOL.size):
                name_at, _, _, index, value, _ = _SYMBOL.unpack_from(code, at)
                name = table[name_at : table.index(b"\0", name_at)].decode()
                address: int | None
                if index == _UNDEFINED:
                    address = find(name) if name else None
                elif index >= _FIRST_RESERVED:
                    address = value
                else:
                    address = base + places[index] + value if index in places else None
                found.append((name, address))
            return found
    return None
