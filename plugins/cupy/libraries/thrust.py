"""Stand-in for ``cupy.cuda.thrust``: sorts by pointer; the scratch memory is the executor's."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import standin

SORTABLE = "?bBhHiIlLqQefdFD"


def _kind(dtype: Any, error: type[Exception], what: str) -> str:
    kind = np.dtype(dtype)
    if kind.char not in SORTABLE:
        raise error(f"Sorting {what} with dtype '{dtype}' is not supported")
    return kind.str


def make(name: str) -> ModuleType:
    """Return the stand-in."""
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)

    def sort(dtype: Any, data_start: int, keys_start: int, shape: Sequence[int]) -> None:
        kind = _kind(dtype, NotImplementedError, "arrays")
        library.call("sort", (kind, data_start, keys_start, [int(extent) for extent in shape]), wait=False)

    def argsort(dtype: Any, idx_start: int, data_start: int, keys_start: int, shape: Sequence[int]) -> None:
        kind = _kind(dtype, NotImplementedError, "arrays")
        extents = [int(extent) for extent in shape]
        library.call("argsort", (kind, idx_start, data_start, keys_start, extents), wait=False)

    def lexsort(dtype: Any, idx_start: int, keys_start: int, k: int, n: int) -> None:
        kind = _kind(dtype, TypeError, "keys")
        library.call("lexsort", (kind, idx_start, keys_start, k, n), wait=False)

    class _MemoryManager:
        """Scratch memory of the real library."""

    vars(module)["_MemoryManager"] = _MemoryManager
    standin.publish(module, library, {"sort": sort, "argsort": argsort, "lexsort": lexsort})
    return module
