"""migproxy: many functions share one GPU, each in a process that has none.

Public Python API
-----------------
run
    Call a callable in a function process and get its result.
install
    Interpose the GPU libraries in this process.
mignificient_malloc, mignificient_free
    Arena memory as a buffer: host memory that the executor's GPU copies from and to directly.

In a function this package is imported before pytest is, which would warn that it cannot rewrite the assertions of a
plugin's package; there are none to rewrite: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from migproxy.calling import run
    from migproxy.host_memory import mignificient_free, mignificient_malloc
    from migproxy.interpose.wake import activate as install

__all__ = ["__version__", "install", "mignificient_free", "mignificient_malloc", "run"]

_WHERE = {
    "install": ("migproxy.interpose.wake", "activate"),
    "mignificient_free": ("migproxy.host_memory", "mignificient_free"),
    "mignificient_malloc": ("migproxy.host_memory", "mignificient_malloc"),
    "run": ("migproxy.calling", "run"),
}


def __getattr__(name: str) -> Any:
    """Import the API's modules when they are first used: ``import migproxy`` itself stays cheap."""
    if name not in _WHERE:
        raise AttributeError(f"module 'migproxy' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _WHERE[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value
