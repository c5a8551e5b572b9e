"""CUB's device-wide reductions, scans and histograms on NumPy: the counterpart of ``cupy.cuda.cub``.

Arrays are NumPy views of device memory. A result goes into ``out`` where one is given, and is a new NumPy array where
not; scans work in place. Sums and products stay in the array's own dtype, minima and maxima propagate NaN, as CuPy's
instances of CUB do.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from .names import complete

Array = npt.NDArray[Any]

available = True


class cupy_cub_op(IntEnum):
    """CuPy's codes of CUB's operations."""

    CUPY_CUB_SUM = 0
    CUPY_CUB_MIN = 1
    CUPY_CUB_MAX = 2
    CUPY_CUB_ARGMIN = 3
    CUPY_CUB_ARGMAX = 4
    CUPY_CUB_CUMSUM = 5
    CUPY_CUB_CUMPROD = 6
    CUPY_CUB_PROD = 7


SUM, MIN, MAX, PROD = (cupy_cub_op[f"CUPY_CUB_{name}"] for name in ("SUM", "MIN", "MAX", "PROD"))
ARGMIN, ARGMAX = cupy_cub_op.CUPY_CUB_ARGMIN, cupy_cub_op.CUPY_CUB_ARGMAX
CUMSUM, CUMPROD = cupy_cub_op.CUPY_CUB_CUMSUM, cupy_cub_op.CUPY_CUB_CUMPROD

CUB_support_dtype_without_half: list[type] = [
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64,
    np.complex64, np.complex128,
]  # fmt: skip
CUB_support_dtype_with_half = [*CUB_support_dtype_without_half, np.float16]
CUB_support_dtype: dict[int, list[type]] = {}
CUB_sum_support_dtype_without_half = CUB_support_dtype_without_half[6:]
CUB_sum_support_dtype_with_half = [*CUB_sum_support_dtype_without_half, np.float16]
CUB_sum_support_dtype: dict[int, list[type]] = {}

_UFUNCS: dict[int, np.ufunc] = {SUM: np.add, PROD: np.multiply, MIN: np.minimum, MAX: np.maximum}
_ITEMS_MAX = 0x7FFFFFFF


def get_build_version() -> int:
    """Return the CUB version that this module follows."""
    return 300102


def _get_cuda_build_version() -> int:
    return 12090


def _preprocess_array(arr_shape: Sequence[int], reduce_axis: Sequence[int], out_axis: Sequence[int], order: str) -> int:
    """Return how many elements a reduction gathers into one, checking that the axes are contiguous in the order."""
    permuted: Sequence[int]
    if order == "C":
        permuted = (*out_axis, *reduce_axis)
    elif order == "F":
        permuted = (*reduce_axis, *out_axis)
    else:
        permuted = sorted({*out_axis, *reduce_axis})
    assert tuple(permuted) == tuple(range(len(arr_shape)))
    size = 1
    for axis in reduce_axis:
        size *= arr_shape[axis]
    return size


def _out_shape(x: Array, axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple(x.shape[axis] if axis in axes else 1 for axis in range(x.ndim))
    return tuple(x.shape[axis] for axis in axes)


def _operation(op: Any, allowed: Sequence[cupy_cub_op]) -> cupy_cub_op:
    names = [item.name for item in allowed]
    if op not in allowed:
        raise ValueError(f"only {', '.join(names[:-1])}{',' * (len(names) > 2)} and {names[-1]} are supported.")
    return cupy_cub_op(op)


def _check_not_empty(x: Array, op: cupy_cub_op, axes: Sequence[int]) -> None:
    if op not in (SUM, PROD) and any(x.shape[axis] == 0 for axis in axes):
        raise ValueError(f"zero-size array to reduction operation {op.name} which has no identity")


def _deliver(result: Array, out: Array | None) -> Array:
    if out is None:
        return result
    np.copyto(out, result, casting="unsafe")
    return out


def device_reduce(
    x: Array, op: Any, reduce_axis: Sequence[int], out_axis: Sequence[int], out: Array | None = None,
    keepdims: bool = False,
) -> Array:  # fmt: skip
    """Reduce a whole array to one element."""
    shape = _out_shape(x, out_axis, keepdims) if keepdims else ()
    if out is not None and out.ndim != len(shape):
        raise ValueError("output parameter for reduction operation has the wrong number of dimensions")
    op = _operation(op, (SUM, PROD, MIN, MAX, ARGMIN, ARGMAX))
    _check_not_empty(x, op, reduce_axis)
    flat = np.ascontiguousarray(x).reshape(-1)
    if op in (ARGMIN, ARGMAX):
        value = np.int64(flat.argmin() if op == ARGMIN else flat.argmax())
        return _deliver(np.array(value).reshape(shape), out)
    with np.errstate(all="ignore"):
        reduced = _UFUNCS[op].reduce(flat, dtype=x.dtype)
    return _deliver(np.asarray(reduced).reshape(shape), out)


def device_segmented_reduce(
    x: Array, op: Any, reduce_axis: Sequence[int], out_axis: Sequence[int], out: Array | None = None,
    keepdims: bool = False, contiguous_size: int = 0,
) -> Array:  # fmt: skip
    """Reduce contiguous axes of a contiguous array."""
    op = _operation(op, (SUM, PROD, MIN, MAX))
    _check_not_empty(x, op, reduce_axis)
    if not (x.flags.c_contiguous or x.flags.f_contiguous):
        raise RuntimeError("input is neither C- nor F- contiguous.")
    shape = _out_shape(x, out_axis, keepdims)
    if out is not None and out.shape != shape:
        raise ValueError("output parameter for reduction operation has the wrong shape")
    with np.errstate(all="ignore"):
        reduced = _UFUNCS[op].reduce(x, axis=tuple(reduce_axis), dtype=x.dtype, keepdims=keepdims)
    return _deliver(np.asarray(reduced), out)


def device_scan(x: Array, op: Any) -> Array:
    """Scan an array in flat order: in place where it is contiguous, as a copy where not."""
    op = _operation(op, (CUMSUM, CUMPROD))
    if x.size == 0:
        return x
    x = x if x.flags.c_contiguous else np.ascontiguousarray(x)
    flat = x.reshape(-1)
    ufunc = np.add if op == CUMSUM else np.multiply
    with np.errstate(all="ignore"):
        ufunc.accumulate(flat, dtype=x.dtype, out=flat)
    return x


def device_histogram(x: Array, y: Array, bins: Any) -> Array:
    """Count values into ``y``: between the edges in an array, or one bin per integer where ``bins`` is a number."""
    values = np.ascontiguousarray(x).reshape(-1)
    if isinstance(bins, np.ndarray):
        edges = np.ascontiguousarray(bins).reshape(-1)
        assert y.size == edges.size - 1
        if x.dtype.kind == "c":
            raise RuntimeError("complex dtype is not yet supported")
        places = np.searchsorted(edges, values, side="right") - 1
        places = places[(places >= 0) & (places < y.size) & (values == values)]
    else:
        if x.dtype.kind not in "bui":
            raise ValueError("only integer input is supported")
        assert y.size == bins - 1
        places = values[(values >= 0) & (values < y.size)].astype(np.int64)
    y[...] = np.bincount(places, minlength=y.size).reshape(y.shape)
    return y


def device_csrmv(n_rows: int, n_cols: int, nnz: int, values: Array, indptr: Array, indices: Array, x: Array) -> Array:
    """Multiply a CSR matrix and a vector (CuPy 13)."""
    if values.dtype != x.dtype:
        raise TypeError(f"dtypes differ: {values.dtype} and {x.dtype}")
    matrix = csr_array((values.reshape(-1)[:nnz], indices.reshape(-1)[:nnz], indptr.reshape(-1)), (n_rows, n_cols))
    product: Array = matrix @ x.reshape(-1)
    return product


def _contiguous_axes(axes: Sequence[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(axes))


def _cub_device_segmented_reduce_axis_compatible(cub_axis: Sequence[int], ndim: int, order: str) -> bool:
    """Tell whether the reduced axes are the contiguous end of an array in the given order."""
    if _contiguous_axes(cub_axis):
        if order == "C":
            return cub_axis[-1] == ndim - 1
        if order == "F":
            return cub_axis[0] == 0
    return False


def _dtype_fits(x: Array, op: int, dtype: Any) -> bool:
    if dtype is None:
        allowed = CUB_sum_support_dtype_with_half if op in (SUM, PROD) else CUB_support_dtype_with_half
    elif np.dtype(dtype) == x.dtype:
        allowed = CUB_support_dtype_with_half
    else:
        return False
    return x.dtype in allowed


def _axes(axis: Any, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if axis is None:
        reduced = tuple(range(ndim))
    else:
        chosen = axis if isinstance(axis, Sequence) else (axis,)
        for item in chosen:
            if not -ndim <= item < ndim:
                raise np.exceptions.AxisError(item, ndim)
        reduced = tuple(sorted({item % ndim for item in chosen}))
    return reduced, tuple(item for item in range(ndim) if item not in reduced)


def cub_reduction(
    arr: Array, op: Any, axis: Any = None, dtype: Any = None, out: Array | None = None, keepdims: bool = False
) -> Array | None:
    """Reduce with CUB where CUB can; None where it cannot and CuPy falls back to its own kernel."""
    if op in (ARGMIN, ARGMAX) and dtype is not None:
        return None
    if arr.flags.c_contiguous:
        order = "C"
    elif arr.flags.f_contiguous:
        order = "F"
    else:
        return None
    reduced, kept = _axes(axis, arr.ndim)
    if not _dtype_fits(arr, op, dtype) or arr.size > _ITEMS_MAX:
        return None
    if kept == ():
        return device_reduce(arr, op, reduced, kept, out, keepdims)
    if op in (ARGMIN, ARGMAX):
        return None
    if arr.size == 0:
        order = "CF"
    elif not _cub_device_segmented_reduce_axis_compatible(reduced, arr.ndim, order):
        return None
    size = _preprocess_array(arr.shape, reduced, kept, order)
    if size <= 0:
        return None
    return device_segmented_reduce(arr, op, reduced, kept, out, keepdims, size)


def cub_scan(arr: Array, op: Any) -> Array | None:
    """Scan with CUB where CUB can; None where it cannot."""
    if op not in (CUMSUM, CUMPROD) or arr.dtype not in CUB_support_dtype_with_half or arr.size > _ITEMS_MAX:
        return None
    return device_scan(arr, op)


def cub_histogram(x: Array, y: Array, bins: Any) -> Array | None:
    """Count with CUB, or None for more bins than CUB's counters can address."""
    if y.size > _ITEMS_MAX // 1024:
        return None
    return device_histogram(x, y, bins)


REFUSED = complete(globals(), "cub", None)
