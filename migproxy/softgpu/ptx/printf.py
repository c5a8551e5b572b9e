"""Device printf: formats as the device does, and writes to file descriptor 1.

The format and the arguments are addresses that a kernel passed; they are read through a pipe, so that a bad one is an
empty string and not the end of the process. (`process_vm_readv` would do it in one call, but executors give that up.)
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import threading
from functools import cache

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)

_libc = ctypes.CDLL(None, use_errno=True)
_SPEC = re.compile(rb"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+)?)?(hh|h|ll|l|j|z|t|L)?([diouxXeEfFgGaAcspn%])")


_pipe_lock = threading.Lock()


@cache
def _pipe() -> tuple[int, int]:
    return os.pipe()


def read_memory(address: int, size: int) -> bytes:
    """Up to `size` bytes (at most 4096) from an address; none where memory is not readable."""
    with _pipe_lock:
        read_end, write_end = _pipe()
        count = _libc.write(write_end, ctypes.c_void_p(address), ctypes.c_size_t(size))
        return os.read(read_end, count) if count > 0 else b""


def read_string(address: int, limit: int = 4096) -> bytes:
    """A zero-terminated string."""
    out = b""
    while len(out) < limit and address:
        step = 256 - (address + len(out)) % 256  # never across a page for nothing
        piece = read_memory(address + len(out), step)
        end = piece.find(b"\0")
        if end >= 0:
            return out + piece[:end]
        if not piece:
            break
        out += piece
    return out


class _Arguments:
    """The packed argument buffer: each item aligned to its size."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.offset = 0

    def take(self, code: str) -> int | float:
        size = struct.calcsize(code)
        self.offset = -(-self.offset // size) * size
        data = read_memory(self.address + self.offset, size)
        self.offset += size
        value: int | float = struct.unpack("<" + code, data.ljust(size, b"\0"))[0]
        return value


def format_device(template: bytes, address: int) -> bytes:
    """Format `template` with the packed arguments at `address`."""
    arguments = _Arguments(address)

    def replace(match: re.Match[bytes]) -> bytes:
        flags, width, precision, length, conversion = match.groups()
        if conversion == b"%":
            return b"%"
        if width == b"*":
            number = int(arguments.take("i"))
            flags, width = (flags + b"-", b"%d" % -number) if number < 0 else (flags, b"%d" % number)
        if precision == b"*":
            precision = b"%d" % max(0, int(arguments.take("i")))
        dot = b"." in match.group(0)
        spec = "%" + (flags + (width or b"")).decode() + ("." + (precision or b"").decode() if dot else "")
        kind = conversion.decode()
        wide = length in (b"l", b"ll", b"j", b"z", b"t")
        if kind in "di":
            value: int | float = arguments.take("q" if wide else "i")
            if length == b"h":
                value = (int(value) + 0x8000 & 0xFFFF) - 0x8000
            elif length == b"hh":
                value = (int(value) + 0x80 & 0xFF) - 0x80
            return (spec + "d").encode() % value
        if kind in "ouxX":
            value = arguments.take("Q" if wide else "I")
            if length in (b"h", b"hh"):
                value = int(value) & (0xFFFF if length == b"h" else 0xFF)
            return (spec + ("d" if kind == "u" else kind)).encode() % value
        if kind in "eEfFgG":
            return (spec + kind).encode() % arguments.take("d")
        if kind in "aA":
            text = float(arguments.take("d")).hex()
            return (text.upper() if kind == "A" else text).encode()
        if kind == "c":
            return (spec.split(".")[0] + "c").encode() % (int(arguments.take("i")) & 0xFF)
        if kind == "s":
            return (spec + "s").encode() % read_string(int(arguments.take("Q")))
        if kind == "p":
            return (spec + "s").encode() % (b"0x%x" % int(arguments.take("Q")))
        return b""

    return _SPEC.sub(replace, template)


def device_printf(template: int, arguments: int) -> int:
    """What a kernel's printf calls."""
    text = read_string(template)
    data = format_device(text, arguments)
    while data:
        data = data[os.write(1, data) :]
    return len(_SPEC.findall(text))
