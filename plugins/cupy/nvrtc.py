"""``cupy_backends.cuda.libs.nvrtc`` on the software GPU: what CuPy gets for a cubin or LTO-IR is PTX in a container.

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
_LTO = {"-dlto": "--relocatable-device-code=true", "--dlink-time-opt": "--relocatable-device-code=true"}


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
        self._lto: Callable[..., bytes] | None = getattr(module, "getLTOIR", None)
        self._destroy: Callable[..., None] = module.destroyProgram
        self._stopped: set[int] = set()

    def compile_program(self, program: int, options: Any) -> None:
        """Compile; for a real architecture stop at PTX, which is all that the software GPU reads."""
        if software():
            given = list(options)
            options = [_REAL_ARCHITECTURE.sub(r"\1compute_\2", _LTO.get(option, option)) for option in given]
            if options != given:
                self._stopped.add(program)
        self._compile(program, options)

    def get_cubin(self, program: int) -> bytes:
        """Return the machine code, or the container that stands for it."""
        if program not in self._stopped:
            return self._cubin(program)
        return wrap(self._ptx(program))

    def get_lto_ir(self, program: int) -> bytes:
        """Return the LTO-IR, or the container that stands for it."""
        if program in self._stopped or self._lto is None:
            return wrap(self._ptx(program))
        return self._lto(program)

    def destroy_program(self, program: int) -> None:
        """Forget a program."""
        self._stopped.discard(program)
        self._destroy(program)


def install(module: ModuleType) -> None:
    """Put the seam into the module; called right after it executed."""
    seam = Seam(module)
    patching.patch_some(
        module,
        {
            "compileProgram": seam.compile_program,
            "getCUBIN": seam.get_cubin,
            "getLTOIR": seam.get_lto_ir,
            "destroyProgram": seam.destroy_program,
        },
    )
