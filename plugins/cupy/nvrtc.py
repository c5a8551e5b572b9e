"""``cupy_backends.cuda.libs.nvrtc`` on the software GPU: where CuPy asks for a cubin it gets the PTX, in a container.

nvrtc stays in the function and needs no GPU. On a real device nothing changes. Whether the device is a software GPU
is asked when a program is compiled, not at import.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from migproxy_plugins.cupy import patching

from migproxy.session import api
from migproxy.softgpu.container import wrap

_REAL_ARCHITECTURE = re.compile(r"^(-arch=|--gpu-architecture=|-arch |--gpu-architecture )sm_(\d+[af]?)$")


def software() -> bool:
    """Whether this process's device is the software GPU."""
    return api.device_facts().kind == "software"


class Seam:
    """The replaced functions and the real ones behind them.

    Parameters
    ----------
    module : ModuleType
        The real nvrtc module.
    """

    def __init__(self, module: ModuleType) -> None:
        self._compile: Callable[..., None] = module.compileProgram
        self._cubin: Callable[..., bytes] = module.getCUBIN
        self._ptx: Callable[..., bytes] = module.getPTX
        self._destroy: Callable[..., None] = module.destroyProgram
        self._asked_for_cubin: set[int] = set()

    def compile_program(self, program: int, options: Any) -> None:
        """Compile; for a real architecture stop at PTX, which is all that the software GPU reads."""
        if software():
            given = list(options)
            options = [_REAL_ARCHITECTURE.sub(r"\1compute_\2", option) for option in given]
            if options != given:
                self._asked_for_cubin.add(program)
        self._compile(program, options)

    def get_cubin(self, program: int) -> bytes:
        """Return the machine code, or the container that stands for it."""
        if program not in self._asked_for_cubin:
            return self._cubin(program)
        return wrap(self._ptx(program))

    def destroy_program(self, program: int) -> None:
        """Forget a program."""
        self._asked_for_cubin.discard(program)
        self._destroy(program)


def install(module: ModuleType) -> None:
    """Put the seam into the module; called right after it executed."""
    seam = Seam(module)
    patching.patch_some(
        module,
        {
            "compileProgram": seam.compile_program,
            "getCUBIN": seam.get_cubin,
            "destroyProgram": seam.destroy_program,
        },
    )
