"""The numba plugin: Numba's CUDA target (the numba-cuda package), which works on cuda-bindings and cuda.core
underneath."""

from __future__ import annotations

from types import ModuleType

from migproxy.interpose.plugin import INTERFACE_VERSION, Plugin


def _driver(module: ModuleType) -> None:
    from migproxy_plugins.numba.driver import patch_driver

    from migproxy.session import host_arrays

    patch_driver(module)
    # `cuda.mapped` takes arrays of any size.
    host_arrays.take_small()


def _dispatcher(module: ModuleType) -> None:
    from migproxy_plugins.numba.launches import install

    install(module)


PLUGIN = Plugin(
    name="numba",
    interface=INTERFACE_VERSION,
    check="migproxy_plugins.numba.checking",
    after_import={"numba.cuda.cudadrv.driver": _driver, "numba.cuda.dispatcher": _dispatcher},
)
