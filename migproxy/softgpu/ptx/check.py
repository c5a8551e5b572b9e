"""Check mode (``MIGPROXY_SOFTGPU=check``): what it finds, and how it says so.

Every access to global and shared memory is examined before it happens: alignment, bounds, reads of memory that was
never written, and races between threads of a block on shared memory: two accesses of one byte by different threads with
no barrier (or, within a warp, no warp operation) between them, of which one is a plain write and the other a read, or a
plain write of another value. A barrier that lanes of one warp reach at different instructions is reported, too, and a
barrier that some threads never reach. The first finding ends the launch.

Bounds are those that `LoadedModule.bounds` names: the driver's allocations; without it, those of accessible pages.
"""

from __future__ import annotations

#: what an access does; an update reads and writes, atomically, and atomic accesses take no part in races
READ, WRITE, ATOMIC, UPDATE = range(4)

MISALIGNED, OUTSIDE, OUTSIDE_SHARED, UNWRITTEN, RACE_READ, RACE_WRITE, DIVERGENT, RACE_VALUES, UNWRITTEN_GLOBAL = range(
    1001, 1010
)

#: the CUresult that a finding surfaces as
STATUS = {MISALIGNED: 716, OUTSIDE: 700, OUTSIDE_SHARED: 700} | dict.fromkeys(
    (UNWRITTEN, RACE_READ, RACE_WRITE, DIVERGENT, RACE_VALUES, UNWRITTEN_GLOBAL), 719
)
_WHAT = {
    MISALIGNED: "misaligned access to {address:#x}",
    OUTSIDE: "access outside every allocation, at {address:#x}",
    OUTSIDE_SHARED: "access outside the block's shared memory, at offset {address}",
    UNWRITTEN: "read of shared memory that was never written, at offset {address}",
    RACE_READ: "race on shared memory at offset {address}: read after thread {other} wrote it, no barrier between",
    RACE_WRITE: "race on shared memory at offset {address}: written after {other} read it, no barrier between",
    RACE_VALUES: "race on shared memory at offset {address}: thread {other} wrote another value, no barrier between",
    UNWRITTEN_GLOBAL: "read of memory that was never written, at {address:#x}",
    DIVERGENT: "divergent barrier: lanes of one warp wait at different barrier instructions",
}
#: readers of one byte: several, in one warp or in several
SEVERAL = 1 << 16


def describe(code: int, address: int, other: int) -> str:
    """A finding in words."""
    who = f"thread {other}" if other < SEVERAL else "several threads"
    return _WHAT[code].format(address=address, other=who if code == RACE_WRITE else other)
