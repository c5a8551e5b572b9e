"""The driver boundary: libcuda's C ABI, from the real library or from the software GPU.

The executor calls functions by their unversioned names with raw integers (pointers as addresses); each returns the
``CUresult``. For a real GPU every function pointer comes from ``cuGetProcAddress`` for one ABI version, so that
struct layouts are the ones
the handlers were written for; functions a newer driver adds are reached by asking for their version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from migproxy.errors import CudaError, MigproxyError

#: The ABI the handlers are written for: CUDA 12.8.
ABI_VERSION = 12080
CUDA_SUCCESS = 0
CUDA_ERROR_INVALID_VALUE = 1
_IPC_HANDLE_BYTES = 64
CUDA_ERROR_NOT_READY = 600


class _IpcHandle(ctypes.Structure):
    """``CUipcEventHandle``, which C passes by value."""

    _fields_ = [("reserved", ctypes.c_uint8 * _IPC_HANDLE_BYTES)]


class Driver(Protocol):
    """What the handlers need of a driver."""

    kind: str

    def status(self, name: str, *arguments: int) -> int:
        """Call a driver function and return its ``CUresult``."""

    def pointer(self, name: str) -> int:
        """Return a C function pointer."""

    @property
    def detail(self) -> str:
        """What the driver knows about its last failure beyond the status."""


class _Base:
    """Conveniences over `status`."""

    kind = ""

    @property
    def checks_memory(self) -> bool:
        """Whether the device wants to know every allocation that a function places."""
        return False

    @property
    def compiling(self) -> bool:
        """Whether the device itself compiles a kernel that was launched; that is no time of the kernel's."""
        return False

    def note_allocation(self, address: int, size: int) -> None:
        """Say that a function placed an allocation, or (size 0) freed it; only for a device that `checks_memory`."""

    def status(self, name: str, *arguments: int) -> int:
        raise NotImplementedError

    @property
    def detail(self) -> str:
        return ""

    def call(self, name: str, *arguments: int) -> None:
        """Call a driver function; raises CudaError unless it succeeds."""
        status = self.status(name, *arguments)
        if status:
            raise CudaError(status, self.detail or name)

    def out(self, name: str, *arguments: int, before: tuple[int, ...] = (), kind: Any = ctypes.c_uint64) -> int:
        """Call ``name(*before, &value, *arguments)`` and return the value it wrote."""
        value = kind(0)
        self.call(name, *before, ctypes.addressof(value), *arguments)
        result: int = value.value
        return result


class NativeDriver(_Base):
    """The real libcuda.

    Raises
    ------
    MigproxyError
        libcuda cannot be loaded.
    """

    kind = "gpu"

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise MigproxyError(f"libcuda.so.1 cannot be loaded: {error}") from error
        self._functions: dict[tuple[str, int], Callable[..., int]] = {}
        self._pointers: dict[tuple[str, int], int] = {}
        self._library.cuGetProcAddress_v2.argtypes = [
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_void_p,
        ]

    def pointer(self, name: str, version: int = ABI_VERSION) -> int:
        """Return the address of a driver function for one ABI version.

        Raises
        ------
        CudaError
            801 when this driver does not have it.
        """
        key = name, version
        address = self._pointers.get(key)
        if address is None:
            found = ctypes.c_void_p()
            # Flags 1: the legacy default stream; per-thread streams are made explicit in the function.
            self._library.cuGetProcAddress_v2(name.encode(), ctypes.addressof(found), version, 1, None)
            if not found.value:
                raise CudaError(801, f"{name} is not in this driver")
            address = self._pointers[key] = found.value
        return address

    def function(self, name: str, arity: int, version: int = ABI_VERSION) -> Callable[..., int]:
        """Return a callable over 64-bit integers; smaller C integers read the low part of their register."""
        return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * arity)(self.pointer(name, version))

    def export_event(self, event: int) -> tuple[bytes, list[int]]:
        """Return what another process needs to open an event: the driver's own handle, and no descriptor.

        Raises
        ------
        CudaError
            The driver's.
        """
        handle = _IpcHandle()
        self.call("cuIpcGetEventHandle", ctypes.addressof(handle), event)
        return bytes(handle.reserved), []

    def import_event(self, data: bytes, fds: Sequence[int]) -> int:
        """Open an event of another process; returns a real event.

        Raises
        ------
        CudaError
            The driver's.
        """
        if len(data) != _IPC_HANDLE_BYTES or fds:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, "no handle of an event")
        event = ctypes.c_uint64()
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, _IpcHandle)(self.pointer("cuIpcOpenEventHandle"))
        status: int = function(ctypes.addressof(event), _IpcHandle.from_buffer_copy(data))
        if status:
            raise CudaError(status, "cuIpcOpenEventHandle")
        return event.value

    def status(self, name: str, *arguments: int) -> int:
        key = name, len(arguments)
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = self.function(name, len(arguments))
        return function(*arguments)


class SoftwareDriver(_Base):
    """The software GPU, in this process."""

    kind = "software"

    def __init__(self) -> None:
        from migproxy.softgpu.compiling import COMPILING
        from migproxy.softgpu.libcuda import SoftCuda

        self.device = SoftCuda()
        self._compiling = COMPILING

    @property
    def checks_memory(self) -> bool:
        """Whether kernels run in check mode."""
        return bool(self.device.checks_memory)

    @property
    def compiling(self) -> bool:
        """Whether a launched kernel is being compiled."""
        return bool(self._compiling)

    def export_event(self, event: int) -> tuple[bytes, list[int]]:
        """Return what another process needs to open an event: a descriptor of its page.

        Raises
        ------
        CudaError
            400 or 1: it is no event for other processes.
        """
        return b"", [self.device.export_event(event)]

    def import_event(self, data: bytes, fds: Sequence[int]) -> int:
        """Open an event of another process.

        Raises
        ------
        CudaError
            1: what came is no event.
        """
        if data or len(fds) != 1:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, "no page of an event")
        return self.device.import_event(fds[0])

    def note_allocation(self, address: int, size: int) -> None:
        """Say that a function placed an allocation, or freed it."""
        self.device.note_allocation(address, size)

    def status(self, name: str, *arguments: int) -> int:
        function = getattr(self.device, name, None)
        if function is None:
            raise CudaError(801, f"{name} is not in this driver")
        return int(function(*arguments))

    def pointer(self, name: str) -> int:
        return int(self.device.callback_pointer(name))

    @property
    def detail(self) -> str:
        return str(self.device.last_error_detail or "")


AnyDriver = NativeDriver | SoftwareDriver


def open_driver(device: str) -> AnyDriver:
    """Open the driver for a device as the broker names it: ``"software"``, an index, or a MIG UUID.

    A real device is chosen by ``CUDA_VISIBLE_DEVICES``, which the broker set before this process started, so that the
    executor sees exactly one.
    """
    driver: AnyDriver = SoftwareDriver() if device == "software" else NativeDriver()
    driver.call("cuInit", 0)
    return driver
