"""Modules, libraries and their kernels. Images go to the driver's own parser: that is why an executor is not
trusted."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.replies import FunctionReply
from migproxy.errors import CudaError
from migproxy.executor.dispatch import Result, handles
from migproxy.executor.handlers.launch import LaunchTarget

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

# CUfunction_attribute values a function may ask for: 0 max threads … 15 preferred cluster shape
_ATTRIBUTES = range(16)
_MAX_PARAMETERS = 4096
#: CU_JIT_ options that carry plain numbers and may come from the function; log buffers are ours.
_JIT_SCALARS = frozenset({0, 1, 7, 8, 9, 11, 12, 13, 14, 15, 30, 31, 32})
_JIT_ERROR_LOG, _JIT_ERROR_LOG_SIZE = 5, 6
_LOG_BYTES = 8192
#: Fat binaries hold their images compressed.
_FATBIN_MAGIC = (0xBA55ED50).to_bytes(4, "little")

_decode_image = msgspec.msgpack.Decoder(tuple[bytes, list[tuple[int, int]]]).decode
_decode_named = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
_decode_attribute = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


def _load(state: SessionState, image: bytes, options: list[tuple[int, int]], *, library: bool) -> int:
    """Load an image with the driver; the error's detail is the JIT's own log."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    pairs = [(option, value) for option, value in options if option in _JIT_SCALARS]
    pairs += [(_JIT_ERROR_LOG, ctypes.addressof(log)), (_JIT_ERROR_LOG_SIZE, _LOG_BYTES)]
    keys = (ctypes.c_int * len(pairs))(*[key for key, _ in pairs])
    values = (ctypes.c_uint64 * len(pairs))(*[value for _, value in pairs])
    # The driver reads past short images while it looks for their kind, and PTX must end with a NUL.
    data = ctypes.create_string_buffer(image, len(image) + 64)
    address, key_array, value_array = ctypes.addressof(data), ctypes.addressof(keys), ctypes.addressof(values)
    loaded = ctypes.c_uint64()
    with state.charged():
        if library:
            status = state.driver.status(
                "cuLibraryLoadData",
                *(ctypes.addressof(loaded), address, key_array, value_array, len(pairs), 0, 0, 0),
            )
        else:
            status = state.driver.status(
                "cuModuleLoadDataEx", ctypes.addressof(loaded), address, len(pairs), key_array, value_array
            )
    if status:
        raise CudaError(status, log.value.decode("utf-8", "replace") or state.driver.detail)
    if may_print(image):
        state.expect_prints()
    return loaded.value


def may_print(image: bytes) -> bool:
    """Tell whether an image's kernels may print: it names the device's ``vprintf``, or hides what it names."""
    return b"vprintf" in image or image.startswith(_FATBIN_MAGIC)


@handles(Op.MODULE_LOAD)
def module_load(state: SessionState, command: Command) -> Result:
    image, options = _decode_image(command.payload)
    state.handles.require_room(layout.KIND_MODULE)
    module = _load(state, image, options, library=False)
    return state.handles.add(layout.KIND_MODULE, module).to_bytes(8, "little")


@handles(Op.LIBRARY_LOAD)
def library_load(state: SessionState, command: Command) -> Result:
    image, options = _decode_image(command.payload)
    state.handles.require_room(layout.KIND_LIBRARY)
    library = _load(state, image, options, library=True)
    return state.handles.add(layout.KIND_LIBRARY, library).to_bytes(8, "little")


def _unload(state: SessionState, command: Command, kind: int, function: str) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call(function, state.handles.remove(kind, handle))
    for known in [known for known, owner in state.owner_of_function.items() if owner == handle]:
        del state.owner_of_function[known]
        state.functions.pop(known, None)
        state.handles.remove(layout.KIND_FUNCTION, known)
    for base in state.globals_of.pop(handle, ()):
        state.memory.disown(base)
    return None


@handles(Op.MODULE_UNLOAD)
def module_unload(state: SessionState, command: Command) -> Result:
    return _unload(state, command, layout.KIND_MODULE, "cuModuleUnload")


@handles(Op.LIBRARY_UNLOAD)
def library_unload(state: SessionState, command: Command) -> Result:
    return _unload(state, command, layout.KIND_LIBRARY, "cuLibraryUnload")


