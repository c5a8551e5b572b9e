"""The PTX compiler and kernel engine of the software GPU.

PTX text becomes LLVM IR and then machine code of the host; a launch runs the grid's blocks on worker threads outside
the GIL. See ``docs/decisions/ptx-execution-model.md`` for how threads, barriers and warp operations are run.
"""

from __future__ import annotations

from migproxy.softgpu.ptx.engine import Kernel, LoadedModule, load_module, load_modules

__all__ = ["Kernel", "LoadedModule", "load_module", "load_modules"]
