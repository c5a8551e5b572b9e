"""What does it cost that NumPy's arrays live in the arena? ``np.empty`` and free, by size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

cp = pytest.importorskip("cupy")


@pytest.mark.parametrize("size", [16, 1024, 65536, 1 << 20])
def test_empty_and_free(benchmark: Any, smoke: bool, size: int) -> None:
    """Allocate and free one array; without touching it."""
    cp.cuda.runtime.getDeviceCount()  # in a function this opens the session

    def call() -> None:
        for _ in range(1000):
            np.empty(size, np.uint8)

    benchmark.extra_info["calls"] = 1000
    benchmark.pedantic(call, rounds=3 if smoke else 15, iterations=1, warmup_rounds=1)
