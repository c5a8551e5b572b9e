"""Sorted address ranges: find what lies at an address, and find room."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Ranged(Protocol):
    @property
    def base(self) -> int: ...
    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=Ranged)


class RangeMap(Generic[T]):
    """Disjoint ranges by address. Not thread-safe: the owner locks."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._items: dict[int, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter([self._items[base] for base in self._bases])

    def __len__(self) -> int:
        return len(self._bases)

    def add(self, item: T) -> None:
        insort(self._bases, item.base)
        self._items[item.base] = item

    def remove(self, base: int) -> T:
        del self._bases[bisect_right(self._bases, base) - 1]
        return self._items.pop(base)

    def at(self, base: int) -> T | None:
        """The range that starts exactly at ``base``."""
        return self._items.get(base)

    def find(self, address: int) -> T | None:
        """The range that contains ``address``."""
        index = bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        item = self._items[self._bases[index]]
        return item if address < item.base + item.size else None

    def overlapping(self, address: int, size: int) -> list[T]:
        """All ranges that share an address with ``[address, address + size)``, in order."""
        index = max(bisect_right(self._bases, address) - 1, 0)
        found = []
        for base in self._bases[index:]:
            item = self._items[base]
            if item.base >= address + size:
                break
            if item.base + item.size > address:
                found.append(item)
        return found

    def covers(self, address: int, size: int) -> list[T] | None:
        """The contiguous ranges that hold all of ``[address, address + size)``, or None."""
        found = []
        end = address + size
        while True:
            item = self.find(address)
            if item is None:
                return None
            found.append(item)
            address = item.base + item.size
            if address >= end:
                return found


class Room:
    """Hands out parts of one reserved range, going round before it reuses an address.

    Going round keeps a freed address without access for as long as possible, so that a use after free faults instead
    of reading a neighbour.
    """

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size
        self._free: list[tuple[int, int]] = [(base, base + size)]
        self._cursor = base

    def take(self, size: int, alignment: int) -> int | None:
        """Take ``size`` bytes; None when there is no room."""
        start_index = bisect_right(self._free, (self._cursor, 1 << 63)) - 1
        order = list(range(max(start_index, 0), len(self._free))) + list(range(max(start_index, 0) + 1))
        for turn, index in enumerate(order):
            if index >= len(self._free):
                continue
            start, end = self._free[index]
            low = max(start, self._cursor) if turn == 0 and start <= self._cursor < end else start
            at = -(-low // alignment) * alignment
            if at + size <= end:
                pieces = [piece for piece in ((start, at), (at + size, end)) if piece[0] < piece[1]]
                self._free[index : index + 1] = pieces
                self._cursor = at + size
                return at
        return None

    def give(self, address: int, size: int) -> None:
        """Give back what was taken."""
        start, end = address, address + size
        index = bisect_right(self._free, (start, 0))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free[index][1]
            del self._free[index]
        if index > 0 and self._free[index - 1][1] == start:
            start = self._free[index - 1][0]
            index -= 1
            del self._free[index]
        self._free.insert(index, (start, end))
