"""CuPy's disk cache of compiled kernels: entries for the software GPU have keys of their own.

CuPy keys an entry by source, options and architecture. The software GPU reports an architecture number that real GPUs
have too, but its images are containers with PTX; so the key gets a salt there. Isolation between functions follows
from the folder being in the function's own file system, and executors never read it.
"""

from __future__ import annotations

from types import ModuleType

from migproxy_plugins.cupy.nvrtc import software

from migproxy.softgpu.container import VERSION


def install(module: ModuleType) -> None:
    """Salt the keys of ``cupy.cuda.compiler``; called right after it executed."""
    original = module._get_cupy_cache_key

    def key() -> str:
        made: str = original()
        return f"{made}-migproxy-software-{VERSION}" if software() else made

    module._get_cupy_cache_key = key  # type: ignore[attr-defined]
