"""C function pointers into the driver, for machine code that launches and copies by itself."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migproxy.softgpu.libcuda import SoftCuda

_INT = ctypes.c_int
_UINT = ctypes.c_uint
_U64 = ctypes.c_uint64
_KINDS = {"p": _U64, "i": _INT, "u": _UINT, "h": ctypes.c_ushort, "b": ctypes.c_ubyte}

#: Driver function → its parameters: p pointer, handle, size; i int; u unsigned; h unsigned short; b byte.
_SIGNATURES = {
    "cuCtxGetCurrent": "p",
    "cuCtxSetCurrent": "p",
    "cuCtxSynchronize": "",
    "cuEventQuery": "p",
    "cuEventRecord": "pp",
    "cuEventSynchronize": "p",
    "cuLaunchHostFunc": "ppp",
    "cuLaunchKernel": "puuuuuuuppp",
    "cuLaunchCooperativeKernel": "puuuuuuupp",
    "cuLaunchKernelEx": "pppp",
    "cuGraphLaunch": "pp",
    "cuMemcpyAsync": "pppp",
    "cuMemcpyDtoDAsync": "pppp",
    "cuMemcpyDtoHAsync": "pppp",
    "cuMemcpyHtoDAsync": "pppp",
    "cuMemsetD16Async": "phpp",
    "cuMemsetD32Async": "pupp",
    "cuMemsetD8Async": "pbpp",
    "cuStreamQuery": "p",
    "cuStreamSynchronize": "p",
    "cuStreamWaitEvent": "ppu",
    "cuStreamWriteValue64": "pppu",
}


class CEntries:
    """Makes C entries for a driver and keeps them alive."""

    def __init__(self, driver: SoftCuda) -> None:
        self._driver = driver
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def knows(self, name: str) -> bool:
        return name in _SIGNATURES

    def pointer(self, name: str) -> int:
        """The address of the C entry for a driver function.

        Raises
        ------
        KeyError
            When the function has no C entry.
        """
        with self._lock:
            if name not in self._made:
                prototype = ctypes.CFUNCTYPE(_INT, *[_KINDS[kind] for kind in _SIGNATURES[name]])
                self._made[name] = prototype(getattr(self._driver, name))
            return ctypes.cast(self._made[name], ctypes.c_void_p).value or 0
