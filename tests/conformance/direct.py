"""The driver behind the functions of `migproxy.session.api`, called in this process: the reference transport."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from migproxy.errors import CudaError
from migproxy.executor.driver import AnyDriver

INVALID_VALUE = 1
MEMORY_TYPE = 2


def address_of(data: bytes) -> tuple[int, Any]:
    """Return the address of a copy of `data` with a NUL behind it, and what keeps it alive."""
    buffer = ctypes.create_string_buffer(data, len(data) + 1)
    return ctypes.addressof(buffer), buffer


class Direct:
    """The tested functions over one driver, with their names and arguments in `migproxy.session.api`."""

    def __init__(self, driver: AnyDriver) -> None:
        self._driver = driver
        self._call = driver.call
        self._out = driver.out
        self._kept: list[object] = []
        driver.call("cuInit", 0)
        self._context = driver.out("cuDevicePrimaryCtxRetain", 0)
        self.ensure_context()

    def close(self) -> None:
        """Give the context back."""
        self._call("cuDevicePrimaryCtxReset", 0)

    def ensure_context(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    def context_synchronize(self) -> None:
        self._call("cuCtxSynchronize")

    def device_count(self) -> int:
        return self._out("cuDeviceGetCount", kind=ctypes.c_int)

    def device_attribute(self, attribute: int, device: int) -> int:
        return self._out("cuDeviceGetAttribute", attribute, device, kind=ctypes.c_int)

    def compute_capability(self, device: int) -> tuple[int, int]:
        return self.device_attribute(75, device), self.device_attribute(76, device)

    def stream_priority_range(self) -> tuple[int, int]:
        least, greatest = ctypes.c_int(), ctypes.c_int()
        self._call("cuCtxGetStreamPriorityRange", ctypes.addressof(least), ctypes.addressof(greatest))
        return least.value, greatest.value

    # -- memory ----------------------------------------------------------------------------------------------------
    def mem_alloc(self, size: int) -> int:
        return self._out("cuMemAlloc", size)

    def mem_alloc_managed(self, size: int, flags: int) -> int:
        return self._out("cuMemAllocManaged", size, flags)

    def mem_free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def mem_alloc_async(self, size: int, stream: int) -> int:
        return self._out("cuMemAllocAsync", size, stream)

    def mem_free_async(self, pointer: int, stream: int) -> None:
        self._call("cuMemFreeAsync", pointer, stream)

    def mem_get_info(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo", ctypes.addressof(free), ctypes.addressof(total))
        return free.value, total.value

    def mem_address_range(self, pointer: int) -> tuple[int, int]:
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        self._call("cuMemGetAddressRange", ctypes.addressof(base), ctypes.addressof(size), pointer)
        return base.value, size.value

    def host_alloc(self, size: int, flags: int = 0) -> int:
        return self._out("cuMemHostAlloc", size, flags)

    def host_free(self, pointer: int) -> None:
        self._call("cuMemFreeHost", pointer)

    def memory_type(self, pointer: int) -> int:
        """Return the ``CUmemorytype``, 0 for memory that the driver does not know."""
        try:
            return self._out("cuPointerGetAttribute", MEMORY_TYPE, pointer, kind=ctypes.c_uint32)
        except CudaError as error:
            if error.status == INVALID_VALUE:
                return 0
            raise

    # -- copies ----------------------------------------------------------------------------------------------------
    def _copy(self, name: str, dst: int, src: int, size: int, stream: int | None) -> None:
        if stream is None:
            self._call(name, dst, src, size)
        else:
            self._call(f"{name}Async", dst, src, size, stream)

    def memcpy_htod(self, dst: int, src: int, size: int, stream: int | None = None) -> None:
        self._copy("cuMemcpyHtoD", dst, src, size, stream)

    def memcpy_dtoh(self, dst: int, src: int, size: int, stream: int | None = None) -> None:
        self._copy("cuMemcpyDtoH", dst, src, size, stream)

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int | None = None) -> None:
        self._copy("cuMemcpyDtoD", dst, src, size, stream)

    def memcpy(self, dst: int, src: int, size: int, stream: int | None = None) -> None:
        self._copy("cuMemcpy", dst, src, size, stream)

    def memset(self, pointer: int, value: int, element_bytes: int, count: int, stream: int | None = None) -> None:
        name = f"cuMemsetD{8 * element_bytes}"
        if stream is None:
            self._call(name, pointer, value, count)
        else:
            self._call(f"{name}Async", pointer, value, count, stream)

    def memset_2d(self, pointer: int, pitch: int, value: int, element_bytes: int, width: int, height: int) -> None:
        self._call(f"cuMemsetD2D{8 * element_bytes}", pointer, pitch, value, width, height)

    # -- streams and events ----------------------------------------------------------------------------------------
    def stream_create(self, flags: int = 0, priority: int = 0) -> int:
        return self._out("cuStreamCreateWithPriority", flags, priority)

    def stream_destroy(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def stream_synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def stream_query(self, stream: int) -> None:
        self._call("cuStreamQuery", stream)

    def stream_wait_event(self, stream: int, event: int, flags: int = 0) -> None:
        self._call("cuStreamWaitEvent", stream, event, flags)

    def stream_flags(self, stream: int) -> int:
        flags = ctypes.c_uint()
        self._call("cuStreamGetFlags", stream, ctypes.addressof(flags))
        return flags.value

    def stream_priority(self, stream: int) -> int:
        priority = ctypes.c_int()
        self._call("cuStreamGetPriority", stream, ctypes.addressof(priority))
        return priority.value

    def stream_capture_status(self, stream: int) -> int:
        status = ctypes.c_int()
        self._call("cuStreamIsCapturing", stream, ctypes.addressof(status))
        return status.value

    def stream_add_host_function(self, stream: int, function: Callable[[], object]) -> None:
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())
        self._kept.append(entry)
        self._call("cuLaunchHostFunc", stream, ctypes.cast(entry, ctypes.c_void_p).value or 0, 0)

    def stream_begin_capture(self, stream: int, mode: int) -> None:
        self._call("cuStreamBeginCapture", stream, mode)

    def stream_end_capture(self, stream: int) -> int:
        graph = ctypes.c_uint64()
        self._call("cuStreamEndCapture", stream, ctypes.addressof(graph))
        return graph.value

    def graph_instantiate(self, graph: int) -> int:
        return self._out("cuGraphInstantiateWithFlags", graph, 0)

    def graph_launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch", executable, stream)

    def graph_destroy(self, graph: int) -> None:
        self._call("cuGraphDestroy", graph)

    def graph_exec_destroy(self, executable: int) -> None:
        self._call("cuGraphExecDestroy", executable)

    def event_create(self, flags: int = 0) -> int:
        return self._out("cuEventCreate", flags)

    def event_destroy(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def event_record(self, event: int, stream: int = 0) -> None:
        self._call("cuEventRecord", event, stream)

    def event_query(self, event: int) -> None:
        self._call("cuEventQuery", event)

    def event_synchronize(self, event: int) -> None:
        self._call("cuEventSynchronize", event)

    def event_elapsed_time(self, start: int, end: int) -> float:
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.addressof(milliseconds), start, end)
        return milliseconds.value

    # -- code ------------------------------------------------------------------------------------------------------
    def module_load(self, image: bytes, options: Sequence[tuple[int, int]] = ()) -> int:
        address, _keep = address_of(image)
        return self._out("cuModuleLoadDataEx", address, 0, 0, 0)

    def module_unload(self, module: int) -> None:
        self._call("cuModuleUnload", module)

    def module_function(self, module: int, name: bytes) -> int:
        address, _keep = address_of(name)
        return self._out("cuModuleGetFunction", module, address)

    def module_global(self, module: int, name: bytes) -> tuple[int, int]:
        pointer, size = ctypes.c_uint64(), ctypes.c_size_t()
        address, _keep = address_of(name)
        self._call("cuModuleGetGlobal", ctypes.addressof(pointer), ctypes.addressof(size), module, address)
        return pointer.value, size.value

    def function_attribute(self, f: int, attribute: int) -> int:
        return self._out("cuFuncGetAttribute", attribute, f, kind=ctypes.c_int)

    def function_parameters(self, f: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        offset, size = ctypes.c_size_t(), ctypes.c_size_t()
        while (
            self._driver.status("cuFuncGetParamInfo", f, len(found), ctypes.addressof(offset), ctypes.addressof(size))
            == 0
        ):
            found.append((offset.value, size.value))
        return found

    def library_load(self, image: bytes) -> int:
        address, _keep = address_of(image)
        return self._out("cuLibraryLoadData", address, 0, 0, 0, 0, 0, 0)

    def library_unload(self, library: int) -> None:
        self._call("cuLibraryUnload", library)

    def library_kernel(self, library: int, name: bytes) -> int:
        address, _keep = address_of(name)
        return self._out("cuLibraryGetKernel", library, address)

    def launch(
        self,
        f: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        stream: int,
        kernel_params: int,
        extra: int = 0,
        cooperative: bool = False,
    ) -> None:
        if cooperative:
            self._call("cuLaunchCooperativeKernel", f, *grid, *block, shared, stream, kernel_params)
        else:
            self._call("cuLaunchKernel", f, *grid, *block, shared, stream, kernel_params, extra)
