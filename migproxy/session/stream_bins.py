"""Memory that was freed in a stream's order, for the next allocation in that order: neither needs the executor.

What is submitted to the stream behind the free runs after all that used the block, so the block can be given again at
once. As in CUDA's own pools the memory stays with the pool until somebody asks for more than is left, or for how much
there is.
"""

from __future__ import annotations

from collections.abc import Iterator

#: How much is kept, and how many blocks.
MOST_BYTES = 64 << 20
MOST_BLOCKS = 1024


class StreamBins:
    """Blocks by stream and size; the caller locks."""

    def __init__(self) -> None:
        self._bins: dict[tuple[int, int], list[int]] = {}
        self._bytes = 0
        self._blocks = 0

    def put(self, stream: int, size: int, address: int) -> bool:
        """Keep a block that was freed in a stream's order; False when there is no room for it."""
        if self._bytes + size > MOST_BYTES or self._blocks >= MOST_BLOCKS:
            return False
        self._bins.setdefault((stream, size), []).append(address)
        self._bytes += size
        self._blocks += 1
        return True

    def take(self, stream: int, size: int) -> int:
        """Return a block of this size that was freed in the stream's order, the latest one; 0 if there is none."""
        kept = self._bins.get((stream, size))
        if not kept:
            return 0
        self._bytes -= size
        self._blocks -= 1
        return kept.pop()

    def clear(self, stream: int | None = None) -> Iterator[tuple[int, int]]:
        """Give up what is kept, of one stream or of all: yields addresses and sizes."""
        for key in [key for key in self._bins if stream is None or key[0] == stream]:
            for address in self._bins.pop(key):
                self._bytes -= key[1]
                self._blocks -= 1
                yield address, key[1]
