"""``cupy_backends.cuda.api.runtime`` in a function: each CuPy name, on the cuda plugin's runtime API.

The handlers take the arguments of CuPy's functions in their order, as plain values, and raise runtime statuses;
`install` puts them into the module's attributes and into its capsules.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from migproxy_plugins.cuda import runtime_api as rt
from migproxy_plugins.cuda.runtime.calls import context_call
from migproxy_plugins.cupy import forking, objects_unsafe, patching
from migproxy_plugins.cupy.errors import releasing, runtime_status, translated

from migproxy.errors import CudaError
from migproxy.interpose import capsules
from migproxy.jit import fast_path
from migproxy.session import api
from migproxy.session.api import streams

Handler = Callable[..., Any]
_PER_THREAD = 2

#: Names that stay as CuPy compiled them, and why.
STAYS: dict[str, str] = {
    "_is_hip_environment": "an int variable",
    "deviceAttributeComputeCapabilityMajor": "an int variable",
    "deviceAttributeComputeCapabilityMinor": "an int variable",
    "errorContextIsDestroyed": "an int variable",
    "errorInvalidResourceHandle": "an int variable",
    "errorInvalidValue": "an int variable",
    "errorMemoryAllocation": "an int variable",
    "errorPeerAccessAlreadyEnabled": "an int variable",
    "make_Extent": "fills a struct",
    "make_PitchedPtr": "fills a struct",
    "make_Pos": "fills a struct",
    "getChannelDesc": "fills a struct; CuPy never calls it",
    "getTextureObjectResourceDesc": "fills a struct; CuPy never calls it",
    "getTextureObjectTextureDesc": "fills a struct; CuPy never calls it",
    "runtimeGetVersion": "the version of the runtime that is linked into CuPy; touches no device",
    "_getCUDAMajorVersion": "from runtimeGetVersion",
    "_getLocalRuntimeVersion": "asks libcudart, which needs no device for it",
    "_export_enum": "copies constants at import",
}

#: The keys of CuPy's ``getDeviceProperties``.
_PROPERTY_NAMES = (
    "name", "totalGlobalMem", "sharedMemPerBlock", "regsPerBlock", "warpSize", "maxThreadsPerBlock",
    "maxThreadsDim", "maxGridSize", "clockRate", "totalConstMem", "major", "minor", "textureAlignment",
    "texturePitchAlignment", "multiProcessorCount", "kernelExecTimeoutEnabled", "integrated", "canMapHostMemory",
    "computeMode", "maxTexture1D", "maxTexture2D", "maxTexture3D", "concurrentKernels", "ECCEnabled", "pciBusID",
    "pciDeviceID", "pciDomainID", "tccDriver", "memoryClockRate", "memoryBusWidth", "l2CacheSize",
    "maxThreadsPerMultiProcessor", "isMultiGpuBoard", "cooperativeLaunch", "cooperativeMultiDeviceLaunch",
    "maxTexture1DMipmap", "maxTexture1DLayered", "maxTexture2DMipmap", "maxTexture2DLinear", "maxTexture2DLayered",
    "maxTexture2DGather", "maxTexture3DAlt", "maxTextureCubemap", "maxTextureCubemapLayered", "maxSurface1D",
    "maxSurface1DLayered", "maxSurface2D", "maxSurface2DLayered", "maxSurface3D", "maxSurfaceCubemap",
    "maxSurfaceCubemapLayered", "surfaceAlignment", "asyncEngineCount", "unifiedAddressing",
    "streamPrioritiesSupported", "globalL1CacheSupported", "localL1CacheSupported", "sharedMemPerMultiprocessor",
    "regsPerMultiprocessor", "managedMemory", "multiGpuBoardGroupID", "hostNativeAtomicSupported",
    "pageableMemoryAccess", "concurrentManagedAccess", "computePreemptionSupported",
    "canUseHostPointerForRegisteredMem", "sharedMemPerBlockOptin", "pageableMemoryAccessUsesHostPageTables",
    "directManagedMemAccessFromHost", "uuid", "luid", "luidDeviceNodeMask", "persistingL2CacheMaxSize",
    "maxBlocksPerMultiProcessor", "accessPolicyMaxWindowSize", "reservedSharedMemPerBlock", "deviceOverlap",
    "maxTexture1DLinear", "singleToDoublePrecisionPerfRatio",
)  # fmt: skip


def _status(function: Callable[..., None]) -> Callable[..., int]:
    """Make a query that raises not-ready into one that returns the status, as CuPy's queries do."""

    def query(handle: int) -> int:
        try:
            function(handle)
        except CudaError as reason:
            return runtime_status(reason)
        return 0

    return query


def _get_device_properties(device: int) -> dict[str, Any]:
    found = rt.get_device_properties(device)
    return {name: found[name] for name in _PROPERTY_NAMES}


def _stream_add_callback(stream: int, callback: Callable[..., Any], argument: Any, flags: int = 0) -> None:
    rt.stream_add_callback(stream, lambda: callback(stream, 0, argument))


