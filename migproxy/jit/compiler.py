"""Compile LLVM assembly to machine code that lives as long as the process.

llvmlite is imported on first use: importing it costs about 40 ms, compiling a module a few to twenty.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from typing import Any

_LOCK = threading.Lock()
_TARGET: Any = None
_CONTEXT: Any = None
#: Engines are never freed: addresses of their code are stored in capsules, tables and other machine code.
_ENGINES: list[Any] = []


def _prepare() -> Any:
    """Return the target machine; the first call initialises LLVM for this machine."""
    global _TARGET, _CONTEXT
    if _TARGET is None:
        import llvmlite
        import llvmlite.binding as llvm

        old = hasattr(llvmlite, "opaque_pointers_enabled")
        if old:  # llvmlite 0.44: LLVM is initialised by hand, and pointers have types unless the context says otherwise
            llvm.initialize()
            _CONTEXT = llvm.context.ContextRef(llvm.ffi.lib.LLVMPY_ContextCreate(True))
        else:
            _CONTEXT = llvm.create_context()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        # No '-march=native' features: the code is small and latency-bound, and vector units left dirty cost the caller.
        _TARGET = llvm.Target.from_default_triple().create_target_machine(opt=2, jit=True)
    return _TARGET


def compile_ir(assembly: str, names: Iterable[str], *, optimise: bool = True) -> dict[str, int]:
    """Compile a module of LLVM assembly and return the addresses of the functions `names`.

    Parameters
    ----------
    assembly : str
        LLVM assembly with opaque pointers (``ptr``), as LLVM 15 to 20 read it. Symbols of other libraries should be
        embedded as absolute addresses.
    names : iterable of str
        Functions whose addresses are wanted.
    optimise : bool
        Run the middle-end passes; needed for code that keeps its variables in memory.

    Returns
    -------
    dict of str to int
        The code stays valid until the process ends.
    """
    with _LOCK:
        target = _prepare()
        import llvmlite.binding as llvm

        module = llvm.parse_assembly(assembly, _CONTEXT)
        module.verify()
        if optimise:
            builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
            passes = builder.getModulePassManager()
            passes.run(module, builder)
        engine = llvm.create_mcjit_compiler(
            module, llvm.Target.from_default_triple().create_target_machine(opt=2, jit=True)
        )
        engine.finalize_object()
        _ENGINES.append(engine)
        return {name: engine.get_function_address(name) for name in names}


def symbol(name: str) -> int:
    """Return the address of a C function of this process, such as ``"PyLong_FromLongLong"`` or ``"malloc"``."""
    address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    assert address is not None
    return address
