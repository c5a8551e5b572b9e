"""Modules, libraries, functions and kernels.

Loading waits, as it does natively. What a launch or a query needs of a function comes once, with its handle. Handles
here
are this process's own numbers; what the executor calls the same thing is kept beside them. So a forked child, which has
another executor, can load again what its parent had loaded, when it first uses it: libraries keep kernels for the
life of
the process and would otherwise launch what does not exist there.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.replies import FunctionReply
from migproxy.arena.memory_unsafe import copy_out, read_u32, read_u64
from migproxy.errors import CudaError
from migproxy.session.session import current, on_fork, unknown_object
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
    """A kernel as its launches need it; `handle` is the executor's name for it."""

    handle: int
    name: bytes
    parameters: list[tuple[int, int]]
    parameter_bytes: int
    attributes: dict[int, int]
    max_threads: int
    max_dynamic_shared: int
    module: int


@dataclass(slots=True)
class _Image:
    """A loaded module or library: how it was loaded, what the executor calls it (0: not loaded by this process yet)."""

    load: Op
    image: bytes
    options: list[tuple[int, int]]
    wire: int


_numbers = itertools.count(1)
_images: dict[int, _Image] = {}
_functions: dict[int, FunctionFacts] = {}
_inherited: dict[int, FunctionFacts] = {}
_of_module: dict[int, list[int]] = {}
_globals: dict[int, list[int]] = {}
#: A module's function is one object, however often it is asked for.
_by_name: dict[tuple[int, bytes], int] = {}
#: Called with each handle and its facts when they become known or change, and with None when the handle ends.
_listeners: list[Callable[[int, FunctionFacts | None], None]] = []


def on_function(listener: Callable[[int, FunctionFacts | None], None]) -> None:
    """Tell `listener` of every function handle: the hot path keeps its own table of them."""
    _listeners.append(listener)


def _tell(handle: int, facts: FunctionFacts | None) -> None:
    for listener in _listeners:
        listener(handle, facts)


def _tell_hot_path(handle: int, facts: FunctionFacts | None) -> None:
    ring = current().ring
    if facts is None:
        ring.forget_function(handle)
    else:
        limits = facts.max_threads, facts.max_dynamic_shared
        ring.enter_function(handle, facts.handle, facts.parameters, facts.parameter_bytes, *limits)


on_function(_tell_hot_path)


def _after_fork() -> None:
    _inherited.update(_functions)
    _functions.clear()
    _globals.clear()
    for image in _images.values():
        image.wire = 0


on_fork(_after_fork)


def function_on_wire(handle: int) -> int:
    """Return this process's number of what the executor calls `handle`.

    Raises
    ------
    CudaError
        400 for a function this process does not hold.
    """
    for number, facts in _functions.items():
        if facts.handle == handle:
            return number
    raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"function {handle:#x}")


def function_facts(f: int) -> FunctionFacts:
    """Return the facts of a function handle of this process.

    Raises
    ------
    CudaError
        400 for a handle this process does not hold.
    """
    facts = _functions.get(f)
    if facts is not None:
        return facts
    old = _inherited.get(f)
    if old is None:
        raise unknown_object(CUDA_ERROR_INVALID_HANDLE, f"function {f:#x}")
    image = _image(old.module)
    op = Op.MODULE_FUNCTION if image.load is Op.MODULE_LOAD else Op.LIBRARY_KERNEL
    _get_function(op, old.module, old.name, f)
    return _functions[f]


def _image(module: int) -> _Image:
    """Return a loaded image, loading it first in a forked child.

    Raises
    ------
    CudaError
        400 for a handle this process does not hold.
    """
    image = _images.get(module)
    if image is None:
        raise unknown_object(CUDA_ERROR_INVALID_HANDLE, f"module {module:#x}")
    if not image.wire:
        image.wire = _load_image(image.load, image.image, image.options)
    return image


def _load_image(op: Op, image: bytes, options: list[tuple[int, int]]) -> int:
    return int.from_bytes(current().call(op, msgspec.msgpack.encode((image, options)))[:8], "little")


def _load(op: Op, kind: int, image: bytes, options: Sequence[tuple[int, int]]) -> int:
    wire = _load_image(op, image, list(options))
    handle = layout.make_handle(kind, next(_numbers))
    _images[handle] = _Image(op, image, list(options), wire)
    return handle