def _launch_host_func(stream: int, callback: Callable[..., Any], argument: Any) -> None:
    rt.launch_host_function(stream, lambda: callback(argument))


def _launch_host_func_unmanaged(stream: int, pair: tuple[Callable[..., Any], Any]) -> None:
    callback, argument = pair
    rt.launch_host_function(stream, lambda: callback(argument))


def _stream_is_capturing(stream: int) -> bool:
    status = rt.stream_is_capturing(stream)
    if not status and stream > _PER_THREAD and streams.capturing():
        # A stream that waited for an event of a captured one is captured with it, which only the driver knows.
        failed, (status,) = api.driver_call("cuStreamIsCapturing", (stream,))
        if failed:
            raise CudaError(failed)
    if status == 2:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return bool(status)


def _ensure_peer_access(peer: int) -> None:
    try:
        rt.device_enable_peer_access(peer)
    except CudaError as reason:
        if runtime_status(reason) != 704:  # already enabled
            raise


def _memcpy_peer_async(destination: int, to_device: int, source: int, from_device: int, size: int, stream: int) -> None:
    rt.memcpy_peer(destination, to_device, source, from_device, size, stream)


def _graph_debug_dot_print(graph: int, path: str, flags: int) -> None:
    from migproxy_plugins.cuda.driver_graphs import cuGraphDebugDotPrint

    name = path.encode() + b"\0"
    place = objects_unsafe.buffer(len(name))
    place[:] = name
    cuGraphDebugDotPrint(graph, objects_unsafe.address_of(place), flags)


def _mem_pool_set_attribute(pool: int, attribute: int, value: Any) -> None:
    rt.mem_pool_set_attribute(pool, attribute, int(value))


def _arrays(name: str) -> Handler:
    """Return a function that imports CUDA's arrays and textures when it is called: few scripts have any."""

    def handler(*arguments: Any) -> Any:
        from migproxy_plugins.cuda.runtime import arrays

        return getattr(arrays, name)(*arguments)

    handler.__name__ = name
    return handler


@context_call
def _ipc_get_mem_handle(pointer: int) -> bytes:
    from migproxy_plugins.cuda import driver_ipc

    return driver_ipc.memory_handle(pointer)


@context_call
def _ipc_open_mem_handle(handle: bytes, flags: int = 1) -> int:
    from migproxy_plugins.cuda import driver_ipc

    return driver_ipc.open_memory(handle, flags)


