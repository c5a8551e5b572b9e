"""How fast do copies run? The paper's figure: ``ndarray.set`` and ``ndarray.get`` of one buffer, 4 B to 64 MiB.

``array`` is a NumPy array made in the process (natively pageable memory; proxied it lies in the arena), ``pinned``
is page-locked memory
(proxied: `mignificient_malloc`'s), ``foreign`` is memory that NumPy did not allocate.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import pytest

cp = pytest.importorskip("cupy")

SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory", ["array", "pinned", "foreign"])
@pytest.mark.parametrize("direction", ["htod", "dtoh", "pair"])
def test_copy(benchmark: Any, smoke: bool, direction: str, memory: str, size: int) -> None:
    if smoke and size > 1 << 20:
        pytest.skip("full size only")
    if direction != "pair" and size < 1 << 20 and os.environ.get("BENCH_ALL") != "1":
        pytest.skip("small sizes are measured as pairs")
    if memory == "array":
        host = np.ones(size, np.uint8)
    elif memory == "pinned":
        host = np.frombuffer(cp.cuda.alloc_pinned_memory(size), np.uint8, size)
        host[:] = 1
    else:
        host = np.frombuffer(mmap.mmap(-1, max(size, 4096)), np.uint8, size)
        host[:] = 1
    device = cp.empty(size, cp.uint8)
    stream = cp.cuda.get_current_stream()

    def htod() -> None:
        device.set(host)

    def dtoh() -> None:
        device.get(out=host)

    def pair() -> None:
        htod()
        dtoh()

    call = {"htod": htod, "dtoh": dtoh, "pair": pair}[direction]
    call()
    stream.synchronize()
    rounds = 3 if smoke else max(9, min(500, (256 << 20) // max(size, 1 << 18)))
    benchmark.extra_info["bytes"] = size * (2 if direction == "pair" else 1)
    benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=2)
