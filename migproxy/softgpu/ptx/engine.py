"""Loaded modules and kernels: parse, place globals, compile on first launch, launch."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migproxy.errors import KernelFault, PtxError
from migproxy.softgpu.ptx import cooperative, native, workers
from migproxy.softgpu.ptx.ast import Function, Module, Variable
from migproxy.softgpu.ptx.cache import default_cache
from migproxy.softgpu.ptx.layout import LAUNCH, MAX_THREADS
from migproxy.softgpu.ptx.linker import link_modules
from migproxy.softgpu.ptx.lower import load_all
from migproxy.softgpu.ptx.modulegen import ModuleGen, function_table, pointed_functions
from migproxy.softgpu.ptx.parser import parse
from migproxy.softgpu.ptx.printf import read_string
from migproxy.softgpu.ptx.runtime_ir import ABORTED
from migproxy.softgpu.ptx.specialize import Constants, constants

PlaceGlobal = Callable[[str, int, int], int]
Resolve = Callable[[str], int | None]
Dim = tuple[int, int, int]


_PACK = LAUNCH.packer()
#: threads of a launch that is worth tuning for
HEAVY = 1 << 17


@dataclass(slots=True)
class _Code:
    """A kernel's machine code and what launching it needs."""

    entry: int
    frame_bytes: int


