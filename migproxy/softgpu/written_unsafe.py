"""Which bytes of device memory were ever written: check mode's record of each allocation, one byte for a byte.

Kernels read and write the records themselves (`ptx.check_ir`); the driver marks what copies and fills write, the
libraries what they get a view of. Nothing is recorded, and nothing here costs more than a look at an empty dictionary,
unless this process runs kernels in check mode.

Preconditions are those of `memory_unsafe`: a tracked range stays mapped until it is forgotten.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager

from migproxy.softgpu import memory_unsafe as raw

_lock = threading.Lock()
#: Base → (size, address of the record).
_records: dict[int, tuple[int, int]] = {}
_bases: list[int] = []
#: Launches that may still use records, and the records (address, size) that were dropped meanwhile.
_launches = 0
_dropped: list[tuple[int, int]] = []


def enabled() -> bool:
    """Whether this process runs kernels in check mode."""
    return os.environ.get("MIGPROXY_SOFTGPU") == "check"


def track(base: int, size: int) -> None:
    """Start a record for new memory: nothing in it is written yet."""
    if not enabled() or size <= 0:
        return
    address = raw.reserve(size)
    raw.protect(address, size, raw.PROT_READ | raw.PROT_WRITE)
    with _lock:
        _records[base] = (size, address)
        insort(_bases, base)


def forget(base: int) -> None:
    """Drop the record of memory that is gone."""
    if base not in _records:
        return
    with _lock:
        size, address = _records.pop(base)
        _bases.remove(base)
        _dropped.append((address, size))
    _sweep()


def _sweep() -> None:
    with _lock:
        gone = [] if _launches else _dropped[:]
        if gone:
            _dropped.clear()
    for address, size in gone:
        raw.unreserve(address, size)


@contextmanager
def launching() -> Iterator[None]:
    """Keep records that a launch knows, even of memory that is freed while it runs."""
    global _launches
    with _lock:
        _launches += 1
    try:
        yield
    finally:
        with _lock:
            _launches -= 1
        _sweep()


def record(address: int) -> int:
    """Where the record of a byte is; 0 when its memory is not tracked, and so counts as written."""
    with _lock:
        number = bisect_right(_bases, address) - 1
        if number < 0:
            return 0
        base = _bases[number]
        size, start = _records[base]
        return start + address - base if address < base + size else 0


def _room(address: int, size: int) -> int:
    """How many of ``size`` bytes lie in the tracked range of ``address``."""
    with _lock:
        base = _bases[bisect_right(_bases, address) - 1]
        return min(size, base + _records[base][0] - address)


def mark(address: int, size: int) -> None:
    """Note that bytes were written."""
    if _records and size > 0 and (at := record(address)):
        raw.memset(at, 1, _room(address, size))


def carry(destination: int, source: int, size: int) -> None:
    """Note that bytes were copied: what was never written stays so."""
    if not _records or size <= 0:
        return
    to, fro = record(destination), record(source)
    if to and fro:
        raw.memmove(to, fro, min(_room(destination, size), _room(source, size)))
    else:
        mark(destination, size)
