"""Stand-in for ``cupy.cuda.cub``: what CUB can do is decided here, outputs are allocated here, the reductions run in
the executor.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import calls, remembered, standin

_NAMES = ("SUM", "MIN", "MAX", "ARGMIN", "ARGMAX", "CUMSUM", "CUMPROD", "PROD")
SUM, MIN, MAX, ARGMIN, ARGMAX, CUMSUM, CUMPROD, PROD = range(8)
_ITEMS_MAX = 0x7FFFFFFF
_INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
_FLOATS = [np.float32, np.float64, np.complex64, np.complex128]
#: What CUB reduces in the array's own dtype.
SUPPORTED: list[Any] = [*_INTEGERS, *_FLOATS, np.float16]
#: What a sum leaves in its dtype when none is asked for; narrower integers are promoted, which CUB cannot do.
SUMMED: list[Any] = [np.int64, np.uint64, *_FLOATS, np.float16]


def _out_shape(shape: tuple[int, ...], kept: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple(extent if axis in kept else 1 for axis, extent in enumerate(shape))
    return tuple(shape[axis] for axis in kept)


def _check_operation(op: int, allowed: tuple[int, ...]) -> None:
    if op not in allowed:
        names = [f"CUPY_CUB_{_NAMES[item]}" for item in allowed]
        last = f"{',' if len(names) > 2 else ''} and {names[-1]}"
        raise ValueError(f"only {', '.join(names[:-1])}{last} are supported.")


def _check_identity(x: Any, op: Any, reduced: tuple[int, ...]) -> None:
    if op not in (SUM, PROD) and any(x.shape[axis] == 0 for axis in reduced):
        name = f"CUPY_CUB_{_NAMES[int(op)]}"
        raise ValueError(f"zero-size array to reduction operation {name} which has no identity")


def _contiguous(axes: tuple[int, ...]) -> bool:
    return all(after == before + 1 for before, after in pairwise(axes))


def _axes_fit(axes: tuple[int, ...], ndim: int, order: str) -> bool:
    """Whether the reduced axes are the contiguous end of an array in this order."""
    if not axes or not _contiguous(axes):
        return False
    return axes[-1] == ndim - 1 if order == "C" else axes[0] == 0 if order == "F" else False


def _dtype_fits(dtype: Any, op: int, wanted: Any) -> bool:
    if wanted is None:
        return dtype in (SUMMED if op in (SUM, PROD) else SUPPORTED)
    return wanted == dtype and dtype in SUPPORTED


@cache
def _axes() -> Callable[[Any, int], tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return CuPy's function that tells which axes are reduced and which are kept."""
    from cupy._core._reduction import _get_axis

    found: Callable[[Any, int], tuple[tuple[int, ...], tuple[int, ...]]] = _get_axis
    return found


