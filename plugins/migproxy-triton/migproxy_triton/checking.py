"""What ``migproxy plugin check triton`` uses Triton by."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from migproxy.session import api


@triton.jit
def axpy(x, y, n, a, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    result = a * tl.load(x + offsets, mask=inside) + tl.load(y + offsets, mask=inside)
    tl.store(y + offsets, result, mask=inside)


class Memory:
    """What Triton takes: something with ``data_ptr()`` and ``dtype``."""

    dtype = "float32"

    def __init__(self, values: Any) -> None:
        self._values = values
        self._address = api.mem_alloc(values.nbytes)
        api.memcpy_htod(self._address, values.ctypes.data, values.nbytes)

    def data_ptr(self) -> int:
        """Return the address."""
        return self._address

    def fetch(self) -> Any:
        """Return the contents, and free the memory."""
        found = self._values.copy()
        api.memcpy_dtoh(found.ctypes.data, self._address, found.nbytes)
        api.mem_free(self._address)
        return found


def smoke() -> None:
    """A kernel on memory of the session's own."""
    import numpy as np

    values = np.arange(1000, dtype=np.float32)
    x, y = Memory(values), Memory(np.ones_like(values))
    axpy[(triton.cdiv(1000, 256),)](x, y, 1000, 2.0, BLOCK=256)
    assert np.array_equal(y.fetch(), 2 * values + 1)
    x.fetch()
