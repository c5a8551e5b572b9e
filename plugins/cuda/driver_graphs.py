"""Driver API: graphs. What a capture recorded is instantiated, launched and destroyed here; building by hand goes by
the rules."""

from __future__ import annotations

from migproxy_plugins.cuda.memory_unsafe import get_u64, put_u32, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.session import api


@serves("cuGraphInstantiateWithFlags")
def cuGraphInstantiate(executable: int, graph: int, flags: int) -> None:
    if flags & ~0x8:
        raise refuse(
            "cuGraphInstantiate", f"flags {flags:#x} (device launch, automatic free, upload) are not supported"
        )
    put_u64(executable, api.graph_instantiate(graph))


@serves()
def cuGraphInstantiateWithParams(executable: int, graph: int, parameters: int) -> None:
    # CUDA_GRAPH_INSTANTIATE_PARAMS: flags, hUploadStream, hErrNode_out, result_out
    cuGraphInstantiate(executable, graph, get_u64(parameters) & ~0x2)
    put_u64(parameters + 16, 0)
    put_u32(parameters + 24, 0)


@serves()
def cuGraphLaunch(executable: int, stream: int) -> None:
    api.graph_launch(executable, stream)


@serves()
def cuGraphUpload(executable: int, stream: int) -> None:
    """Accepted: a hint, the first launch uploads."""


@serves()
def cuGraphDestroy(graph: int) -> None:
    api.graph_destroy(graph)


@serves()
def cuGraphExecDestroy(executable: int) -> None:
    api.graph_exec_destroy(executable)
