"""What a function may know of its slice: read from the driver once, corrected where a session offers less."""

from __future__ import annotations

import ctypes

from migproxy.abi import control
from migproxy.executor.driver import AnyDriver

_LAST_ATTRIBUTE = 160
_LIMITS = range(7)
#: CUdevice_attribute → value, where a session differs from the device under it.
_SESSION_ATTRIBUTES = {
    83: 1,  # MANAGED_MEMORY: it is arena memory, which host and kernels see at one address
    88: 0,  # PAGEABLE_MEMORY_ACCESS: kernels cannot reach the function's ordinary memory
    89: 1,  # CONCURRENT_MANAGED_ACCESS
    91: 1,  # CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    100: 0,  # PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    101: 0,  # DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
    116: 0,  # GPU_DIRECT_RDMA_SUPPORTED
}


def read_facts(driver: AnyDriver, quota: int, context_bytes: int) -> control.DeviceFacts:
    """Return the facts of device 0.

    Parameters
    ----------
    driver : AnyDriver
        With the session's context current.
    quota : int
        Bytes; what the function sees as total memory.
    context_bytes : int
        Device memory the context took.
    """
    attributes = {}
    value = ctypes.c_int()
    for attribute in range(1, _LAST_ATTRIBUTE):
        if driver.status("cuDeviceGetAttribute", ctypes.addressof(value), attribute, 0) == 0:
            attributes[attribute] = value.value
    attributes.update({key: value for key, value in _SESSION_ATTRIBUTES.items() if key in attributes})
    text = ctypes.create_string_buffer(256)
    driver.call("cuDeviceGetName", ctypes.addressof(text), 256, 0)
    name = text.value.decode("utf-8", "replace")
    driver.call("cuDeviceGetPCIBusId", ctypes.addressof(text), 256, 0)
    uuid = ctypes.create_string_buffer(16)
    driver.call("cuDeviceGetUuid", ctypes.addressof(uuid), 0)
    least, greatest = ctypes.c_int(), ctypes.c_int()
    driver.call("cuCtxGetStreamPriorityRange", ctypes.addressof(least), ctypes.addressof(greatest))
    limits = {}
    limit = ctypes.c_uint64()
    for number in _LIMITS:
        if driver.status("cuCtxGetLimit", ctypes.addressof(limit), number) == 0:
            limits[number] = limit.value
    return control.DeviceFacts(
        kind=driver.kind,
        name=name,
        uuid=uuid.raw,
        driver_version=driver.out("cuDriverGetVersion", kind=ctypes.c_int),
        total_memory=quota,
        attributes=attributes,
        pci_bus_id=text.value.decode("ascii", "replace"),
        compute_capability=(attributes[75], attributes[76]),
        stream_priorities=(least.value, greatest.value),
        limits=limits,
        context_bytes=context_bytes,
        checks_memory=driver.checks_memory,
    )
