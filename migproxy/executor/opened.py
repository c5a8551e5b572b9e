"""An executor's device, opened before the session that will use it is known: the context is a third of a cold start.

Nothing of any tenant is in it, and an executor serves one session only, so that nothing of one tenant is there for the
next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from migproxy.errors import CudaError
from migproxy.executor.driver import AnyDriver, open_driver
from migproxy.executor.process_memory import ProcessMemory

#: Set to 1 by the broker where executors may open their device before they know whom they serve.
OPEN_VARIABLE = "MIGPROXY_OPEN_FIRST"
#: Where NVML does not count by process, the context is the device's loss of free memory, of which neighbours that start
#: at the same time can be a part; no context is larger than this.
LARGEST_CONTEXT = 1 << 30


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """A device with its primary context.

    Attributes
    ----------
    driver : AnyDriver
    memory : ProcessMemory
        What NVML says about this process.
    context : int
        The primary context, current in the thread that opened the device.
    context_bytes : int
        Device memory that it takes.
    """

    driver: AnyDriver
    memory: ProcessMemory
    context: int
    context_bytes: int

    def measured_again(self) -> OpenDevice:
        """Return the device with what its context takes now that more was loaded into it, where NVML tells."""
        return replace(self, context_bytes=self.memory.used() or self.context_bytes)


def open_device(name: str) -> OpenDevice:
    """Open a device as the broker names it.

    Raises
    ------
    CudaError
        The driver's own error.
    """
    driver = open_driver(name)
    memory = ProcessMemory(driver)
    free_before = memory.free()
    context = driver.out("cuDevicePrimaryCtxRetain", 0)
    driver.call("cuCtxSetCurrent", context)
    context_bytes = memory.used() or min(max(0, free_before - memory.free()), LARGEST_CONTEXT)
    return OpenDevice(driver, memory, context, context_bytes)


def open_in_advance() -> OpenDevice | None:
    """Open the GPU that the broker lets this process see. None: it does not say so, or the GPU does not open.

    In the latter case the session's own attempt fails too, and there is somebody to tell. The driver's cache of
    compiled code in files is off then: whose it would have to be is not known yet.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get(OPEN_VARIABLE) != "1":
        return None
    os.environ["CUDA_CACHE_DISABLE"] = "1"
    try:
        return open_device("gpu")
    except (CudaError, OSError):
        return None
