"""What this machine can compute on, as NVML tells it. Nothing here opens a CUDA context."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from migproxy.errors import MigproxyError

#: Capacity of the software GPU unless told otherwise: half of the machine's memory, at most this much.
SOFTWARE_MEMORY_LIMIT = 16 << 30


class DriverBroken(MigproxyError):
    """An NVIDIA driver is installed and does not work. Software is not silently put in its place."""


@dataclass(frozen=True)
class Slice:
    """One thing to compute on.

    Attributes
    ----------
    name : str
        How users and messages call it: ``software``, ``gpu0``, or the MIG instance's UUID.
    kind : str
        ``"software"``, ``"gpu"`` or ``"mig"``.
    visible : str
        What an executor's `CUDA_VISIBLE_DEVICES` must be; empty for software.
    memory : int
        Bytes in all.
    index : int
        NVML's index of the (parent) GPU; -1 for software.
    uuid : str
        The GPU's or MIG instance's UUID.
    device_name, compute_capability, profile
        For people; `profile` is the MIG profile.
    """

    name: str
    kind: str
    visible: str
    memory: int
    index: int = -1
    uuid: str = ""
    device_name: str = ""
    compute_capability: tuple[int, int] = (0, 0)
    profile: str = ""


@dataclass(frozen=True)
class Inventory:
    """Slices of real GPUs. `driver` is the driver's version, empty where there is none; `mig_parents` cannot compute
    as a whole."""

    driver: str = ""
    slices: tuple[Slice, ...] = ()
    mig_parents: tuple[str, ...] = field(default=())


def _library_exists(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        # A library that is there and fails to load is a broken driver, not an absent one.
        return "cannot open shared object file" not in str(error)
    return True


def driver_present() -> bool:
    """Tell whether an NVIDIA driver is installed, working or not."""
    return os.path.exists("/dev/nvidiactl") or _library_exists("libnvidia-ml.so.1") or _library_exists("libcuda.so.1")


def software_slice(memory: int = 0) -> Slice:
    """Return the software GPU as a slice of `memory` bytes (0: half of the machine's, at most 16 GiB)."""
    if not memory:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = min(physical // 2, SOFTWARE_MEMORY_LIMIT) >> 21 << 21
    return Slice("software", "software", "", memory, device_name="migproxy software GPU")


def read_inventory(nvml: Any = None, *, present: bool | None = None) -> Inventory:
    """Ask NVML for GPUs and MIG instances.

    Parameters
    ----------
    nvml : module, optional
        Stands in for `pynvml` in tests.
    present : bool, optional
        Whether a driver is installed; found out if not given.

    Raises
    ------
    DriverBroken
        A driver is installed, and NVML does not answer.
    """
    if not (driver_present() if present is None else present):
        return Inventory()
    if nvml is None:
        nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise DriverBroken(
            f"an NVIDIA driver is installed but does not work ({error}); repair it, or choose --device software"
        ) from error
    try:
        slices: list[Slice] = []
        parents: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            instances = list(_mig_instances(nvml, handle, index))
            if instances or _mig_enabled(nvml, handle):
                parents.append(f"gpu{index}")
                slices.extend(instances)
            else:
                slices.append(_whole_gpu(nvml, handle, index))
        return Inventory(_text(nvml.nvmlSystemGetDriverVersion()), tuple(slices), tuple(parents))
    except nvml.NVMLError as error:
        raise DriverBroken(
            f"NVML fails while it lists the GPUs ({error}); repair the driver, or choose --device software"
        ) from error
    finally:
        nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _whole_gpu(nvml: Any, handle: Any, index: int) -> Slice:
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    return Slice(
        name=f"gpu{index}",
        kind="gpu",
        visible=uuid,
        memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        index=index,
        uuid=uuid,
        device_name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
    )


def _mig_enabled(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
        return False  # a GPU that has no MIG


def _mig_instances(nvml: Any, handle: Any, index: int) -> Iterable[Slice]:
    if not _mig_enabled(nvml, handle):
        return
    capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
    for position in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
        except nvml.NVMLError_NotFound:
            continue
        uuid = _text(nvml.nvmlDeviceGetUUID(instance))
        name = _text(nvml.nvmlDeviceGetName(instance))
        yield Slice(
            name=uuid,
            kind="mig",
            visible=uuid,
            memory=int(nvml.nvmlDeviceGetMemoryInfo(instance).total),
            index=index,
            uuid=uuid,
            device_name=name,
            compute_capability=capability,
            profile=name.rpartition("MIG ")[2] if "MIG " in name else "",
        )
