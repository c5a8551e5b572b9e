"""Numba's driver module: what the patch leaves, sets, refuses."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from migproxy_plugins.numba import PLUGIN
from migproxy_plugins.numba.driver import patch_driver


def driver_module(**attributes: Any) -> Any:
    module = ModuleType("numba.cuda.cudadrv.driver")
    module.config = SimpleNamespace(DISABLE_CUDA=0)
    module.driver = SimpleNamespace(is_initialized=True, initialization_error="CUDA driver library cannot be found.")
    module.binding = object()
    vars(module).update(attributes)
    return module


def test_the_library_is_present_and_initialised_at_the_first_call() -> None:
    module = driver_module()
    patch_driver(module)
    assert module.driver.is_initialized is False
    assert module.driver.initialization_error is None
    with pytest.raises(AttributeError, match=r"cuInit.*cuda\.bindings"):
        _ = module.driver.lib.cuInit


def test_disabled_stays_disabled() -> None:
    module = driver_module(config=SimpleNamespace(DISABLE_CUDA=1))
    patch_driver(module)
    assert module.driver.is_initialized is True
    assert module.driver.initialization_error


@pytest.mark.parametrize("older", [{"USE_NV_BINDING": False}, {"binding": None}])
def test_the_built_in_target_is_refused_with_the_install_line(older: dict[str, Any]) -> None:
    module = driver_module(**older)
    if older.get("binding", 1) is None:
        del module.binding
    patch_driver(module)
    assert "pip install 'numba-cuda[cu12]'" in module.driver.initialization_error


def test_declaration() -> None:
    assert PLUGIN.name == "numba"
    assert set(PLUGIN.after_import) == {"numba.cuda.cudadrv.driver", "numba.cuda.dispatcher"}
