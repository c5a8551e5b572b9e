"""The arena's heap: blocks at addresses that function and executor share.

Best fit over free blocks that coalesce; the tables live in the function's own memory, so nothing the executor or
another process writes
into the arena can break them.
"""

from __future__ import annotations

import bisect
import threading


class Heap:
    """Allocator over one or more segments.

    Parameters
    ----------
    base, size : int
        The first part of the heap.
    """

    def __init__(self, base: int, size: int) -> None:
        self._lock = threading.Lock()
        self._parts: list[tuple[int, int]] = []
        self._free: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._by_size: list[tuple[int, int]] = []
        self._sizes: dict[int, int] = {}
        self.add_segment(base, size)

    def add_segment(self, base: int, size: int) -> None:
        """Add a segment's bytes to the heap."""
        with self._lock:
            self._parts.append((base, size))
            self._insert(base, size)

    def owns(self, address: int) -> bool:
        """Tell whether `address` lies in the heap."""
        return any(base <= address < base + size for base, size in self._parts)

    def allocate(self, size: int, align: int = 64) -> int:
        """Return the address of a block of `size` bytes, 0 if there is no room."""
        size = max(64, (size + 63) // 64 * 64)
        with self._lock:
            index = bisect.bisect_left(self._by_size, (size, 0))
            while index < len(self._by_size):
                length, start = self._by_size[index]
                address = (start + align - 1) // align * align
                if address + size <= start + length:
                    self._remove(start, length)
                    if address > start:
                        self._insert(start, address - start)
                    if address + size < start + length:
                        self._insert(address + size, start + length - address - size)
                    self._sizes[address] = size
                    return address
                index += 1
        return 0

    def free(self, address: int) -> None:
        """Free a block.

        Raises
        ------
        ValueError
            `address` is not the start of a live block.
        """
        with self._lock:
            size = self._sizes.pop(address, None)
            if size is None:
                raise ValueError(f"{address:#x} is not a block of this heap")
            start, end = address, address + size
            if end in self._free:
                length = self._free[end]
                self._remove(end, length)
                end += length
            before = self._ends.get(start)
            if before is not None:
                self._remove(before, start - before)
                start = before
            self._insert(start, end - start)

    def _insert(self, start: int, size: int) -> None:
        self._free[start] = size
        self._ends[start + size] = start
        bisect.insort(self._by_size, (size, start))

    def _remove(self, start: int, size: int) -> None:
        del self._free[start]
        del self._ends[start + size]
        del self._by_size[bisect.bisect_left(self._by_size, (size, start))]
