"""The import hook: patches modules right after they executed, and puts stand-ins in the place of others.

Compiled modules copy the C pointers out of each other at import, so a patch must happen after the exporting module
executed and
before anyone imports from it. The hook wraps the loader that the normal machinery finds, so everything else about the
import stays as it is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

AfterImport = Callable[[ModuleType], None]
Replacement = Callable[[str], ModuleType]

_after: dict[str, list[AfterImport]] = {}
_replacements: dict[str, Replacement] = {}


class _PatchingLoader(importlib.abc.Loader):
    """Executes a module with its own loader, then runs the patches registered for it."""

    def __init__(self, inner: Any, patches: Sequence[AfterImport]) -> None:
        self._inner = inner
        self._patches = patches

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        # Single-phase extension modules may put themselves into sys.modules only later; a patch that imports
        # its own module by name must find this one.
        sys.modules.setdefault(module.__name__, module)
        for patch in self._patches:
            patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _StandInLoader(importlib.abc.Loader):
    """Makes a stand-in module instead of loading the real one."""

    def __init__(self, factory: Replacement) -> None:
        self._factory = factory

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._factory(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Finder(importlib.abc.MetaPathFinder):
    """First on ``sys.meta_path``; passes on every module that nobody asked for."""

    def __init__(self) -> None:
        self._busy = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        factory = _replacements.get(fullname)
        if factory is not None:
            return importlib.machinery.ModuleSpec(fullname, _StandInLoader(factory), origin="migproxy stand-in")
        patches = _after.get(fullname)
        if not patches:
            return None
        busy: set[str] = self._busy.__dict__.setdefault("names", set())
        if fullname in busy:
            return None
        busy.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            busy.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _PatchingLoader(spec.loader, patches)
        return spec


_finder = Finder()


def install() -> None:
    """Put the finder first on ``sys.meta_path``; calling it again changes nothing."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def remove() -> None:
    """Take the finder away again; modules already patched stay patched."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def after_import(name: str, patch: AfterImport) -> None:
    """Run `patch` on module `name` right after it executed; at once if it is already imported.

    Parameters
    ----------
    name : str
        Dotted module name.
    patch : callable
        Called with the module.
    """
    _after.setdefault(name, []).append(patch)
    module = sys.modules.get(name)
    if module is not None:
        patch(module)


def replace_module(name: str, factory: Replacement) -> None:
    """Import the module that `factory` makes wherever `name` is imported.

    Parameters
    ----------
    name : str
        Dotted module name.
    factory : callable
        Called once with the name; returns the stand-in.
    """
    _replacements[name] = factory
