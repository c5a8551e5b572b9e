"""CuPy's memory pools in a forked child: its parent's blocks are not its own, so it starts with empty pools.

Blocks of arrays that the child inherited go back to the old pools when the arrays die, and are never handed out again.
"""

from __future__ import annotations

import sys

from migproxy.session.session import on_fork


def install() -> None:
    """Arrange for fresh pools in every forked child that has CuPy imported."""
    on_fork(fresh_pools)


def fresh_pools() -> None:
    """Replace CuPy's default pools, where they are what CuPy allocates from."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not hasattr(cupy, "_default_memory_pool"):
        return
    cuda = cupy.cuda
    if cuda.get_allocator() == cupy._default_memory_pool.malloc:
        cupy._default_memory_pool = cuda.MemoryPool()
        cuda.set_allocator(cupy._default_memory_pool.malloc)
    # CuPy has no getter for the pinned allocator; a program that set its own gets its own back by setting it again.
    cupy._default_pinned_memory_pool = cuda.PinnedMemoryPool()
    cuda.set_pinned_memory_allocator(cupy._default_pinned_memory_pool.malloc)
