"""The compiler in the function: for a real GPU unchanged (ptxas needs no device), for the software GPU it stops at PTX.

The PTX goes into a container where Triton expects a cubin; the key of Triton's disk cache gets a salt there, so that no
real GPU loads such an entry.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from migproxy.session import api
from migproxy.softgpu.container import wrap

SALT = "migproxy-software"


def software() -> bool:
    """Whether this process's device is the software GPU."""
    return bool(api.device_facts().kind == "software")


def install(module: ModuleType) -> None:
    """Put the seam into ``triton.backends.nvidia.compiler``."""
    backend = module.CUDABackend
    make_cubin, make_hash = backend.make_cubin, backend.hash

    def cubin(self: Any, src: str, metadata: Any, *rest: Any) -> bytes:
        return wrap(src.encode()) if software() else make_cubin(self, src, metadata, *rest)

    def salted(self: Any) -> str:
        return f"{make_hash(self)}-{SALT}" if software() else str(make_hash(self))

    backend.make_cubin, backend.hash = cubin, salted
