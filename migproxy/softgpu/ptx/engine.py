"""Loaded modules and kernels: place globals, compile on first launch, launch."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from migproxy.errors import KernelFault, PtxError
from migproxy.softgpu import written_unsafe
from migproxy.softgpu.compiling import COMPILING
from migproxy.softgpu.ptx import check, native, workers
from migproxy.softgpu.ptx.cache import default_cache
from migproxy.softgpu.ptx.image import KernelImage, Placed, Source, object_key
from migproxy.softgpu.ptx.layout import LAUNCH, MAX_THREADS
from migproxy.softgpu.ptx.modulegen import align_up
from migproxy.softgpu.ptx.printf import read_string
from migproxy.softgpu.ptx.runtime_ir import ABORTED
from migproxy.softgpu.ptx.specialize import Constants
from migproxy.softgpu.ptx.tuner import HEAVY, Tuner

PlaceGlobal = Callable[[str, int, int], int]
Resolve = Callable[[str], int | None]
Bounds = Callable[[], list[tuple[int, int, int]]]
Dim = tuple[int, int, int]

_PACK = LAUNCH.packer()
WARP = 32


@dataclass(slots=True)
class Code:
    """A kernel's machine code, which lives as long as this, and what launching it needs."""

    entry: int
    frame_bytes: int
    local_bytes: int
    engine: object

    @classmethod
    def linked(cls, data: bytes, symbol: str, frame_bytes: int, local_bytes: int) -> Code:
        """Bring object code into the process."""
        engine = native.link(data)
        return cls(engine.get_function_address(symbol), frame_bytes, local_bytes, engine)


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

    def __init__(self, module: LoadedModule, image: KernelImage, text: str | None) -> None:
        self.name = image.name
        self._module = module
        self._image = image
        self._text = text
        self.params: list[tuple[int, int]] = image.params
        self.param_size = image.param_size
        self.static_shared = image.static_shared
        self.local_bytes = image.local_bytes
        self.const_bytes = sum(v.size for v in module.variables if v.space == "const")
        self.reqntid: Dim | None = image.reqntid
        limit = image.reqntid or image.maxntid
        self.max_threads = min(MAX_THREADS, limit[0] * limit[1] * limit[2]) if limit else MAX_THREADS
        self._code: Code | None = None
        self._lockstep: Code | None = None
        #: seconds that launches of quickly made code took
        self._quick_time = 0.0
        self._price = native.price(image.length)
        self._tuner = Tuner(self, image.length)
        self._point_lines: list[int] = []
        self._lock = threading.Lock()

    def compile(self) -> None:
        """Make the machine code now instead of at the first launch."""
        self._compiled()

    def _compiled(self) -> Code:
        code = self._code
        if code is not None:
            return code
        with COMPILING, self._lock:
            if self._code is None:
                image = self._image
                native.runtime()
                if self._module.checked:
                    self._code = self._checked()
                    return self._code
                data = default_cache().get(image.code)
                if data is None:
                    text = self._text or self._module.source.generator(self.name, image.symbol).generate()
                    data = _object(text)
                self._code = Code.linked(data, image.symbol, image.frame_bytes, image.local_bytes)
                self._text = None
            return self._code

    def _checked(self) -> Code:
        """Machine code for check mode."""
        symbol = f"{self._image.symbol}.checked"
        gen = self._module.source.generator(self.name, symbol, checked=True)
        text = gen.generate()
        self._point_lines = gen.point_lines
        return Code.linked(_object(text), symbol, gen.frame_bytes, gen.local_bytes)

    def _in_step(self, code: Code) -> Code:
        """Machine code for blocks of one warp whose lanes run in step; see `lockstep`."""
        if self._lockstep is not None:
            return self._lockstep
        with COMPILING, self._lock:
            if self._lockstep is None:
                symbol = f"{self._image.symbol}.step"
                try:
                    gen = self._module.source.generator(self.name, symbol, in_step=True)
                    text = gen.generate()
                except PtxError:  # loops in functions called recursively or by pointer: no lane can wait there
                    self._lockstep = code
                    return code
                self._lockstep = Code.linked(_object(text), symbol, gen.frame_bytes, gen.local_bytes)
            return self._lockstep

    def variant(self, fixed: Constants, number: int) -> Code:
        """Machine code for launches in which `fixed` holds."""
        symbol = f"{self._image.symbol}.{number}"
        with COMPILING:
            gen = self._module.source.generator(self.name, symbol, fixed)
            text = gen.generate()
            return Code.linked(_object(text, tuned=True), symbol, gen.frame_bytes, gen.local_bytes)

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
        checked = self._module.checked
        heavy = threads * blocks >= HEAVY and not checked
        if self._image.lockstep and 1 < threads <= WARP and not checked:
            heavy = False
            code = self._in_step(code)
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
            code.local_bytes, 0, at, 0, 0,
        )  # fmt: skip
        shared = self.static_shared + dynamic_shared
        run = native.runtime().run
        pool = workers.pool()
        faults: list[KernelFault] = []
        table: ctypes.Array[ctypes.c_uint64] | None = None

        def part() -> None:
            context = pool.take()
            try:
                context.prepare(threads, shared, code.frame_bytes, code.local_bytes)
                context.set("stack_limit", workers.stack_limit())
                context.check(shared if checked else -1, ctypes.addressof(table) if table is not None else 0)
                if run(base, context.address) not in (0, ABORTED):
                    faults.append(self._fault(context, grid, block, base))
            finally:
                pool.give(context)

        with written_unsafe.launching() if checked else nullcontext():
            table = _allocation_table(self._module) if checked else None
            self._run(part, wanted, together=together)
        if faults:
            raise faults[0]
        spent = time.perf_counter() - started
        if heavy:
            self._tuner.spent(spent)
        if code is self._code and self._price and not checked:
            self._quick_time += spent
            if self._quick_time > self._price:
                self._promote(code)

    def _promote(self, old: Code) -> None:
        """Compile again with everything that LLVM can do: the quick code has run for long."""
        self._quick_time = float("-inf")
        symbol = f"{self._image.symbol}.full"
        with COMPILING:
            gen = self._module.source.generator(self.name, symbol)
            code = Code.linked(_object(gen.generate(), tuned=True), symbol, gen.frame_bytes, gen.local_bytes)
        with self._lock:
            if self._code is old:
                self._code = code
        self._tuner.restart()

    @staticmethod
    def _run(part: Callable[[], None], wanted: int, *, together: bool) -> None:
        """Have so many threads do their part of a launch."""
        pool = workers.pool()
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

    def _locate(self, context: workers.Context, grid: Dim, block: Dim, record: int) -> None:
        """Run the faulting block again, each thread noting its number first, so that the fault can be named.

        Its memory is lost anyway: after such a fault the context is dead, as on a GPU.
        """
        symbol = f"{self._image.symbol}.traced"
        gen = self._module.source.generator(self.name, symbol, traced=True)
        code = Code.linked(_object(gen.generate()), symbol, gen.frame_bytes, gen.local_bytes)
        number = (context.get("cz") * grid[1] + context.get("cy")) * grid[0] + context.get("cx")
        again = (ctypes.c_char * (LAUNCH.size + 64))()
        base = -(-ctypes.addressof(again) // 64) * 64
        ctypes.memmove(base, record, LAUNCH.size)
        for field, value in (("counter", number), ("blocks", number + 1), ("chunk", 1), ("kernel", code.entry)):
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
        if status in check.STATUS:
            line = context.get("fault_c")
            if status == check.DIVERGENT:
                line = self._point_lines[line]
            source = self._module.source.ast.text
            text = source[line - 1].strip() if 0 < line <= len(source) else ""
            found = check.describe(status, context.get("fault_a"), context.get("fault_b"))
            message = f"{found}, in {where}{thread}, PTX line {line}: {text}"
            os.write(2, f"migproxy: {message}\n".encode())
            return KernelFault(check.STATUS[status], message)
        if status == 702 and context.get("fault_c"):
            return self._stuck(f"{where}{thread}", context.get("fault_c"))
        what = {
            700: f"illegal address {address:#x}",
            702: "threads wait for each other for ever",
            714: "stack overflow, by recursion or alloca,",
            715: "illegal instruction",
            716: "misaligned address, or an address that no device has",
            719: "trap",
        }.get(status, f"fault {status}")
        return KernelFault(status, f"{what} in {where}{thread}")

    def _stuck(self, where: str, point: int) -> KernelFault:
        """The error for threads that wait for each other for ever, one of them at a suspend point."""
        source = self._module.source
        lines = self._point_lines
        if not lines:
            gen = source.generator(self.name, self._image.symbol, in_step=self._lockstep is not None)
            gen.generate()
            lines = gen.point_lines
        line = lines[point]
        text = source.ast.text[line - 1].strip()
        message = f"threads wait for each other for ever, in {where}, PTX line {line}: {text}"
        if self._module.checked:
            os.write(2, f"migproxy: divergent barrier: {message}\n".encode())
        return KernelFault(702, message)


class LoadedModule:
    """A PTX module with its globals placed in device memory.

    Attributes
    ----------
    kernels : dict of str to Kernel
    globals : dict of str to (address, size)
    """

    def __init__(self, source: Source, place_global: PlaceGlobal, resolve: Resolve | None) -> None:
        self.source = source
        #: whether kernels of this module examine every access
        self.checked = written_unsafe.enabled()
        #: what kernels may access, for check mode: sorted rows of start, end, record of written bytes or 0
        self.bounds: Bounds | None = None
        image, texts = source.image(default_cache())
        self.variables = image.variables
        self.globals: dict[str, tuple[int, int]] = {}
        self._table = (ctypes.c_uint64 * (len(self.variables) + 1))()
        self.table_address = ctypes.addressof(self._table)
        self.kernels = {kernel.name: Kernel(self, kernel, texts.get(kernel.name)) for kernel in image.kernels}
        self._functions = self._function_addresses(image.functions)
        self._place(place_global, resolve)

    def _place(self, place_global: PlaceGlobal, resolve: Resolve | None) -> None:
        """Give each variable an address: one block for all, since headers bring hundreds of small constants."""
        own = [v for v in self.variables if not v.extern or v.init is not None]
        offsets: dict[str, int] = {}
        size = 0
        for variable in own:
            size = align_up(size, max(variable.align, 1))
            offsets[variable.name] = size
            size += max(variable.size, 1)
        alignment = max((variable.align for variable in own), default=1)
        base = place_global(own[0].name if len(own) == 1 else "", size, alignment) if own else 0
        for n, variable in enumerate(self.variables):
            if variable.name in offsets:
                address: int | None = base + offsets[variable.name]
            else:
                address = resolve(variable.name) if resolve is not None else None
            if address is None:
                raise PtxError(f"undefined variable {variable.name}", variable.line)
            self.globals[variable.name] = (address, variable.size)
            self._table[n] = address
        for variable in own:
            self._initialize(variable)

    def _function_addresses(self, names: list[str]) -> dict[str, int]:
        """Machine-code addresses of the functions that initial values name."""
        if not names:
            return {}
        native.runtime()
        symbol = f"k{self.source.digest[:16]}.table"
        engine = self._table_engine = native.link(_object(self.source.table_text(names, symbol)))
        table = engine.get_global_value_address(symbol)
        return {name: ctypes.c_uint64.from_address(table + 8 * n).value for n, name in enumerate(names)}

    def _initialize(self, variable: Placed) -> None:
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


def _allocation_table(module: LoadedModule) -> ctypes.Array[ctypes.c_uint64] | None:
    """The bounds for check mode: a count, then the rows; None when nobody named them."""
    if module.bounds is None:
        return None
    rows = module.bounds()
    out = (ctypes.c_uint64 * (1 + 3 * len(rows)))(len(rows), *(word for row in rows for word in row))
    return out


def _object(text: str, *, tuned: bool = False) -> bytes:
    """Object code for LLVM IR, from the cache if it is there; the best that LLVM can do where it is `tuned`."""
    key = object_key(text)
    cache = default_cache()
    data = cache.get(key)
    if data is None:
        data = native.compile_text(text, native.Effort.BEST if tuned else native.first_effort(len(text)))
        cache.put(key, data)
    return data


def load_modules(images: Sequence[bytes], *, place_global: PlaceGlobal, resolve: Resolve | None = None) -> LoadedModule:
    """Load several PTX texts linked into one module.

    Parameters
    ----------
    images : sequence of bytes
        PTX texts, each maybe zero-terminated.
    place_global : callable
        ``place_global(name, size, align)`` returns the address of memory for variables; the engine writes their initial
        values there. It is called once at most, with an empty name for several variables. The caller owns the memory.
    resolve : callable, optional
        The address of an ``.extern`` variable that no text defines, or None.

    Raises
    ------
    PtxError
        For anything unknown or undefined, with the line and its text.
    """
    texts = [bytes(image).split(b"\0", 1)[0].decode("utf-8", errors="replace") for image in images]
    return LoadedModule(Source(texts), place_global, resolve)


def load_module(image: bytes, *, place_global: PlaceGlobal, resolve: Resolve | None = None) -> LoadedModule:
    """Load one PTX text; see `load_modules`."""
    return load_modules([image], place_global=place_global, resolve=resolve)
