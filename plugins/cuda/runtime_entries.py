"""The runtime API's C functions (``cyruntime``): names and arguments of C on the semantics of `runtime_api`.

Many runtime functions are a driver function with the same arguments plus the implicit context; `SAME_AS_DRIVER`
lists them. The others have
adapters in `runtime_adapters`. Pure functions of the statically linked runtime stay as they are.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Final

from migproxy_plugins.cuda import registry
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.rules import RULES
from migproxy_plugins.cuda.runtime.calls import failure, get_last_error, peek_at_last_error, thread
from migproxy_plugins.cuda.status import NOT_SUPPORTED
from migproxy_plugins.cuda.treatment import Treatment, reason

from migproxy.errors import MigproxyError
from migproxy.session import api

log = logging.getLogger("migproxy.cuda")

#: Pure functions of the runtime that need no device.
UNTOUCHED: Final = frozenset(
    {
        "cudaCreateChannelDesc",
        "cudaGetErrorName",
        "cudaGetErrorString",
        "cudaRuntimeGetVersion",
        "getLocalRuntimeVersion",
        "make_cudaExtent",
        "make_cudaPitchedPtr",
        "make_cudaPos",
    }
)

#: Runtime functions whose arguments and meaning are a driver function's.
SAME_AS_DRIVER: Final[dict[str, str]] = {
    "cudaArrayGetMemoryRequirements": "cuArrayGetMemoryRequirements",
    "cudaArrayGetSparseProperties": "cuArrayGetSparseProperties",
    "cudaCtxResetPersistingL2Cache": "cuCtxResetPersistingL2Cache",
    "cudaIpcCloseMemHandle": "cuIpcCloseMemHandle",
    "cudaIpcGetEventHandle": "cuIpcGetEventHandle",
    "cudaIpcGetMemHandle": "cuIpcGetMemHandle",
    "cudaIpcOpenEventHandle": "cuIpcOpenEventHandle",
    "cudaIpcOpenMemHandle": "cuIpcOpenMemHandle",
    "cudaDeviceFlushGPUDirectRDMAWrites": "cuFlushGPUDirectRDMAWrites",
    "cudaDeviceGetByPCIBusId": "cuDeviceGetByPCIBusId",
    "cudaDeviceGetCacheConfig": "cuCtxGetCacheConfig",
    "cudaDeviceGetDefaultMemPool": "cuDeviceGetDefaultMemPool",
    "cudaDeviceGetGraphMemAttribute": "cuDeviceGetGraphMemAttribute",
    "cudaDeviceGetLimit": "cuCtxGetLimit",
    "cudaDeviceGetMemPool": "cuDeviceGetMemPool",
    "cudaDeviceGetP2PAttribute": "cuDeviceGetP2PAttribute",
    "cudaDeviceGetPCIBusId": "cuDeviceGetPCIBusId",
    "cudaDeviceGetSharedMemConfig": "cuCtxGetSharedMemConfig",
    "cudaDeviceGetStreamPriorityRange": "cuCtxGetStreamPriorityRange",
    "cudaDeviceGraphMemTrim": "cuDeviceGraphMemTrim",
    "cudaDeviceSetCacheConfig": "cuCtxSetCacheConfig",
    "cudaDeviceSetGraphMemAttribute": "cuDeviceSetGraphMemAttribute",
    "cudaDeviceSetLimit": "cuCtxSetLimit",
    "cudaDeviceSetMemPool": "cuDeviceSetMemPool",
    "cudaDeviceSetSharedMemConfig": "cuCtxSetSharedMemConfig",
    "cudaDeviceSynchronize": "cuCtxSynchronize",
    "cudaEventCreateWithFlags": "cuEventCreate",
    "cudaEventDestroy": "cuEventDestroy",
    "cudaEventElapsedTime": "cuEventElapsedTime",
    "cudaEventElapsedTime_v2": "cuEventElapsedTime",
    "cudaEventQuery": "cuEventQuery",
    "cudaEventRecord": "cuEventRecord",
    "cudaEventRecordWithFlags": "cuEventRecordWithFlags",
    "cudaEventSynchronize": "cuEventSynchronize",
    "cudaFuncGetName": "cuFuncGetName",
    "cudaFuncGetParamCount": "cuFuncGetParamCount",
    "cudaFuncGetParamInfo": "cuFuncGetParamInfo",
    "cudaFuncSetAttribute": "cuFuncSetAttribute",
    "cudaFuncSetCacheConfig": "cuFuncSetCacheConfig",
    "cudaFuncSetSharedMemConfig": "cuFuncSetSharedMemConfig",
    "cudaGetExportTable": "cuGetExportTable",
    "cudaGraphAddChildGraphNode": "cuGraphAddChildGraphNode",
    "cudaGraphAddDependencies": "cuGraphAddDependencies",
    "cudaGraphAddDependencies_v2": "cuGraphAddDependencies",
    "cudaGraphAddEmptyNode": "cuGraphAddEmptyNode",
    "cudaGraphAddEventRecordNode": "cuGraphAddEventRecordNode",
    "cudaGraphAddEventWaitNode": "cuGraphAddEventWaitNode",
    "cudaGraphAddHostNode": "cuGraphAddHostNode",
    "cudaGraphAddKernelNode": "cuGraphAddKernelNode",
    "cudaGraphAddMemAllocNode": "cuGraphAddMemAllocNode",
    "cudaGraphAddMemFreeNode": "cuGraphAddMemFreeNode",
    "cudaGraphAddMemsetNode": "cuGraphAddMemsetNode",
    "cudaGraphChildGraphNodeGetGraph": "cuGraphChildGraphNodeGetGraph",
    "cudaGraphClone": "cuGraphClone",
    "cudaGraphConditionalHandleCreate_v2": "cuGraphConditionalHandleCreate",
    "cudaGraphCreate": "cuGraphCreate",
    "cudaGraphDebugDotPrint": "cuGraphDebugDotPrint",
    "cudaGraphDestroy": "cuGraphDestroy",
    "cudaGraphDestroyNode": "cuGraphDestroyNode",
    "cudaGraphEventRecordNodeGetEvent": "cuGraphEventRecordNodeGetEvent",
    "cudaGraphEventRecordNodeSetEvent": "cuGraphEventRecordNodeSetEvent",
    "cudaGraphEventWaitNodeGetEvent": "cuGraphEventWaitNodeGetEvent",
    "cudaGraphEventWaitNodeSetEvent": "cuGraphEventWaitNodeSetEvent",
    "cudaGraphExecChildGraphNodeSetParams": "cuGraphExecChildGraphNodeSetParams",
    "cudaGraphExecDestroy": "cuGraphExecDestroy",
    "cudaGraphExecEventRecordNodeSetEvent": "cuGraphExecEventRecordNodeSetEvent",
    "cudaGraphExecEventWaitNodeSetEvent": "cuGraphExecEventWaitNodeSetEvent",
    "cudaGraphExecGetFlags": "cuGraphExecGetFlags",
    "cudaGraphExecGetId": "cuGraphExecGetId",
    "cudaGraphExecHostNodeSetParams": "cuGraphExecHostNodeSetParams",
    "cudaGraphExecKernelNodeSetParams": "cuGraphExecKernelNodeSetParams",
    "cudaGraphExecMemsetNodeSetParams": "cuGraphExecMemsetNodeSetParams",
    "cudaGraphExecUpdate": "cuGraphExecUpdate",
    "cudaGraphGetEdges": "cuGraphGetEdges",
    "cudaGraphGetEdges_v2": "cuGraphGetEdges",
    "cudaGraphGetId": "cuGraphGetId",
    "cudaGraphGetNodes": "cuGraphGetNodes",
    "cudaGraphGetRootNodes": "cuGraphGetRootNodes",
    "cudaGraphHostNodeGetParams": "cuGraphHostNodeGetParams",
    "cudaGraphHostNodeSetParams": "cuGraphHostNodeSetParams",
    "cudaGraphInstantiate": "cuGraphInstantiate",
    "cudaGraphInstantiateWithFlags": "cuGraphInstantiate",
    "cudaGraphInstantiateWithParams": "cuGraphInstantiateWithParams",
    "cudaGraphKernelNodeCopyAttributes": "cuGraphKernelNodeCopyAttributes",
    "cudaGraphKernelNodeGetAttribute": "cuGraphKernelNodeGetAttribute",
    "cudaGraphKernelNodeSetAttribute": "cuGraphKernelNodeSetAttribute",
    "cudaGraphKernelNodeSetParams": "cuGraphKernelNodeSetParams",
    "cudaGraphLaunch": "cuGraphLaunch",
    "cudaGraphMemAllocNodeGetParams": "cuGraphMemAllocNodeGetParams",
    "cudaGraphMemFreeNodeGetParams": "cuGraphMemFreeNodeGetParams",
    "cudaGraphMemsetNodeGetParams": "cuGraphMemsetNodeGetParams",
    "cudaGraphMemsetNodeSetParams": "cuGraphMemsetNodeSetParams",
    "cudaGraphNodeFindInClone": "cuGraphNodeFindInClone",
    "cudaGraphNodeGetContainingGraph": "cuGraphNodeGetContainingGraph",
    "cudaGraphNodeGetDependencies": "cuGraphNodeGetDependencies",
    "cudaGraphNodeGetDependencies_v2": "cuGraphNodeGetDependencies",
    "cudaGraphNodeGetDependentNodes": "cuGraphNodeGetDependentNodes",
    "cudaGraphNodeGetDependentNodes_v2": "cuGraphNodeGetDependentNodes",
    "cudaGraphNodeGetEnabled": "cuGraphNodeGetEnabled",
    "cudaGraphNodeGetLocalId": "cuGraphNodeGetLocalId",
    "cudaGraphNodeGetToolsId": "cuGraphNodeGetToolsId",
    "cudaGraphNodeGetType": "cuGraphNodeGetType",
    "cudaGraphNodeSetEnabled": "cuGraphNodeSetEnabled",
    "cudaGraphReleaseUserObject": "cuGraphReleaseUserObject",
    "cudaGraphRemoveDependencies": "cuGraphRemoveDependencies",
    "cudaGraphRemoveDependencies_v2": "cuGraphRemoveDependencies",
    "cudaGraphRetainUserObject": "cuGraphRetainUserObject",
    "cudaGraphUpload": "cuGraphUpload",
    "cudaMipmappedArrayGetMemoryRequirements": "cuMipmappedArrayGetMemoryRequirements",
    "cudaMipmappedArrayGetSparseProperties": "cuMipmappedArrayGetSparseProperties",
    "cudaStreamBeginCaptureToGraph": "cuStreamBeginCaptureToGraph",
    "cudaStreamUpdateCaptureDependencies": "cuStreamUpdateCaptureDependencies",
    "cudaStreamUpdateCaptureDependencies_v2": "cuStreamUpdateCaptureDependencies",
    "cudaUserObjectCreate": "cuUserObjectCreate",
    "cudaUserObjectRelease": "cuUserObjectRelease",
    "cudaUserObjectRetain": "cuUserObjectRetain",
    "cudaHostGetDevicePointer": "cuMemHostGetDevicePointer",
    "cudaHostGetFlags": "cuMemHostGetFlags",
    "cudaHostRegister": "cuMemHostRegister",
    "cudaHostUnregister": "cuMemHostUnregister",
    "cudaLaunchHostFunc": "cuLaunchHostFunc",
    "cudaLaunchHostFunc_v2": "cuLaunchHostFunc_v2",
    "cudaLibraryEnumerateKernels": "cuLibraryEnumerateKernels",
    "cudaLibraryGetGlobal": "cuLibraryGetGlobal",
    "cudaLibraryGetKernel": "cuLibraryGetKernel",
    "cudaLibraryGetKernelCount": "cuLibraryGetKernelCount",
    "cudaLibraryGetManaged": "cuLibraryGetManaged",
    "cudaLibraryGetUnifiedFunction": "cuLibraryGetUnifiedFunction",
    "cudaLibraryLoadData": "cuLibraryLoadData",
    "cudaLibraryLoadFromFile": "cuLibraryLoadFromFile",
    "cudaLibraryUnload": "cuLibraryUnload",
    "cudaMemGetDefaultMemPool": "cuMemGetDefaultMemPool",
    "cudaMemGetInfo": "cuMemGetInfo",
    "cudaMemGetMemPool": "cuMemGetMemPool",
    "cudaMemPoolCreate": "cuMemPoolCreate",
    "cudaMemPoolDestroy": "cuMemPoolDestroy",
    "cudaMemPoolGetAccess": "cuMemPoolGetAccess",
    "cudaMemPoolGetAttribute": "cuMemPoolGetAttribute",
    "cudaMemPoolSetAccess": "cuMemPoolSetAccess",
    "cudaMemPoolSetAttribute": "cuMemPoolSetAttribute",
    "cudaMemPoolTrimTo": "cuMemPoolTrimTo",
    "cudaMemPrefetchAsync": "cuMemPrefetchAsync",
    "cudaMemPrefetchAsync_v2": "cuMemPrefetchAsync",
    "cudaMemAdvise": "cuMemAdvise",
    "cudaMemAdvise_v2": "cuMemAdvise",
    "cudaMemRangeGetAttribute": "cuMemRangeGetAttribute",
    "cudaMemRangeGetAttributes": "cuMemRangeGetAttributes",
    "cudaMemSetMemPool": "cuMemSetMemPool",
    "cudaMemcpyBatchAsync": "cuMemcpyBatchAsync",
    "cudaMemcpyWithAttributesAsync": "cuMemcpyWithAttributesAsync",
    "cudaOccupancyAvailableDynamicSMemPerBlock": "cuOccupancyAvailableDynamicSMemPerBlock",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessor": "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags": "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cudaProfilerStart": "cuProfilerStart",
    "cudaProfilerStop": "cuProfilerStop",
    "cudaStreamAddCallback": "cuStreamAddCallback",
    "cudaStreamAttachMemAsync": "cuStreamAttachMemAsync",
    "cudaStreamBeginCapture": "cuStreamBeginCapture",
    "cudaStreamCopyAttributes": "cuStreamCopyAttributes",
    "cudaStreamCreateWithFlags": "cuStreamCreate",
    "cudaStreamCreateWithPriority": "cuStreamCreateWithPriority",
    "cudaStreamDestroy": "cuStreamDestroy",
    "cudaStreamEndCapture": "cuStreamEndCapture",
    "cudaStreamGetAttribute": "cuStreamGetAttribute",
    "cudaStreamGetCaptureInfo": "cuStreamGetCaptureInfo",
    "cudaStreamGetCaptureInfo_v3": "cuStreamGetCaptureInfo",
    "cudaStreamGetDevice": "cuStreamGetDevice",
    "cudaStreamGetFlags": "cuStreamGetFlags",
    "cudaStreamGetId": "cuStreamGetId",
    "cudaStreamGetPriority": "cuStreamGetPriority",
    "cudaStreamIsCapturing": "cuStreamIsCapturing",
    "cudaStreamQuery": "cuStreamQuery",
    "cudaStreamSetAttribute": "cuStreamSetAttribute",
    "cudaStreamSynchronize": "cuStreamSynchronize",
    "cudaStreamWaitEvent": "cuStreamWaitEvent",
    "cudaThreadExchangeStreamCaptureMode": "cuThreadExchangeStreamCaptureMode",
}


def _adapters() -> dict[str, Callable[..., None]]:
    from migproxy_plugins.cuda import runtime_adapters

    for family in ("array", "graph"):
        importlib.import_module(f"migproxy_plugins.cuda.runtime_{family}_adapters")
    return runtime_adapters.RUNTIME


def _driver_adapter(name: str) -> Callable[..., None]:
    adapter = registry.load().get(name)
    return rule_adapter(name) if adapter is None and name in RULES else registry.DRIVER[name]


def _find(name: str) -> Callable[..., None] | None:
    adapter = _adapters().get(name)
    if adapter is None and name in SAME_AS_DRIVER:
        adapter = _driver_adapter(SAME_AS_DRIVER[name])
    return adapter


def runtime_treatment(name: str) -> tuple[Treatment, str]:
    """Return a runtime function's treatment, with the reason if it is refused."""
    if name in UNTOUCHED or name in ("cudaGetLastError", "cudaPeekAtLastError"):
        return "served", ""
    if name not in _adapters() and SAME_AS_DRIVER.get(name) in RULES:
        return "rule", ""
    return ("served", "") if _find(name) is not None else ("refused", reason(name))


def runtime_handler(name: str) -> Callable[..., int] | None:
    """Return what a runtime function's capsule calls; None for those that stay as they are."""
    if name in UNTOUCHED:
        return None
    if name == "cudaGetLastError":
        return get_last_error
    if name == "cudaPeekAtLastError":
        return peek_at_last_error
    adapter = _find(name)
    return _refused(name) if adapter is None else _status_of(name, adapter)


def _refused(name: str) -> Callable[..., int]:
    why = reason(name)

    def refused(*arguments: Any) -> int:
        log.warning("refused: %s: %s", name, why)
        thread.last_error = NOT_SUPPORTED
        return NOT_SUPPORTED

    refused.__name__ = refused.__qualname__ = name
    return refused


def _status_of(name: str, adapter: Callable[..., None]) -> Callable[..., int]:
    needs_context = not getattr(adapter, "needs_no_context", False)

    def call(*arguments: Any) -> int:
        try:
            if needs_context:
                api.ensure_context()
            adapter(*arguments)
        except (MigproxyError, MemoryError) as error:
            status = failure(error)
            if status.detail:
                log.info("%s: %s", name, status)
            return status.status
        return 0

    call.__name__ = call.__qualname__ = name
    return call