def _learn(reply: FunctionReply, module: int, handle: int = 0) -> int:
    parameter_bytes = max((offset + size for offset, size in reply.parameters), default=0)
    if not handle:
        handle = layout.make_handle(layout.KIND_FUNCTION, next(_numbers))
        _of_module.setdefault(module, []).append(handle)
    facts = _functions[handle] = FunctionFacts(
        reply.handle,
        reply.name,
        reply.parameters,
        parameter_bytes,
        reply.attributes,
        reply.attributes[_MAX_THREADS],
        reply.attributes[_MAX_DYNAMIC_SHARED],
        module,
    )
    _inherited.pop(handle, None)
    _tell(handle, facts)
    return handle


def _get_function(op: Op, module: int, name: bytes, handle: int = 0) -> int:
    reply = current().call(op, msgspec.msgpack.encode((_image(module).wire, name)))
    return _learn(msgspec.msgpack.decode(reply, type=FunctionReply), module, handle)


def _named_function(op: Op, module: int, name: bytes) -> int:
    known = _by_name.get((module, name))
    if known is not None:
        current().check()
        return known
    return _by_name.setdefault((module, name), _get_function(op, module, name))


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
    return _load(Op.MODULE_LOAD, layout.KIND_MODULE, image, options)


def _unload(op: Op, module: int) -> None:
    image = _images.get(module)
    if image is None:
        raise unknown_object(CUDA_ERROR_INVALID_HANDLE, f"module {module:#x}")
    if image.wire:
        current().call(op, layout.HANDLE.pack(image.wire))
    del _images[module]
    for key in [key for key in _by_name if key[0] == module]:
        del _by_name[key]
    for handle in _of_module.pop(module, ()):
        _functions.pop(handle, None)
        _inherited.pop(handle, None)
        _tell(handle, None)
    for base in _globals.pop(module, ()):
        current().device.disown(base)


def module_unload(module: int) -> None:
    """Unload a module; its functions become invalid."""
    _unload(Op.MODULE_UNLOAD, module)


def module_function(module: int, name: bytes) -> int:
    """Return the handle of a kernel.

    Raises
    ------
    CudaError
        500 when the module has no such kernel.
    """
    return _named_function(Op.MODULE_FUNCTION, module, name)


def module_global(module: int, name: bytes) -> tuple[int, int]:
    """Return (address, size) of a module's global variable."""
    return _global(Op.MODULE_GLOBAL, module, name)


def _global(op: Op, module: int, name: bytes) -> tuple[int, int]:
    reply = current().call(op, msgspec.msgpack.encode((_image(module).wire, name)))
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
    _tell(f, facts)


def function_parameters(f: int) -> list[tuple[int, int]]:
    """Return (offset, size) of each parameter."""
    return function_facts(f).parameters


def function_name(f: int) -> bytes:
    """Return the kernel's (mangled) name."""
    return function_facts(f).name


def library_load(image: bytes, options: Sequence[tuple[int, int]] = ()) -> int:
    """Load a library (``cuLibraryLoadData``)."""
    return _load(Op.LIBRARY_LOAD, layout.KIND_LIBRARY, image, options)


def library_unload(library: int) -> None:
    """Unload a library; its kernels become invalid."""
    _unload(Op.LIBRARY_UNLOAD, library)


def library_kernel(library: int, name: bytes) -> int:
    """Return a kernel's handle; it launches as a function does."""
    return _named_function(Op.LIBRARY_KERNEL, library, name)


def library_kernels(library: int) -> list[int]:
    """Return the handles of all kernels of a library."""
    reply = current().call(Op.LIBRARY_KERNELS, layout.HANDLE.pack(_image(library).wire))
    return [_learn(one, library) for one in msgspec.msgpack.decode(reply, type=list[FunctionReply])]


def library_global(library: int, name: bytes) -> tuple[int, int]:
    """Return (address, size) of a library's global variable."""
    return _global(Op.LIBRARY_GLOBAL, library, name)


def kernel_function(kernel: int) -> int:
    """Return the function of a kernel: the same handle serves both."""
    function_facts(kernel)
    return kernel


def image_size(address: int) -> int:
    """Return the length in bytes of a module image at a host address, for calls that pass no size.

    A cubin's ELF header tells its extent; a fatbin's header its size (the wrapper points at one). Anything else is text
    up to its NUL, as it is for the driver, which looks at it when a library's first kernel is asked for: so it takes
    even an empty one.

    Raises
    ------
    CudaError
        200 for a fatbin's wrapper.
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
    return len(ctypes.string_at(address))
