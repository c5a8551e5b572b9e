"""NVML in a function: the session's slice is the only device, the quota its memory, this process its only one.

The same C functions serve ``cuda.bindings.nvml`` (its capsules) and ``pynvml`` (which opens the library by ctypes).
What would need the real device, or would change it, is refused with NVML's own status.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from migproxy_plugins.cuda.memory_unsafe import (
    Strings,
    c_library_function,
    get_string,
    get_u32,
    put_bytes,
    put_i32,
    put_string,
    put_u32,
    put_u64,
)

from migproxy.errors import CudaError, MigproxyError
from migproxy.interpose import capsules
from migproxy.jit.trampoline import make_constant, make_trampoline
from migproxy.session import api

log = logging.getLogger("migproxy.cuda")

# nvmlReturn_t
_SUCCESS: Final = 0
_UNINITIALIZED: Final = 1
INVALID_ARGUMENT: Final = 2
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
INSUFFICIENT_SIZE: Final = 7
_UNKNOWN: Final = 999

_TEXTS: Final = {
    0: b"Success",
    1: b"Uninitialized",
    2: b"Invalid Argument",
    3: b"Not Supported",
    4: b"Insufficient Permissions",
    6: b"Not Found",
    7: b"Insufficient Size",
    9: b"Driver Not Loaded",
    12: b"NVML Shared Library Not Found",
    13: b"Function Not Found",
    999: b"Unknown Error",
}

#: The handle of the one device.
DEVICE: Final = 0x4E564D4C0001
_BRAND_UNKNOWN: Final = 0
_VERSION: Final = b"12.575.51"
_VERSION_FILE: Final = Path("/proc/driver/nvidia/version")
#: CUDA version → the driver branch that came with it, the newest first.
_BRANCHES: Final = (
    (13010, 590), (13000, 580), (12090, 575), (12080, 570), (12060, 560), (12050, 555), (12040, 550), (12030, 545),
    (12020, 535), (12010, 530), (12000, 525), (0, 470),
)  # fmt: skip

Handler = Callable[..., None]
#: name → (prototype, handler)
FUNCTIONS: dict[str, tuple[str, Handler]] = {}
_strings = Strings()


class NvmlError(MigproxyError):
    """A call failed; `status` is its ``nvmlReturn_t``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def serves(parameters: str, *names: str) -> Callable[[Handler], Handler]:
    """Register the decorated handler under its name and `names`, with its C parameters."""

    def register(handler: Handler) -> Handler:
        for name in (handler.__name__, *names):
            FUNCTIONS[name] = (f"nvmlReturn_t ({parameters})", handler)
        return handler

    return register


class _Library:
    """Whether a program has initialised the library, and how often."""

    users = 0


def _status_of(handler: Handler) -> Callable[..., int]:
    starts = handler in (nvmlInit_v2, nvmlInitWithFlags)

    def call(*arguments: Any) -> int:
        if not (starts or _Library.users):
            return _UNINITIALIZED
        try:
            handler(*arguments)
        except NvmlError as error:
            return error.status
        except CudaError as error:
            return INVALID_ARGUMENT if error.status == 1 else _UNKNOWN
        except MigproxyError as error:
            log.warning("%s: %s", handler.__name__, error)
            return _UNKNOWN
        return _SUCCESS

    call.__name__ = call.__qualname__ = handler.__name__
    return call


def check_device(device: int) -> None:
    """Raise the status of an invalid argument unless `device` is the one there is."""
    if device != DEVICE:
        raise NvmlError(INVALID_ARGUMENT)


def _text(buffer: int, length: int, text: bytes) -> None:
    if length <= len(text):
        raise NvmlError(INSUFFICIENT_SIZE)
    put_string(buffer, length, text)


@serves("void", "nvmlInit")
def nvmlInit_v2() -> None:
    api.init()
    _Library.users += 1


@serves("unsigned int")
def nvmlInitWithFlags(flags: int) -> None:
    nvmlInit_v2()


@serves("void")
def nvmlShutdown() -> None:
    """The session goes on."""
    _Library.users -= 1


def driver_version() -> bytes:
    """Return the kernel driver's version as text; for the software GPU, the branch that came with its CUDA version."""
    if api.device_facts().kind != "software":
        with contextlib.suppress(OSError):
            found = re.search(rb"Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", _VERSION_FILE.read_bytes())
            if found:
                return found[1]
    version = api.driver_version()
    branch = next(branch for least, branch in _BRANCHES if version >= least)
    return b"%d.00" % branch


