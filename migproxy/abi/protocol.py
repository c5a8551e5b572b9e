"""Protocol facts: version, magic words, addresses of the shared windows.

The version is raised whenever a byte layout, an operation or a control message changes its meaning. Both ends refuse
another version and name both.
"""

from __future__ import annotations

PROTOCOL_VERSION = 2
#: First word of an arena: ``b"MIGPROXY"`` as a little-endian integer.
ARENA_MAGIC = int.from_bytes(b"MIGPROXY", "little")

#: Where functions look for free address space to propose. The windows lie far above program heaps and far below the
#: region from which Linux hands out mappings on x86-64 (just under 0x7fff_ffff_f000), so that a range free in the
#: function is almost always free in the executor too.
WINDOW_BASE = 0x2000_0000_0000
WINDOW_END = 0x5000_0000_0000
WINDOW_ALIGN = 1 << 32
#: Address space (not memory) reserved for the arena's segments.
ARENA_WINDOW = 64 << 30

#: Granule of device memory: what ``cuMemCreate`` hands out on every current GPU.
DEVICE_GRANULE = 2 << 20
#: Alignment of device allocations inside granules; ``cuMemAlloc`` promises at least 256 bytes, CuPy's pool uses 512.
DEVICE_ALIGN = 512
