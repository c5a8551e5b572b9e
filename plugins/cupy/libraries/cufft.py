"""Stand-in for ``cupy.cuda.cufft``: plans are objects of the executor, which also holds their work areas."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import calls, remembered, standin

C2C, R2C, C2R, Z2Z, D2Z, Z2D = 41, 42, 44, 105, 106, 108
R_32F, R_64F, R_16F, C_32F, C_64F, C_16F = 0, 1, 2, 4, 5, 6
INVALID_DEVICE = 11
_OUTPUTS = {C2C: "F", R2C: "F", C2R: "f", Z2Z: "D", D2Z: "D", Z2D: "d"}
_EXECUTES = {C2C: "execC2C", R2C: "execR2C", C2R: "execC2R", Z2Z: "execZ2Z", D2Z: "execD2Z", Z2D: "execZ2D"}
_DATA_TYPES = {"e": R_16F, "f": R_32F, "d": R_64F, "E": C_16F, "F": C_32F, "D": C_64F}
_DTYPES = {R_16F: "e", R_32F: "f", R_64F: "d", C_32F: "F", C_64F: "D"}
_WIDER = {R_16F: C_16F, R_32F: C_32F, R_64F: C_64F}

_local = threading.local()


def get_current_plan() -> Any:
    """Return the plan whose ``with`` block this thread is in, or None."""
    return getattr(_local, "plan", None)


def _ints(values: Any) -> list[int] | None:
    return None if values is None else [int(value) for value in values]


class _Plan:
    """What the three kinds of plans share."""

    _library: standin.Library
    _commands: remembered.Commands
    handle: int = 0

    def _make(self, *arguments: Any, prealloc_plan: int = 0) -> None:
        """Make the plan in the executor; an error is raised here, as cuFFT reports it when a plan is made.

        With `prealloc_plan`, what `create` returned becomes the plan: it may carry callbacks.
        """
        import cupy

        number = prealloc_plan or calls.new_object()
        try:
            self._library.call(type(self).__name__, (number, *arguments), wait=True)
        except self._library.errors["CuFFTError"] as error:
            if error.result != 2 or prealloc_plan:
                raise
            # Some lengths need a large work area: give back what the pool only keeps.
            cupy.get_default_memory_pool().free_all_blocks()
            self._library.call(type(self).__name__, (number, *arguments), wait=True)
        self.handle = number
        self.gpus: list[int] | None = None
        self.work_area = cupy.cuda.alloc(0)

    def fft(self, a: Any, out: Any, direction: int) -> None:
        """Transform one array into another, or in place."""
        self._commands.post(key := ("fft", self.handle, a.data.ptr, out.data.ptr, int(direction)), lambda: key[1:])

    def __del__(self, _finalizing: Any = sys.is_finalizing) -> None:
        if self.handle and not _finalizing():
            number, self.handle = self.handle, 0
            calls.release(self._library.name, "destroyPlan", (number,))

    def __enter__(self) -> _Plan:
        _local.plan = self
        return self

    def __exit__(self, *_: object) -> None:
        _local.plan = None


class Plan1d(_Plan):
    """A batch of contiguous one-dimensional transforms."""

    def __init__(
        self, nx: int, fft_type: int, batch: int, *, devices: Any = None, out: Any = None, prealloc_plan: int = 0
    ) -> None:
        if devices is not None:
            if fft_type not in (C2C, Z2Z):
                raise ValueError("Currently for multiple GPUs only C2C and Z2Z are supported.")
            raise self._library.errors["CuFFTError"](INVALID_DEVICE)
        self._make(int(nx), int(fft_type), int(batch), prealloc_plan=prealloc_plan)
        self.nx = nx
        self.fft_type = fft_type
        self.batch = batch

    def fft(self, a: Any, out: Any, direction: int) -> None:
        """Transform one array into another."""
        if self.batch == 0:
            return
        super().fft(a, out, direction)

    def _output_dtype_and_shape(self, a: Any) -> tuple[tuple[int, ...], Any]:
        shape = list(a.shape)
        if self.fft_type in (R2C, D2Z):
            shape[-1] = shape[-1] // 2 + 1
        elif self.fft_type in (C2R, Z2D):
            shape[-1] = self.nx
        return tuple(shape), np.dtype(_OUTPUTS[self.fft_type]).type

    def get_output_array(self, a: Any) -> Any:
        """Return an array for the result."""
        import cupy

        shape, dtype = self._output_dtype_and_shape(a)
        return cupy.empty(shape, dtype)

    def check_output_array(self, a: Any, out: Any) -> None:
        """Raise unless ``out`` can hold the result."""
        shape, dtype = self._output_dtype_and_shape(a)
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}.")
        if out.dtype != dtype:
            raise ValueError(f"out dtype mismatch: found {out.dtype}, expected {dtype}")


class PlanNd(_Plan):
    """A batch of transforms in one to three dimensions with cuFFT's advanced data layout."""

    def __init__(
        self,
        shape: Sequence[int],
        inembed: Sequence[int] | None,
        istride: int,
        idist: int,
        onembed: Sequence[int] | None,
        ostride: int,
        odist: int,
        fft_type: int,
        batch: int,
        order: str,
        last_axis: int,
        last_size: int | None,
        *,
        prealloc_plan: int = 0,
    ) -> None:
        self._make(
            _ints(shape), _ints(inembed), int(istride), int(idist), _ints(onembed), int(ostride), int(odist),
            int(fft_type), int(batch), order, int(last_axis), None if last_size is None else int(last_size),
            prealloc_plan=prealloc_plan,
        )  # fmt: skip
        self.shape = tuple(shape)
        self.fft_type = fft_type
        self.order = order
        self.last_axis = last_axis
        self.last_size = last_size

    def _output_dtype_and_shape(self, a: Any) -> tuple[tuple[int, ...], Any]:
        shape = list(a.shape)
        if self.fft_type not in (C2C, Z2Z):
            shape[self.last_axis] = self.last_size
        return tuple(shape), np.dtype(_OUTPUTS[self.fft_type]).type

    def get_output_array(self, a: Any, order: str = "C") -> Any:
        """Return an array for the result."""
        import cupy

        shape, dtype = self._output_dtype_and_shape(a)
        return cupy.empty(shape, dtype, order=order)

    def check_output_array(self, a: Any, out: Any) -> None:
        """Raise unless ``out`` can hold the result."""
        if out is a:
            return
        if self.fft_type in (C2C, Z2Z):
            if out.shape != a.shape:
                raise ValueError("output shape mismatch")
            if out.dtype != a.dtype:
                raise ValueError("output dtype mismatch")
        else:
            if out.ndim != a.ndim:
                raise ValueError("output dimension mismatch")
            expected = [self.last_size if axis == self.last_axis else size for axis, size in enumerate(a.shape)]
            if list(out.shape) != expected:
                raise ValueError("output shape is incorrecct")
            char = a.dtype.char
            if out.dtype != np.dtype(char.upper() if self.fft_type in (R2C, D2Z) else char.lower()):
                raise ValueError("output dtype is unexpected")
        if (out.flags.f_contiguous, out.flags.c_contiguous) != (a.flags.f_contiguous, a.flags.c_contiguous):
            raise ValueError("output contiguity mismatch")


