"""What ``import cupy`` loads beforehand and functions have no use for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from migproxy_plugins.cupy import preloading


def environment(*, wheel: bool) -> Any:
    module: Any = ModuleType("cupy._environment")
    module._preload_libs = {"cutensor": None, "nccl": None}
    module.searched = []
    module._preload_library = module.searched.append
    module._can_attempt_preload = lambda lib: wheel and module._preload_libs[lib] is None
    return module


def test_a_library_that_is_refused_anyway_is_not_searched_for() -> None:
    module = environment(wheel=True)
    preloading.install(module)
    module._preload_library("cutensor")
    module._preload_library("other")
    assert module.searched == ["other"]
    # As where it is not installed.
    assert module._preload_libs == {"cutensor": {}, "nccl": None}


def test_what_is_not_attempted_natively_is_not_noted_either() -> None:
    module = environment(wheel=False)
    preloading.install(module)
    module._preload_library("nccl")
    assert module._preload_libs == {"cutensor": None, "nccl": None}


def test_another_cupy_without_preloading_is_left_alone() -> None:
    module = ModuleType("cupy._environment")
    preloading.install(module)
    assert "_preload_library" not in vars(module)
