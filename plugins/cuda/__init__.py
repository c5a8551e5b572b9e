"""The cuda plugin: cuda-bindings and cuda.core through the broker."""

from __future__ import annotations

from types import ModuleType

from migproxy.interpose.plugin import INTERFACE_VERSION, Plugin


def _cydriver(module: ModuleType) -> None:
    from migproxy_plugins.cuda.patch import patch_cydriver

    patch_cydriver(module)


def _cyruntime(module: ModuleType) -> None:
    from migproxy_plugins.cuda.patch import patch_cyruntime

    patch_cyruntime(module)


def _cynvrtc(module: ModuleType) -> None:
    from migproxy_plugins.cuda.compilers import patch_cynvrtc

    patch_cynvrtc(module)


def _cynvjitlink(module: ModuleType) -> None:
    from migproxy_plugins.cuda.compilers import patch_cynvjitlink

    patch_cynvjitlink(module)


def _cynvml(module: ModuleType) -> None:
    from migproxy_plugins.cuda.nvml import patch_cynvml

    patch_cynvml(module)


def _pynvml(module: ModuleType) -> None:
    from migproxy_plugins.cuda.nvml import patch_pynvml

    patch_pynvml(module)


def _numpy(module: ModuleType) -> None:
    from migproxy.session import host_arrays

    host_arrays.install(module)


PLUGIN = Plugin(
    name="cuda",
    interface=INTERFACE_VERSION,
    after_import={
        "numpy": _numpy,
        "cuda.bindings.cydriver": _cydriver,
        "cuda.bindings.cyruntime": _cyruntime,
        "cuda.bindings.cynvrtc": _cynvrtc,
        "cuda.bindings.cynvjitlink": _cynvjitlink,
        "cuda.bindings.cynvml": _cynvml,
        "pynvml": _pynvml,
    },
    executor="migproxy_plugins.cuda.executor",
    tables="migproxy_plugins.cuda.operations:operations",
    check="migproxy_plugins.cuda.checking",
    libraries=("cuda.driver",),
)