class Cub:
    """The module's functions.

    Parameters
    ----------
    library : standin.Library
        Carries the calls.
    module : ModuleType
        The stand-in. Its functions call each other by its attributes, as the real module's do, so that a replaced
        attribute (a mock) is what they call.
    """

    def __init__(self, library: standin.Library, module: ModuleType) -> None:
        self._library = library
        self._commands = remembered.Commands(library)
        self._module: Any = module

    def _call(self, function: str, *arguments: Any) -> None:
        self._library.call(function, arguments, wait=False)

    def preprocess_array(
        self, shape: tuple[int, ...], reduced: tuple[int, ...], kept: tuple[int, ...], order: str
    ) -> int:
        """Return how many elements one output element gathers; the axes must be in memory order."""
        joined = {"C": kept + reduced, "F": reduced + kept}.get(order) or tuple(sorted({*kept, *reduced}))
        assert joined == tuple(range(len(shape)))
        size = 1
        for axis in reduced:
            size *= shape[axis]
        return size

    def device_reduce(
        self, x: Any, op: Any, reduced: tuple[int, ...], kept: tuple[int, ...], out: Any = None, keepdims: bool = False
    ) -> Any:
        """Reduce a whole array to one element."""
        import cupy

        shape = _out_shape(x.shape, kept, keepdims) if keepdims else ()
        if out is not None and out.ndim != len(shape):
            raise ValueError("output parameter for reduction operation has the wrong number of dimensions")
        _check_operation(op, (SUM, PROD, MIN, MAX, ARGMIN, ARGMAX))
        _check_identity(x, op, reduced)
        if not x.flags.c_contiguous:
            x = cupy.ascontiguousarray(x)
        kind = x.dtype
        result = cupy.ndarray((), np.int64 if op in (ARGMIN, ARGMAX) else kind)
        key = ("device_reduce", x.data.ptr, x.size, kind.char, int(op), result.data.ptr)

        def arguments() -> list[Any]:
            flat = {"__array__": [key[1], [key[2]], [kind.itemsize], kind.str]}
            return [flat, key[4], [0], [], calls.describe(result), False]

        self._commands.post(key, arguments)
        if shape:
            result = result.reshape(shape)
        if out is not None:
            cupy._core.elementwise_copy(result, out)
            return out
        return result

    def device_segmented_reduce(
        self,
        x: Any,
        op: Any,
        reduced: tuple[int, ...],
        kept: tuple[int, ...],
        out: Any = None,
        keepdims: bool = False,
        contiguous_size: int = 0,
    ) -> Any:
        """Reduce the contiguous axes of a contiguous array."""
        import cupy

        _check_operation(op, (SUM, PROD, MIN, MAX))
        _check_identity(x, op, reduced)
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            raise RuntimeError("input is neither C- nor F- contiguous.")
        order = "C" if x.flags.c_contiguous else "F"
        shape = _out_shape(x.shape, kept, keepdims)
        if out is not None and out.shape != shape:
            raise ValueError("output parameter for reduction operation has the wrong shape")
        if x.size == 0:
            result = cupy.ndarray(shape, x.dtype, order=order) if out is None else out
            result.fill(0 if op == SUM else 1)
            return result
        result = cupy.ndarray(shape, x.dtype, order=order)
        places = x.data.ptr, x.shape, x.strides, x.dtype.char, result.data.ptr
        self._commands.post(
            ("device_segmented_reduce", *places, int(op), reduced, kept, keepdims, contiguous_size),
            lambda: [
                *(calls.describe(x), int(op), list(reduced), list(kept), calls.describe(result)),
                *(keepdims, contiguous_size),
            ],
        )
        if out is not None:
            cupy._core.elementwise_copy(result, out)
            return out
        return result

    def device_scan(self, x: Any, op: Any) -> Any:
        """Scan in flat order, in place."""
        import cupy

        if op not in (CUMSUM, CUMPROD):
            raise ValueError("only CUPY_CUB_CUMSUM and CUPY_CUB_CUMPROD are supported.")
        if x.size == 0:
            return x
        x = cupy.ascontiguousarray(x)
        key = ("device_scan", x.data.ptr, x.shape, x.strides, x.dtype.char, int(op))
        self._commands.post(key, lambda: [calls.describe(x), int(op)])
        return x

    def device_histogram(self, x: Any, y: Any, bins: Any) -> Any:
        """Count values into ``y``: between the edges in an array, or one bin per integer where ``bins`` is a number."""
        import cupy

        x = cupy.ascontiguousarray(x)
        if isinstance(bins, cupy.ndarray):
            bins = cupy.ascontiguousarray(bins)
            count, sent = bins.size, calls.describe(bins)
            if x.dtype.kind == "c":
                raise RuntimeError("complex dtype is not yet supported")
        else:
            count, sent = int(bins), int(bins)  # type: ignore[assignment]
            if x.dtype.kind not in "bui":
                raise ValueError("only integer input is supported")
        assert y.size == count - 1
        self._call("device_histogram", calls.describe(x), calls.describe(y), sent)
        return y

    def axis_compatible(self, cub_axis: tuple[int, ...], ndim: int, order: str) -> bool:
        """Whether the reduced axes are the contiguous end of an array in this order."""
        return _axes_fit(cub_axis, ndim, order)

    def reduction(
        self, arr: Any, op: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        """Reduce with CUB where CUB can; None tells CuPy to use its own kernel."""
        if op in (ARGMIN, ARGMAX) and dtype is not None:
            return None
        flags = arr.flags
        order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else ""
        if not order:
            return None
        reduced, kept = _axes()(axis, arr.ndim)
        if not _dtype_fits(arr.dtype, op, dtype) or arr.size > _ITEMS_MAX:
            return None
        if kept == ():
            return self._module.device_reduce(arr, op, reduced, kept, out, keepdims)
        if op in (ARGMIN, ARGMAX):
            return None
        if arr.size == 0:
            order = "CF"
        elif not _axes_fit(reduced, arr.ndim, order):
            return None
        size = self.preprocess_array(arr.shape, reduced, kept, order)
        if size <= 0:
            return None
        return self._module.device_segmented_reduce(arr, op, reduced, kept, out, keepdims, size)

    def scan(self, arr: Any, op: Any) -> Any:
        """Scan with CUB where CUB can; None where it cannot."""
        if op not in (CUMSUM, CUMPROD) or arr.dtype not in SUPPORTED or arr.size > _ITEMS_MAX:
            return None
        return self._module.device_scan(arr, op)

    def histogram(self, x: Any, y: Any, bins: Any) -> Any:
        """Count with CUB, or None for more bins than CUB's counters can address."""
        return None if y.size > _ITEMS_MAX // 1024 else self._module.device_histogram(x, y, bins)


def make(name: str) -> ModuleType:
    """Return the stand-in."""
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)
    operations = IntFlag("cupy_cub_op", facts["classes"]["cupy_cub_op"]["values"], module=name)  # type: ignore[misc]
    cub = Cub(library, module)
    handlers = {
        "_preprocess_array": cub.preprocess_array,
        "device_reduce": cub.device_reduce,
        "device_segmented_reduce": cub.device_segmented_reduce,
        "device_scan": cub.device_scan,
        "device_histogram": cub.device_histogram,
        "_cub_device_segmented_reduce_axis_compatible": cub.axis_compatible,
        "cub_reduction": cub.reduction,
        "cub_scan": cub.scan,
        "cub_histogram": cub.histogram,
    }
    namespace = vars(module)
    namespace.update(operations.__members__)
    namespace.update(
        cupy_cub_op=operations,
        CUB_support_dtype_without_half=SUPPORTED[:-1],
        CUB_support_dtype_with_half=SUPPORTED,
        CUB_support_dtype={},
        CUB_sum_support_dtype_without_half=SUMMED[:-1],
        CUB_sum_support_dtype_with_half=SUMMED,
        CUB_sum_support_dtype={},
    )
    standin.publish(module, library, handlers)
    return module
