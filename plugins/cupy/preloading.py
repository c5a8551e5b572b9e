"""``import cupy`` looks for cuTENSOR and loads it, with cuBLASLt under it: hundreds of megabytes that no function uses.

cuTENSOR is called in the executor, and NCCL is refused by name in a function (see `standin.unavailable`), so their
search ends here as it does where they are not installed.
"""

from __future__ import annotations

from types import ModuleType

#: What CuPy preloads and functions have no use for.
UNAVAILABLE = ("cutensor", "nccl")


def install(module: ModuleType) -> None:
    """Keep ``cupy._environment`` from loading libraries that functions cannot call; called right after it executed."""
    original = vars(module).get("_preload_library")
    if original is None:
        return

    def preload(lib: str) -> None:
        if lib not in UNAVAILABLE:
            original(lib)
        elif module._can_attempt_preload(lib):
            module._preload_libs[lib] = {}

    vars(module)["_preload_library"] = preload
