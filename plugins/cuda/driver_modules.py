"""Driver API: modules, libraries, functions and kernels. A kernel's handle is its function's."""

from __future__ import annotations

import logging
import struct
import time
from pathlib import Path

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.driver_device import check_device
from migproxy_plugins.cuda.memory_unsafe import (
    Strings,
    get_bytes,
    get_i32,
    get_string,
    get_u32,
    get_u64,
    put_bytes,
    put_i32,
    put_string,
    put_u32,
    put_u64,
    put_u64_array,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api

log = logging.getLogger("migproxy.cuda")

# CUjit_option
_WALL_TIME = 2
_INFO_LOG = 3
_INFO_LOG_SIZE = 4
_ERROR_LOG = 5
_ERROR_LOG_SIZE = 6
_NOT_SCALAR = frozenset({_WALL_TIME, _INFO_LOG, _INFO_LOG_SIZE, _ERROR_LOG, _ERROR_LOG_SIZE})
_FATBIN_WRAPPER_MAGIC = 0x466243B1
_LTO_IR_MAGIC = 0x7F4E43ED
_CACHE_CONFIGS = (0, 1, 2, 3)

_strings = Strings()
_owner: dict[int, int] = {}


class JitOptions:
    """The option arrays of a load or link: scalars to pass on, log buffers to fill."""

    def __init__(self, count: int, keys: int, values: int) -> None:
        self.scalars: list[tuple[int, int]] = []
        self._slots: dict[int, int] = {}
        self._pointers: dict[int, int] = {}
        self._started = time.monotonic()
        for index in range(count):
            key, slot = get_i32(keys + 4 * index), values + 8 * index
            self._slots[key] = slot
            self._pointers[key] = get_u64(slot)
            if key not in _NOT_SCALAR:
                self.scalars.append((key, self._pointers[key]))

    def _log(self, buffer: int, size: int, text: bytes) -> None:
        capacity = self._pointers.get(size, 0) & 0xFFFFFFFF
        if not self._pointers.get(buffer) or not capacity:
            return
        put_string(self._pointers[buffer], capacity, text)
        put_u64(self._slots[size], min(len(text), capacity - 1) + 1 if text else 0)

    def finish(self, error: CudaError | None = None) -> None:
        """Fill the log buffers and the wall time."""
        self._log(_INFO_LOG, _INFO_LOG_SIZE, b"")
        self._log(_ERROR_LOG, _ERROR_LOG_SIZE, error.detail.encode() if error is not None else b"")
        if _WALL_TIME in self._slots:
            put_bytes(self._slots[_WALL_TIME], struct.pack("<f", (time.monotonic() - self._started) * 1000))


def read_image(address: int) -> bytes:
    """Return the module image at a host address, whose length it tells itself."""
    if not address:
        raise CudaError(st.INVALID_VALUE, "no image")
    if get_u32(address) == _FATBIN_WRAPPER_MAGIC:
        # fatbinC wrapper: magic, version, pointer to the fatbin, pointer to filenames
        address = get_u64(address + 8)
    if get_u32(address) == _LTO_IR_MAGIC:
        log.warning(
            "LTO-IR in memory does not tell its length: the driver gets its beginning and can make no kernels of it; "
            "link it first (nvJitLink)"
        )
    return get_bytes(address, api.image_size(address))


def _read_file(path: int) -> bytes:
    name = get_string(path).decode()
    try:
        return Path(name).read_bytes()
    except FileNotFoundError as error:
        raise CudaError(301, name) from error
    except OSError as error:
        raise CudaError(304, str(error)) from error


def _load_module(module: int, image: bytes, options: JitOptions) -> None:
    need_context()
    try:
        handle = api.module_load(image, options.scalars)
    except CudaError as error:
        options.finish(error)
        raise
    options.finish()
    put_u64(module, handle)


@serves("cuModuleLoadFatBinary")
def cuModuleLoadData(module: int, image: int) -> None:
    _load_module(module, read_image(image), JitOptions(0, 0, 0))


@serves()
def cuModuleLoadDataEx(module: int, image: int, count: int, options: int, values: int) -> None:
    _load_module(module, read_image(image), JitOptions(count, options, values))


@serves()
def cuModuleLoad(module: int, path: int) -> None:
    _load_module(module, _read_file(path), JitOptions(0, 0, 0))


@serves()
def cuModuleUnload(module: int) -> None:
    api.module_unload(module)
    _forget(module)


def _forget(owner: int) -> None:
    for function in [f for f, of in _owner.items() if of == owner]:
        del _owner[function]


@serves()
def cuModuleGetLoadingMode(mode: int) -> None:
    # Eager: an image is loaded in full by the executor.
    put_i32(mode, 1)


@serves()
def cuModuleGetFunction(function: int, module: int, name: int) -> None:
    handle = api.module_function(module, get_string(name))
    _owner[handle] = module
    put_u64(function, handle)


@serves()
def cuModuleGetGlobal(pointer: int, size: int, module: int, name: int) -> None:
    address, length = api.module_global(module, get_string(name))
    put_u64(pointer, address)
    put_u64(size, length)


@serves()
def cuFuncGetModule(module: int, function: int) -> None:
    api.function_name(function)
    put_u64(module, _owner[function])


@serves("cuKernelGetName")
def cuFuncGetName(name: int, function: int) -> None:
    if not function:
        raise CudaError(st.INVALID_VALUE, "no function")
    put_u64(name, _strings.address(api.function_name(function)))


@serves("cuKernelGetParamInfo")
def cuFuncGetParamInfo(function: int, index: int, offset: int, size: int) -> None:
    need_context()
    parameters = api.function_parameters(function)
    if index >= len(parameters):
        raise CudaError(st.INVALID_VALUE, f"the function has {len(parameters)} parameters")
    put_u64(offset, parameters[index][0])
    put_u64(size, parameters[index][1])


@serves("cuKernelGetParamCount")
def cuFuncGetParamCount(function: int, count: int) -> None:
    put_u64(count, len(api.function_parameters(function)))


@serves()
def cuFuncIsLoaded(state: int, function: int) -> None:
    api.function_name(function)
    put_i32(state, 1)


@serves()
def cuFuncLoad(function: int) -> None:
    api.function_name(function)


@serves()
def cuFuncGetAttribute(value: int, attribute: int, function: int) -> None:
    put_i32(value, api.function_attribute(function, attribute))


@serves()
def cuFuncSetAttribute(function: int, attribute: int, value: int) -> None:
    api.function_set_attribute(function, attribute, value)


@serves()
def cuFuncSetCacheConfig(function: int, config: int) -> None:
    if config not in _CACHE_CONFIGS:
        raise CudaError(st.INVALID_VALUE)
    # A preference; devices since Volta choose by themselves.
    api.function_name(function)


@serves()
def cuFuncSetSharedMemConfig(function: int, config: int) -> None:
    if config not in (0, 1, 2):
        raise CudaError(st.INVALID_VALUE)
    api.function_name(function)


@serves()
def cuKernelGetFunction(function: int, kernel: int) -> None:
    put_u64(function, api.kernel_function(kernel))


@serves()
def cuKernelGetLibrary(library: int, kernel: int) -> None:
    api.function_name(kernel)
    put_u64(library, _owner[kernel])


@serves()
def cuKernelGetAttribute(value: int, attribute: int, kernel: int, device: int) -> None:
    check_device(device)
    put_i32(value, api.function_attribute(kernel, attribute))


@serves()
def cuKernelSetAttribute(attribute: int, value: int, kernel: int, device: int) -> None:
    check_device(device)
    api.function_set_attribute(kernel, attribute, value)


@serves()
def cuKernelSetCacheConfig(kernel: int, config: int, device: int) -> None:
    check_device(device)
    cuFuncSetCacheConfig(kernel, config)


def _load_library(library: int, image: bytes, options: JitOptions) -> None:
    try:
        handle = api.library_load(image, options.scalars)
    except CudaError as error:
        options.finish(error)
        raise
    options.finish()
    put_u64(library, handle)


@serves()
def cuLibraryLoadData(
    library: int,
    code: int,
    options: int,
    values: int,
    count: int,
    library_options: int,
    library_values: int,
    library_count: int,
) -> None:
    # Library options are hints about the host's copy of the image and about one function type; the image is copied
    # here.
    _load_library(library, read_image(code), JitOptions(count, options, values))


@serves()
def cuLibraryLoadFromFile(
    library: int,
    path: int,
    options: int,
    values: int,
    count: int,
    library_options: int,
    library_values: int,
    library_count: int,
) -> None:
    _load_library(library, _read_file(path), JitOptions(count, options, values))


@serves()
def cuLibraryUnload(library: int) -> None:
    api.library_unload(library)
    _forget(library)


@serves()
def cuLibraryGetKernel(kernel: int, library: int, name: int) -> None:
    handle = api.library_kernel(library, get_string(name))
    _owner[handle] = library
    put_u64(kernel, handle)


@serves()
def cuLibraryGetKernelCount(count: int, library: int) -> None:
    put_u32(count, len(_kernels(library)))


@serves()
def cuLibraryEnumerateKernels(kernels: int, count: int, library: int) -> None:
    put_u64_array(kernels, _kernels(library)[:count])


def _kernels(library: int) -> list[int]:
    handles = api.library_kernels(library)
    _owner.update(dict.fromkeys(handles, library))
    return handles


@serves()
def cuLibraryGetGlobal(pointer: int, size: int, library: int, name: int) -> None:
    address, length = api.library_global(library, get_string(name))
    put_u64(pointer, address)
    put_u64(size, length)


@serves()
def cuLibraryGetModule(module: int, library: int) -> None:
    raise refuse("cuLibraryGetModule", "use cuLibraryGetKernel and cuLibraryGetGlobal on the library")


@serves()
def cuLibraryGetManaged(pointer: int, size: int, library: int, name: int) -> None:
    raise refuse("cuLibraryGetManaged", "managed memory is not supported")


@serves()
def cuLibraryGetUnifiedFunction(function: int, library: int, symbol: int) -> None:
    raise refuse("cuLibraryGetUnifiedFunction", "the host has no pointers to device functions")
