"""Thrust's sorts on NumPy: the counterpart of ``cupy.cuda.thrust``.

Sorts are stable and order NaN last, complex numbers lexicographically: NumPy's order, which CuPy's comparators follow.
The scratch keys that the real library fills stay untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import views_unsafe as raw
from .names import complete

available = True
SORTABLE = "?bBhHiIlLqQefdFD"


class _MemoryManager:
    """Scratch memory of the real library; here a sort needs none from the device."""


def get_build_version() -> int:
    """Return the Thrust version that this module follows."""
    return 300102


def _dtype(dtype: npt.DTypeLike, error: type[Exception], what: str) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype.char not in SORTABLE:
        raise error(f"Sorting {what} with dtype '{dtype}' is not supported")
    return dtype


def sort(dtype: npt.DTypeLike, data_start: int, keys_start: int, shape: Sequence[int]) -> None:
    """Sort along the last axis, in place."""
    kind = _dtype(dtype, NotImplementedError, "arrays")
    data = raw.array(data_start, shape, kind)
    # Equal values are the same bits, except for zeros of two signs: without those, NumPy's fastest sort will do.
    same_bits = kind.kind in "bui" or (kind.kind == "f" and bool(np.all(data != 0)))
    data.sort(axis=-1, kind=None if same_bits else "stable")


def argsort(dtype: npt.DTypeLike, idx_start: int, data_start: int, keys_start: int, shape: Sequence[int]) -> None:
    """Write the indices that sort the last axis, and sort the data with them, as Thrust's sort by key does."""
    kind = _dtype(dtype, NotImplementedError, "arrays")
    data = raw.array(data_start, shape, kind)
    order = data.argsort(axis=-1, kind="stable")
    raw.array(idx_start, shape, np.int64)[...] = order
    data[...] = np.take_along_axis(data, order, -1)


def lexsort(dtype: npt.DTypeLike, idx_start: int, keys_start: int, k: int, n: int) -> None:
    """Write the indices that sort ``n`` items by ``k`` keys, the last key being the first to decide."""
    kind = _dtype(dtype, TypeError, "keys")
    order = np.arange(n)
    for key in raw.array(keys_start, (k, n), kind):
        order = order[key[order].argsort(kind="stable")]
    raw.array(idx_start, n, np.int64)[...] = order


REFUSED = complete(globals(), "thrust", None)
