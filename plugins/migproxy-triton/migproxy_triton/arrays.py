"""Arguments of kernels: Triton takes what has ``data_ptr()``; CuPy's arrays and others have an interface instead."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from migproxy.session import api


class DeviceArray:
    """A device array as Triton sees one; everything else is asked of the array itself.

    Parameters
    ----------
    array : object
        Has ``__cuda_array_interface__``.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self._facts = array.__cuda_array_interface__
        self.dtype = array.dtype

    def data_ptr(self) -> int:
        """Return the address of the first element."""
        return int(self._facts["data"][0])

    def zero_(self) -> DeviceArray:
        """Fill with zeros; Triton's tuner does between runs."""
        self._array.fill(0)
        return self

    def clone(self) -> DeviceArray:
        """Return a copy."""
        return DeviceArray(self._array.copy())

    def copy_(self, other: DeviceArray) -> DeviceArray:
        """Take another one's contents; both are contiguous and of one size."""
        api.memcpy_dtod(self.data_ptr(), other.data_ptr(), self._array.nbytes)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)


def adapt(value: Any) -> Any:
    """Return a kernel's argument as Triton takes it."""
    if hasattr(value, "data_ptr") or not hasattr(value, "__cuda_array_interface__"):
        return value
    return DeviceArray(value)


def install(module: ModuleType) -> None:
    """Let ``kernel[grid](…)`` take device arrays, for jitted and for tuned kernels."""
    interface = module.KernelInterface

    def getitem(self: Any, grid: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            adapted = {name: adapt(value) for name, value in options.items()}
            return self.run(*map(adapt, arguments), grid=grid, warmup=False, **adapted)

        return run

    interface.__getitem__ = getitem
