"""Check mode (``MIGPROXY_SOFTGPU=check``): what it finds, and how it says so.

Every access to global and shared memory is examined before it happens: alignment, bounds, reads of shared memory that
no thread of the block has written, and races between threads of a block on shared memory: a read and a plain write of
one byte by different threads with no barrier (or, within a warp, no warp operation) between them. Two plain writes are
not reported: threads often store the same value. A barrier that lanes of one warp reach at different instructions is
reported, too. The first finding ends the launch.

Bounds of global memory are those of the pages that are accessible, unless `set_allocations` names exact ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

READ, WRITE, ATOMIC = range(3)

MISALIGNED, OUTSIDE, OUTSIDE_SHARED, UNWRITTEN, RACE_READ, RACE_WRITE, DIVERGENT = range(1001, 1008)

#: the CUresult that a finding surfaces as
STATUS = {MISALIGNED: 716, OUTSIDE: 700, OUTSIDE_SHARED: 700, UNWRITTEN: 719, RACE_READ: 719, RACE_WRITE: 719,
          DIVERGENT: 719}  # fmt: skip
_WHAT = {
    MISALIGNED: "misaligned access to {address:#x}",
    OUTSIDE: "access outside every allocation, at {address:#x}",
    OUTSIDE_SHARED: "access outside the block's shared memory, at offset {address}",
    UNWRITTEN: "read of shared memory that was never written, at offset {address}",
    RACE_READ: "race on shared memory at offset {address}: read after thread {other} wrote it, no barrier between",
    RACE_WRITE: "race on shared memory at offset {address}: written after {other} read it, no barrier between",
    DIVERGENT: "divergent barrier: lanes of one warp wait at different barrier instructions",
}
#: readers of one byte: several, in one warp or in several
SEVERAL = 1 << 16

_provider: Callable[[], Iterable[tuple[int, int]]] | None = None


def enabled() -> bool:
    """Whether this process runs kernels in check mode."""
    return os.environ.get("MIGPROXY_SOFTGPU") == "check"


def set_allocations(provider: Callable[[], Iterable[tuple[int, int]]] | None) -> None:
    """Name the source of exact bounds: it returns (address, size) of everything that kernels may access."""
    global _provider
    _provider = provider


def allocations() -> list[tuple[int, int]]:
    """The bounds to check against, sorted; empty when nobody named a source."""
    return sorted(_provider()) if _provider is not None else []


def describe(code: int, address: int, other: int) -> str:
    """A finding in words."""
    who = f"thread {other}" if other < SEVERAL else "several threads"
    return _WHAT[code].format(address=address, other=who if code == RACE_WRITE else other)
