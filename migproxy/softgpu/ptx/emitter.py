"""Emits one function's LLVM IR as text: registers, blocks, operands, coercions.

Registers live in allocas that LLVM promotes; within a block their values are also cached, so that most never touch
memory in the text. The lowering modules only see `get`, `put` and `op`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import cfg, types
from migproxy.softgpu.ptx.ast import FImm, Function, Imm, Instr, Not, Operand, Pair, Reg, Special, Sym, Vec
from migproxy.softgpu.ptx.layout import CONTEXT

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.modulegen import ModuleGen

Handler = Callable[["Emitter", Instr], None]

#: instruction name to its lowering; filled by the modules in ``lower/``
HANDLERS: dict[str, Handler] = {}


def lowers(*names: str) -> Callable[[Handler], Handler]:
    """Register a lowering for instructions."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


_BITS = {"float": "i32", "double": "i64", "half": "i16", "<2 x half>": "i32", "<2 x float>": "i64",
         "<2 x i16>": "i32"}  # fmt: skip


def ll_width(ty: str) -> int:
    """Bits of an LLVM type's text."""
    if ty == "ptr":
        return 64
    return int(_BITS.get(ty, ty)[1:])


class Emitter(ABC):
    """State while one function is written; `FunctionGen` completes it with what depends on the function's shape."""

    #: whether threads can be suspended in this function
    suspending: bool

    def __init__(self, gen: ModuleGen, function: Function, graph: cfg.Graph) -> None:
        self.gen = gen
        self.function = function
        self.graph = graph
        self.entry: list[str] = []
        self.lines: list[str] = []
        self.temp = 0
        self.cache: dict[str, str] = {}
        self.block: cfg.Block = graph.blocks[0]
        self.label = "entry"
        self.terminated = False
        self.specials: dict[str, str] = {}
        self.live_out: set[str] = set()
        self.guarded = False
        self.slots: dict[str, tuple[int, int]] = {}
        self.instr: Instr | None = None
        self.carry = False
        self.fields: dict[str, str] = {}
        #: registers whose memory the block now written uses; most registers live in one block and need none
        self.touched: set[str] = set()
        #: registers that look like addresses; see `pointers`
        self.addresses: set[str] = set()

    # -- text -----------------------------------------------------------------------------------------------------

    def fail(self, message: str) -> Exception:
        assert self.instr is not None
        return self.gen.error(message, self.instr.line)

    def name(self) -> str:
        self.temp += 1
        return f"%t{self.temp}"

    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def op(self, text: str) -> str:
        """Emit ``%tN = text`` and return ``%tN``."""
        self.temp += 1
        result = f"%t{self.temp}"
        self.lines.append(f"  {result} = {text}")
        return result

    def fresh_label(self, hint: str) -> str:
        self.temp += 1
        return f"{hint}.{self.temp}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def branch(self, label: str) -> None:
        self.emit(f"br label %{label}")

    def cond_branch(self, cond: str, yes: str, no: str) -> None:
        self.emit(f"br i1 {cond}, label %{yes}, label %{no}")

    def call(self, ret: str, callee: str, *args: str) -> str:
        """Call an intrinsic or runtime function; `args` are ``type value``. Declares it."""
        self.gen.declare(ret, callee, [a.rsplit(" ", 1)[0] if "(" not in a else a.split(" ", 1)[0] for a in args])
        text = f"call {ret} @{callee}({', '.join(args)})"
        if ret == "void":
            self.emit(text)
            return ""
        return self.op(text)

    # -- registers ------------------------------------------------------------------------------------------------

    def raw(self, reg: str) -> tuple[str, str]:
        """A register's value with its storage type."""
        ty = types.storage(self.function.regs[reg])
        value = self.cache.get(reg)
        if value is None:
            value = self.op(f"load {ty}, ptr {self.slot(reg)}")
            self.cache[reg] = value
        return value, ty

    def slot(self, reg: str) -> str:
        self.touched.add(reg)
        # A prefix, because registers may be called like our blocks: libdevice has a ``b0``.
        return f'%"reg.{reg}"'

    def put_raw(self, reg: str, value: str) -> None:
        ty = types.storage(self.function.regs[reg])
        if self.guarded:
            self.emit(f"store {ty} {value}, ptr {self.slot(reg)}")
            self.cache.pop(reg, None)
            return
        self.cache[reg] = value

    def flush(self) -> None:
        """Write back what later blocks read; called where a block ends."""
        live = self.block.live_out
        index = self.graph.index
        for reg, value in self.cache.items():
            number = index.get(reg)
            if number is not None and live >> number & 1:
                ty = types.storage(self.function.regs[reg])
                self.emit(f"store {ty} {value}, ptr {self.slot(reg)}")

    def flush_register(self, reg: str) -> None:
        """Write one cached register to its slot."""
        value = self.cache.get(reg)
        if value is not None:
            self.emit(f"store {types.storage(self.function.regs[reg])} {value}, ptr {self.slot(reg)}")

    # -- operands -------------------------------------------------------------------------------------------------

    def coerce(self, value: str, have: str, want: str, *, sign: bool = False) -> str:
        """Reinterpret a value: same width by bitcast, otherwise truncate or extend as bits."""
        if have == want:
            return value
        if have == "i1" and want != "i1":
            return self.coerce(self.op(f"zext i1 {value} to i32"), "i32", want)
        if have in _BITS:
            value = self.op(f"bitcast {have} {value} to {_BITS[have]}")
            have = _BITS[have]
            if have == want:
                return value
        bits = _BITS.get(want, want)
        a, b = ll_width(have), ll_width(bits)
        if a > b:
            value = self.op(f"trunc {have} {value} to {bits}")
        elif a < b:
            value = self.op(f"{'sext' if sign else 'zext'} {have} {value} to {bits}")
        if bits != want:
            value = self.op(f"bitcast {bits} {value} to {want}")
        return value

    def get(self, operand: Operand, kind: str) -> str:
        """An operand as a value of PTX type `kind` (LLVM type ``types.llvm(kind)``)."""
        want = types.llvm(kind)
        if isinstance(operand, Reg):
            value, have = self.raw(operand.name)
            return value if have == want else self.coerce(value, have, want)
        if isinstance(operand, Imm):
            return self.constant(operand.value, kind)
        if isinstance(operand, FImm):
            return self.float_constant(operand, kind)
        if isinstance(operand, Special):
            value, have = self.special(operand.name)
            return self.coerce(value, have, want)
        if isinstance(operand, Not):
            value, have = self.raw(operand.reg.name)
            return self.op(f"xor {have} {value}, -1")
        if isinstance(operand, Sym):
            return self.coerce(self.symbol(operand), "i64", want)
        if isinstance(operand, Vec):
            return self.coerce(*self.pack(operand, kind), want)
        raise self.fail("operand of a kind that does not fit here")

    def constant(self, value: int, kind: str) -> str:
        want = types.llvm(kind)
        if kind == "pred":
            return "true" if value else "false"
        if want[0] == "i":
            bits = types.width(kind)
            value &= (1 << bits) - 1
            return str(value)
        if kind in ("f32", "f64"):
            raise self.fail("an integer constant where a floating one is needed")
        return f"bitcast ({_BITS[want]} {value & ((1 << types.width(kind)) - 1)} to {want})"

    def float_constant(self, operand: FImm, kind: str) -> str:
        bits = operand.bits
        bits_wide = types.width(kind)
        if operand.width != bits_wide:
            from migproxy.softgpu.ptx.floats import convert_bits

            bits = convert_bits(bits, operand.width, bits_wide)
        want = types.llvm(kind)
        if want[0] == "i":
            return str(bits)
        if want == "double":
            return f"0x{bits:016X}"
        return f"bitcast ({_BITS[want]} {bits} to {want})"

    def pack(self, operand: Vec, kind: str) -> tuple[str, str]:
        """A brace list as one integer, first item lowest."""
        total = types.width(kind)
        each = total // len(operand.items)
        if each == total:  # braces round one item: Triton writes them
            return self.get(operand.items[0], f"b{each}"), f"i{total}"
        out = "0"
        for number, item in enumerate(operand.items):
            value = self.op(f"zext i{each} {self.get(item, f'b{each}')} to i{total}")
            if number:
                value = self.op(f"shl i{total} {value}, {each * number}")
            out = self.op(f"or i{total} {out}, {value}") if number else value
        return out, f"i{total}"

    def put(self, operand: Operand, kind: str, value: str, have: str = "") -> None:
        """Write a result of PTX type `kind` (its LLVM type unless `have` says otherwise) to a destination operand."""
        have = have or types.llvm(kind)
        if operand is None:
            return
        if isinstance(operand, Reg):
            storage = types.storage(self.function.regs[operand.name])
            if have != storage:
                value = self.coerce(value, have, storage, sign=types.signed(kind))
            self.put_raw(operand.name, value)
            return
        if isinstance(operand, Vec) and len(operand.items) == 1:
            self.put(operand.items[0], kind, value, have)
            return
        if isinstance(operand, Vec):
            total = types.width(kind)
            whole = self.coerce(value, have, f"i{total}")
            each = total // len(operand.items)
            for number, item in enumerate(operand.items):
                if item is None:
                    continue
                part = self.op(f"lshr i{total} {whole}, {each * number}") if number else whole
                self.put(item, f"b{each}", self.op(f"trunc i{total} {part} to i{each}"))
            return
        raise self.fail("destination is not a register")

    def split(self, operand: Operand) -> tuple[Operand, Operand]:
        """``d|p`` as two destinations."""
        if isinstance(operand, Pair):
            return operand.first, operand.second
        return operand, None

    # -- context --------------------------------------------------------------------------------------------------

    def field(self, name: str, *, entry: bool = False) -> str:
        """Load a field of the worker's context (in the entry block when it cannot change)."""
        kind = CONTEXT.kind[name]
        if entry and name in self.fields:
            return self.fields[name]
        lines = self.entry if entry else self.lines
        fixed = self.gen.fixed
        bounds = ""
        if fixed is not None and kind == "i32":
            value_ = fixed.field(name)
            if value_ is not None:
                return str(value_)
            limit = fixed.limit(name)
            if limit is not None:
                bounds = f", !range !{self.gen.range_metadata(limit)}"
        self.temp += 2
        pointer, value = f"%t{self.temp - 1}", f"%t{self.temp}"
        lines.append(f"  {pointer} = getelementptr i8, ptr %tc, i64 {CONTEXT.offset[name]}")
        lines.append(f"  {value} = load {kind}, ptr {pointer}, !invariant.load !0{bounds}")
        if entry:
            self.fields[name] = value
        return value

    def special(self, name: str) -> tuple[str, str]:
        """A special register's value and LLVM type."""
        from migproxy.softgpu.ptx.lower.specials import read

        return read(self, name)

    def symbol(self, sym: Sym) -> str:
        """The address of a variable or function as an i64, in its own state space."""
        return self.gen.symbol_address(self, sym)

    @abstractmethod
    def thread_index(self, axis: str) -> str:
        """%tid along an axis."""

    @abstractmethod
    def thread_number(self) -> str:
        """The thread's linear number in its block."""

    @abstractmethod
    def shared_base(self) -> str:
        """The block's shared memory."""

    @abstractmethod
    def local_test(self, address: str) -> str:
        """Whether a generic address lies in the thread's local memory."""

    @abstractmethod
    def param_slot(self, name: str) -> str:
        """The memory of a parameter: the function's own, or one declared for a call."""

    @abstractmethod
    def is_param_variable(self, name: str) -> bool:
        """Whether a name is a parameter variable in memory."""

    @abstractmethod
    def temporary(self, size: int) -> str:
        """A scratch slot for a call argument."""

    @abstractmethod
    def constant_value(self, operand: Operand) -> int:
        """An operand that must be an integer constant."""

    @abstractmethod
    def is_predicate(self, operand: Operand) -> bool:
        """Whether an operand is a predicate register."""

    @abstractmethod
    def fault(self, status: int, *details: str) -> None:
        """End the launch with a status."""

    def space_pointer(self, operand: Operand, space: str) -> str:
        """An address operand as an LLVM pointer."""
        return self.gen.pointer(self, operand, space)