def _attributes(state: SessionState, function: int) -> dict[int, int]:
    found: dict[int, int] = {}
    value = ctypes.c_int()
    for attribute in _ATTRIBUTES:
        if state.driver.status("cuFuncGetAttribute", ctypes.addressof(value), attribute, function) == 0:
            found[attribute] = value.value
    return found


def _describe(state: SessionState, function: int, name: bytes, owner: int) -> FunctionReply:
    """Enter a kernel into the tables and return what the function needs to know of it."""
    parameters: list[tuple[int, int]] = []
    offset, size = ctypes.c_uint64(), ctypes.c_uint64()
    where = ctypes.addressof(offset), ctypes.addressof(size)
    while len(parameters) < _MAX_PARAMETERS:
        if state.driver.status("cuFuncGetParamInfo", function, len(parameters), *where):
            break
        parameters.append((offset.value, size.value))
    handle = state.handles.add(layout.KIND_FUNCTION, function)
    total = max((start + length for start, length in parameters), default=0)
    target = state.functions[handle] = LaunchTarget(function, parameters, total)
    state.pump.enter_function(handle, target, name)
    state.owner_of_function[handle] = owner
    return FunctionReply(handle, name, parameters, _attributes(state, function))


@handles(Op.MODULE_FUNCTION)
def module_function(state: SessionState, command: Command) -> Result:
    handle, name = _decode_named(command.payload)
    module = state.handles.real(layout.KIND_MODULE, handle)
    text = ctypes.create_string_buffer(name)
    function = state.driver.out("cuModuleGetFunction", module, ctypes.addressof(text))
    return msgspec.msgpack.encode(_describe(state, function, name, handle))


def _kernel(state: SessionState, kernel: int, name: bytes, owner: int) -> FunctionReply:
    function = state.driver.out("cuKernelGetFunction", kernel)
    return _describe(state, function, name, owner)


@handles(Op.LIBRARY_KERNEL)
def library_kernel(state: SessionState, command: Command) -> Result:
    handle, name = _decode_named(command.payload)
    library = state.handles.real(layout.KIND_LIBRARY, handle)
    text = ctypes.create_string_buffer(name)
    kernel = state.driver.out("cuLibraryGetKernel", library, ctypes.addressof(text))
    return msgspec.msgpack.encode(_kernel(state, kernel, name, handle))


@handles(Op.LIBRARY_KERNELS)
def library_kernels(state: SessionState, command: Command) -> Result:
    (handle,) = layout.HANDLE.unpack_from(command.payload)
    library = state.handles.real(layout.KIND_LIBRARY, handle)
    count = ctypes.c_uint()
    state.driver.call("cuLibraryGetKernelCount", ctypes.addressof(count), library)
    kernels = (ctypes.c_uint64 * max(1, count.value))()
    state.driver.call("cuLibraryEnumerateKernels", ctypes.addressof(kernels), count.value, library)
    replies = []
    for kernel in kernels[: count.value]:
        name = ctypes.c_char_p()
        state.driver.call("cuKernelGetName", ctypes.addressof(name), kernel)
        replies.append(_kernel(state, kernel, name.value or b"", handle))
    return msgspec.msgpack.encode(replies)


def _global(state: SessionState, command: Command, kind: int, function: str) -> Result:
    handle, name = _decode_named(command.payload)
    owner = state.handles.real(kind, handle)
    text = ctypes.create_string_buffer(name)
    address, size = ctypes.c_uint64(), ctypes.c_uint64()
    state.driver.call(function, ctypes.addressof(address), ctypes.addressof(size), owner, ctypes.addressof(text))
    state.memory.adopt(address.value, size.value)
    state.globals_of.setdefault(handle, []).append(address.value)
    return layout.RANGE.pack(address.value, size.value)


@handles(Op.MODULE_GLOBAL)
def module_global(state: SessionState, command: Command) -> Result:
    return _global(state, command, layout.KIND_MODULE, "cuModuleGetGlobal")


@handles(Op.LIBRARY_GLOBAL)
def library_global(state: SessionState, command: Command) -> Result:
    return _global(state, command, layout.KIND_LIBRARY, "cuLibraryGetGlobal")


@handles(Op.FUNCTION_SET_ATTRIBUTE)
def function_set_attribute(state: SessionState, command: Command) -> Result:
    handle, attribute, value = _decode_attribute(command.payload)
    function = state.handles.real(layout.KIND_FUNCTION, handle)
    state.driver.call("cuFuncSetAttribute", function, attribute, value & 0xFFFFFFFF)
    return msgspec.msgpack.encode(_attributes(state, function))
