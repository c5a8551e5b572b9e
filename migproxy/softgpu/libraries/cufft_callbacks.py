"""cuFFT's callbacks on the software GPU: device functions that give a transform its input, or take its output.

A callback arrives as PTX in a container, which nvrtc's seam puts where LTO-IR was asked for. A kernel round it calls it
once for each element, with the offset at which the element lies, as cuFFT does. There is no shared memory for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from migproxy.errors import CudaError, KernelFault, PtxError
from migproxy.softgpu import container

from . import views_unsafe as raw
from .datatypes import C_32F, C_64F, DATA_TYPES, R_32F, R_64F
from .status import CuFFTError

Array = npt.NDArray[Any]

INVALID_VALUE, NOT_SUPPORTED = 4, 16
#: ``cufftXtCallbackType``: the elements' type; from `_STORES` on, the same again for output
_TYPES = (C_32F, C_64F, R_32F, R_64F)
_STORES = len(_TYPES)
#: how PTX passes such an element: the parameter's type and array, the words that it consists of
_PASSED = {
    C_32F: (".align 8 .b8", "[8]", ("b32", "b32")),
    C_64F: (".align 16 .b8", "[16]", ("b64", "b64")),
    R_32F: (".b32", "", ("b32",)),
    R_64F: (".b64", "", ("b64",)),
}
_KERNEL = "migproxy_cufft_callback"
_BLOCK = 128


@dataclass
class Callback:
    """A callback of a plan.

    Attributes
    ----------
    kind : int
        A ``cufftXtCallbackType``.
    data : int
        The address that the callback is called with.
    """

    kind: int
    data: int
    _kernel: Any = None
    _constants: list[Array] = field(default_factory=list)

    @classmethod
    def load(cls, name: str, image: bytes, kind: int, data: int) -> Callback:
        """Load a callback.

        Parameters
        ----------
        name : str
            The device function's, as it is in the source.
        image : bytes
            A container with its PTX.

        Raises
        ------
        CuFFTError
            Not supported, for LTO-IR; an invalid value, for other kinds and images without such a function.
        """
        if not 0 <= kind < 2 * _STORES:
            raise CuFFTError(INVALID_VALUE, f"callback type {kind}")
        if not container.is_container(image):
            raise CuFFTError(
                NOT_SUPPORTED,
                "the software GPU's cuFFT takes callbacks that nvrtc compiled in this function; LTO-IR of another "
                "compiler is not supported",
            )
        callback = cls(kind, data)
        try:
            callback._compile(name, [text.decode() for text in container.unwrap(image)])
        except (ValueError, PtxError) as error:
            raise CuFFTError(INVALID_VALUE, f"callback {name}: {error}") from error
        return callback

    @property
    def stores(self) -> bool:
        """Whether it takes output."""
        return self.kind >= _STORES

    @property
    def cuda_type(self) -> int:
        """The ``cudaDataType`` of its elements."""
        return _TYPES[self.kind % _STORES]

    def _compile(self, name: str, texts: list[str]) -> None:
        from migproxy.softgpu.ptx import load_module

        symbol = _symbol(name, texts)
        text = "\n".join([*texts, _wrapper(symbol, self.cuda_type, stores=self.stores)])
        self._kernel = load_module(text.encode(), place_global=self._place).kernels[_KERNEL]

    def _place(self, _: str, size: int, align: int) -> int:
        self._constants.append(np.zeros(size + align, np.uint8))
        return -(-raw.address_of(self._constants[-1]) // align) * align

    def fetch(self, address: int, offsets: Array) -> Array:
        """The elements at these offsets of what begins at an address, as the callback gives them."""
        values = np.empty(offsets.shape, DATA_TYPES[self.cuda_type].storage)
        self._run(address, offsets, values)
        return values

    def hand(self, address: int, offsets: Array, values: Array) -> None:
        """Have the callback store elements."""
        self._run(address, offsets, np.ascontiguousarray(values, DATA_TYPES[self.cuda_type].storage))

    def _run(self, address: int, offsets: Array, values: Array) -> None:
        offsets = np.ascontiguousarray(offsets, np.uint64)
        words = (address, self.data, raw.address_of(offsets), raw.address_of(values), offsets.size)
        parameters = np.array(words, np.uint64)
        blocks = -(-offsets.size // _BLOCK)
        try:
            self._kernel.launch((blocks, 1, 1), (_BLOCK, 1, 1), 0, raw.address_of(parameters))
        except KernelFault as fault:
            raise CudaError(fault.status, str(fault)) from fault


def _symbol(name: str, texts: Iterable[str]) -> str:
    """The PTX name of a C++ function of this name at namespace scope, or of an ``extern "C"`` one."""
    pattern = rf"^\.visible \.func\b[^\n]*?\b({re.escape(name)}|_Z{len(name)}{re.escape(name)}\w*)\("
    for text in texts:
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return found[1]
    raise ValueError("there is no such function")


def _wrapper(symbol: str, cuda_type: int, *, stores: bool) -> str:
    """A kernel that calls a callback for one element a thread."""
    before, after, words = _PASSED[cuda_type]
    size = DATA_TYPES[cuda_type].storage.itemsize
    places = [(word, n, n * size // len(words)) for n, word in enumerate(words)]
    element = f".param {before} element{after};"
    pointers = ".param .b64 p0; .param .b64 p1; .param .b64 p2; .param .b64 p3;"
    given = "st.param.b64 [p0], %data; st.param.b64 [p1], %offset; st.param.b64 [p2], %info; st.param.b64 [p3], 0;"
    if stores:
        move = [f"ld.global.{word} %w{n}, [%value+{at}]; st.param.{word} [element+{at}], %w{n};"
                for word, n, at in places]  # fmt: skip
        call = [*move, f"call {symbol}, (p0, p1, element, p2, p3);"]
    else:
        move = [f"ld.param.{word} %w{n}, [element+{at}]; st.global.{word} [%value+{at}], %w{n};"
                for word, n, at in places]  # fmt: skip
        call = [f"call (element), {symbol}, (p0, p1, p2, p3);", *move]
    parameters = ("data", "info", "offsets", "values", "count")
    return "\n".join([
        f".visible .entry {_KERNEL}({', '.join(f'.param .u64 {_KERNEL}_{name}' for name in parameters)}) {{",
        *(f".reg .b64 %{name}; ld.param.u64 %{name}, [{_KERNEL}_{name}];" for name in parameters),
        ".reg .b64 %x, %lane, %at, %offset, %value; .reg .b32 %block, %size, %thread; .reg .pred %beyond;",
        *(f".reg .{word} %w{n};" for word, n, _ in places),
        "mov.u32 %block, %ctaid.x; mov.u32 %size, %ntid.x; mov.u32 %thread, %tid.x;",
        "mul.wide.u32 %x, %block, %size; cvt.u64.u32 %lane, %thread; add.s64 %x, %x, %lane;",
        "setp.ge.u64 %beyond, %x, %count; @%beyond ret;",
        "shl.b64 %at, %x, 3; add.s64 %at, %offsets, %at; ld.global.u64 %offset, [%at];",
        f"mul.lo.u64 %at, %x, {size}; add.s64 %value, %values, %at;",
        "{", element, pointers, given, *call, "}", "ret;", "}", "",
    ])  # fmt: skip
