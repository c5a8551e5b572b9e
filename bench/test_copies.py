"""How fast do copies run? The paper's figure: host to device and back (a pair) of one buffer, 4 B to 64 MiB.

Memory: ``array`` is a NumPy array made in the process (natively pageable memory; proxied it lies in the arena),
``pinned`` is page-locked memory (proxied: `mignificient_malloc`'s), ``foreign`` is memory that NumPy did not allocate.
``ndarray.set`` and ``ndarray.get(out=…)`` copy; each call is timed until the bytes have arrived. `ndarray.set` from
page-locked memory returns before that, so a synchronize is part of ``htod`` and ``pair``; ``submit`` is that call
alone, which is what a function waits for before it can go on.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

cp = pytest.importorskip("cupy")

SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20]
LARGE = [size for size in SIZES if size >= 1 << 20]
CASES = [
    *(("pair", memory, size) for memory in ("array", "pinned", "foreign") for size in (*SIZES, 5 << 20)),
    *((kind, memory, size) for kind in ("htod", "dtoh") for memory in ("array", "pinned", "foreign") for size in LARGE),
    *(("submit", "pinned", size) for size in LARGE),
]


@pytest.mark.parametrize(("kind", "memory", "size"), CASES)
def test_copy(benchmark: Any, smoke: bool, kind: str, memory: str, size: int) -> None:
    if smoke and size > 1 << 20:
        pytest.skip("full size only")
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

    def submit() -> None:
        device.set(host)

    def htod() -> None:
        device.set(host)
        stream.synchronize()

    def dtoh() -> None:
        device.get(out=host)

    def pair() -> None:
        device.set(host)
        device.get(out=host)

    call = {"htod": htod, "dtoh": dtoh, "pair": pair, "submit": submit}[kind]
    call()
    stream.synchronize()
    rounds = 3 if smoke else max(9, min(300, (256 << 20) // max(size, 1 << 18)))
    benchmark.extra_info["bytes"] = size * (2 if kind == "pair" else 1)
    setup = stream.synchronize if kind == "submit" else None
    benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=1, warmup_rounds=2)
    assert host[0] == 1
