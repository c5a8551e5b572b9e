"""What the conformance kit needs to know of Numba: `migproxy.plugin_kit.samples` says how it is used."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _kernel() -> Any:
    from numba import cuda

    @cuda.jit
    def add(x: Any, y: Any) -> None:
        i = cuda.grid(1)
        if i < x.size:
            y[i] += x[i]

    return add


def smoke() -> None:
    """A kernel on device arrays."""
    import numpy as np
    from numba import cuda

    x, y = cuda.to_device(np.arange(64.0)), cuda.to_device(np.ones(64))
    _kernel()[1, 64](x, y)
    assert np.array_equal(y.copy_to_host(), np.arange(64.0) + 1)
