"""The C functions that compiled modules call: exactly the prototypes of cydriver's and CuPy's capsules, over `submit`.

Each tries the hot path on the current session. What that leaves to Python goes to the function's fallback: the
trampoline that its capsule held before. So errors, unusual arguments and the time before the first session behave as
if these functions were not there. A reply that is not there yet, or not good, is read by `finish`: a trampoline that
returns a status, or raises.

The functions of ``cupy_backends`` are entered with the GIL and return new references; those of ``cydriver`` are entered
without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena.machine_unsafe import (
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    External,
    Indirect,
    Symbol,
    c_symbol,
    load32,
    load64,
    store64,
)
from migproxy.jit import submit
from migproxy.jit.submit import (
    ASKED,
    DONE,
    PENDING,
    ask_event,
    copy_in,
    copy_on_device,
    copy_out,
    create_event,
    destroy_event,
    submit_event,
    submit_launch,
    submit_memset,
    submit_sync,
)

#: Process-wide cells: the current producer's state block (0 = no session), the thread whose context is known to be
#: current, and one fallback for each entry, in the order of `ENTRIES`.
MAX_ENTRIES = 64
_CELLS = (ctypes.c_uint64 * (8 + MAX_ENTRIES))()
CURRENT = Symbol("migproxy_entry_cells", ctypes.addressof(_CELLS))
CONTEXT_THREAD = CURRENT + 8
FINISH_STATUS = CURRENT + 16  # CUresult (uint64 number), without the GIL
FINISH_OBJECT = CURRENT + 24  # PyObject *(uint64 number), with the GIL
FINISH_QUERY = CURRENT + 32  # PyObject *(uint64 number): the status, with the GIL
FALLBACKS = CURRENT + 64
_NOT_READY = 600  # CUDA_ERROR_NOT_READY, cudaErrorNotReady
NONE = c_symbol("_Py_NoneStruct")

_EVENT_RECORD, _WAIT_EVENT = int(Op.EVENT_RECORD), int(Op.STREAM_WAIT_EVENT)
_STREAM_SYNC, _CONTEXT_SYNC = int(Op.STREAM_SYNC), int(Op.CONTEXT_SYNC)
_STREAM_QUERY, _EVENT_SYNC, _EVENT_QUERY = int(Op.STREAM_QUERY), int(Op.EVENT_SYNC), int(Op.EVENT_QUERY)
_COOPERATIVE = layout.LAUNCH_COOPERATIVE
# cudaMemcpyKind
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3

increase = External("Py_IncRef", "None(U64)")
thread_self = External("pthread_self", "U64()")
finish_status = Indirect("I32(U64)")
finish_object = Indirect("U64(U64)")
finish_query = Indirect("U64(U64)")
from_number = External("PyLong_FromLongLong", "U64(I64)")


def new_none() -> U64:
    increase(NONE)
    return NONE


# -- cydriver: CUresult, without the GIL ------------------------------------------------------------------------------
_fall_launch = Indirect("I32(U64, U32, U32, U32, U32, U32, U32, U32, U64, U64, U64)")


def cuLaunchKernel(
    f: U64, gx: U32, gy: U32, gz: U32, bx: U32, by: U32, bz: U32, shared: U32, stream: U64, parameters: U64, extra: U64
) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and extra == 0:
        result = submit_launch(producer, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, 0)
        if result == DONE:
            return 0
    return _fall_launch(load64(FALLBACKS + 8 * 0), f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra)


_fall_launch_cooperative = Indirect("I32(U64, U32, U32, U32, U32, U32, U32, U32, U64, U64)")


def cuLaunchCooperativeKernel(
    f: U64, gx: U32, gy: U32, gz: U32, bx: U32, by: U32, bz: U32, shared: U32, stream: U64, parameters: U64
) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_launch(producer, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, _COOPERATIVE)
        if result == DONE:
            return 0
    return _fall_launch_cooperative(load64(FALLBACKS + 8 * 1), f, gx, gy, gz, bx, by, bz, shared, stream, parameters)


_fall_4 = Indirect("I32(U64, U64, U64, U64)")


def cuLaunchKernelEx(config: U64, f: U64, parameters: U64, extra: U64) -> I32:
    """CUlaunchConfig: grid x, y, z, block x, y, z, shared bytes as u32, stream at 32, attributes at 40, their count
    u32 at 48."""
    producer = load64(CURRENT)
    if producer != 0 and extra == 0 and load32(config + 48) == 0:
        result = submit_launch(
            producer,
            f,
            load32(config),
            load32(config + 4),
            load32(config + 8),
            load32(config + 12),
            load32(config + 16),
            load32(config + 20),
            load32(config + 24),
            load64(config + 32),
            parameters,
            0,
        )
        if result == DONE:
            return 0
    return _fall_4(load64(FALLBACKS + 8 * 2), config, f, parameters, extra)


_fall_2 = Indirect("I32(U64, U64)")
_fall_2_flags = Indirect("I32(U64, U64, U32)")


def cuEventRecord(event: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_event(producer, _EVENT_RECORD, event, 0, stream) == DONE:
        return 0
    return _fall_2(load64(FALLBACKS + 8 * 3), event, stream)


def cuEventRecordWithFlags(event: U64, stream: U64, flags: U32) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_event(producer, _EVENT_RECORD, event, flags, stream) == DONE:
        return 0
    return _fall_2_flags(load64(FALLBACKS + 8 * 4), event, stream, flags)


def cuStreamWaitEvent(stream: U64, event: U64, flags: U32) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_event(producer, _WAIT_EVENT, event, flags, stream) == DONE:
        return 0
    return _fall_2_flags(load64(FALLBACKS + 8 * 5), stream, event, flags)


_fall_memset8 = Indirect("I32(U64, U8, U64, U64)")
_fall_memset16 = Indirect("I32(U64, U16, U64, U64)")
_fall_memset32 = Indirect("I32(U64, U32, U64, U64)")


def cuMemsetD8Async(target: U64, value: U8, count: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_memset(producer, target, value, 1, count, stream) == DONE:
        return 0
    return _fall_memset8(load64(FALLBACKS + 8 * 6), target, value, count, stream)


def cuMemsetD16Async(target: U64, value: U16, count: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_memset(producer, target, value, 2, count, stream) == DONE:
        return 0
    return _fall_memset16(load64(FALLBACKS + 8 * 7), target, value, count, stream)


def cuMemsetD32Async(target: U64, value: U32, count: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and submit_memset(producer, target, value, 4, count, stream) == DONE:
        return 0
    return _fall_memset32(load64(FALLBACKS + 8 * 8), target, value, count, stream)


_fall_copy = Indirect("I32(U64, U64, U64)")
_fall_copy_async = Indirect("I32(U64, U64, U64, U64)")


def cuMemcpyDtoDAsync(target: U64, source: U64, size: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and copy_on_device(producer, target, source, size, stream) == DONE:
        return 0
    return _fall_copy_async(load64(FALLBACKS + 8 * 9), target, source, size, stream)


def cuMemcpyHtoDAsync(target: U64, source: U64, size: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_in(producer, target, source, size, stream, 1, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_copy_async(load64(FALLBACKS + 8 * 10), target, source, size, stream)


def cuMemcpyDtoHAsync(target: U64, source: U64, size: U64, stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_out(producer, target, source, size, stream, 1, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_copy_async(load64(FALLBACKS + 8 * 11), target, source, size, stream)


def cuMemcpyHtoD(target: U64, source: U64, size: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_in(producer, target, source, size, 0, 0, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_copy(load64(FALLBACKS + 8 * 12), target, source, size)


def cuMemcpyDtoH(target: U64, source: U64, size: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_out(producer, target, source, size, 0, 0, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_copy(load64(FALLBACKS + 8 * 13), target, source, size)


_fall_1 = Indirect("I32(U64)")
_fall_0 = Indirect("I32()")


def cuStreamSynchronize(stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_sync(producer, _STREAM_SYNC, stream, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_1(load64(FALLBACKS + 8 * 14), stream)


def cuCtxSynchronize() -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_sync(producer, _CONTEXT_SYNC, 0, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_0(load64(FALLBACKS + 8 * 15))


# -- cupy_backends: with the GIL --------------------------------------------------------------------------------------
_fall_launch_object = Indirect("U64(I64, U32, U32, U32, U32, U32, U32, U32, I64, I64, I64, I32)")


def launchKernel(
    f: I64,
    gx: U32,
    gy: U32,
    gz: U32,
    bx: U32,
    by: U32,
    bz: U32,
    shared: U32,
    stream: I64,
    parameters: I64,
    extra: I64,
    skip: I32,
) -> U64:
    producer = load64(CURRENT)
    if producer != 0 and extra == 0:
        result = submit_launch(producer, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, 0)
        if result == DONE:
            return new_none()
    return _fall_launch_object(
        load64(FALLBACKS + 8 * 16), f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra, skip
    )


_fall_record_object = Indirect("U64(I64, I64, I32)")


def eventRecord(event: I64, stream: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0 and submit_event(producer, _EVENT_RECORD, event, 0, stream) == DONE:
        return new_none()
    return _fall_record_object(load64(FALLBACKS + 8 * 17), event, stream, skip)


_fall_wait_object = Indirect("U64(I64, I64, I32, U64)")


def streamWaitEvent(stream: I64, event: I64, skip: I32, optional: U64) -> U64:
    """The optional arguments, if any: how many were given, then the flags."""
    producer = load64(CURRENT)
    if producer != 0:
        flags = 0
        if optional != 0 and load32(optional) > 0:
            flags = load32(optional + 4)
        if submit_event(producer, _WAIT_EVENT, event, flags, stream) == DONE:
            return new_none()
    return _fall_wait_object(load64(FALLBACKS + 8 * 18), stream, event, skip, optional)


_fall_memset_object = Indirect("U64(I64, I32, U64, I64, I32)")


def memsetAsync(target: I64, value: I32, size: U64, stream: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0 and submit_memset(producer, target, value & 0xFF, 1, size, stream) == DONE:
        return new_none()
    return _fall_memset_object(load64(FALLBACKS + 8 * 19), target, value, size, stream, skip)


_fall_copy_async_object = Indirect("U64(I64, I64, U64, I32, I64, I32)")
_fall_copy_object = Indirect("U64(I64, I64, U64, I32, I32)")


def copy_by_kind(producer: U64, target: U64, source: U64, size: U64, kind: U64, stream: U64, is_async: U64) -> U64:
    """A copy of the runtime API. DONE, LATER or ASKED. The GIL is held, and given away while waiting."""
    if kind == _TO_DEVICE:
        return copy_in(producer, target, source, size, stream, is_async, 1)
    if kind == _TO_HOST:
        return copy_out(producer, target, source, size, stream, is_async, 1)
    if kind == _ON_DEVICE:
        return copy_on_device(producer, target, source, size, stream)
    return submit.LATER


def memcpyAsync(target: I64, source: I64, size: U64, kind: I32, stream: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_by_kind(producer, target, source, size, kind, stream, 1)
        if result == DONE:
            return new_none()
        if result & 0xFF == ASKED:
            return finish_object(load64(FINISH_OBJECT), result >> 8)
    return _fall_copy_async_object(load64(FALLBACKS + 8 * 20), target, source, size, kind, stream, skip)


def memcpy(target: I64, source: I64, size: U64, kind: I32, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = copy_by_kind(producer, target, source, size, kind, 0, 0)
        if result == DONE:
            return new_none()
        if result & 0xFF == ASKED:
            return finish_object(load64(FINISH_OBJECT), result >> 8)
    return _fall_copy_object(load64(FALLBACKS + 8 * 21), target, source, size, kind, skip)


_fall_sync_object = Indirect("U64(I64, I32)")
_fall_device_sync_object = Indirect("U64(I32)")


def streamSynchronize(stream: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_sync(producer, _STREAM_SYNC, stream, 1)
        if result == DONE:
            return new_none()
        if result & 0xFF == ASKED:
            return finish_object(load64(FINISH_OBJECT), result >> 8)
    return _fall_sync_object(load64(FALLBACKS + 8 * 22), stream, skip)


def deviceSynchronize(skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_sync(producer, _CONTEXT_SYNC, 0, 1)
        if result == DONE:
            return new_none()
        if result & 0xFF == ASKED:
            return finish_object(load64(FINISH_OBJECT), result >> 8)
    return _fall_device_sync_object(load64(FALLBACKS + 8 * 23), skip)


_fall_get_device = Indirect("I32(I32)")
_fall_is_capturing = Indirect("I32(I64, I32)")
_fall_ensure = Indirect("U64()")


def getDevice(skip: I32) -> I32:
    """A session has one device."""
    if load64(CURRENT) != 0:
        return 0
    return _fall_get_device(load64(FALLBACKS + 8 * 24), skip)


def streamIsCapturing(stream: I64, skip: I32) -> I32:
    producer = load64(CURRENT)
    if producer != 0 and load64(producer + submit.CAPTURING) == 0:
        wire = submit.wire_stream(producer, stream)
        if wire != submit.BAD_STREAM:
            return 0
    return _fall_is_capturing(load64(FALLBACKS + 8 * 25), stream, skip)


def _ensure_context() -> U64:
    """Remembers the last thread for which Python made the context current; `fast_path.context_changed` forgets it."""
    if load64(CURRENT) != 0 and load64(CONTEXT_THREAD) == thread_self():
        return new_none()
    result = _fall_ensure(load64(FALLBACKS + 8 * 26))
    if result != 0:
        store64(CONTEXT_THREAD, thread_self())
    return result


def cuStreamQuery(stream: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = submit_sync(producer, _STREAM_QUERY, stream, 0)
        if result == DONE:
            return 0
        if result == PENDING:
            return _NOT_READY
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_1(load64(FALLBACKS + 8 * 27), stream)


def cuEventSynchronize(event: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = ask_event(producer, _EVENT_SYNC, event, 0)
        if result == DONE:
            return 0
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_1(load64(FALLBACKS + 8 * 28), event)


def cuEventQuery(event: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = ask_event(producer, _EVENT_QUERY, event, 0)
        if result == DONE:
            return 0
        if result == PENDING:
            return _NOT_READY
        if result & 0xFF == ASKED:
            return finish_status(load64(FINISH_STATUS), result >> 8)
    return _fall_1(load64(FALLBACKS + 8 * 29), event)


def eventSynchronize(event: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = ask_event(producer, _EVENT_SYNC, event, 1)
        if result == DONE:
            return new_none()
        if result & 0xFF == ASKED:
            return finish_object(load64(FINISH_OBJECT), result >> 8)
    return _fall_sync_object(load64(FALLBACKS + 8 * 30), event, skip)


_fall_create = Indirect("I32(U64, U32)")
_fall_create_number = Indirect("I64(U32, I32)")


def cuEventCreate(event: U64, flags: U32) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        made = create_event(producer, flags)
        if made != 0:
            store64(event, made)
            return 0
    return _fall_create(load64(FALLBACKS + 8 * 33), event, flags)


def cuEventDestroy(event: U64) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        result = destroy_event(producer, event)
        if result == DONE:
            return 0
    return _fall_1(load64(FALLBACKS + 8 * 34), event)


def eventCreateWithFlags(flags: U32, skip: I32) -> I64:
    """On a thread whose context is current; elsewhere Python makes it so first."""
    producer = load64(CURRENT)
    if producer != 0 and load64(CONTEXT_THREAD) == thread_self():
        made = create_event(producer, flags)
        if made != 0:
            return made
    return _fall_create_number(load64(FALLBACKS + 8 * 35), flags, skip)


def eventDestroy(event: I64, skip: I32) -> U64:
    producer = load64(CURRENT)
    if producer != 0:
        result = destroy_event(producer, event)
        if result == DONE:
            return new_none()
    return _fall_sync_object(load64(FALLBACKS + 8 * 36), event, skip)


def eventQuery(event: I64, skip: I32) -> U64:
    """The status as an int object: done or not ready; everything else is Python's."""
    producer = load64(CURRENT)
    if producer != 0:
        result = ask_event(producer, _EVENT_QUERY, event, 1)
        if result == DONE:
            return from_number(0)
        if result == PENDING:
            return from_number(_NOT_READY)
        if result & 0xFF == ASKED:
            return finish_query(load64(FINISH_QUERY), result >> 8)
    return _fall_sync_object(load64(FALLBACKS + 8 * 37), event, skip)


