"""Machine code: LLVM's target, text to object code, object code to addresses, and the process's own runtime.

Preconditions are those of any machine code: addresses handed to compiled functions must be what their prototypes say.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from migproxy.softgpu.ptx import printf, runtime_ir, texture_ir
from migproxy.softgpu.ptx.cache import ObjectCache

_lock = threading.RLock()


@cache
def target() -> llvm.TargetMachine:
    """The host's target machine."""
    return _machine(2)


def _machine(optimization: int) -> llvm.TargetMachine:
    """A target machine for the host that generates code with this much effort, 0 to 3."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    host = llvm.Target.from_triple(llvm.get_process_triple())
    return host.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=optimization, reloc="pic", codemodel="jitdefault",
        jit=True,
    )  # fmt: skip


def _features() -> str:
    features: str = llvm.get_host_cpu_features().flatten()
    return features


@cache
def fingerprint() -> str:
    """What besides the text decides the object code: this compiler, LLVM, the machine."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return f"{_compiler()}/{llvmlite.__version__}/{version}/{llvm.get_host_cpu_name()}/{_features()}"


def _compiler() -> str:
    """A digest of this package's code, so that nothing cached is mistaken for what another version would make."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


class Effort(enum.IntEnum):
    """How much is done for fast machine code; each step takes about four times as long as the one before."""

    LEAST = 0
    """No passes, registers given out block by block: 1.5 to 4 times the run time, in time proportional to the text."""
    QUICK = 1
    """Without vectorising."""
    BEST = 2


#: LLVM IR from this length on is compiled quickly first; launches that matter get a second compilation anyway
LARGE = 70_000
#: and from this one on with the least effort: allocating registers takes more than linear time
HUGE = 250_000
#: seconds of run time that pay for the best code of a large kernel; of a huge one, more by the factor that it is longer
PROMOTE = 0.3
#: what a quick compilation does besides inlining: registers instead of memory, and the folding that pays for itself
_QUICK = ("always_inliner", "sroa", "simplify_cfg", "instruction_combine", "reassociate", "simplify_cfg",
          "dead_store_elimination", "aggressive_dce")  # fmt: skip


def first_effort(length: int) -> Effort:
    """The effort that the first compilation of LLVM IR this long is worth."""
    return Effort.LEAST if length >= HUGE else Effort.QUICK if length >= LARGE else Effort.BEST


def price(length: int) -> float:
    """Seconds of run time that pay for compiling LLVM IR this long again, at its best; 0 where it is from the start."""
    return 0.0 if first_effort(length) is Effort.BEST else PROMOTE * max(1.0, length / HUGE)


def compile_text(text: str, effort: Effort = Effort.BEST) -> bytes:
    """LLVM IR to object code."""
    machine = target()
    # A context of its own: what LLVM keeps of types and constants goes with it.
    module = llvm.parse_assembly(text, llvm.create_context())
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    if effort is Effort.LEAST:
        machine = _machine(0)
    else:
        _optimize(module, machine, effort)
    code: bytes = machine.emit_object(module)
    return code


def _optimize(module: llvm.ModuleRef, machine: llvm.TargetMachine, effort: Effort) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    options.slp_vectorization = False  # seconds on large kernels, and little to find in the code of one thread
    options.loop_unrolling = False  # the loops are over threads: there is nothing to gain
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    if effort is Effort.QUICK:
        passes = llvm.create_new_module_pass_manager()
        for name in _QUICK:
            getattr(passes, f"add_{name}_pass")()
    else:
        passes = builder.getModulePassManager()
    passes.run(module, builder)


def link(code: bytes) -> llvm.ExecutionEngine:
    """Bring object code into the process, where it stays as long as the engine lives."""
    if texture_ir.P.encode() in code:
        textures()
    return _link(code)


def _link(code: bytes) -> llvm.ExecutionEngine:
    with _lock:
        anchor = llvm.parse_assembly("")
        engine = llvm.create_mcjit_compiler(anchor, _machine(2))
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return engine


_SIGNALS = (7, 11, 4)  # SIGBUS, SIGSEGV, SIGILL
_SA_SIGINFO, _SA_NODEFER, _SA_ONSTACK = 4, 0x40000000, 0x08000000


class Runtime:
    """The runtime's entry points in this process, and its signal handlers."""

    def __init__(self, cache_: ObjectCache) -> None:
        llvm.load_library_permanently("libm.so.6")
        target()
        engine = self._engine = _linked(runtime_ir.module(), cache_)
        prefix = runtime_ir.P
        for name in ("fault", "printf", "block", "nanoseconds", "sleep", "grid", "spin", "check", "overflow"):
            address = engine.get_function_address(prefix + name)
            assert address, name
            llvm.add_symbol(prefix + name, address)
        libc = ctypes.CDLL(None, use_errno=True)
        slot = ctypes.c_uint32()
        if libc.pthread_key_create(ctypes.byref(slot), None):
            raise OSError("no thread-specific key is left")
        ctypes.c_uint32.from_address(engine.get_global_value_address(prefix + "key")).value = slot.value
        self._printer = printf.CALLBACK(printf.device_printf)
        address = ctypes.cast(self._printer, ctypes.c_void_p).value
        ctypes.c_uint64.from_address(engine.get_global_value_address(prefix + "printer")).value = address or 0
        self._run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)(
            engine.get_function_address(prefix + "run")
        )
        self._libc = libc
        self._handler = engine.get_function_address(prefix + "handler")
        self._old = engine.get_global_value_address(prefix + "old")
        self.install_handlers()

    @property
    def run(self) -> Callable[[int, int], int]:
        """``run(launch, context)``: a worker's part of a launch, without the GIL."""
        return self._run

    def install_handlers(self) -> None:
        """Put our handler in front of the present ones (once more does nothing)."""
        for number in _SIGNALS:
            action = (ctypes.c_uint64 * 19)()
            self._libc.sigaction(number, None, action)
            if action[0] == self._handler:
                continue
            ctypes.memmove(self._old + 152 * number, action, 152)
            new = (ctypes.c_uint64 * 19)()
            new[0] = self._handler
            new[17] = _SA_SIGINFO | _SA_NODEFER | _SA_ONSTACK
            if self._libc.sigaction(number, new, None):
                raise OSError(ctypes.get_errno(), "sigaction failed")


def _linked(text: str, cache_: ObjectCache) -> llvm.ExecutionEngine:
    """A runtime module's machine code, from the cache if it is there."""
    key = hashlib.sha256((fingerprint() + text).encode()).hexdigest()
    code = cache_.get(key)
    if code is None:
        code = compile_text(text)
        cache_.put(key, code)
    return _link(code)


@cache
def _textures() -> llvm.ExecutionEngine:
    from migproxy.softgpu.ptx.cache import default_cache

    engine = _linked(texture_ir.module(), default_cache())
    for name in texture_ir.NAMES:
        llvm.add_symbol(texture_ir.P + name, engine.get_function_address(texture_ir.P + name))
    return engine


def textures() -> None:
    """Make the functions known that texture and surface instructions call; other kernels do without."""
    with _lock:
        runtime()
        _textures()


@cache
def _runtime() -> Runtime:
    from migproxy.softgpu.ptx.cache import default_cache

    return Runtime(default_cache())


def runtime() -> Runtime:
    """The process's runtime, made on first use."""
    with _lock:
        return _runtime()