def _char(dtype: Any) -> str:
    char = dtype if dtype == "E" else np.dtype(dtype).char
    if char not in _DATA_TYPES:
        raise TypeError(f"dtype is not supported: {dtype}")
    return str(char)


class XtPlanNd(_Plan):
    """Like `PlanNd`, with the types given one by one: half precision, too."""

    def __init__(
        self,
        shape: Sequence[int],
        inembed: Sequence[int] | None,
        istride: int,
        idist: int,
        idtype: Any,
        onembed: Sequence[int] | None,
        ostride: int,
        odist: int,
        odtype: Any,
        batch: int,
        edtype: Any,
        *,
        order: str,
        last_axis: int,
        last_size: int | None,
        prealloc_plan: int = 0,
    ) -> None:
        chars = [_char(dtype) for dtype in (idtype, odtype, edtype)]
        self.itype, self.otype, self.etype = (_DATA_TYPES[char] for char in chars)
        wide = [_WIDER.get(kind, kind) for kind in (self.itype, self.otype)]
        if wide != [self.etype, self.etype] or (self.itype in _WIDER and self.otype in _WIDER):
            raise ValueError("input/output/execution types mismatch")
        length = shape[-1] if last_size is None else last_size
        if self.etype == C_16F and length & (length - 1):
            raise ValueError("size must be power of 2")
        self._make(
            _ints(shape), _ints(inembed), int(istride), int(idist), chars[0], _ints(onembed), int(ostride), int(odist),
            chars[1], int(batch), chars[2], order, int(last_axis), None if last_size is None else int(last_size),
            prealloc_plan=prealloc_plan,
        )  # fmt: skip
        self.shape = tuple(shape)
        self.order = order
        self.last_axis = last_axis
        self.last_size = last_size

    def _output_dtype_and_shape(self, a: Any) -> tuple[tuple[int, ...], Any]:
        shape = list(a.shape)
        if self.itype != self.otype:
            shape[self.last_axis] = self.last_size
        if self.otype == C_16F:
            raise NotImplementedError("complex32 is not supported yet, please allocate the output array manually")
        return tuple(shape), np.dtype(_DTYPES[self.otype]).type

    def get_output_array(self, a: Any, order: str = "C") -> Any:
        """Return an array for the result."""
        import cupy

        shape, dtype = self._output_dtype_and_shape(a)
        return cupy.empty(shape, dtype, order=order)


def make(name: str) -> ModuleType:
    """Return the stand-in."""
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)
    commands = remembered.Commands(library)
    error = library.errors["CuFFTError"]
    namespace = vars(module)
    for plan in (Plan1d, PlanNd, XtPlanNd):
        namespace[plan.__name__] = type(
            plan.__name__, (plan,), {"_library": library, "_commands": commands, "__module__": name}
        )

    def check_result(result: int) -> None:
        if result != 0:
            raise error(result)

    def set_callback(*_: Any) -> None:
        raise RuntimeError("cuFFT is dynamically linked and thus does not support callback")

    def create() -> int:
        number = calls.new_object()
        library.call("create", (number,), wait=True)
        return number

    def set_auto_allocation(plan: int, allocate: int) -> int:
        library.call("setAutoAllocation", (plan, allocate), wait=False)
        return 0

    def set_jit_callback(plan: int, function: str, image: bytes, kind: int, data: int) -> int:
        # It is linked where the plan is; cuFFT tells an error of it in this call.
        library.call("setJITCallback", (plan, function, image, kind, data), wait=True)
        return 0

    @cache
    def get_version() -> int:
        return int(library.call("getVersion", (), wait=True))

    def execute(function: str) -> Any:
        return lambda *arguments: library.call(function, arguments, wait=False)

    handlers: dict[str, Any] = {function: execute(function) for function in (*_EXECUTES.values(), "XtExec")}
    handlers.update(
        check_result=check_result,
        setCallback=set_callback,
        get_current_plan=get_current_plan,
        getVersion=get_version,
        create=create,
        setAutoAllocation=set_auto_allocation,
        setJITCallback=set_jit_callback,
    )
    standin.publish(module, library, handlers)
    return module
