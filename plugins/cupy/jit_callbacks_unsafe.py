"""cuFFT's ``cufftXtSetJITCallback`` with memory that stays: what CuPy's own call passes may be gone too early.

cuFFT keeps the addresses of a callback's name and code, and reads both when the plan is made, not when they are set.
CuPy passes bytes that live as long as its call. In a program the code happens to stay, and so does, by luck, what was
the name; in an executor both came with a command and go with it, and the plan fails with CUFFT_INTERNAL_ERROR.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

#: Under the first name releases for CUDA 12 have the function as CUDA 13 has it; under the second an older one.
_NAMES = ("__cufftXtSetJITCallback_12_7", "cufftXtSetJITCallback")
#: What cuFFT opens by name when it links a callback. A program that compiled one has nvrtc loaded; an executor has not.
_LINKERS = ("nvJitLink", "nvrtc")


class Callback:
    """A callback's name, code and data in memory that stays where it is.

    Parameters
    ----------
    name : str
        The device function's.
    image : bytes
        Its LTO-IR.
    data : int
        The address that its threads get.
    """

    def __init__(self, name: str, image: bytes, data: int) -> None:
        self.size = len(image)
        self._name = ctypes.create_string_buffer(name.encode())
        self._image = ctypes.create_string_buffer(image, max(1, self.size))
        self._data = ctypes.c_void_p(data)

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Where name, code and the address of the data lie."""
        return ctypes.addressof(self._name), ctypes.addressof(self._image), ctypes.addressof(self._data)


def set_callback(handle: int, kind: int, callback: Callback) -> int:
    """Give a plan that is not made yet a callback; returns the ``cufftResult``.

    Precondition: `handle` came from cuFFT's ``cufftCreate``, and `callback` lives until that plan is destroyed.
    """
    name, image, data = callback.addresses
    return _function()(handle, name, image, callback.size, kind, data)


@cache
def _function() -> Callable[..., int]:
    from cuda import pathfinder  # as CuPy itself finds cuFFT

    for linker in _LINKERS:
        # Where one is lacking, cuFFT's own status says so.
        with contextlib.suppress(pathfinder.DynamicLibNotFoundError):
            pathfinder.load_nvidia_dynamic_lib(linker)
    loaded = pathfinder.load_nvidia_dynamic_lib("cufft")
    library: Any = ctypes.CDLL(loaded.abs_path, handle=loaded._handle_uint)
    function = next(found for name in _NAMES if (found := getattr(library, name, None)) is not None)
    words = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
    function.argtypes, function.restype = words, ctypes.c_int
    return function  # type: ignore[no-any-return]
