"""``numba.cuda.cudadrv.driver``: Numba looks for libcuda by ctypes at import, though it calls everything through
cuda-bindings."""

from __future__ import annotations

from types import ModuleType

INSTALL_LINE = "pip install 'numba-cuda[cu12]' (or numba-cuda[cu13])"


class PresentLibrary:
    """What stands where Numba holds the driver library it opened: present, and never called.

    Numba calls the driver through cuda-bindings; whoever asks this object for a function learns that.
    """

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{name}: a function has no libcuda; call the driver through cuda.bindings")


def uses_bindings(module: ModuleType) -> bool:
    """Whether this is numba-cuda on cuda-bindings, and not the ctypes driver of older releases."""
    return hasattr(module, "binding") and getattr(module, "USE_NV_BINDING", True) is not False


def patch_driver(module: ModuleType) -> None:
    """Give Numba a present library and a state that is initialised at the first call.

    Where CUDA is switched off (``NUMBA_DISABLE_CUDA``) it stays so. Numba's own built-in target, which calls libcuda
    by ctypes, is
    refused with the line that installs the one that is served.
    """
    driver = module.driver
    if getattr(module.config, "DISABLE_CUDA", 0):
        return
    if not uses_bindings(module):
        driver.is_initialized = True
        driver.initialization_error = (
            f"migproxy serves Numba's CUDA target through the numba-cuda package and cuda-bindings: {INSTALL_LINE}"
        )
        return
    driver.lib = PresentLibrary()
    driver.is_initialized = False
    driver.initialization_error = None
