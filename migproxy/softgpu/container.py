"""The image that stands where a cubin was asked for.

The compilers in the function (nvrtc, nvJitLink) would emit machine code for a real GPU when asked for a cubin. The
software GPU wants PTX, so the compiler seams hand out this container instead; libraries treat a cubin as opaque
bytes, cache it on disk and pass it to ``cuModuleLoadData``, which gets only an address: therefore the container knows
its own length.

Layout, little-endian::

    0   8  magic  b"\\x7fMIGPTX\\0"   (differs from ELF's after one byte, so that no ELF reader takes it for one)
    8   4  version (1)
    12  4  number of PTX texts, n
    16  8  total length in bytes
    24  8  checksum of everything after the header: the first 8 bytes of BLAKE2b
    32  n × (8 length of the PTX text with its closing NUL, 8 offset from the start)
    …      the name table: 4 bytes length, then NUL-separated kernel names
    …      the PTX texts
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence

MAGIC = b"\x7fMIGPTX\0"
VERSION = 1
HEADER = struct.Struct("<8sIIQ8s")
_ENTRY = struct.Struct("<QQ")
_KERNEL = re.compile(rb"\.entry\s+([A-Za-z_$%][\w$]*)")


def wrap(ptx: bytes | Sequence[bytes]) -> bytes:
    """Put one or several PTX texts into a container."""
    texts = [bytes(ptx)] if isinstance(ptx, (bytes, bytearray, memoryview)) else [bytes(text) for text in ptx]
    texts = [text.rstrip(b"\0") + b"\0" for text in texts]
    names = b"\0".join(name for text in texts for name in _KERNEL.findall(text))
    offset = HEADER.size + _ENTRY.size * len(texts) + 4 + len(names)
    entries = b""
    for text in texts:
        entries += _ENTRY.pack(len(text), offset)
        offset += len(text)
    body = entries + struct.pack("<I", len(names)) + names + b"".join(texts)
    digest = hashlib.blake2b(body, digest_size=8).digest()
    return HEADER.pack(MAGIC, VERSION, len(texts), HEADER.size + len(body), digest) + body


def is_container(image: bytes) -> bool:
    return bytes(image[:8]) == MAGIC


def length(header: bytes) -> int:
    """The container's total length, from its first ``HEADER.size`` bytes.

    Raises
    ------
    ValueError
        When it is no container, or one of another version.
    """
    magic, version, _, total, _ = HEADER.unpack_from(header)
    if magic != MAGIC:
        raise ValueError("not a PTX container")
    if version != VERSION:
        raise ValueError(f"PTX container of version {version}; this is version {VERSION}")
    return int(total)


def unwrap(image: bytes) -> list[bytes]:
    """The PTX texts of a container, each without its closing NUL.

    Raises
    ------
    ValueError
        When it is no container, is of another version, or is damaged.
    """
    image = bytes(image)
    if len(image) < HEADER.size:
        raise ValueError("not a PTX container: too short")
    total = length(image)
    count, digest = HEADER.unpack_from(image)[2], HEADER.unpack_from(image)[4]
    body = image[HEADER.size : total]
    if len(body) + HEADER.size != total or hashlib.blake2b(body, digest_size=8).digest() != digest:
        raise ValueError("damaged PTX container")
    texts = []
    for index in range(count):
        size, offset = _ENTRY.unpack_from(image, HEADER.size + index * _ENTRY.size)
        texts.append(image[offset : offset + size].rstrip(b"\0"))
    return texts


def kernel_names(image: bytes) -> list[str]:
    """The kernels' names in a container, from its name table."""
    count = HEADER.unpack_from(image)[2]
    at = HEADER.size + count * _ENTRY.size
    (size,) = struct.unpack_from("<I", image, at)
    table = bytes(image[at + 4 : at + 4 + size])
    return [name.decode() for name in table.split(b"\0") if name]
