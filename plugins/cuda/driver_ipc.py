"""Driver API: CUDA IPC, between functions of one owner."""

from __future__ import annotations

from migproxy_plugins.cuda import driver_virtual, pools
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.memory_unsafe import get_bytes, put_bytes, put_u64
from migproxy_plugins.cuda.registry import serves

from migproxy.abi import sharing
from migproxy.errors import CudaError
from migproxy.session import api

#: CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS: the only flag, and in the runtime's own default; without it CUDA says 1.
_LAZY_PEER_ACCESS = 1
_SIZE = sharing.HANDLE.size


def memory_handle(pointer: int) -> bytes:
    """Return the IPC handle of the allocation that holds `pointer`; see `api.ipc_memory_handle`.

    Raises
    ------
    CudaError
        1 for memory that CUDA does not share so either: of a pool, or mapped by hand.
    """
    if pools.pool_of(api.pointer_facts(pointer).base) or driver_virtual.is_reserved(pointer):
        raise CudaError(st.INVALID_VALUE, "only memory of cuMemAlloc has IPC handles, none of a pool or mapped by hand")
    return api.ipc_memory_handle(pointer)


def open_memory(handle: bytes, flags: int) -> int:
    """Open an IPC handle of memory; see `api.ipc_open_memory`."""
    if flags != _LAZY_PEER_ACCESS:
        raise CudaError(st.INVALID_VALUE, f"flags {flags:#x} for an IPC handle")
    return api.ipc_open_memory(handle)


@serves()
def cuIpcGetMemHandle(handle: int, pointer: int) -> None:
    need_context()
    if not handle:
        raise CudaError(st.INVALID_VALUE)
    put_bytes(handle, memory_handle(pointer))


@serves()
def cuIpcOpenMemHandle(pointer: int, handle: int, flags: int) -> None:
    need_context()
    if not pointer:
        raise CudaError(st.INVALID_VALUE)
    put_u64(pointer, open_memory(get_bytes(handle, _SIZE), flags))


@serves()
def cuIpcCloseMemHandle(pointer: int) -> None:
    need_context()
    api.ipc_close_memory(pointer)


@serves()
def cuIpcGetEventHandle(handle: int, event: int) -> None:
    need_context()
    if not handle:
        raise CudaError(st.INVALID_VALUE)
    put_bytes(handle, api.ipc_event_handle(event))


@serves()
def cuIpcOpenEventHandle(event: int, handle: int) -> None:
    need_context()
    if not event:
        raise CudaError(st.INVALID_VALUE)
    put_u64(event, api.ipc_open_event(get_bytes(handle, _SIZE)))
