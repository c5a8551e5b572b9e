"""cuFFT on SciPy's FFT: the counterpart of ``cupy.cuda.cufft``.

A plan is an object, `Plan1d`, `PlanNd` or `XtPlanNd`, whose ``handle`` the ``exec*`` functions take with the addresses
of input and output; ``plan.fft(a, out, direction)`` takes arrays. Data layout is cuFFT's advanced layout: element ``i``
of batch ``b`` lies at ``b·dist + linear(i, embed)·stride``. Transforms are unnormalised in both directions. Plans over
several GPUs and callbacks with a cuFFT of their own are refused by name.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft as _fft

from . import datatypes
from . import views_unsafe as raw
from .cufft_callbacks import Callback
from .datatypes import C_16F, C_32F, C_64F, DATA_TYPES, R_16F, R_32F, R_64F
from .handles import Handles
from .names import complete
from .status import CuFFTError

Array = npt.NDArray[Any]

C2C, R2C, C2R, Z2Z, D2Z, Z2D = 41, 42, 44, 105, 106, 108
FORWARD, INVERSE = -1, 1
INVALID_PLAN, INVALID_TYPE, INVALID_VALUE, INVALID_SIZE, NOT_SUPPORTED = 1, 3, 4, 8, 16

#: cuFFT's type → (input, output) as ``cudaDataType``.
_TYPES = {
    C2C: (C_32F, C_32F),
    R2C: (R_32F, C_32F),
    C2R: (C_32F, R_32F),
    Z2Z: (C_64F, C_64F),
    D2Z: (R_64F, C_64F),
    Z2D: (C_64F, R_64F),
}
_COMPLEX = (C_16F, C_32F, C_64F)


@dataclass
class Layout:
    """Where the elements of one side of a transform lie, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    distance: int

    def offsets(self, batch: int) -> Array:
        """Where each element lies."""
        out = np.zeros((batch, *self.shape), np.int64)
        for axis, step in enumerate((self.distance, *self.strides)):
            along = [1] * out.ndim
            along[axis] = out.shape[axis]
            out += (np.arange(out.shape[axis]) * step).reshape(along)
        return out


