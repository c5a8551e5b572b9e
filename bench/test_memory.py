"""What happens to calls when device memory runs short?

A function fills its quota to a share of what is free; then allocate-and-free pairs, CuPy's pool after it was emptied,
and the out-of-memory error are timed. The figures of one mode compare with each other first: natively what is free is
the whole GPU, in a function it is the quota (`MEMORY` of ``migproxy run``, a quarter of the slice unless told).
"""

from __future__ import annotations

from typing import Any

import pytest

cp = pytest.importorskip("cupy")

CHUNK = 2 << 20


@pytest.fixture(params=[0, 50, 95], ids=["empty", "half", "nearly-full"])
def filled(request: pytest.FixtureRequest, smoke: bool) -> Any:
    """Memory of which a share is taken by blocks, every other small one given back: neither empty nor in one piece."""
    runtime = cp.cuda.runtime
    cp.get_default_memory_pool().free_all_blocks()
    blocks: list[int] = []
    free, _ = runtime.memGetInfo()
    wanted = free * request.param // 100
    small = 8 if smoke else 64
    if wanted > 4 * small * CHUNK:
        blocks = [runtime.malloc(CHUNK) for _ in range(small)]
        blocks.append(runtime.malloc(wanted - small * CHUNK))
        for index in range(0, small, 2):
            runtime.free(blocks[index])
            blocks[index] = 0
    yield
    for block in blocks:
        if block:
            runtime.free(block)


def test_alloc_free(benchmark: Any, smoke: bool, filled: None) -> None:
    """``cudaMalloc`` and ``cudaFree`` of 1 MiB."""
    runtime = cp.cuda.runtime

    def call() -> None:
        runtime.free(runtime.malloc(1 << 20))

    benchmark.pedantic(call, rounds=10 if smoke else 300, iterations=1, warmup_rounds=3)


def test_large_alloc_free(benchmark: Any, smoke: bool, filled: None) -> None:
    """``cudaMalloc`` and ``cudaFree`` of 3% of all memory, which nearly-full memory still has."""
    runtime = cp.cuda.runtime
    size = runtime.memGetInfo()[1] * 3 // 100

    def call() -> None:
        runtime.free(runtime.malloc(size))

    benchmark.pedantic(call, rounds=3 if smoke else 30, iterations=1, warmup_rounds=1)


def test_array_after_empty_pool(benchmark: Any, smoke: bool, filled: None) -> None:
    """A 16 MiB ``cupy.zeros``, after the pool gave its memory back, until it is done."""
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        cp.zeros(4 << 20, cp.float32)
        stream.synchronize()

    setup = cp.get_default_memory_pool().free_all_blocks
    benchmark.pedantic(call, setup=setup, rounds=3 if smoke else 60, iterations=1, warmup_rounds=1)
    setup()


def test_out_of_memory(benchmark: Any, smoke: bool) -> None:
    """An allocation that cannot be served, until its error is caught; and the next one works."""
    runtime = cp.cuda.runtime
    size = runtime.memGetInfo()[1] * 2

    def call() -> None:
        with pytest.raises(runtime.CUDARuntimeError, match="out of memory"):
            runtime.malloc(size)

    benchmark.pedantic(call, rounds=5 if smoke else 100, iterations=1, warmup_rounds=1)
    runtime.free(runtime.malloc(1 << 20))
