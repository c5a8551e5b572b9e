"""The C functions that a call of CuPy's library modules comes down to, so that the pump can repeat the call by itself.

CuPy's functions of cuBLAS and cuRAND set the stream and hand their arguments on in the same order (checked for CuPy
14.2 against its sources, cublas.pyx and curand.pyx; the C signatures are in the libraries' manuals). Those of cuFFT's
plans and of CUB say below what they come down to.

Preconditions: the modules are the real ones, on a GPU; what is given was checked, and carried out by the module itself
before. Whatever is not known here is None, and then the module does it again.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from migproxy_plugins.cupy import roles
from migproxy_plugins.cupy.roles import Kind
from migproxy_plugins.cupy.signatures import Signature

from migproxy.executor.repeat_tables_unsafe import NativeCall

#: Library → how it names its functions, and the one that gives a handle its stream.
_PREFIXES = {"cublas": ("cublas", "cublasSetStream_v2"), "curand": ("curand", "curandSetStream")}
#: They take the types of cublasComputeType_t from this number on; below it CuPy calls an older form.
FIRST_COMPUTE_TYPE = 64
_COMPUTE_TYPED = ("gemmEx", "gemmStridedBatchedEx")
#: cuRAND functions whose numbers are floats in C; in the others they are doubles.
_FLOATS = ("generateNormal", "generateLogNormal")
#: As CuPy's cuFFT module numbers the kinds of transforms.
TRANSFORMS = {
    41: ("cufftExecC2C", True),
    42: ("cufftExecR2C", False),
    44: ("cufftExecC2R", False),
    105: ("cufftExecZ2Z", True),
    106: ("cufftExecD2Z", False),
    108: ("cufftExecZ2D", False),
}
XT_EXEC = "cufftXtExec"
SET_FFT_STREAM = "cufftSetStream"
#: CUB's functions as CuPy's module exports them: (workspace, its size, x, y, counts …, stream, operation, data type).
CUB_SYMBOLS = {
    "device_reduce": ("_Z17cub_device_reducePvRmS_S_iP11CUstream_stii", 1),
    "device_segmented_reduce": ("_Z27cub_device_segmented_reducePvRmS_S_iiP11CUstream_stii", 2),
    "device_scan": ("_Z15cub_device_scanPvRmS_S_iP11CUstream_stii", 1),
}
CUB_FUNCTIONS = frozenset(CUB_SYMBOLS)
#: CUB's operations whose result is the reduced element itself: sum, minimum, maximum, product.
_PLAIN_OPERATIONS = frozenset({0, 1, 2, 7})


@cache
def address(file: str, symbol: str) -> int:
    """Return the address of a C function that a loaded extension module, or a library it needs, exports; 0 if none."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(file), symbol), ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


def symbols(short: str, name: str) -> tuple[str, ...]:
    """Return the C names that a function of cuBLAS or cuRAND may have, the likeliest first."""
    plain = f"{_PREFIXES[short][0]}{name[0].upper()}{name[1:]}"
    return (f"{plain}_v2", plain) if short == "cublas" else (plain,)


def library_calls(
    short: str, module: Any, signature: Signature, values: Sequence[Any], stream: int
) -> tuple[NativeCall, ...]:
    """Return the C calls of a function of cuBLAS or cuRAND, () if they are not known.

    Parameters
    ----------
    short : str
        The library's short name.
    module : ModuleType
        CuPy's module of it.
    signature : Signature
    values : sequence
        The real arguments: handles, addresses, numbers.
    stream : int
    """
    if short not in _PREFIXES or not roles.works_on_stream(short, signature):
        return ()
    if signature.name in _COMPUTE_TYPED and values[-2] < FIRST_COMPUTE_TYPE:
        return ()
    if any(role.kind is Kind.COMPLEX for role in roles.roles(short, signature)):
        return ()
    file = module.__file__
    function = next(filter(None, (address(file, each) for each in symbols(short, signature.name))), 0)
    set_stream = address(file, _PREFIXES[short][1])
    if not function or not set_stream:
        return ()
    numbers = [value for value in values if isinstance(value, float)]
    words = tuple(int(value) for value in values if not isinstance(value, float))
    bits = tuple(_bits(signature.name, number) for number in numbers)
    return NativeCall(set_stream, (words[0], stream)), NativeCall(function, words, bits)


def _bits(name: str, number: float) -> int:
    if name in _FLOATS:
        return int.from_bytes(struct.pack("<f", number), "little")
    if name.endswith("Double"):  # CuPy takes a float and hands it on as a double
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return int.from_bytes(struct.pack("<d", number), "little")


