"""How each function of the driver and runtime API is treated: served, marshalled by rule, or refused by name, and
why."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from migproxy_plugins.cuda.rules import RULES

Treatment = Literal["served", "rule", "refused"]

log = logging.getLogger("migproxy.cuda")

#: What is true of exporting a pool is true of making one that could be exported.
NO_POOL_EXPORT: Final = (
    "a pool leaves its session by a descriptor that the function would hold itself, not by a handle; memory of "
    "cuMemAlloc has CUDA IPC handles"
)
#: Patterns of names that are refused, and why; the first that matches counts.
_REASONS: Final[tuple[tuple[str, str], ...]] = (
    (r"EGL|VDPAU|GL|Graphics", "graphics interoperation needs a display driver in the function's process"),
    (
        r"External(Memory|Semaphore)|SignalExternal|WaitExternal|NvSci",
        "external memory and semaphores cannot cross sessions",
    ),
    (r"MemPool(Export|Import)", NO_POOL_EXPORT),
    (r"Shareable|MemExport|MemImport", "memory leaves its session by CUDA IPC handles only"),
    (r"Fabric|LogicalEndpoint", "memory and events stay on their slice"),
    (
        r"GreenCtx|DevResource|DevSm|SmResource|ExecutionCtx|ExecAffinity",
        "the broker divides the device, not the function: there are no green contexts, nor parts to make them of",
    ),
    (r"TexRef|SurfRef", "texture and surface references are removed in CUDA 12; use texture objects"),
    (r"Multicast", "a session has one device"),
    (r"Coredump|Checkpoint|Logs", "debugging and checkpointing of the executor is the broker's"),
    (r"AsyncNotification", "the quota is fixed; there is no memory budget to be notified of"),
    (r"P2P|Peer", "a session has one device"),
    (r"TensorMap", "the allocation class of a tensor map is of no meaning to the executor"),
    (r"Graph", "nodes of memory operations and recaptures are not supported yet"),
    (r"Profiler", "profiling is done at the executor"),
)
_DEFAULT_REASON: Final = "not supported yet"


def reason(name: str) -> str:
    """Return why a function is refused."""
    for pattern, text in _REASONS:
        if re.search(pattern, name):
            return text
    return _DEFAULT_REASON


@cache
def table(api: Literal["driver", "runtime"], major: int) -> dict[str, Any]:
    """Return the generated table of an API: ``functions``, ``structs``, ``types``."""
    data = resources.files("migproxy_plugins.cuda") / "data" / f"{api}_{major}.json"
    loaded: dict[str, Any] = json.loads(data.read_text())
    return loaded


def driver_treatment(name: str) -> tuple[Treatment, str]:
    """Return a driver function's treatment, with the reason if it is refused."""
    from migproxy_plugins.cuda import registry

    adapter = registry.load().get(name)
    if adapter is not None:
        why = getattr(adapter, "refused", "")
        return ("refused", why) if why else ("served", "")
    if name in RULES:
        return "rule", ""
    return "refused", reason(name)


def refused_adapter(name: str, status: int) -> Callable[..., int]:
    """Return a C function's handler that refuses by name: it logs and returns `status`."""
    why = reason(name)

    def refused(*arguments: object) -> int:
        log.warning("refused: %s: %s", name, why)
        return status

    refused.__name__ = refused.__qualname__ = name
    return refused
