"""Packages of CuPy that load a CUDA library before they import the module over it: for a stand-in there is nothing
to load.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any


def install(module: ModuleType) -> None:
    """Make a package's lazy attributes find stand-ins first; called right after the package executed."""
    from migproxy_plugins.cupy import PLUGIN

    original: Callable[[str], Any] | None = vars(module).get("__getattr__")
    if original is None:
        return
    real = original

    def find(name: str) -> Any:
        dotted = f"{module.__name__}.{name}"
        if dotted in PLUGIN.replace:
            return importlib.import_module(dotted)
        return real(name)

    vars(module)["__getattr__"] = find
