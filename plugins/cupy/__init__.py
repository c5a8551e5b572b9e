"""CuPy through migproxy: its runtime and driver modules are patched, its library modules are replaced by stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from migproxy.interpose.plugin import INTERFACE_VERSION, Plugin


def _runtime(module: ModuleType) -> None:
    from migproxy_plugins.cupy import runtime

    runtime.install(module)


def _driver(module: ModuleType) -> None:
    from migproxy_plugins.cupy import driver

    driver.install(module)


def _nvrtc(module: ModuleType) -> None:
    from migproxy_plugins.cupy import nvrtc

    nvrtc.install(module)


def _compiler(module: ModuleType) -> None:
    from migproxy_plugins.cupy import cache

    cache.install(module)


def _callbacks(module: ModuleType) -> None:
    from migproxy_plugins.cupy import callbacks

    callbacks.install(module)


def _accelerators(module: ModuleType) -> None:
    from migproxy_plugins.cupy import accelerators

    accelerators.install(module)


def _cutensor_user(module: ModuleType) -> None:
    from migproxy_plugins.cupy import accelerators

    accelerators.require(module)


def _cutensor_wrapper(module: ModuleType) -> None:
    from migproxy_plugins.cupy import accelerators

    accelerators.tell(module)


def _environment(module: ModuleType) -> None:
    from migproxy_plugins.cupy import preloading

    preloading.install(module)


def _lazy(module: ModuleType) -> None:
    from migproxy_plugins.cupy import lazy

    lazy.install(module)


def _by_value(name: str) -> ModuleType:
    from migproxy_plugins.cupy import standin

    return standin.make(name)


def _cub(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import cub

    return cub.make(name)


def _thrust(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import thrust

    return thrust.make(name)


def _cufft(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import cufft

    return cufft.make(name)


def _cutensor(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import cutensor

    return cutensor.make(name)


def _generator_api(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import generator_api

    return generator_api.make(name)


def _cusolver_routines(name: str) -> ModuleType:
    from migproxy_plugins.cupy.libraries import cusolver_routines

    return cusolver_routines.make(name)


def _unavailable(name: str) -> ModuleType:
    from migproxy_plugins.cupy import standin

    return standin.unavailable(name)


def _replacements() -> dict[str, Callable[[str], ModuleType]]:
    from migproxy_plugins.cupy import tables

    from migproxy.errors import UnsupportedVersion

    factories = {
        "cupy_backends.cuda.libs.cublas": _by_value,
        "cupy_backends.cuda.libs.cusolver": _by_value,
        "cupy_backends.cuda.libs.cusparse": _by_value,
        "cupy_backends.cuda.libs.curand": _by_value,
        "cupy_backends.cuda.libs.cutensor": _cutensor,
        "cupy_backends.cuda.libs.nccl": _unavailable,
        "cupy.cuda.cufft": _cufft,
        "cupy.cuda.cub": _cub,
        "cupy.cuda.thrust": _thrust,
        "cupy.random._generator_api": _generator_api,
        "cupyx._cusolver": _cusolver_routines,
        "cupyx.cusolver": _cusolver_routines,
    }
    try:
        return {name: factory for name, factory in factories.items() if tables.recorded(name)}
    except UnsupportedVersion:
        # Not installed, or outside the range: what imports CuPy says so (`standin`), and the others are not disturbed.
        return factories


PLUGIN = Plugin(
    name="cupy",
    interface=INTERFACE_VERSION,
    after_import={
        "cupy_backends.cuda.api.runtime": _runtime,
        "cupy_backends.cuda.api.driver": _driver,
        "cupy_backends.cuda.libs.nvrtc": _nvrtc,
        "cupy_backends.cuda.libs": _lazy,
        "cupy._core._accelerator": _accelerators,
        "cupy._environment": _environment,
        "cupy.cuda": _lazy,
        "cupy.cuda.compiler": _compiler,
        "cupy.cuda.cutensor": _cutensor_wrapper,
        "cupy.fft._callback": _callbacks,
        "cupyx.cutensor": _cutensor_user,
    },
    replace=_replacements(),
    executor="migproxy_plugins.cupy.executor",
    tables="migproxy_plugins.cupy.operations:operations",
    check="migproxy_plugins.cupy.checking",
    libraries=(
        "cupy_backends.cuda.libs.cublas",
        "cupy_backends.cuda.libs.cusolver",
        "cupy_backends.cuda.libs.cusparse",
        "cupy_backends.cuda.libs.curand",
        "cupy_backends.cuda.libs.cutensor",
        "cupy.cuda.cufft",
        "cupy.cuda.cub",
        "cupy.cuda.thrust",
        "cupy.random._generator_api",
        "cupyx._cusolver",
        "cupyx.cusolver",
    ),
)
