"""Driver API: contexts. A session has one context, the primary context of its one device."""

from __future__ import annotations

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_device import check_device
from migproxy_plugins.cuda.memory_unsafe import get_u32, put_i32, put_u32, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api

_MAP_HOST = 0x08
_flags = {"primary": 0}
_created: set[int] = set()
_cache_config = {"context": 0, "shared": 1}
#: Context flags that are accepted: the scheduling ones and those that change nothing here.
_KNOWN_FLAGS = 0x1F | 0x20 | 0x80


def need_context() -> int:
    """Return the calling thread's current context.

    Raises
    ------
    CudaError
        201 if there is none.
    """
    context = api.context_get_current()
    if not context:
        raise CudaError(st.INVALID_CONTEXT, "no current context")
    return context


def check_context(context: int) -> None:
    """Raise ``CUDA_ERROR_INVALID_CONTEXT`` unless `context` is the session's context, or another name of it."""
    if not context or (context != api.primary_context_retain(0) and context not in _created):
        raise CudaError(st.INVALID_CONTEXT, f"no context {context:#x}")


@serves()
def cuDevicePrimaryCtxRetain(context: int, device: int) -> None:
    check_device(device)
    put_u64(context, api.primary_context_retain(device))


@serves()
def cuDevicePrimaryCtxRelease(device: int) -> None:
    check_device(device)
    api.primary_context_release(device)


@serves()
def cuDevicePrimaryCtxReset(device: int) -> None:
    check_device(device)
    # The context is the session's life; what a reset would free is freed with the session.
    api.context_synchronize()


@serves()
def cuDevicePrimaryCtxGetState(device: int, flags: int, active: int) -> None:
    check_device(device)
    put_u32(flags, _flags["primary"])
    put_i32(active, 1)


@serves()
def cuDevicePrimaryCtxSetFlags(device: int, flags: int) -> None:
    check_device(device)
    if flags & ~_KNOWN_FLAGS:
        raise CudaError(st.INVALID_VALUE, f"context flags {flags:#x}")
    _flags["primary"] = flags


@serves()
def cuCtxGetCurrent(context: int) -> None:
    put_u64(context, api.context_get_current())


@serves()
def cuCtxSetCurrent(context: int) -> None:
    api.context_set_current(context)


@serves()
def cuCtxPushCurrent(context: int) -> None:
    api.context_push(context)


@serves()
def cuCtxPopCurrent(context: int) -> None:
    put_u64(context, api.context_pop())


@serves()
def cuCtxGetDevice(device: int) -> None:
    put_i32(device, api.context_device())


@serves()
def cuCtxGetDevice_v2(device: int, context: int) -> None:
    if context:
        check_context(context)
        put_i32(device, 0)
    else:
        put_i32(device, api.context_device())


def _create(context: int, flags: int, device: int) -> None:
    """A user's own context is another name of the session's one; it is pushed, as ``cuCtxCreate`` does."""
    check_device(device)
    if flags & ~_KNOWN_FLAGS:
        raise CudaError(st.INVALID_VALUE, f"context flags {flags:#x}")
    handle = api.context_create()
    _created.add(handle)
    api.context_push(handle)
    put_u64(context, handle)


@serves()
def cuCtxCreate(context: int, *rest: int) -> None:
    # 12.x: (flags, device); 13.x: (parameters, flags, device)
    if len(rest) == 3 and rest[0]:
        raise refuse("cuCtxCreate", "contexts with execution affinity or shared contexts need a device of their own")
    _create(context, *rest[-2:])


@serves()
def cuCtxCreate_v2(context: int, flags: int, device: int) -> None:
    _create(context, flags, device)


@serves()
def cuCtxCreate_v3(context: int, affinity: int, count: int, flags: int, device: int) -> None:
    if count:
        raise refuse("cuCtxCreate_v3", "execution affinity is the broker's to decide")
    _create(context, flags, device)


@serves()
def cuCtxCreate_v4(context: int, parameters: int, flags: int, device: int) -> None:
    cuCtxCreate(context, parameters, flags, device)


@serves()
def cuCtxDestroy(context: int) -> None:
    api.context_destroy(context)
    _created.discard(context)


@serves()
def cuCtxAttach(context: int, flags: int) -> None:
    put_u64(context, need_context())


@serves()
def cuCtxDetach(context: int) -> None:
    check_context(context)


@serves()
def cuCtxSynchronize() -> None:
    need_context()
    api.context_synchronize()


@serves()
def cuCtxSynchronize_v2(context: int) -> None:
    if context:
        check_context(context)
    else:
        need_context()
    api.context_synchronize()


@serves()
def cuCtxGetFlags(flags: int) -> None:
    need_context()
    put_u32(flags, _flags["primary"] | _MAP_HOST)


@serves()
def cuCtxSetFlags(flags: int) -> None:
    need_context()
    if flags & ~_KNOWN_FLAGS:
        raise CudaError(st.INVALID_VALUE, f"context flags {flags:#x}")
    _flags["primary"] = flags


@serves()
def cuCtxGetId(context: int, number: int) -> None:
    if context:
        check_context(context)
    else:
        need_context()
    put_u64(number, 1)


@serves()
def cuCtxGetApiVersion(context: int, version: int) -> None:
    if context:
        check_context(context)
    put_u32(version, 3020)


@serves()
def cuCtxGetLimit(value: int, limit: int) -> None:
    need_context()
    put_u64(value, api.context_get_limit(limit))


@serves()
def cuCtxSetLimit(limit: int, value: int) -> None:
    need_context()
    api.context_set_limit(limit, value)


@serves()
def cuCtxGetStreamPriorityRange(least: int, greatest: int) -> None:
    need_context()
    low, high = api.stream_priority_range()
    put_i32(least, low)
    put_i32(greatest, high)


@serves()
def cuCtxGetCacheConfig(config: int) -> None:
    need_context()
    put_i32(config, _cache_config["context"])


@serves()
def cuCtxSetCacheConfig(config: int) -> None:
    need_context()
    if config not in (0, 1, 2, 3):
        raise CudaError(st.INVALID_VALUE)
    # A preference only; devices since Volta choose by themselves.
    _cache_config["context"] = config


@serves()
def cuCtxGetSharedMemConfig(config: int) -> None:
    need_context()
    put_i32(config, _cache_config["shared"])


@serves()
def cuCtxSetSharedMemConfig(config: int) -> None:
    need_context()
    if config not in (0, 1, 2):
        raise CudaError(st.INVALID_VALUE)


@serves()
def cuCtxResetPersistingL2Cache() -> None:
    need_context()


@serves()
def cuCtxGetExecAffinity(affinity: int, kind: int) -> None:
    raise CudaError(224, "execution affinity is the broker's to decide")


@serves()
def cuCtxEnablePeerAccess(peer: int, flags: int) -> None:
    check_context(peer)
    raise CudaError(st.INVALID_CONTEXT, "a context is not its own peer")


@serves()
def cuCtxDisablePeerAccess(peer: int) -> None:
    check_context(peer)
    raise CudaError(705, "peer access was never enabled: a session has one device")


@serves()
def cuThreadExchangeStreamCaptureMode(mode: int) -> None:
    from migproxy_plugins.cuda.driver_streams import thread

    wanted = get_u32(mode)
    if wanted not in (0, 1, 2):
        raise CudaError(st.INVALID_VALUE)
    put_u32(mode, thread.capture_mode)
    thread.capture_mode = wanted
