"""Modules, libraries, functions and kernels.

Loading waits, as it does natively. What a launch or a query needs of a function comes once, with its handle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.replies import FunctionReply
from migproxy.arena.memory_unsafe import copy_out, read_u32, read_u64
from migproxy.errors import CudaError
from migproxy.session.session import current
from migproxy.softgpu import container

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_INVALID_IMAGE = 200
CUDA_ERROR_INVALID_HANDLE = 400

_FATBIN_MAGIC = 0xBA55ED50
_FATBIN_WRAPPER_MAGIC = 0x466243B1
_ELF_MAGIC = 0x464C457F

# CUfunction_attribute
_MAX_THREADS = 0
_MAX_DYNAMIC_SHARED = 8


@dataclass(slots=True)
class FunctionFacts:
    """A kernel as its launches need it."""

    handle: int
    name: bytes
    parameters: list[tuple[int, int]]
    parameter_bytes: int
    attributes: dict[int, int]
    max_threads: int
    max_dynamic_shared: int
    module: int


_functions: dict[int, FunctionFacts] = {}
_of_module: dict[int, list[int]] = {}
_globals: dict[int, list[int]] = {}


def function_facts(f: int) -> FunctionFacts:
    """Return the facts of a function handle of this process.

    Raises
    ------
    CudaError
        400 for a handle this process does not hold.
    """
    try:
        return _functions[f]
    except KeyError:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"function {f:#x}") from None


def _learn(reply: FunctionReply, module: int) -> int:
    parameter_bytes = max((offset + size for offset, size in reply.parameters), default=0)
    _functions[reply.handle] = FunctionFacts(
        reply.handle,
        reply.name,
        reply.parameters,
        parameter_bytes,
        reply.attributes,
        reply.attributes[_MAX_THREADS],
        reply.attributes[_MAX_DYNAMIC_SHARED],
        module,
    )
    _of_module.setdefault(module, []).append(reply.handle)
    return reply.handle


def module_load(image: bytes, options: Sequence[tuple[int, int]] = ()) -> int:
    """Load a module image (PTX, cubin, fatbin or the software GPU's container).

    Parameters
    ----------
    image : bytes
    options : sequence of (CUjit_option, int)
        Options with scalar values; log buffers are the front end's job.

    Raises
    ------
    CudaError
        The loader's status; `detail` holds the JIT's error log.
    """
    reply = current().call(Op.MODULE_LOAD, msgspec.msgpack.encode((image, list(options))))
    return int.from_bytes(reply[:8], "little")


def _forget(module: int) -> None:
    for handle in _of_module.pop(module, ()):
        _functions.pop(handle, None)
    for base in _globals.pop(module, ()):
        current().device.disown(base)


def module_unload(module: int) -> None:
    """Unload a module; its functions become invalid."""
    current().call(Op.MODULE_UNLOAD, layout.HANDLE.pack(module))
    _forget(module)


def module_function(module: int, name: bytes) -> int:
    """Return the handle of a kernel.

    Raises
    ------
    CudaError
        500 when the module has no such kernel.
    """
    reply = current().call(Op.MODULE_FUNCTION, msgspec.msgpack.encode((module, name)))
    return _learn(msgspec.msgpack.decode(reply, type=FunctionReply), module)


def module_global(module: int, name: bytes) -> tuple[int, int]:
    """Return (address, size) of a module's global variable."""
    return _global(Op.MODULE_GLOBAL, module, name)


def _global(op: Op, module: int, name: bytes) -> tuple[int, int]:
    reply = current().call(op, msgspec.msgpack.encode((module, name)))
    address, size = layout.RANGE.unpack_from(reply)
    current().device.adopt(address, size)
    _globals.setdefault(module, []).append(address)
    return address, size


def function_attribute(f: int, attribute: int) -> int:
    """Return a ``CUfunction_attribute``."""
    facts = function_facts(f)
    if attribute not in facts.attributes:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    return facts.attributes[attribute]


def function_set_attribute(f: int, attribute: int, value: int) -> None:
    """Set a ``CUfunction_attribute``."""
    facts = function_facts(f)
    payload = msgspec.msgpack.encode((facts.handle, attribute, value))
    reply = msgspec.msgpack.decode(current().call(Op.FUNCTION_SET_ATTRIBUTE, payload), type=dict[int, int])
    facts.attributes = reply
    facts.max_threads = reply[_MAX_THREADS]
    facts.max_dynamic_shared = reply[_MAX_DYNAMIC_SHARED]


def function_parameters(f: int) -> list[tuple[int, int]]:
    """Return (offset, size) of each parameter."""
    return function_facts(f).parameters


def function_name(f: int) -> bytes:
    """Return the kernel's (mangled) name."""
    return function_facts(f).name


def library_load(image: bytes, options: Sequence[tuple[int, int]] = ()) -> int:
    """Load a library (``cuLibraryLoadData``)."""
    reply = current().call(Op.LIBRARY_LOAD, msgspec.msgpack.encode((image, list(options))))
    return int.from_bytes(reply[:8], "little")


def library_unload(library: int) -> None:
    """Unload a library; its kernels become invalid."""
    current().call(Op.LIBRARY_UNLOAD, layout.HANDLE.pack(library))
    _forget(library)


def library_kernel(library: int, name: bytes) -> int:
    """Return a kernel's handle; it launches as a function does."""
    reply = current().call(Op.LIBRARY_KERNEL, msgspec.msgpack.encode((library, name)))
    return _learn(msgspec.msgpack.decode(reply, type=FunctionReply), library)


def library_kernels(library: int) -> list[int]:
    """Return the handles of all kernels of a library."""
    reply = current().call(Op.LIBRARY_KERNELS, layout.HANDLE.pack(library))
    return [_learn(one, library) for one in msgspec.msgpack.decode(reply, type=list[FunctionReply])]


def library_global(library: int, name: bytes) -> tuple[int, int]:
    """Return (address, size) of a library's global variable."""
    return _global(Op.LIBRARY_GLOBAL, library, name)


def kernel_function(kernel: int) -> int:
    """Return the function of a kernel: the same handle serves both."""
    return function_facts(kernel).handle


def image_size(address: int) -> int:
    """Return the length in bytes of a module image at a host address, for calls that pass no size.

    PTX is text up to its NUL; a cubin's ELF header tells its extent; a fatbin's header its size (the wrapper points
    at one).

    Raises
    ------
    CudaError
        200 for anything else.
    """
    if container.is_container(copy_out(address, 8)):
        return container.length(copy_out(address, container.HEADER.size))
    magic = read_u32(address)
    if magic == _FATBIN_MAGIC:
        return (read_u32(address + 4) >> 16) + read_u64(address + 8)
    if magic == _ELF_MAGIC:
        section_offset = read_u64(address + 0x28)
        sizes = read_u32(address + 0x3A)
        program_end = read_u64(address + 0x20) + (read_u32(address + 0x36) & 0xFFFF) * (
            read_u32(address + 0x38) & 0xFFFF
        )
        return max(section_offset + (sizes & 0xFFFF) * (sizes >> 16), program_end)
    if magic == _FATBIN_WRAPPER_MAGIC:
        raise CudaError(CUDA_ERROR_INVALID_IMAGE, "a fatbin wrapper; pass the fatbin it points at")
    size = len(ctypes.string_at(address))
    if size == 0:
        raise CudaError(CUDA_ERROR_INVALID_IMAGE)
    return size