class Kernel:
    """A kernel of a loaded module.

    Attributes
    ----------
    name : str
    params : list of (offset, size)
        The packed parameter layout.
    param_size, static_shared, local_bytes, const_bytes : int
    max_threads : int
        Threads of a block at most.
    reqntid : tuple or None
        The block size that the kernel demands.
    """

    def __init__(self, module: LoadedModule, function: Function, gen: ModuleGen, text: str) -> None:
        self.name = function.name
        self._module = module
        self._text = text
        self._symbol = gen.symbol
        self._frame_bytes = gen.frame_bytes
        self.params: list[tuple[int, int]] = gen.params
        self.param_size = gen.param_size
        self.static_shared = gen.static_shared
        self.local_bytes = gen.local_bytes
        self.const_bytes = sum(v.size for v in module.ast.variables.values() if v.space == "const")
        self.reqntid: Dim | None = function.reqntid
        limit = function.reqntid or function.maxntid
        self.max_threads = min(MAX_THREADS, limit[0] * limit[1] * limit[2]) if limit else MAX_THREADS
        self._code: _Code | None = None
        self._function = function
        self._tuner = Tuner(self)
        self._lock = threading.Lock()

    def compile(self) -> None:
        """Make the machine code now instead of at the first launch."""
        self._compiled()

    def _compiled(self) -> _Code:
        code = self._code
        if code is not None:
            return code
        with self._lock:
            if self._code is None:
                native.runtime()
                engine = native.link(_object(self._text))
                self._code = _Code(engine.get_function_address(self._symbol), self._frame_bytes)
            return self._code

    def variant(self, fixed: Constants, number: int) -> _Code:
        """Machine code for launches in which `fixed` holds."""
        symbol = f"{self._symbol}.{number}"
        gen = ModuleGen(self._module.ast, self._function, self._module.index, symbol, fixed)
        text = gen.generate()
        return _Code(native.link(_object(text)).get_function_address(symbol), gen.frame_bytes)

    def launch_cooperative(self, grid: Dim, block: Dim, dynamic_shared: int, params: int) -> None:
        """`launch` with all blocks in progress at once, so that they may wait for each other."""
        self.launch(grid, block, dynamic_shared, params, together=True)

    def launch(self, grid: Dim, block: Dim, dynamic_shared: int, params: int, *, together: bool = False) -> None:
        """Run the whole grid; returns when it has finished.

        Parameters
        ----------
        grid, block : tuple of int
        dynamic_shared : int
            Bytes of dynamic shared memory.
        params : int
            Address of the packed parameters.
        together : bool
            Whether each block gets a worker thread of its own.

        Raises
        ------
        KernelFault
            When a thread faulted; some blocks may have run, as on a GPU.
        """
        code = self._compiled()
        started = time.perf_counter()
        threads = block[0] * block[1] * block[2]
        blocks = grid[0] * grid[1] * grid[2]
        if not 0 < threads <= MAX_THREADS:
            raise KernelFault(1, f"{self.name}: a block has 1 to {MAX_THREADS} threads, not {threads}")
        if blocks <= 0 or min(grid) <= 0:
            raise KernelFault(1, f"{self.name}: empty grid {grid}")
        heavy = threads * blocks >= HEAVY
        if heavy:
            code = self._tuner.pick(grid, block, params) or code
        record = (ctypes.c_char * (LAUNCH.size + 64))()
        base = -(-ctypes.addressof(record) // 64) * 64
        wanted = min(workers.thread_count(), blocks) if threads * blocks > 4096 else 1
        chunk = max(1, min(blocks // (wanted * 8), 1024)) if wanted > 1 else blocks
        workspace = (ctypes.c_uint64 * 2)()
        if together:
            wanted, chunk = blocks, 1
        at = ctypes.addressof(workspace) if together or blocks == 1 else 0
        _PACK.pack_into(
            record, base - ctypes.addressof(record), 0, blocks, chunk, 0, 0, code.entry, params,
            self._module.table_address, *grid, *block, threads, dynamic_shared, self.static_shared, 0,
            self.local_bytes, 0, at, 0, 0,
        )  # fmt: skip
        shared = self.static_shared + dynamic_shared
        run = native.runtime().run
        pool = workers.pool()
        faults: list[KernelFault] = []

        def part() -> None:
            context = pool.take()
            try:
                context.prepare(threads, shared, code.frame_bytes, self.local_bytes)
                if run(base, context.address) not in (0, ABORTED):
                    faults.append(self._fault(context, grid, block, base))
            finally:
                pool.give(context)

        if wanted == 1:
            part()
        elif together:
            crew = [threading.Thread(target=part, daemon=True) for _ in range(wanted - 1)]
            for thread_ in crew:
                thread_.start()
            part()
            for thread_ in crew:
                thread_.join()
        else:
            ticket = workers.Ticket(part)
            pool.help(ticket, wanted - 1)
            try:
                part()
            finally:
                ticket.close()
        if faults:
            raise faults[0]
        if heavy:
            self._tuner.spent(time.perf_counter() - started)

    def _locate(self, context: workers.Context, grid: Dim, block: Dim, record: int) -> None:
        """Run the faulting block again, each thread noting its number first, so that the fault can be named.

        Its memory is lost anyway: after such a fault the context is dead, as on a GPU.
        """
        symbol = f"{self._symbol}.traced"
        gen = ModuleGen(self._module.ast, self._function, self._module.index, symbol, traced=True)
        code = native.link(_object(gen.generate())).get_function_address(symbol)
        number = (context.get("cz") * grid[1] + context.get("cy")) * grid[0] + context.get("cx")
        again = (ctypes.c_char * (LAUNCH.size + 64))()
        base = -(-ctypes.addressof(again) // 64) * 64
        ctypes.memmove(base, record, LAUNCH.size)
        for field, value in (("counter", number), ("blocks", number + 1), ("chunk", 1), ("kernel", code)):
            ctypes.c_uint64.from_address(base + LAUNCH.offset[field]).value = value
        ctypes.c_uint32.from_address(base + LAUNCH.offset["fault"]).value = 0
        native.runtime().run(base, context.address)

    def _fault(self, context: workers.Context, grid: Dim, block: Dim, record: int) -> KernelFault:
        """The error for a fault that a worker met."""
        status = context.get("fault")
        address = context.get("fault_address")
        where = f"kernel {self.name}, block ({context.get('cx')}, {context.get('cy')}, {context.get('cz')})"
        unknown = 0xFFFFFFFF
        if context.get("thread") == unknown and status in (700, 716):
            self._locate(context, grid, block, record)
            if (context.get("fault"), context.get("fault_address")) != (status, address):
                context.set("thread", unknown)  # it went another way
        n = context.get("thread")
        at = (n % block[0], n // block[0] % block[1], n // (block[0] * block[1]))
        thread = f", thread {at}" if n != unknown else ""
        if status == 710:
            message, file = (read_string(context.get(name)).decode(errors="replace") for name in ("fault_a", "fault_b"))
            function = read_string(context.get("fault_address")).decode(errors="replace")
            line = context.get("fault_c")
            text = f"{file}:{line}: {function}: {where}{thread}: Assertion `{message}` failed."
            os.write(2, (text + "\n").encode())
            return KernelFault(710, text)
        what = {
            700: f"illegal address {address:#x}",
            702: "threads wait for each other for ever (a barrier in divergent code)",
            715: "illegal instruction",
            716: "misaligned address, or an address that no device has",
            719: "trap",
        }.get(status, f"fault {status}")
        return KernelFault(status, f"{what} in {where}{thread}")


class Tuner:
    """Compiles a kernel again for a launch shape and parameters that keep coming back; see `specialize`."""

    #: seconds of run time under one key that pay for a compilation
    PRICE = 0.04
    KEYS = 32
    VARIANTS = 8

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lock = threading.Lock()
        self.time: dict[Constants, float] = {}
        self.code: dict[Constants, _Code] = {}
        self.local = threading.local()

    def pick(self, grid: Dim, block: Dim, params: int) -> _Code | None:
        """The variant for this launch, compiled if it has earned that."""
        kernel = self.kernel
        data = ctypes.string_at(params, kernel.param_size)
        key = constants(grid, block, data, kernel.params)
        self.local.key = None
        with self.lock:
            code = self.code.get(key)
            if code is not None:
                return code
            self.local.key = key
            if self.time.get(key, 0.0) < self.PRICE or len(self.code) >= self.VARIANTS:
                return None
            self.local.key = None
            code = self.code[key] = kernel.variant(key, len(self.code) + 1)
            return code

    def spent(self, seconds: float) -> None:
        """Note the run time of the launch just done."""
        key = self.local.key
        if key is None:
            return
        with self.lock:
            if key not in self.time and len(self.time) >= self.KEYS:
                self.time.pop(next(iter(self.time)))
            self.time[key] = self.time.get(key, 0.0) + seconds


class LoadedModule:
    """A PTX module with its globals placed in device memory.

    Attributes
    ----------
    kernels : dict of str to Kernel
    globals : dict of str to (address, size)
    """

    def __init__(self, ast: Module, digest: str, place_global: PlaceGlobal, resolve: Resolve | None) -> None:
        load_all()
        self.ast = ast
        self._prefix = f"k{digest[:16]}"
        self.globals: dict[str, tuple[int, int]] = {}
        self.index = index = {v.name: n for n, v in enumerate(_placed(ast))}
        self._table = (ctypes.c_uint64 * (len(index) + 1))()
        self.table_address = ctypes.addressof(self._table)
        self.kernels: dict[str, Kernel] = {}
        for function in ast.functions.values():
            cooperative.rewrite(function)
        for function in ast.functions.values():
            if function.entry and function.body is not None:
                symbol = f"{self._prefix}.{len(self.kernels)}"
                gen = ModuleGen(ast, function, index, symbol)
                text = gen.generate()
                self.kernels[function.name] = Kernel(self, function, gen, text)
        self._place(index, place_global, resolve)

    def _place(self, index: dict[str, int], place_global: PlaceGlobal, resolve: Resolve | None) -> None:
        placed = _placed(self.ast)
        self._functions = self._function_addresses(index)
        for variable in placed:
            if variable.extern and variable.init is None:
                address = resolve(variable.name) if resolve is not None else None
                if address is None:
                    raise PtxError(f"undefined variable {variable.name}", variable.line)
            else:
                address = place_global(variable.name, max(variable.size, 1), variable.align)
            self.globals[variable.name] = (address, variable.size)
            self._table[index[variable.name]] = address
        for variable in placed:
            if not variable.extern:
                self._initialize(variable)

    def _function_addresses(self, index: dict[str, int]) -> dict[str, int]:
        """Machine-code addresses of the functions that initial values name."""
        names = pointed_functions(self.ast)
        if not names:
            return {}
        native.runtime()
        symbol = f"{self._prefix}.table"
        engine = native.link(_object(function_table(self.ast, names, index, symbol)))
        table = engine.get_global_value_address(symbol)
        return {name: ctypes.c_uint64.from_address(table + 8 * n).value for n, name in enumerate(names)}

    def _initialize(self, variable: Variable) -> None:
        """Write a variable's initial value; what has none is zero."""
        address, size = self.globals[variable.name]
        data = bytearray(size)
        element = variable.element
        for n, value in enumerate(variable.init or ()):
            if isinstance(value, tuple):
                name, offset, shift = value
                base = self.globals[name][0] if name in self.globals else self._functions.get(name)
                if base is None:
                    raise PtxError(f"not supported: address of {name} in an initial value", variable.line)
                value = (base + offset) >> shift
            piece = (value & ((1 << 8 * element) - 1)).to_bytes(element, "little")
            data[n * element : (n + 1) * element] = piece
        ctypes.memmove(address, bytes(data), size)


def _object(text: str) -> bytes:
    """Object code for LLVM IR, from the cache if it is there."""
    key = hashlib.sha256((native.fingerprint() + text).encode()).hexdigest()
    cache = default_cache()
    data = cache.get(key)
    if data is None:
        data = native.compile_text(text)
        cache.put(key, data)
    return data


def _placed(ast: Module) -> list[Variable]:
    """The variables that live in device memory: the module's, and those that functions declare."""
    out = [v for v in ast.variables.values() if v.space in ("global", "const")]
    for function in ast.functions.values():
        out += [v for v in function.variables.values() if v.space in ("global", "const")]
    return out


def load_modules(images: Sequence[bytes], *, place_global: PlaceGlobal, resolve: Resolve | None = None) -> LoadedModule:
    """Load several PTX texts linked into one module.

    Parameters
    ----------
    images : sequence of bytes
        PTX texts, each maybe zero-terminated.
    place_global : callable
        ``place_global(name, size, align)`` returns the address where a variable lives; the engine writes its initial
        value there. The caller owns the memory.
    resolve : callable, optional
        The address of an ``.extern`` variable that no text defines, or None.

    Raises
    ------
    PtxError
        For anything unknown or undefined, with the line and its text.
    """
    texts = [bytes(image).split(b"\0", 1)[0].decode("utf-8", errors="replace") for image in images]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    ast = link_modules([parse(text) for text in texts])
    return LoadedModule(ast, digest, place_global, resolve)


def load_module(image: bytes, *, place_global: PlaceGlobal, resolve: Resolve | None = None) -> LoadedModule:
    """Load one PTX text; see `load_modules`."""
    return load_modules([image], place_global=place_global, resolve=resolve)