def plan_calls(module: Any, plan: Any, source: int, target: int, direction: int, stream: int) -> tuple[NativeCall, ...]:
    """Return the C calls of a cuFFT plan's ``fft``, () if they are not known."""
    name, directed = TRANSFORMS.get(getattr(plan, "fft_type", 0), ("", False))
    if hasattr(plan, "etype"):  # an XtPlanNd
        name, directed = XT_EXEC, True
    function, set_stream = (address(module.__file__, each) if each else 0 for each in (name, SET_FFT_STREAM))
    if not function or not set_stream or getattr(plan, "gpus", None) or getattr(plan, "batch", 1) == 0:
        return ()
    words = (plan.handle, source, target, direction) if directed else (plan.handle, source, target)
    return NativeCall(set_stream, (plan.handle, stream)), NativeCall(function, words)


class Workspaces:
    """Scratch memory of CUB's calls: calls on one stream follow each other, so they share it.

    Parameters
    ----------
    allocate : callable
        Takes a size in bytes, returns an object with ``ptr`` that gives the memory back when it goes.
    """

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        self._allocate = allocate
        self._by_stream: dict[int, tuple[int, Any]] = {}

    def of(self, stream: int, size: int) -> Any:
        """Return memory of at least `size` bytes."""
        found = self._by_stream.get(stream)
        if found is None or found[0] < size:
            found = self._by_stream[stream] = size, self._allocate(size)
        return found[1]


def cub_calls(
    module: Any, name: str, arrays: Sequence[Any], facts: Sequence[Any], stream: int, spaces: Workspaces
) -> tuple[tuple[NativeCall, ...], object]:
    """Return the C call of a function of CuPy's CUB module, () if it is not known, and what its pointers point to.

    Parameters
    ----------
    module : ModuleType
    name : str
        ``device_reduce``, ``device_segmented_reduce`` or ``device_scan``.
    arrays : sequence of cupy.ndarray
        Source and target; they are one for a scan, which works in place.
    facts : sequence
        The number of the operation, and for a segmented reduction the length of a segment.
    stream : int
    spaces : Workspaces
    """
    from cupy.cuda.common import _get_dtype_id

    source, target = arrays
    operation, *lengths = facts
    symbol, counts = CUB_SYMBOLS[name]
    function, measure = address(module.__file__, symbol), address(module.__file__, size_symbol(symbol))
    if not function or not measure or not _is_plain(name, source, target, operation):
        return (), None
    sizes = (source.size,) if counts == 1 else (source.size // lengths[0], lengths[0])
    kind = _get_dtype_id(source.dtype)
    tail = (*sizes, stream, operation, kind)
    needed = _measure(measure, len(sizes))(source.data.ptr, target.data.ptr, *tail)
    space, size = spaces.of(stream, needed), ctypes.c_size_t(needed)
    words = (space.ptr, ctypes.addressof(size), source.data.ptr, target.data.ptr, *tail)
    return (NativeCall(function, words, status=False),), (space, size)


def cub_arguments(name: str, ready: Sequence[Any]) -> tuple[tuple[Any, Any], tuple[int, ...]]:
    """Return arrays and facts, as `cub_calls` takes them, from a call's arguments as they travel."""
    if name == "device_scan":
        source, operation = ready
        return (source, source), (int(operation),)
    source, operation, _, _, target, _, *length = ready
    return (source, target), (int(operation), *(int(each) for each in length))


def _is_plain(name: str, source: Any, target: Any, operation: int) -> bool:
    """Tell whether CUB's result is the target itself, without a conversion or copy behind it."""
    if name == "device_scan":
        return bool(source.flags.c_contiguous and 0 < source.size <= np.iinfo(np.int32).max)
    both = target.dtype == source.dtype and operation in _PLAIN_OPERATIONS and source.size > 0
    if name == "device_reduce":
        return bool(both and source.flags.c_contiguous and target.size == 1)
    return bool(
        both
        and (source.flags.c_contiguous or source.flags.f_contiguous)
        and (target.flags.c_contiguous if source.flags.c_contiguous else target.flags.f_contiguous)
    )


def size_symbol(symbol: str) -> str:
    """Return the mangled name of what tells the size of a CUB function's workspace."""
    length, name, rest = _split_symbol(symbol)
    asked = f"{name}_get_workspace_size"
    return f"_Z{length + len('_get_workspace_size')}{asked}{rest.replace('PvRmS_S_', 'PvS_', 1)}"


def _split_symbol(symbol: str) -> tuple[int, str, str]:
    digits = "".join(each for each in symbol[2:4] if each.isdigit())
    length, start = int(digits), 2 + len(digits)
    return length, symbol[start : start + length], symbol[start + length :]


@cache
def _measure(function: int, counts: int) -> Callable[..., int]:
    kinds = (*[ctypes.c_void_p] * 2, *[ctypes.c_int] * counts, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    return ctypes.CFUNCTYPE(ctypes.c_size_t, *kinds)(function)


__all__ = ["Workspaces", "address", "cub_calls", "library_calls", "plan_calls", "symbols"]
