"""Second compilations of kernels that are launched often in the same way."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import native
from migproxy.softgpu.ptx.specialize import Constants, constants

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.engine import Code, Dim, Kernel

#: threads of a launch that is worth tuning for
HEAVY = 1 << 17


class Tuner:
    """Compiles a kernel again for a launch shape and parameters that keep coming back; see `specialize`."""

    #: the price of kernels that are not huge
    PRICE = 0.04
    KEYS = 32
    VARIANTS = 8

    def __init__(self, kernel: Kernel, length: int) -> None:
        self.kernel = kernel
        self.length = length
        self.lock = threading.Lock()
        self.time: dict[Constants, float] = {}
        self.code: dict[Constants, Code] = {}
        self.local = threading.local()

    @property
    def price(self) -> float:
        """Seconds of run time under one key that pay for a compilation."""
        return native.price(self.length) if self.length >= native.HUGE else self.PRICE

    def pick(self, grid: Dim, block: Dim, params: int) -> Code | None:
        """The variant for this launch, compiled if it has earned that."""
        kernel = self.kernel
        data = ctypes.string_at(params, kernel.param_size)
        key = constants(grid, block, data, kernel.params)
        self.local.key = None
        with self.lock:
            code = self.code.get(key)
            if code is not None:
                return code
            self.local.key = key
            if self.time.get(key, 0.0) < self.price or len(self.code) >= self.VARIANTS:
                return None
            self.local.key = None
            code = self.code[key] = kernel.variant(key, len(self.code) + 1)
            return code

    def spent(self, seconds: float) -> None:
        """Note the run time of the launch just done."""
        key = self.local.key
        if key is None:
            return
        with self.lock:
            if key not in self.time and len(self.time) >= self.KEYS:
                self.time.pop(next(iter(self.time)))
            self.time[key] = self.time.get(key, 0.0) + seconds

    def restart(self) -> None:
        """Forget what launches took: the kernel's code is better from now on."""
        with self.lock:
            self.time.clear()