@serves("char *, unsigned int")
def nvmlSystemGetDriverVersion(buffer: int, length: int) -> None:
    _text(buffer, length, driver_version())


@serves("char *, unsigned int")
def nvmlSystemGetNVMLVersion(buffer: int, length: int) -> None:
    _text(buffer, length, _VERSION)


@serves("int *", "nvmlSystemGetCudaDriverVersion_v2")
def nvmlSystemGetCudaDriverVersion(version: int) -> None:
    put_i32(version, api.driver_version())


@serves("unsigned int, char *, unsigned int")
def nvmlSystemGetProcessName(pid: int, buffer: int, length: int) -> None:
    if pid != os.getpid():
        raise NvmlError(NOT_FOUND)
    put_string(buffer, length, b"python")


@serves("unsigned int *", "nvmlDeviceGetCount_v2")
def nvmlDeviceGetCount(count: int) -> None:
    put_u32(count, api.device_count())


@serves("unsigned int, nvmlDevice_t *", "nvmlDeviceGetHandleByIndex_v2")
def nvmlDeviceGetHandleByIndex(index: int, device: int) -> None:
    if index:
        raise NvmlError(INVALID_ARGUMENT)
    put_u64(device, DEVICE)


def device_uuid() -> bytes:
    """Return the text of the device's UUID."""
    number = api.device_uuid(0).hex()
    prefix = "MIG" if api.device_facts().kind == "mig" else "GPU"
    return f"{prefix}-{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:]}".encode()


@serves("char const *, nvmlDevice_t *")
def nvmlDeviceGetHandleByUUID(uuid: int, device: int) -> None:
    if get_string(uuid) not in (device_uuid(), device_uuid().partition(b"-")[2]):
        raise NvmlError(NOT_FOUND)
    put_u64(device, DEVICE)


@serves("char const *, nvmlDevice_t *", "nvmlDeviceGetHandleByPciBusId_v2")
def nvmlDeviceGetHandleByPciBusId(bus_id: int, device: int) -> None:
    wanted = get_string(bus_id).decode("utf-8", "replace").lower()
    if not wanted or not wanted.endswith(api.device_pci_bus_id(0).lower()):
        raise NvmlError(NOT_FOUND)
    put_u64(device, DEVICE)


@serves("nvmlDevice_t, char *, unsigned int")
def nvmlDeviceGetName(device: int, buffer: int, length: int) -> None:
    check_device(device)
    _text(buffer, length, api.device_name(0).encode())


@serves("nvmlDevice_t, char *, unsigned int")
def nvmlDeviceGetUUID(device: int, buffer: int, length: int) -> None:
    check_device(device)
    _text(buffer, length, device_uuid())


@serves("nvmlDevice_t, unsigned int *", "nvmlDeviceGetMinorNumber")
def nvmlDeviceGetIndex(device: int, index: int) -> None:
    check_device(device)
    put_u32(index, 0)


@serves("nvmlDevice_t, nvmlBrandType_t *")
def nvmlDeviceGetBrand(device: int, brand: int) -> None:
    check_device(device)
    put_u32(brand, int(api.device_facts().card.get("brand", _BRAND_UNKNOWN)))


@serves("nvmlDevice_t, int *, int *")
def nvmlDeviceGetCudaComputeCapability(device: int, major: int, minor: int) -> None:
    check_device(device)
    capability = api.compute_capability(0)
    put_i32(major, capability[0])
    put_i32(minor, capability[1])


@serves("nvmlDevice_t, nvmlMemory_t *")
def nvmlDeviceGetMemoryInfo(device: int, memory: int) -> None:
    check_device(device)
    free, total = api.mem_get_info()
    put_bytes(memory, struct.pack("<3Q", total, free, total - free))


@serves("nvmlDevice_t, nvmlMemory_v2_t *")
def nvmlDeviceGetMemoryInfo_v2(device: int, memory: int) -> None:
    check_device(device)
    free, total = api.mem_get_info()
    # version (kept), total, reserved, free, used
    put_bytes(memory + 8, struct.pack("<4Q", total, 0, free, total - free))


def pci_ids() -> tuple[int, int]:
    """Return the PCI device and subsystem identifiers; 0 where the broker could not read them."""
    card = api.device_facts().card
    return int(card.get("pci_device_id", 0)), int(card.get("pci_subsystem_id", 0))


