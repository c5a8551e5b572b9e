"""Streams, events, graphs and launches of the runtime API."""

from __future__ import annotations

from collections.abc import Callable

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import Cell
from migproxy_plugins.cuda.runtime.calls import context_call
from migproxy_plugins.cuda.status import CudaRuntimeStatus

from migproxy.session import api


@context_call
def stream_create(flags: int = 0, priority: int = 0) -> int:
    """``cudaStreamCreate``, ``…WithFlags`` and ``…WithPriority``."""
    return api.stream_create(flags, priority)


@context_call
def stream_destroy(stream: int) -> None:
    """``cudaStreamDestroy``."""
    if stream in (0, 1, 2):
        raise CudaRuntimeStatus(st.INVALID_HANDLE, "the default stream cannot be destroyed")
    api.stream_destroy(stream)


@context_call
def stream_synchronize(stream: int) -> None:
    """``cudaStreamSynchronize``."""
    api.stream_synchronize(stream)


@context_call
def stream_query(stream: int) -> None:
    """``cudaStreamQuery``: raises status 600 while work is pending."""
    api.stream_query(stream)


@context_call
def stream_wait_event(stream: int, event: int, flags: int = 0) -> None:
    """``cudaStreamWaitEvent``."""
    api.stream_wait_event(stream, event, flags)


@context_call
def stream_get_flags(stream: int) -> int:
    """``cudaStreamGetFlags``."""
    return api.stream_flags(stream)


@context_call
def stream_get_priority(stream: int) -> int:
    """``cudaStreamGetPriority``."""
    return api.stream_priority(stream)


@context_call
def stream_is_capturing(stream: int) -> int:
    """``cudaStreamIsCapturing``: a ``cudaStreamCaptureStatus``."""
    return api.stream_capture_status(stream)


@context_call
def stream_begin_capture(stream: int, mode: int = 0) -> None:
    """``cudaStreamBeginCapture``."""
    api.stream_begin_capture(stream, mode)


@context_call
def stream_end_capture(stream: int) -> int:
    """``cudaStreamEndCapture``: the graph."""
    return api.stream_end_capture(stream)


@context_call
def stream_add_callback(stream: int, callback: Callable[[], None]) -> None:
    """``cudaStreamAddCallback`` and ``cudaLaunchHostFunc`` with `callback` closed over its arguments."""
    api.stream_add_host_function(stream, callback)


launch_host_function = stream_add_callback


@context_call
def event_create(flags: int = 0) -> int:
    """``cudaEventCreate`` and ``cudaEventCreateWithFlags``."""
    return api.event_create(flags)


@context_call
def event_destroy(event: int) -> None:
    """``cudaEventDestroy``."""
    api.event_destroy(event)


@context_call
def event_record(event: int, stream: int = 0, flags: int = 0) -> None:
    """``cudaEventRecord`` and ``…WithFlags``."""
    api.event_record(event, stream, flags)


@context_call
def event_query(event: int) -> None:
    """``cudaEventQuery``: raises status 600 while the event has not happened."""
    api.event_query(event)


@context_call
def event_synchronize(event: int) -> None:
    """``cudaEventSynchronize``."""
    api.event_synchronize(event)


@context_call
def event_elapsed_time(start: int, end: int) -> float:
    """``cudaEventElapsedTime``: milliseconds."""
    return api.event_elapsed_time(start, end)


@context_call
def graph_instantiate(graph: int) -> int:
    """``cudaGraphInstantiate``."""
    from migproxy_plugins.cuda import driver_graphs

    out = Cell()
    driver_graphs.cuGraphInstantiate(out.address, graph, 0)
    return out.value


@context_call
def graph_launch(graph_exec: int, stream: int) -> None:
    """``cudaGraphLaunch``."""
    from migproxy_plugins.cuda import driver_graphs

    driver_graphs.cuGraphLaunch(graph_exec, stream)


@context_call
def graph_upload(graph_exec: int, stream: int) -> None:
    """``cudaGraphUpload``: only a hint, and the executor uploads at the first launch."""


@context_call
def graph_destroy(graph: int) -> None:
    """``cudaGraphDestroy``."""
    from migproxy_plugins.cuda import driver_graphs

    driver_graphs.cuGraphDestroy(graph)


@context_call
def graph_exec_destroy(graph_exec: int) -> None:
    """``cudaGraphExecDestroy``."""
    from migproxy_plugins.cuda import driver_graphs

    driver_graphs.cuGraphExecDestroy(graph_exec)


@context_call
def launch_kernel(
    function: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared: int,
    stream: int,
    kernel_params: int,
    *,
    cooperative: bool = False,
) -> None:
    """``cudaLaunchKernel`` of a function or kernel handle; `kernel_params` is the address of the array of pointers."""
    if not all(grid) or not all(block):
        raise CudaRuntimeStatus(st.CUDART_INVALID_CONFIGURATION, "a dimension is 0")
    api.launch(function, grid, block, shared, stream, kernel_params, 0, cooperative)


@context_call
def profiler_start() -> None:
    """``cudaProfilerStart``: nothing to start in the function."""


@context_call
def profiler_stop() -> None:
    """``cudaProfilerStop``."""
