"""Writes one PTX function as an LLVM function: blocks, guards, block ends, parameters, thread identity.

Three shapes: ``body`` is a kernel without suspend points, one call runs one thread to its end and is inlined into the
loop over the block's threads; ``step`` is a kernel with suspend points, one call runs one thread to its next one;
``func`` is a device function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import cfg, remat, types
from migproxy.softgpu.ptx.ast import Function, Imm, Instr, Operand, Reg, Variable
from migproxy.softgpu.ptx.emitter import HANDLERS, Emitter
from migproxy.softgpu.ptx.layout import CONTEXT, PADDED
from migproxy.softgpu.ptx.pointers import address_registers
from migproxy.softgpu.ptx.table import TABLE, Status

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.modulegen import ModuleGen

#: what a step returns: the thread's new state
READY, WARP_WAIT, BARRIER_WAIT, DONE, YIELDED = range(5)

_ENDS = frozenset({"bra", "brx", "ret", "exit", "trap"})
_STORED = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "i128": 16}


class FunctionGen(Emitter):
    """The generator of one function."""

    def __init__(self, gen: ModuleGen, function: Function, shape: str) -> None:
        self.shape = shape
        self.suspending = shape == "step"
        super().__init__(gen, function, cfg.build(function, with_suspends=self.suspending))
        self.locals: dict[str, str] = {}
        self.local_offsets: dict[str, int] = {}
        self.local_bytes = 0
        self.frame_bytes = 0
        self.shared = ""
        self.number = ""
        self.uses_stack = False
        self.local_base = ""
        self.addresses = address_registers(function, gen.shared_offsets)
        self.regions: list[str] = []
        self.computable = 0
        self.recipes: dict[str, Instr] = {}
        for variable in function.variables.values():
            if variable.space == "local" or (variable.space == "param" and self.suspending):
                self.local_bytes = -(-self.local_bytes // max(variable.align, 1)) * max(variable.align, 1)
                self.local_offsets[variable.name] = self.local_bytes
                self.local_bytes += variable.size

    # -- the whole function ---------------------------------------------------------------------------------------

    def generate(self) -> str:
        """The function's text; for a step, also one function for each suspend point to resume from."""
        self._assign_slots()
        starts = []
        touched: list[set[str]] = []
        for block in self.graph.blocks:
            starts.append(len(self.lines))
            self.touched = set()
            self._block(block)
            touched.append(self.touched)
        self.touched = set()
        head, dispatch = self._signature(), self._dispatch()
        allocas = self._allocas([self.touched, *touched])
        whole = "\n".join([head, "entry:", *allocas, *self.entry, *dispatch, *self.lines, "}", ""])
        if self.suspending:
            starts.append(len(self.lines))
            self.regions = self._regions(starts, touched)
        return whole

    def _allocas(self, touched: list[set[str]]) -> list[str]:
        """Memory for the registers that these blocks keep there."""
        wanted = set().union(*touched)
        lines = [f"  {self.slot(reg)} = alloca {types.storage(kind)}" for reg, kind in self.function.regs.items()
                 if reg in wanted]  # fmt: skip
        return [*lines, "  %carry = alloca i1"] if self.carry else lines

    def _regions(self, starts: list[int], touched: list[set[str]]) -> list[str]:
        """For each resume point, the code that can run until the next suspend point, as a function of its own."""
        firsts = {block.suspend: block.number for block in self.graph.blocks if block.suspend > 0} | {0: 0}
        out = []
        total = 0
        for point in range(self.graph.suspends + 1):
            seen: set[int] = set()
            work = [firsts[point]]
            while work:
                number = work.pop()
                if number in seen:
                    continue
                seen.add(number)
                block = self.graph.blocks[number]
                if not (block.instrs and block.instrs[-1].suspend > 0):
                    work.extend(block.succs)
            lines = [line for number in sorted(seen) for line in self.lines[starts[number] : starts[number + 1]]]
            entry = [*self._allocas([touched[number] for number in seen]), *self.entry]
            total += len(lines) + len(entry)
            if total > 3 * len(self.lines) + 20000:
                return []  # too much code to compile: such kernels use the step that can resume anywhere
            name = f"define internal i32 @step.{point}({self._step_arguments()}) alwaysinline #0 {{"
            out.append("\n".join([name, "entry:", *entry, f"  br label %b{firsts[point]}", *lines, "}", ""]))
        return out

    def _step_arguments(self) -> str:
        context = f"ptr noalias nonnull align 64 dereferenceable({CONTEXT.size}) %tc"
        return f"{context}, i32 %thread, i32 %resume.at, i32 %tx, i32 %ty, i32 %tz"

    def _signature(self) -> str:
        noalias = f"ptr noalias nonnull align 64 dereferenceable({CONTEXT.size}) %tc"
        if self.shape == "body":
            size = max(1, self.gen.param_size)
            return (f"define internal void @body({noalias}, ptr noalias readonly align 16 dereferenceable({size}) "
                    f"%params, ptr %shared, i32 %tx, i32 %ty, i32 %tz) alwaysinline #0 {{")  # fmt: skip
        if self.shape == "step":
            return f"define internal i32 @step({self._step_arguments()}) noinline #0 {{"
        args = [f"ptr %tc, {', '.join(names)}" if (names := self._function_args()) else "ptr %tc"]
        return f'define internal void @"f.{self.function.name}"({args[0]}) #0 {{'

    def _function_args(self) -> list[str]:
        return [f'ptr %"arg.{v.name}"' for v in (*self.function.rets, *self.function.params)]

    def _dispatch(self) -> list[str]:
        first = "  br label %b0"
        if not self.suspending:
            if self.shape == "func":
                return [*self._stack_check(), *self._register_parameters(), first]
            return [first]
        cases = [f"i32 {block.suspend}, label %b{block.number}" for block in self.graph.blocks if block.suspend > 0]
        self.gen.frame_bytes = self.frame_bytes
        return [f"  switch i32 %resume.at, label %b0 [{' '.join(cases)}]"]

    def _stack_check(self) -> list[str]:
        """In functions that may call themselves, a fault before the thread's stack is used up."""
        if self.function.name not in self.gen.recursive:
            return []
        self.gen.declare("void", "migproxy_rt_overflow", ["ptr"])
        return [
            "  %sp.here = alloca i8", "  %sp.now = ptrtoint ptr %sp.here to i64",
            f"  %sp.at = getelementptr i8, ptr %tc, i64 {CONTEXT.offset['stack_limit']}",
            "  %sp.limit = load i64, ptr %sp.at, !invariant.load !0", "  %sp.low = icmp ult i64 %sp.now, %sp.limit",
            "  br i1 %sp.low, label %sp.over, label %sp.fine",
            "sp.over:", "  call void @migproxy_rt_overflow(ptr %tc)", "  unreachable", "sp.fine:",
        ]  # fmt: skip

    def _register_parameters(self) -> list[str]:
        lines = []
        for variable in self.function.params:
            if variable.register and variable.name in self.graph.index:
                ty = types.storage(variable.type)
                lines.append(f'  %"in.{variable.name}" = load {ty}, ptr %"arg.{variable.name}"')
                lines.append(f'  store {ty} %"in.{variable.name}", ptr {self.slot(variable.name)}')
        return lines

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _block(self, block: cfg.Block) -> None:
        self.block = block
        self.cache = {}
        self.start(f"b{block.number}")
        if block.suspend > 0:
            self._load_frame(block)
        for instr in block.instrs:
            self.instr = instr
            if instr.suspend < -1:
                self.gen.lower_receive(self, instr)
            elif instr.suspend > 0:
                self.gen.lower_send(self, instr, self.graph.blocks[block.succs[0]])
                return
            elif self._terminator(block, instr):
                return
            elif instr.pred is not None:
                self._guarded(instr)
            else:
                self._lower(instr)
        self.flush()
        if block.succs:
            self.branch(f"b{block.succs[0]}")
        else:
            self._return()

    def _lower(self, instr: Instr) -> None:
        handler = HANDLERS.get(instr.name)
        if handler is None:
            entry = TABLE.get(instr.name)
            if entry is None:
                raise self.fail(f"unknown instruction {instr.name}")
            if entry.status is Status.DONE:
                raise self.fail(f"{instr.name} is not possible here")
            raise self.fail(f"not supported: {instr.name} ({entry.note})")
        try:
            handler(self, instr)
        except (IndexError, ValueError, StopIteration, AssertionError) as error:
            raise self.fail(f"malformed {instr.name}: wrong number or kind of operands or modifiers") from error

    def _guarded(self, instr: Instr) -> None:
        """An instruction under a guard: a branch round it."""
        assert instr.pred is not None
        value, _ = self.raw(instr.pred.name)
        defs, _ = cfg.defs_uses(instr)
        for reg in defs:
            self.flush_register(reg)
        inside, after = self.fresh_label("g"), self.fresh_label("n")
        self.cond_branch(value, *((after, inside) if instr.pred_not else (inside, after)))
        self.start(inside)
        saved = dict(self.cache)
        self.guarded = True
        if instr.name in ("ret", "exit"):
            self._return()
        else:
            self._lower(instr)
            self.branch(after)
        self.guarded = False
        self.cache = saved
        for reg in defs:
            self.cache.pop(reg, None)
        self.start(after)

    def _terminator(self, block: cfg.Block, instr: Instr) -> bool:
        """Write the instruction if it ends its block."""
        name = instr.name
        if name not in _ENDS:
            return False
        if name == "bra":
            target = f"b{self.graph.labels[instr.targets[0]]}"
            if instr.pred is None:
                self.flush()
                self.branch(target)
                return True
            value, _ = self.raw(instr.pred.name)
            self.flush()
            through = f"b{block.succs[0]}"
            self.cond_branch(value, *((through, target) if instr.pred_not else (target, through)))
            return True
        if name == "brx":
            if instr.pred is not None:
                raise self.fail("not supported: brx.idx under a guard")
            index = self.get(instr.ops[0], "u32")
            self.flush()
            labels = [f"b{self.graph.labels[target]}" for target in instr.targets]
            cases = " ".join(f"i32 {n}, label %{label}" for n, label in enumerate(labels))
            self.emit(f"switch i32 {index}, label %{labels[-1]} [{cases}]")
            return True
        if name in ("ret", "exit") and instr.pred is None:
            self._return()
            return True
        if name == "trap" and instr.pred is None:
            self._lower(instr)
            self.emit("unreachable")
            return True
        return False

    def _return(self) -> None:
        if self.shape == "step":
            self.emit(f"ret i32 {DONE}")
            return
        if self.shape == "func":
            if self.instr is not None and self.instr.name == "exit":
                raise self.fail("not supported: exit inside a device function")
            for variable in self.function.rets:
                if variable.register:
                    value, ty = self.raw(variable.name)
                    self.emit(f'store {ty} {value}, ptr %"arg.{variable.name}"')
        self.emit("ret void")

    # -- frames ---------------------------------------------------------------------------------------------------

    def _assign_slots(self) -> None:
        if not self.suspending:
            return
        kept = 0
        self.recipes = remat.recipes(self.function, self.graph)
        for reg in self.recipes.keys() & self.graph.index.keys():
            self.computable |= 1 << self.graph.index[reg]
        for block in self.graph.blocks:
            if block.suspend > 0:
                kept |= block.live_in & ~self.computable
        sized = sorted(self.graph.registers(kept), key=lambda reg: -_STORED[types.storage(self.function.regs[reg])])
        for reg in sized:
            size = _STORED[types.storage(self.function.regs[reg])]
            self.slots[reg] = (self.frame_bytes, size)
            self.frame_bytes += size
        frame = self.field("frame", entry=True)
        self.entry += ["  %thread64 = zext i32 %thread to i64", f"  %frame = getelementptr i8, ptr {frame}, i64 0"]

    def frame_pointer(self, reg: str) -> str:
        """Where this thread keeps a register while it is suspended."""
        offset, size = self.slots[reg]
        base = self.op(f"getelementptr i8, ptr %frame, i64 {offset * PADDED}")
        return self.op(f"getelementptr i{8 * size}, ptr {base}, i64 %thread64")

    def save_frame(self, live: int) -> None:
        """Store the live registers that have changed to the thread's frame."""
        for reg in self.graph.registers(live & ~self.computable & ~self.block.clean_out):
            value, ty = self.raw(reg)
            if ty == "i1":
                value, ty = self.op(f"zext i1 {value} to i8"), "i8"
            self.emit(f"store {ty} {value}, ptr {self.frame_pointer(reg)}{self.gen.alias('frame')}")

    def _load_frame(self, block: cfg.Block) -> None:
        for reg in self.graph.registers(block.live_in & ~self.computable):
            ty = types.storage(self.function.regs[reg])
            place = self.frame_pointer(reg)
            if ty == "i1":
                byte = self.op(f"load i8, ptr {place}{self.gen.alias('frame')}")
                self.cache[reg] = self.op(f"trunc i8 {byte} to i1")
            else:
                self.cache[reg] = self.op(f"load {ty}, ptr {place}{self.gen.alias('frame')}")
        for reg in self.graph.registers(block.live_in & self.computable):
            self._recompute(reg)

    def _recompute(self, reg: str) -> None:
        """Compute a register again from what never changes, instead of keeping it in the frame."""
        if reg in self.cache:
            return
        instr = self.recipes[reg]
        for needed in cfg.defs_uses(instr)[1]:
            self._recompute(needed)
        kept, self.instr = self.instr, instr
        self._lower(instr)
        self.instr = kept

    # -- thread identity and memory -------------------------------------------------------------------------------

    def thread_index(self, axis: str) -> str:
        """%tid along an axis."""
        if self.shape == "func":
            return self.field(f"t{axis}")
        return f"%t{axis}"

    def thread_number(self) -> str:
        """The thread's linear number in its block."""
        if self.shape == "step":
            return "%thread"
        if self.number and self.shape == "body":
            return self.number
        x, y, z = (self.thread_index(axis) for axis in "xyz")
        ntx, nty = self.field("ntx", entry=True), self.field("nty", entry=True)
        if self.shape == "func":
            row = self.op(f"add i32 {y}, {self.op(f'mul i32 {z}, {nty}')}")
            return self.op(f"add i32 {x}, {self.op(f'mul i32 {row}, {ntx}')}")
        self.entry += [
            f"  %lin.z = mul nuw nsw i32 {z}, {nty}",
            f"  %lin.y = add nuw nsw i32 {y}, %lin.z",
            f"  %lin.r = mul nuw nsw i32 %lin.y, {ntx}",
            f"  %lin = add nuw nsw i32 {x}, %lin.r",
        ]
        self.number = "%lin"
        return self.number

    def shared_base(self) -> str:
        """The block's shared memory."""
        if self.shape == "body":
            return "%shared"
        return self.field("shared", entry=True)

    def local_pointer(self, name: str) -> str:
        """Where a local variable of this function lives."""
        if self.suspending:
            if not self.local_base:
                base = self.field("local", entry=True)
                each = self.field("local_bytes", entry=True)
                self.entry += [f"  %local.at = mul i64 %thread64, {each}",
                               f"  %local = getelementptr i8, ptr {base}, i64 %local.at"]  # fmt: skip
                self.local_base = "%local"
            return self.op(f"getelementptr i8, ptr %local, i64 {self.local_offsets[name]}")
        pointer = self.locals.get(name)
        if pointer is None:
            variable = self.function.variables[name]
            pointer = f'%"local.{name}"'
            align = max(variable.align, 16 if variable.size >= 16 else 8)
            self.entry.append(f"  {pointer} = alloca [{max(variable.size, 1)} x i8], align {align}")
            self.locals[name] = pointer
        return pointer

    def param_slot(self, name: str) -> str:
        """The memory of a parameter: the function's own, or one declared for a call."""
        if name in self.function.variables:
            return self.local_pointer(name)
        if self.shape == "func":
            return f'%"arg.{name}"'
        offset = self.gen.param_offsets[name]
        base = "%params" if self.shape == "body" else self.field("params", entry=True)
        return self.op(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base

    def is_param_variable(self, name: str) -> bool:
        """Whether a name is a parameter variable in memory."""
        variable = self.function.variables.get(name)
        if variable is not None:
            return variable.space == "param"
        return any(v.name == name and not v.register for v in (*self.function.rets, *self.function.params))

    def find_variable(self, name: str) -> Variable | None:
        """A variable of the function or the module."""
        return self.function.variables.get(name) or self.gen.module.variables.get(name)

    def temporary(self, size: int) -> str:
        """A scratch slot for a call argument."""
        self.temp += 1
        name = f"%tmp.{self.temp}"
        self.entry.append(f"  {name} = alloca [{size} x i8], align 16")
        return name

    def local_test(self, address: str) -> str:
        """Whether a generic address lies in the thread's local memory."""
        if self.suspending:
            if not self.local_bytes:
                return "false"
            base = self.field("local", entry=True)
            threads = self.op(f"zext i32 {self.field('threads', entry=True)} to i64")
            size = self.op(f"mul i64 {self.field('local_bytes', entry=True)}, {threads}")
        else:
            # locals are on the worker's stack: a window round the present frame
            base = self.op("getelementptr i8, ptr %stack.mark, i64 -524288")
            size = "1048576"
            if not self.uses_stack:
                self.uses_stack = True
                self.entry.append("  %stack.mark = alloca i8, align 16")
        start = self.op(f"ptrtoint ptr {base} to i64")
        return self.op(f"icmp ult i64 {self.op(f'sub i64 {address}, {start}')}, {size}")

    # -- small questions ------------------------------------------------------------------------------------------

    def constant_value(self, operand: Operand) -> int:
        """An operand that must be an integer constant."""
        if isinstance(operand, Imm):
            return operand.value
        raise self.fail("expected a constant")

    def is_predicate(self, operand: Operand) -> bool:
        """Whether an operand is a predicate register."""
        return isinstance(operand, Reg) and self.function.regs[operand.name] == "pred"

    def fault(self, status: int, *details: str) -> None:
        """End the launch with a status."""
        numbers = [f"i64 {detail}" for detail in details]
        self.call("void", "migproxy_rt_fault", "ptr %tc", f"i32 {status}", f"i32 {self.thread_number()}", *numbers)