_fall_set_device = Indirect("U64(I32, I32)")
_fall_memory_type = Indirect("I32(I64, I32)")


def setDevice(device: I32, skip: I32) -> U64:
    """Nothing to do on a thread where the one device's context is current."""
    if device == 0 and load64(CURRENT) != 0 and load64(CONTEXT_THREAD) == thread_self():
        return new_none()
    result = _fall_set_device(load64(FALLBACKS + 8 * 31), device, skip)
    if result != 0:
        store64(CONTEXT_THREAD, thread_self())
    return result


def pointerGetMemoryType(pointer: I64, skip: I32) -> I32:
    producer = load64(CURRENT)
    if producer != 0:
        kind = submit.memory_type(producer, pointer)
        if kind != 0:
            return kind
    return _fall_memory_type(load64(FALLBACKS + 8 * 32), pointer, skip)


_DRIVER = "cuda.bindings.cydriver"
_CUPY_DRIVER = "cupy_backends.cuda.api.driver"
_CUPY_RUNTIME = "cupy_backends.cuda.api.runtime"
#: (module, prototype of the capsule, entry), in the order of the fallback cells.
ENTRIES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    (
        _DRIVER,
        "CUresult (CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, "
        "unsigned int, CUstream, void **, void **)",
        cuLaunchKernel,
    ),
    (
        _DRIVER,
        "CUresult (CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, "
        "unsigned int, CUstream, void **)",
        cuLaunchCooperativeKernel,
    ),
    (_DRIVER, "CUresult (CUlaunchConfig const *, CUfunction, void **, void **)", cuLaunchKernelEx),
    (_DRIVER, "CUresult (CUevent, CUstream)", cuEventRecord),
    (_DRIVER, "CUresult (CUevent, CUstream, unsigned int)", cuEventRecordWithFlags),
    (_DRIVER, "CUresult (CUstream, CUevent, unsigned int)", cuStreamWaitEvent),
    (_DRIVER, "CUresult (CUdeviceptr, unsigned char, size_t, CUstream)", cuMemsetD8Async),
    (_DRIVER, "CUresult (CUdeviceptr, unsigned short, size_t, CUstream)", cuMemsetD16Async),
    (_DRIVER, "CUresult (CUdeviceptr, unsigned int, size_t, CUstream)", cuMemsetD32Async),
    (_DRIVER, "CUresult (CUdeviceptr, CUdeviceptr, size_t, CUstream)", cuMemcpyDtoDAsync),
    (_DRIVER, "CUresult (CUdeviceptr, void const *, size_t, CUstream)", cuMemcpyHtoDAsync),
    (_DRIVER, "CUresult (void *, CUdeviceptr, size_t, CUstream)", cuMemcpyDtoHAsync),
    (_DRIVER, "CUresult (CUdeviceptr, void const *, size_t)", cuMemcpyHtoD),
    (_DRIVER, "CUresult (void *, CUdeviceptr, size_t)", cuMemcpyDtoH),
    (_DRIVER, "CUresult (CUstream)", cuStreamSynchronize),
    (_DRIVER, "CUresult (void)", cuCtxSynchronize),
    (
        _CUPY_DRIVER,
        "PyObject *(intptr_t, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, "
        "unsigned int, intptr_t, intptr_t, intptr_t, int __pyx_skip_dispatch)",
        launchKernel,
    ),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, intptr_t, int __pyx_skip_dispatch)", eventRecord),
    (
        _CUPY_RUNTIME,
        "PyObject *(intptr_t, intptr_t, int __pyx_skip_dispatch, struct "
        "__pyx_opt_args_13cupy_backends_4cuda_3api_7runtime_streamWaitEvent *__pyx_optional_args)",
        streamWaitEvent,
    ),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, int, size_t, intptr_t, int __pyx_skip_dispatch)", memsetAsync),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, intptr_t, size_t, int, intptr_t, int __pyx_skip_dispatch)", memcpyAsync),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, intptr_t, size_t, int, int __pyx_skip_dispatch)", memcpy),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, int __pyx_skip_dispatch)", streamSynchronize),
    (_CUPY_RUNTIME, "PyObject *(int __pyx_skip_dispatch)", deviceSynchronize),
    (_CUPY_RUNTIME, "int (int __pyx_skip_dispatch)", getDevice),
    (_CUPY_RUNTIME, "int (intptr_t, int __pyx_skip_dispatch)", streamIsCapturing),
    (_CUPY_RUNTIME, "PyObject *(void)", _ensure_context),
    (_DRIVER, "CUresult (CUstream)", cuStreamQuery),
    (_DRIVER, "CUresult (CUevent)", cuEventSynchronize),
    (_DRIVER, "CUresult (CUevent)", cuEventQuery),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, int __pyx_skip_dispatch)", eventSynchronize),
    (_CUPY_RUNTIME, "PyObject *(int, int __pyx_skip_dispatch)", setDevice),
    (_CUPY_RUNTIME, "int (intptr_t, int __pyx_skip_dispatch)", pointerGetMemoryType),
    (_DRIVER, "CUresult (CUevent *, unsigned int)", cuEventCreate),
    (_DRIVER, "CUresult (CUevent)", cuEventDestroy),
    (_CUPY_RUNTIME, "intptr_t (unsigned int, int __pyx_skip_dispatch)", eventCreateWithFlags),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, int __pyx_skip_dispatch)", eventDestroy),
    (_CUPY_RUNTIME, "PyObject *(intptr_t, int __pyx_skip_dispatch)", eventQuery),
)