@dataclass
class Transform:
    """What a made plan does."""

    shape: tuple[int, ...]
    batch: int
    source: Layout
    target: Layout
    source_type: int
    target_type: int
    packed: bool
    #: what replaces reading the source, and writing the target
    load: Callback | None = None
    store: Callback | None = None

    def run(self, source: int, target: int, direction: int) -> None:
        """Transform from one address to another, which may be the same."""
        if self.batch == 0:
            return
        # In place, the rows of the real side are padded to the length of the complex side.
        padded = self.packed and source == target
        if self.load is not None:
            values = self.load.fetch(source, self._layout(self.source, self.source_type, padded).offsets(self.batch))
        else:
            values = datatypes.widen(self._view(source, self.source, self.source_type, padded), self.source_type)
        axes = tuple(range(1, 1 + len(self.shape)))
        real_in, real_out = self.source_type not in _COMPLEX, self.target_type not in _COMPLEX
        if real_in:
            result = _fft.rfftn(values, axes=axes)
        elif real_out:
            result = _fft.irfftn(values, s=self.shape, axes=axes, norm="forward")
        elif direction == FORWARD:
            result = _fft.fftn(values, axes=axes)
        elif direction == INVERSE:
            result = _fft.ifftn(values, axes=axes, norm="forward")
        else:
            raise CuFFTError(INVALID_VALUE, f"direction {direction}")
        if self.store is not None:
            offsets = self._layout(self.target, self.target_type, padded).offsets(self.batch)
            self.store.hand(target, offsets, result)
        else:
            datatypes.store(self._view(target, self.target, self.target_type, padded), result, self.target_type)

    @staticmethod
    def _layout(layout: Layout, cuda_type: int, padded: bool) -> Layout:
        if padded and cuda_type not in _COMPLEX:
            return _layout(layout.shape, (*layout.shape[:-1], 2 * (layout.shape[-1] // 2 + 1)), 1, 0)
        return layout

    def _view(self, address: int, layout: Layout, cuda_type: int, padded: bool) -> Array:
        layout = self._layout(layout, cuda_type, padded)
        storage = DATA_TYPES[cuda_type].storage
        strides = [layout.distance * storage.itemsize, *(stride * storage.itemsize for stride in layout.strides)]
        return raw.strided(address, (self.batch, *layout.shape), strides, storage)


@dataclass
class _Slot:
    """A plan handle: empty after `create`, filled when a plan is made on it."""

    transform: Transform | None = None
    auto_allocation: bool = True
    callbacks: list[Callback] = field(default_factory=list)


_slots: Handles[_Slot] = Handles(lambda handle: CuFFTError(INVALID_PLAN, f"no cuFFT plan {handle:#x}"))
_local = threading.local()


def check_result(result: int) -> None:
    """Raise `CuFFTError` for a result other than success."""
    if result != 0:
        raise CuFFTError(result)


def getVersion() -> int:
    """Return the version of cuFFT that this module follows."""
    return 11401


def get_current_plan() -> Any:
    """Return the plan whose ``with`` block this thread is in, or None."""
    return getattr(_local, "plan", None)


def create() -> int:
    """Return a new handle without a plan."""
    return _slots.add(_Slot())


def setAutoAllocation(plan: int, autoAllocate: int) -> int:
    """Remember whether the plan allocates its work area; plans here need none."""
    _slots[plan].auto_allocation = bool(autoAllocate)
    return 0


def setJITCallback(plan: int, callback_name: str, callback: bytes, callback_type: int, caller_info: int) -> int:
    """Give a plan that is not made yet a callback, PTX in a container."""
    _slots[plan].callbacks.append(Callback.load(callback_name, callback, callback_type, caller_info))
    return 0


def _lengths(shape: Sequence[int], cuda_type: int, other: int) -> tuple[int, ...]:
    """Return a side's extents: the complex side of a real transform holds half of the last axis."""
    if cuda_type in _COMPLEX and other not in _COMPLEX:
        return (*shape[:-1], shape[-1] // 2 + 1)
    return tuple(shape)


def _layout(lengths: tuple[int, ...], embed: Sequence[int] | None, stride: int, distance: int) -> Layout:
    """Return a layout; without ``embed`` the data are packed, and stride is ignored. A distance of 0 means packed."""
    inner = list(lengths if embed is None else embed)
    if embed is None:
        stride, distance = 1, 0
    distance = distance or math.prod(inner)
    strides = [stride] * len(lengths)
    for axis in range(len(lengths) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * inner[axis + 1]
    return Layout(lengths, tuple(strides), distance)


def _make(
    shape: Sequence[int], inembed: Sequence[int] | None, istride: int, idist: int, itype: int,
    onembed: Sequence[int] | None, ostride: int, odist: int, otype: int, batch: int,
) -> Transform:  # fmt: skip
    if batch and (not 1 <= len(shape) <= 3 or any(extent < 1 for extent in shape) or batch < 0):
        raise CuFFTError(INVALID_SIZE, f"shape {tuple(shape)}, batch {batch}")
    # cuFFT uses the default layout on both sides as soon as either side has none.
    if inembed is None or onembed is None:
        inembed = onembed = None
    source = _layout(_lengths(shape, itype, otype), inembed, istride, idist)
    target = _layout(_lengths(shape, otype, itype), onembed, ostride, odist)
    return Transform(tuple(shape), batch, source, target, itype, otype, inembed is None)


class _Plan:
    """What the three kinds of plans share.

    Attributes
    ----------
    handle : int
        What the ``exec*`` functions take.
    gpus : None
        Plans use one GPU.
    work_area : None
        The real library's scratch memory; none is needed here.
    """

    def __init__(self, transform: Transform, prealloc_plan: int) -> None:
        self.handle = prealloc_plan or create()
        slot = _slots[self.handle]
        for callback in slot.callbacks:
            if callback.cuda_type != (transform.target_type if callback.stores else transform.source_type):
                raise CuFFTError(INVALID_TYPE, f"callback type {callback.kind} with a plan for other elements")
            if callback.stores:
                transform.store = callback
            else:
                transform.load = callback
        slot.transform = transform
        self.gpus = None
        self.work_area = None

    def __del__(self) -> None:
        # Guarded: an exception in __init__ leaves no handle, and at interpreter exit the table may be gone.
        if getattr(self, "handle", 0) and _slots is not None:
            _slots.pop(self.handle)
            self.handle = 0

    def __enter__(self) -> _Plan:
        _local.plan = self
        return self

    def __exit__(self, *exc: object) -> None:
        _local.plan = None

    def fft(self, a: Array, out: Array, direction: int) -> None:
        """Transform one array into another, or in place."""
        _execute(self.handle, raw.address_of(a), raw.address_of(out), direction, None)


class Plan1d(_Plan):
    """A batch of contiguous one-dimensional transforms."""

    def __init__(
        self, nx: int, fft_type: int, batch: int, devices: Any = None, *, out: Any = None, prealloc_plan: int = 0
    ) -> None:
        if devices is not None:
            raise CuFFTError(NOT_SUPPORTED, "cufft.Plan1d over several GPUs is not supported by the software GPU")
        itype, otype = _side_types(fft_type)
        super().__init__(_make((nx,), None, 1, 0, itype, None, 1, 0, otype, batch), prealloc_plan)
        self.nx = nx
        self.fft_type = fft_type
        self.batch = batch


class PlanNd(_Plan):
    """A batch of transforms in one to three dimensions with cuFFT's advanced data layout."""

    def __init__(
        self, shape: Sequence[int], inembed: Sequence[int] | None, istride: int, idist: int,
        onembed: Sequence[int] | None, ostride: int, odist: int, fft_type: int, batch: int, order: str,
        last_axis: int, last_size: int | None, *, prealloc_plan: int = 0,
    ) -> None:  # fmt: skip
        itype, otype = _side_types(fft_type)
        transform = _make(shape, inembed, istride, idist, itype, onembed, ostride, odist, otype, batch)
        super().__init__(transform, prealloc_plan)
        self.shape = tuple(shape)
        self.fft_type = fft_type
        self.order = order
        self.last_axis = last_axis
        self.last_size = last_size


class XtPlanNd(_Plan):
    """Like `PlanNd`, with the types given one by one: half precision, too."""

    def __init__(
        self, shape: Sequence[int], inembed: Sequence[int] | None, istride: int, idist: int, idtype: Any,
        onembed: Sequence[int] | None, ostride: int, odist: int, odtype: Any, batch: int, edtype: Any, *,
        order: str, last_axis: int, last_size: int | None, prealloc_plan: int = 0,
    ) -> None:  # fmt: skip
        itype, otype, etype = (_cuda_type(dtype) for dtype in (idtype, odtype, edtype))
        wide = {R_16F: C_16F, R_32F: C_32F, R_64F: C_64F}
        sides = (wide.get(itype, itype), wide.get(otype, otype))
        if sides != (etype, etype) or (itype not in _COMPLEX and otype not in _COMPLEX):
            raise ValueError("input/output/execution types mismatch")
        length = last_size if last_size is not None else shape[-1]
        if etype == C_16F and length & (length - 1):
            raise ValueError("size must be power of 2")
        transform = _make(shape, inembed, istride, idist, itype, onembed, ostride, odist, otype, batch)
        super().__init__(transform, prealloc_plan)
        self.shape = tuple(shape)
        self.itype, self.otype, self.etype = itype, otype, etype
        self.order = order
        self.last_axis = last_axis
        self.last_size = last_size


def _side_types(fft_type: int) -> tuple[int, int]:
    if fft_type not in _TYPES:
        raise CuFFTError(INVALID_TYPE, f"transform type {fft_type}")
    return _TYPES[fft_type]


def _cuda_type(dtype: Any) -> int:
    """Return the ``cudaDataType`` of a dtype; ``'E'`` is CuPy's name for complex half."""
    if dtype == "E":
        return C_16F
    kinds = {"e": R_16F, "f": R_32F, "d": R_64F, "F": C_32F, "D": C_64F}
    char = np.dtype(dtype).char
    if char not in kinds:
        raise TypeError(f"dtype is not supported: {dtype}")
    return kinds[char]


def _execute(plan: int, source: int, target: int, direction: int, fft_type: int | None) -> None:
    transform = _slots[plan].transform
    if transform is None:
        raise CuFFTError(INVALID_PLAN, "the plan was never made")
    if fft_type is not None and _TYPES[fft_type] != (transform.source_type, transform.target_type):
        raise CuFFTError(INVALID_TYPE, "the plan is for another type")
    transform.run(source, target, direction)


def execC2C(plan: int, idata: int, odata: int, direction: int) -> None:
    """Transform complex64."""
    _execute(plan, idata, odata, direction, C2C)


def execR2C(plan: int, idata: int, odata: int) -> None:
    """Transform float32 to complex64."""
    _execute(plan, idata, odata, FORWARD, R2C)


def execC2R(plan: int, idata: int, odata: int) -> None:
    """Transform complex64 back to float32."""
    _execute(plan, idata, odata, INVERSE, C2R)


def execZ2Z(plan: int, idata: int, odata: int, direction: int) -> None:
    """Transform complex128."""
    _execute(plan, idata, odata, direction, Z2Z)


def execD2Z(plan: int, idata: int, odata: int) -> None:
    """Transform float64 to complex128."""
    _execute(plan, idata, odata, FORWARD, D2Z)


def execZ2D(plan: int, idata: int, odata: int) -> None:
    """Transform complex128 back to float64."""
    _execute(plan, idata, odata, INVERSE, Z2D)


def XtExec(plan: int, idata: int, odata: int, direction: int) -> None:
    """Transform with any plan."""
    _execute(plan, idata, odata, direction, None)


REFUSED = complete(globals(), "cufft", CuFFTError)