def pci_place() -> tuple[str, int, int, int]:
    """Return the bus id as NVML writes it (a domain of eight digits), and its domain, bus and device."""
    domain, bus, rest = api.device_pci_bus_id(0).split(":")
    return f"{int(domain, 16):08X}:{bus}:{rest}", int(domain, 16), int(bus, 16), int(rest.partition(".")[0], 16)


@serves("nvmlDevice_t, nvmlPciInfo_t *", "nvmlDeviceGetPciInfo", "nvmlDeviceGetPciInfo_v2")
def nvmlDeviceGetPciInfo_v3(device: int, info: int) -> None:
    check_device(device)
    text, *numbers = pci_place()
    # busIdLegacy[16], domain, bus, device, pciDeviceId, pciSubSystemId, busId[32]
    put_bytes(info, struct.pack("<16s5I32s", text[-12:].encode(), *numbers, *pci_ids(), text.encode()))


@serves("nvmlDevice_t, nvmlComputeMode_t *")
def nvmlDeviceGetComputeMode(device: int, mode: int) -> None:
    check_device(device)
    put_u32(mode, 0)


@serves(
    "nvmlDevice_t, unsigned int *, nvmlProcessInfo_t *",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses",
)
def nvmlDeviceGetComputeRunningProcesses_v3(device: int, count: int, processes: int) -> None:
    check_device(device)
    room = get_u32(count)
    put_u32(count, 1)
    if not room:
        raise NvmlError(INSUFFICIENT_SIZE)
    free, total = api.mem_get_info()
    # pid, usedGpuMemory, gpuInstanceId, computeInstanceId (none)
    put_bytes(processes, struct.pack("<I4xQII", os.getpid(), total - free, 0xFFFFFFFF, 0xFFFFFFFF))


@serves(
    "nvmlDevice_t, unsigned int *, nvmlProcessInfo_t *",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
)
def nvmlDeviceGetGraphicsRunningProcesses_v3(device: int, count: int, processes: int) -> None:
    check_device(device)
    put_u32(count, 0)


def _error_string(status: int) -> int:
    return _strings.address(_TEXTS.get(status, b"Unknown Error"))


def refusal(name: str) -> int:
    """Return the status with which a function that is not served is refused: setters need a permission nobody has.

    To make a set of events changes nothing; there are just no events to wait for.
    """
    if "Event" in name:
        return NOT_SUPPORTED
    changes = any(word in name for word in ("Set", "Reset", "Create", "Destroy", "Clear", "Remove", "Modify"))
    return NO_PERMISSION if changes else NOT_SUPPORTED


def functions() -> dict[str, tuple[str, Handler]]:
    """Return what is served, by name: prototype and handler."""
    for family in ("device", "card", "usage"):
        importlib.import_module(f"migproxy_plugins.cuda.nvml_{family}")
    return FUNCTIONS


def patch_cynvml(module: ModuleType) -> None:
    """Point every capsule of ``cuda.bindings.cynvml`` at the session's view."""
    functions()
    entries: dict[str, Callable[..., Any] | int] = {}
    for name, text in capsules.read(module).items():
        if name == "nvmlErrorString":
            entries[name] = _error_string
        elif name in FUNCTIONS:
            entries[name] = _status_of(FUNCTIONS[name][1])
        elif text.startswith("nvmlReturn_t"):
            entries[name] = make_constant(refusal(name))
    capsules.replace(module, entries)


class VirtualLibrary:
    """What stands where ``pynvml`` holds the library that it opened by ctypes."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        found = self._functions.get(name)
        if found is None:
            if name == "nvmlErrorString":
                address = make_trampoline("char const *(int)", _error_string, holds_gil=False, on_error=0)
            elif name in FUNCTIONS:
                prototype, handler = FUNCTIONS[name]
                plain = prototype.replace("nvmlReturn_t", "int").replace("nvmlDevice_t,", "void *,")
                address = make_trampoline(plain, _status_of(handler), holds_gil=False, on_error=_UNKNOWN)
            else:
                log.info("refused: %s: not the session's to answer", name)
                address = make_constant(refusal(name))
            found = self._functions[name] = c_library_function(address)
        return found


def patch_pynvml(module: ModuleType) -> None:
    """Give ``pynvml`` the session's view instead of libnvidia-ml."""
    functions()
    module.nvmlLib = VirtualLibrary()  # type: ignore[attr-defined]
