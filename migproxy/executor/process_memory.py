"""How much device memory this executor's process really uses, as NVML counts it by process.

The driver's own free memory is the whole device's: on a GPU shared with other executors a difference of two readings
contains what the neighbours did in between. NVML's figure does not. Where it has none (other process namespaces, some
virtual machines) `ProcessMemory.used` says 0 and the caller falls back.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from migproxy.executor.driver import AnyDriver


def device_handle(driver: AnyDriver) -> Any:
    """Return NVML's handle of the visible GPU or MIG instance, None if NVML does not know it. NVML must be running."""
    import pynvml

    uuid = ctypes.create_string_buffer(16)
    driver.call("cuDeviceGetUuid", ctypes.addressof(uuid), 0)
    digits = uuid.raw.hex()
    name = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    # On a MIG instance the driver's UUID is the instance's own, whose NVML name starts with MIG instead of GPU.
    for prefix in ("GPU-", "MIG-"):
        try:
            return pynvml.nvmlDeviceGetHandleByUUID((prefix + name).encode())
        except pynvml.NVMLError_NotFound:
            continue
    return None


class ProcessMemory:
    """NVML's view of the device and of this process on it; on the software GPU it knows nothing.

    Parameters
    ----------
    driver : AnyDriver
        Initialised; it needs no context.
    """

    def __init__(self, driver: AnyDriver) -> None:
        self._handle: Any = None
        if driver.kind == "software":
            return
        import pynvml

        pynvml.nvmlInit()
        self._handle = device_handle(driver)

    def free(self) -> int:
        """Return the device's free bytes, 0 if NVML does not tell."""
        if self._handle is None:
            return 0
        import pynvml

        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def used(self) -> int:
        """Return the bytes this process uses on the device, 0 if NVML does not tell."""
        if self._handle is None:
            return 0
        import pynvml

        try:
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except pynvml.NVMLError:
            return 0
        mine = os.getpid()
        return next((int(one.usedGpuMemory or 0) for one in processes if one.pid == mine), 0)
