"""cuFFT's callbacks, ``cupy.fft._callback``: those that nvrtc compiles are linked into plans of the executor; the older
kind, a module that is compiled with a cuFFT of its own inside, would need a GPU in the function and is refused by name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


def install(module: ModuleType) -> None:
    """Refuse legacy callbacks; called right after the module executed."""
    original: Any = module.set_cufft_callbacks

    class set_cufft_callbacks(original):
        __doc__ = original.__doc__

        def __init__(self, *arguments: Any, cb_ver: str = "legacy", **options: Any) -> None:
            if cb_ver == "legacy":
                raise RuntimeError(
                    "cupy.fft.config.set_cufft_callbacks(cb_ver='legacy') is refused by name: it compiles a cuFFT into "
                    "the function, which has no GPU; cb_ver='jit' works through migproxy"
                )
            super().__init__(*arguments, cb_ver=cb_ver, **options)

    set_cufft_callbacks.__module__ = module.__name__
    set_cufft_callbacks.__qualname__ = "set_cufft_callbacks"
    module.set_cufft_callbacks = set_cufft_callbacks  # type: ignore[attr-defined]
