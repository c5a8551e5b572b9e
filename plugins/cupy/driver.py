"""``cupy_backends.cuda.api.driver`` in a function: modules, launches, function attributes, contexts, the linker."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from migproxy_plugins.cuda import driver_link
from migproxy_plugins.cuda.marshal import wire_function
from migproxy_plugins.cupy import objects_unsafe, patching
from migproxy_plugins.cupy.errors import driver_error_init, driver_status, refuse, releasing, translated

from migproxy.errors import CudaError
from migproxy.interpose import capsules
from migproxy.session import api

Handler = Callable[..., Any]
INVALID_VALUE = 1

#: Names that stay as CuPy compiled them, and why.
STAYS: dict[str, str] = {
    "get_build_version": "a constant of the build",
    "_is_cuda_python": "a constant of the build",
    "moduleEnumerateFunctions": "CuPy 14.1 calls it after moduleGetFunctionCount only, which is refused",
    "funcGetName": "CuPy 14.1 calls it after moduleGetFunctionCount only, which is refused",
}


def _refused(name: str, why: str) -> Handler:
    def refused(*_: Any) -> NoReturn:
        raise refuse(f"cupy.cuda.driver.{name}", why)

    return refused


def _module_load(filename: str) -> int:
    try:
        with open(filename, "rb") as file:
            image = file.read()
    except OSError:
        raise CudaError(301, f"no file {filename!r}") from None
    return api.module_load(image)


def _module_get_function(module: int, name: str) -> int:
    return api.module_function(module, name.encode())


def _module_get_global(module: int, name: str) -> int:
    return api.module_global(module, name.encode())[0]


def _launch(
    function: int,
    gx: int,
    gy: int,
    gz: int,
    bx: int,
    by: int,
    bz: int,
    shared: int,
    stream: int,
    parameters: int,
    extra: int,
) -> None:
    api.launch(function, (gx, gy, gz), (bx, by, bz), shared, stream, parameters, extra)


def _launch_cooperative(
    function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, parameters: int
) -> None:
    api.launch(function, (gx, gy, gz), (bx, by, bz), shared, stream, parameters, 0, cooperative=True)


def _function_attribute(attribute: int, function: int) -> int:
    try:
        return api.function_attribute(function, attribute)
    except CudaError as reason:
        if reason.status == INVALID_VALUE:
            return -1  # CuPy's answer for an attribute that the driver does not know
        raise


#: What the driver said of a function's occupancy, by block size and shared memory: fused kernels ask at each launch.
_occupancy: dict[int, dict[tuple[int, int], int]] = {}


def _occupancy_blocks(function: int, block_size: int, shared: int) -> int:
    known = _occupancy.setdefault(function, {})
    found = known.get((block_size, shared))
    if found is None:
        status, outs = api.driver_call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", (wire_function(function), block_size, shared, 0)
        )
        if status:
            raise CudaError(status)
        found = known[block_size, shared] = int(outs[0])
    return found


def _set_function_attribute(function: int, attribute: int, value: int) -> None:
    _occupancy.pop(function, None)
    api.function_set_attribute(function, attribute, value)


def _module_unload(module: int) -> None:
    # Handles of its functions end with it.
    _occupancy.clear()
    api.module_unload(module)


def _occupancy_block_size(function: int, shared: int, limit: int) -> tuple[int, int]:
    """The best block size, by trying each multiple of the warp: what the driver does without a size function."""
    threads = min(api.function_attribute(function, 0), limit or (1 << 30))
    multiprocessors = api.device_attribute(16, api.context_device())
    best, best_size, best_blocks = -1, 0, 0
    size = max(32, threads - threads % 32)
    while size > 0:
        blocks = _occupancy_blocks(function, size, shared)
        if blocks * size > best:
            best, best_size, best_blocks = blocks * size, size, blocks
        size -= 32
    return best_blocks * multiprocessors, best_size


def _stream_context(stream: int) -> int:
    """All streams of a session belong to its one primary context; a bad stream is an error, as natively."""
    api.stream_flags(stream)
    device = api.context_device()
    context = api.primary_context_retain(device)
    api.primary_context_release(device)
    return context


def _out(call: Callable[..., Any], *arguments: Any) -> int:
    """Call a driver function of the cuda plugin with a place for one 64-bit result behind its arguments."""
    place = objects_unsafe.buffer(8)
    call(*arguments, objects_unsafe.address_of(place))
    return int.from_bytes(bytes(place), "little")


def _link_create() -> int:
    return _out(driver_link.cuLinkCreate, 0, 0, 0)


def _link_add_data(state: int, kind: int, data: bytes, name: str) -> None:
    # CuPy counts the closing NUL, which PTX needs.
    held, label = objects_unsafe.buffer_of(data + b"\0"), objects_unsafe.buffer_of(name.encode() + b"\0")
    address_of = objects_unsafe.address_of
    driver_link.cuLinkAddData(state, kind, address_of(held), len(data) + 1, address_of(label))


def _link_add_file(state: int, kind: int, path: str) -> None:
    held = objects_unsafe.buffer_of(path.encode() + b"\0")
    driver_link.cuLinkAddFile(state, kind, objects_unsafe.address_of(held))


def _link_complete(state: int) -> bytes:
    places = objects_unsafe.buffer(16)
    address = objects_unsafe.address_of(places)
    driver_link.cuLinkComplete(state, address, address + 8)
    image, size = (int.from_bytes(bytes(places)[at : at + 8], "little") for at in (0, 8))
    return objects_unsafe.read_host(image, size)


_CONTEXTS = "a function has its device's primary context only"

HANDLERS: dict[str, Handler] = {
    "devicePrimaryCtxRelease": api.primary_context_release,
    "ctxGetCurrent": api.context_get_current,
    "ctxSetCurrent": api.context_set_current,
    "ctxCreate": _refused("ctxCreate", _CONTEXTS),
    "ctxDestroy": _refused("ctxDestroy", _CONTEXTS),
    "ctxGetDevice": api.context_device,
    "linkCreate": _link_create,
    "linkAddData": _link_add_data,
    "linkAddFile": _link_add_file,
    "linkComplete": _link_complete,
    "linkDestroy": driver_link.cuLinkDestroy,
    "moduleLoad": _module_load,
    "moduleLoadData": api.module_load,
    "moduleUnload": releasing(_module_unload),
    "moduleGetFunction": _module_get_function,
    "moduleGetGlobal": _module_get_global,
    # CuPy 14.1 asks it to find names in a cached image, and compiles anew where it cannot.
    "moduleGetFunctionCount": _refused("moduleGetFunctionCount", "it fills a C++ vector of CuPy's"),
    "launchKernel": _launch,
    "launchCooperativeKernel": _launch_cooperative,
    "funcGetAttribute": _function_attribute,
    "funcSetAttribute": _set_function_attribute,
    "occupancyMaxActiveBlocksPerMultiprocessor": _occupancy_blocks,
    "occupancyMaxPotentialBlockSize": _occupancy_block_size,
    "streamGetCtx": _stream_context,
}


def handlers(module: ModuleType) -> dict[str, Handler]:
    """Return every handler for this module, raising the module's own error class."""
    error = module.CUDADriverError

    def check_status(status: int) -> None:
        if status != 0:
            raise error(status)

    made = {**HANDLERS, "check_status": check_status}
    return {name: translated(handler, error, driver_status) for name, handler in made.items()}


def install(module: ModuleType) -> None:
    """Make the module's functions remote; called right after it executed."""
    # The real constructor asks libcuda for names and texts, and there is none here.
    module.CUDADriverError.__init__ = driver_error_init
    patching.patch(module, handlers(module), STAYS)
    capsules.accelerate(module)
