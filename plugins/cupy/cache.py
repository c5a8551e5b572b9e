"""CuPy's disk cache of compiled kernels: the software GPU's keys are its own, and no key costs a compile.

CuPy keys an entry by source, options and architecture. The software GPU reports an architecture number that real GPUs
have too, but its images are containers with PTX; so the key gets a salt there. Isolation between functions follows
from the folder being in the function's own file system, and executors never read it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from types import ModuleType

from migproxy_plugins.cupy.nvrtc import software

from migproxy.jit import compiler
from migproxy.softgpu.container import VERSION


def install(module: ModuleType) -> None:
    """Salt the keys of ``cupy.cuda.compiler``, and keep what it asks nvrtc for each of them; called right after it
    executed."""
    _keep_versions(module)
    original = module._get_cupy_cache_key

    def key() -> str:
        made: str = original()
        return f"{made}-migproxy-software-{VERSION}" if software() else made

    module._get_cupy_cache_key = key  # type: ignore[attr-defined]


def _keep_versions(module: ModuleType) -> None:
    """Keep the version text that nvrtc writes into everything it compiles.

    It is part of the keys, so each process compiles an empty program before it can look up its first kernel, which
    takes 30 to 50 ms. The text is the library's own: as long as its file is the same, so is what it writes.
    """
    original = vars(module).get("_preprocess")
    if original is None:
        return
    real = original

    def preprocess(source: str, options: tuple[str, ...], arch: str, backend: str) -> str:
        library = _library() if source == "" and backend == "nvrtc" else ""
        if not library:
            made: str = real(source, options, arch, backend)
            return made
        facts = repr((library, module._get_nvrtc_version(), options, arch))
        key = "nvrtc-" + hashlib.sha256(facts.encode()).hexdigest()
        kept = compiler.cached_object(key)
        if kept is not None:
            return kept.decode()
        made = real(source, options, arch, backend)
        compiler.keep_object(key, made.encode())
        return made

    vars(module)["_preprocess"] = preprocess


def _library() -> str:
    """Return what tells this process's libnvrtc from any other; empty if that cannot be told."""
    pathfinder = sys.modules.get("cuda.pathfinder")
    if pathfinder is None:
        return ""
    try:
        # Loaded already: for its version number, which is part of the keys too.
        path = pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
        facts = os.stat(path)
    except (pathfinder.DynamicLibNotFoundError, OSError, TypeError):
        return ""
    return repr((path, facts.st_size, facts.st_mtime_ns, facts.st_ino))
