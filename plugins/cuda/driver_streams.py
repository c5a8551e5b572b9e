"""Driver API: streams and events."""

from __future__ import annotations

import struct
import threading

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import check_context, need_context
from migproxy_plugins.cuda.driver_edges import EDGE_DATA_SIZE, check_edges
from migproxy_plugins.cuda.driver_nodes import call_captured
from migproxy_plugins.cuda.marshal import rule_adapter
from migproxy_plugins.cuda.memory_unsafe import (
    LentArrays,
    call_host_function,
    call_stream_callback,
    get_bytes,
    get_u64,
    put_bytes,
    put_f32,
    put_i32,
    put_u32,
    put_u64,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api.streams import capturing

_DEFAULT_STREAMS = (0, 1, 2)
# CUstreamAttrID
_ACCESS_POLICY_WINDOW = 1
_SYNCHRONIZATION_POLICY = 3
_PRIORITY = 8
_MEM_SYNC_DOMAIN_MAP = 9
_MEM_SYNC_DOMAIN = 10
_ATTRIBUTE_BYTES = 64


class _Thread(threading.local):
    """Per-thread state of capturing."""

    capture_mode = 0


thread = _Thread()
_attributes: dict[tuple[int, int], bytes] = {}
_edges = LentArrays()


@serves()
def cuStreamCreate(stream: int, flags: int) -> None:
    need_context()
    put_u64(stream, api.stream_create(flags, 0))


@serves()
def cuStreamCreateWithPriority(stream: int, flags: int, priority: int) -> None:
    need_context()
    put_u64(stream, api.stream_create(flags, priority))


@serves()
def cuStreamDestroy(stream: int) -> None:
    if stream in _DEFAULT_STREAMS:
        raise CudaError(st.INVALID_HANDLE, "the default stream cannot be destroyed")
    api.stream_destroy(stream)
    for key in [key for key in _attributes if key[0] == stream]:
        del _attributes[key]


@serves()
def cuStreamSynchronize(stream: int) -> None:
    need_context()
    api.stream_synchronize(stream)


@serves()
def cuStreamQuery(stream: int) -> None:
    need_context()
    api.stream_query(stream)


@serves()
def cuStreamWaitEvent(stream: int, event: int, flags: int) -> None:
    api.stream_wait_event(stream, event, flags)


@serves()
def cuStreamGetFlags(stream: int, flags: int) -> None:
    put_u32(flags, api.stream_flags(stream))


@serves()
def cuStreamGetPriority(stream: int, priority: int) -> None:
    put_i32(priority, api.stream_priority(stream))


@serves()
def cuStreamGetId(stream: int, number: int) -> None:
    api.stream_flags(stream)
    put_u64(number, stream or 1)


@serves()
def cuStreamGetDevice(stream: int, device: int) -> None:
    api.stream_flags(stream)
    put_i32(device, 0)


@serves()
def cuStreamGetCtx(stream: int, context: int) -> None:
    api.stream_flags(stream)
    put_u64(context, need_context() if stream in _DEFAULT_STREAMS else api.primary_context_retain(0))


@serves()
def cuStreamGetCtx_v2(stream: int, context: int, green: int) -> None:
    cuStreamGetCtx(stream, context)
    put_u64(green, 0)


@serves()
def cuStreamAddCallback(stream: int, callback: int, user_data: int, flags: int) -> None:
    if flags or not callback:
        raise CudaError(st.INVALID_VALUE)
    api.stream_add_host_function(stream, lambda: call_stream_callback(callback, stream, 0, user_data))


@serves()
def cuLaunchHostFunc(stream: int, function: int, user_data: int, *mode: int) -> None:
    if not function:
        raise CudaError(st.INVALID_VALUE)
    if api.is_captured(stream):
        call_captured(stream, function, user_data)
        return
    api.stream_add_host_function(stream, lambda: call_host_function(function, user_data))


@serves()
def cuLaunchHostFunc_v2(stream: int, function: int, user_data: int, mode: int) -> None:
    cuLaunchHostFunc(stream, function, user_data)


@serves()
def cuStreamGetAttribute(stream: int, attribute: int, value: int) -> None:
    api.stream_flags(stream)
    if attribute == _PRIORITY:
        put_i32(value, api.stream_priority(stream))
    elif attribute == _SYNCHRONIZATION_POLICY:
        put_bytes(value, _attributes.get((stream, attribute), (1).to_bytes(4, "little"))[:4])
    elif attribute in (_ACCESS_POLICY_WINDOW, _MEM_SYNC_DOMAIN_MAP, _MEM_SYNC_DOMAIN):
        put_bytes(value, _attributes.get((stream, attribute), bytes(_ATTRIBUTE_BYTES))[:32])
    else:
        raise CudaError(st.INVALID_VALUE, f"stream attribute {attribute}")


@serves()
def cuStreamSetAttribute(stream: int, attribute: int, value: int) -> None:
    api.stream_flags(stream)
    if attribute == _PRIORITY:
        raise refuse("cuStreamSetAttribute", "a stream's priority is set when it is created")
    if attribute not in (_ACCESS_POLICY_WINDOW, _SYNCHRONIZATION_POLICY, _MEM_SYNC_DOMAIN_MAP, _MEM_SYNC_DOMAIN):
        raise CudaError(st.INVALID_VALUE, f"stream attribute {attribute}")
    # Hints: remembered, so that a query agrees.
    _attributes[(stream, attribute)] = get_bytes(value, _ATTRIBUTE_BYTES)


@serves()
def cuStreamCopyAttributes(destination: int, source: int) -> None:
    api.stream_flags(destination)
    api.stream_flags(source)
    for (stream, attribute), value in list(_attributes.items()):
        if stream == source:
            _attributes[(destination, attribute)] = value


@serves()
def cuStreamIsCapturing(stream: int, status: int) -> None:
    if capturing() and stream not in _DEFAULT_STREAMS and not api.stream_capture_status(stream):
        # A stream that waited for an event of a captured one takes part in its capture, which the executor knows.
        rule_adapter("cuStreamIsCapturing")(stream, status)
        return
    put_i32(status, api.stream_capture_status(stream))


@serves()
def cuStreamBeginCapture(stream: int, mode: int) -> None:
    if mode not in (0, 1, 2):
        raise CudaError(st.INVALID_VALUE)
    api.stream_begin_capture(stream, mode)


@serves()
def cuStreamEndCapture(stream: int, graph: int) -> None:
    put_u64(graph, 0)
    put_u64(graph, api.stream_end_capture(stream))


@serves("cuStreamGetCaptureInfo_v2", "cuStreamGetCaptureInfo_v3")
def cuStreamGetCaptureInfo(stream: int, status: int, number: int = 0, graph: int = 0, *rest: int) -> None:
    # 12.x: (…, dependencies, count); 13.x and _v3: (…, dependencies, edge data, count)
    edges = 0
    if len(rest) == 3:
        edges = rest[1]
        put_u64(edges, 0)
        rest = (rest[0], rest[2])
    if not capturing() or stream in _DEFAULT_STREAMS:
        put_i32(status, 0)
        return
    rule_adapter("cuStreamGetCaptureInfo")(stream, status, number, graph, *(rest or (0, 0)))
    if edges and rest[1]:
        # Ordinary edges all, whose data is 0; callers read as many as there are dependencies.
        words = (get_u64(rest[1]) * EDGE_DATA_SIZE + 7) // 8
        put_u64(edges, _edges.address([0] * words))


@serves("cuStreamUpdateCaptureDependencies_v2")
def cuStreamUpdateCaptureDependencies(stream: int, dependencies: int, *rest: int) -> None:
    *edges, count, flags = rest
    check_edges("cuStreamUpdateCaptureDependencies", edges[0] if edges else 0, count)
    rule_adapter("cuStreamUpdateCaptureDependencies")(stream, dependencies, count, flags)


@serves()
def cuEventCreate(event: int, flags: int) -> None:
    need_context()
    if flags & ~0x7 or (flags & 0x4 and not flags & 0x2):
        raise CudaError(st.INVALID_VALUE, f"event flags {flags:#x}")
    put_u64(event, api.event_create(flags))


@serves()
def cuEventDestroy(event: int) -> None:
    api.event_destroy(event)


@serves()
def cuEventRecord(event: int, stream: int) -> None:
    api.event_record(event, stream)


@serves()
def cuEventRecordWithFlags(event: int, stream: int, flags: int) -> None:
    api.event_record(event, stream, flags)


@serves()
def cuEventQuery(event: int) -> None:
    api.event_query(event)


@serves()
def cuEventSynchronize(event: int) -> None:
    api.event_synchronize(event)


@serves("cuEventElapsedTime_v2")
def cuEventElapsedTime(milliseconds: int, start: int, end: int) -> None:
    put_f32(milliseconds, api.event_elapsed_time(start, end))


@serves()
def cuCtxRecordEvent(context: int, event: int) -> None:
    check_context(context)
    raise refuse("cuCtxRecordEvent", "record the event on each stream instead")


@serves()
def cuCtxWaitEvent(context: int, event: int) -> None:
    check_context(context)
    raise refuse("cuCtxWaitEvent", "make each stream wait instead")


# CUstreamBatchMemOpParams: operation, address, value, flags, alias
_MEMORY_OPERATION = struct.Struct("<I4xQQI4xQ8x")
_MEMORY_OPERATIONS = {
    1: "cuStreamWaitValue32",
    2: "cuStreamWriteValue32",
    4: "cuStreamWaitValue64",
    5: "cuStreamWriteValue64",
}
_BARRIER = 6
_MOST_OPERATIONS = 256


@serves()
def cuStreamBatchMemOp(stream: int, count: int, operations: int, flags: int) -> None:
    if count > _MOST_OPERATIONS or flags:
        raise CudaError(st.INVALID_VALUE, f"{count} memory operations, flags {flags:#x}")
    data = get_bytes(operations, _MEMORY_OPERATION.size * count)
    found = [_MEMORY_OPERATION.unpack_from(data, _MEMORY_OPERATION.size * index) for index in range(count)]
    for kind, *_ in found:
        if kind not in _MEMORY_OPERATIONS and kind != _BARRIER:
            raise refuse("cuStreamBatchMemOp", f"memory operation {kind}")
    for kind, address, value, how, _ in found:
        # A stream's operations are in order already, which is all that a barrier asks for.
        if kind != _BARRIER:
            rule_adapter(_MEMORY_OPERATIONS[kind])(stream, address, value, how)