#: Handlers that need nothing of the module.
HANDLERS: dict[str, Handler] = {
    "driverGetVersion": rt.driver_get_version,
    "getDevice": rt.get_device,
    "deviceGetAttribute": rt.device_get_attribute,
    "getDeviceProperties": _get_device_properties,
    "deviceGetByPCIBusId": rt.device_get_by_pci_bus_id,
    "deviceGetPCIBusId": rt.device_get_pci_bus_id,
    "getDeviceCount": rt.get_device_count,
    "setDevice": rt.set_device,
    "deviceSynchronize": rt.device_synchronize,
    "deviceCanAccessPeer": rt.device_can_access_peer,
    "deviceEnablePeerAccess": rt.device_enable_peer_access,
    "deviceDisablePeerAccess": rt.device_disable_peer_access,
    "_deviceEnsurePeerAccess": _ensure_peer_access,
    "deviceGetLimit": rt.device_get_limit,
    "deviceSetLimit": rt.device_set_limit,
    "ipcCloseMemHandle": context_call(api.ipc_close_memory),
    "ipcGetEventHandle": context_call(api.ipc_event_handle),
    "ipcGetMemHandle": _ipc_get_mem_handle,
    "ipcOpenEventHandle": context_call(api.ipc_open_event),
    "ipcOpenMemHandle": _ipc_open_mem_handle,
    "malloc": rt.malloc,
    "mallocManaged": rt.malloc_managed,
    "malloc3DArray": _arrays("malloc_3d_array"),
    "mallocArray": _arrays("malloc_array"),
    "mallocAsync": rt.malloc_async,
    "mallocFromPoolAsync": rt.malloc_from_pool_async,
    "hostAlloc": rt.host_alloc,
    "hostRegister": rt.host_register,
    "hostUnregister": rt.host_unregister,
    "free": rt.free,
    "freeHost": rt.free_host,
    "freeArray": _arrays("free_array"),
    "freeAsync": rt.free_async,
    "memGetInfo": rt.mem_get_info,
    "memcpy": rt.memcpy,
    "memcpyAsync": rt.memcpy_async,
    "memcpyPeer": rt.memcpy_peer,
    "memcpyPeerAsync": _memcpy_peer_async,
    "memcpy2D": rt.memcpy_2d,
    "memcpy2DAsync": rt.memcpy_2d,
    "memcpy2DFromArray": _arrays("memcpy_2d_from_array"),
    "memcpy2DFromArrayAsync": _arrays("memcpy_2d_from_array"),
    "memcpy2DToArray": _arrays("memcpy_2d_to_array"),
    "memcpy2DToArrayAsync": _arrays("memcpy_2d_to_array"),
    "memcpy3D": _arrays("memcpy_3d"),
    "memcpy3DAsync": _arrays("memcpy_3d"),
    "memset": rt.memset,
    "memsetAsync": rt.memset_async,
    "memPrefetchAsync": rt.mem_prefetch_async,
    "memAdvise": rt.mem_advise,
    "pointerGetMemoryType": rt.pointer_memory_type,
    "deviceGetDefaultMemPool": rt.device_get_default_mem_pool,
    "deviceGetMemPool": rt.device_get_mem_pool,
    "deviceSetMemPool": rt.device_set_mem_pool,
    "memPoolDestroy": rt.mem_pool_destroy,
    "memPoolTrimTo": rt.mem_pool_trim_to,
    "memPoolGetAttribute": rt.mem_pool_get_attribute,
    "memPoolSetAttribute": _mem_pool_set_attribute,
    "streamCreate": lambda: rt.stream_create(0),
    "streamCreateWithFlags": lambda flags: rt.stream_create(flags),
    "streamCreateWithPriority": lambda flags, priority: rt.stream_create(flags, priority),
    "streamGetFlags": rt.stream_get_flags,
    "streamGetPriority": rt.stream_get_priority,
    "streamDestroy": rt.stream_destroy,
    "streamSynchronize": rt.stream_synchronize,
    "streamAddCallback": _stream_add_callback,
    "launchHostFunc": _launch_host_func,
    "_launchHostFuncUnmanaged": _launch_host_func_unmanaged,
    "streamQuery": _status(rt.stream_query),
    "streamWaitEvent": rt.stream_wait_event,
    "streamBeginCapture": lambda stream, mode=2: rt.stream_begin_capture(stream, mode),
    "streamEndCapture": rt.stream_end_capture,
    "streamIsCapturing": _stream_is_capturing,
    "graphDestroy": rt.graph_destroy,
    "graphExecDestroy": rt.graph_exec_destroy,
    "graphInstantiate": rt.graph_instantiate,
    "graphLaunch": rt.graph_launch,
    "graphUpload": rt.graph_upload,
    "graphDebugDotPrint": _graph_debug_dot_print,
    "eventCreate": lambda: rt.event_create(0),
    "eventCreateWithFlags": rt.event_create,
    "eventDestroy": rt.event_destroy,
    "eventElapsedTime": rt.event_elapsed_time,
    "eventQuery": _status(rt.event_query),
    "eventRecord": rt.event_record,
    "eventSynchronize": rt.event_synchronize,
    "createTextureObject": _arrays("create_texture_object"),
    "destroyTextureObject": _arrays("destroy_texture_object"),
    "createSurfaceObject": _arrays("create_surface_object"),
    "destroySurfaceObject": _arrays("destroy_surface_object"),
    "profilerStart": rt.profiler_start,
    "profilerStop": rt.profiler_stop,
    "_ensure_context": api.ensure_context,
}

#: Handlers that `install` makes because they use classes of the module.
MODULE_HANDLERS = ("check_status", "pointerGetAttributes", "memPoolCreate")


#: What destructors call.
RELEASES = (
    "free",
    "freeArray",
    "freeHost",
    "freeAsync",
    "streamDestroy",
    "eventDestroy",
    "graphDestroy",
    "graphExecDestroy",
    "memPoolDestroy",
    "destroyTextureObject",
    "destroySurfaceObject",
)


def handlers(module: ModuleType) -> dict[str, Handler]:
    """Return every handler for this module, raising the module's own error class."""
    error = module.CUDARuntimeError

    def check_status(status: int) -> None:
        if status != 0:
            raise error(status)

    def pointer_get_attributes(pointer: int) -> Any:
        facts = rt.pointer_get_attributes(pointer)
        return module.PointerAttributes(facts.device, facts.device_pointer, facts.host_pointer, facts.type)

    def mem_pool_create(properties: Any) -> int:
        # The class's fields have no Python attributes; its layout is four ints after the object header.
        allocation_type, handle_type, location_type, device = objects_unsafe.trailing_ints(properties, 4)
        return rt.mem_pool_create(allocation_type, location_type, device, handle_type)

    made = {
        **HANDLERS,
        "check_status": check_status,
        "pointerGetAttributes": pointer_get_attributes,
        "memPoolCreate": mem_pool_create,
    }
    for name in RELEASES:
        made[name] = releasing(made[name])
    return {name: translated(handler, error, runtime_status) for name, handler in made.items()}


def install(module: ModuleType) -> None:
    """Make the module's functions remote; called right after it executed."""
    patching.patch(module, handlers(module), STAYS)
    finish = translated(context_call(fast_path.finish), module.CUDARuntimeError, runtime_status)
    query = translated(_status(context_call(fast_path.finish)), module.CUDARuntimeError, runtime_status)
    capsules.accelerate(module, finish, query)
    forking.install()
