"""Writes the LLVM module of one kernel: its function, the device functions that it can reach, helpers, symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.errors import PtxError
from migproxy.softgpu.ptx import calls, cooperative, lockstep, special
from migproxy.softgpu.ptx.ast import Addr, Function, Imm, Instr, Module, Operand, Reg, Sym, Variable
from migproxy.softgpu.ptx.cfg import Block
from migproxy.softgpu.ptx.funcgen import FunctionGen
from migproxy.softgpu.ptx.inline import inline
from migproxy.softgpu.ptx.layout import CONTEXT
from migproxy.softgpu.ptx.lower import warp
from migproxy.softgpu.ptx.mentions import mentions
from migproxy.softgpu.ptx.polling import YIELD
from migproxy.softgpu.ptx.specialize import Constants
from migproxy.softgpu.ptx.table import suspends

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.emitter import Emitter


def align_up(value: int, align: int) -> int:
    """The next multiple of `align`."""
    return -(-value // align) * align


class ModuleGen:
    """Generator of the LLVM module for one kernel of a PTX module."""

    def __init__(self, module: Module, kernel: Function, globals_index: dict[str, int], symbol: str,
                 fixed: Constants | None = None, *, traced: bool = False, checked: bool = False,
                 in_step: bool = False) -> None:  # fmt: skip
        if in_step:
            module = lockstep.in_step(module)
            kernel = module.functions[kernel.name]
        self.module = module
        self.fixed = fixed
        #: whether acquiring loads may be polls for other blocks of a cooperative launch
        self.spins = any(cooperative.uses_workspace(function) for function in module.functions.values())
        #: whether each thread notes its number before it runs, so that a fault can name it
        self.traced = traced or checked
        #: whether every access is examined; see `check`
        self.checked = checked
        #: PTX line of each suspend point
        self.point_lines: list[int] = [0]
        self.kernel = kernel = inline(module, kernel)
        self.recursive = calls.recursive(module)
        self.globals_index = globals_index
        self.symbol = symbol
        self.helpers: dict[str, str] = {}
        self.ranges: dict[int, int] = {}
        self.declared: dict[str, str] = {}
        self.wanted: list[str] = []
        self.uses_calls = False
        self.indirect = False
        self.frame_bytes = 0
        self.local_bytes = 0
        self.param_offsets: dict[str, int] = {}
        self.params: list[tuple[int, int]] = []
        offset = 0
        for parameter in kernel.params:
            offset = align_up(offset, max(parameter.align, 1))
            self.param_offsets[parameter.name] = offset
            self.params.append((offset, parameter.size))
            offset += parameter.size
        self.param_size = offset
        self.shared_offsets: dict[str, int] = {}
        self.static_shared = 0
        self.reserved_at = 0
        self._dynamic: list[str] = []
        self._place_shared()

    # -- shared memory --------------------------------------------------------------------------------------------

    def _place_shared(self) -> None:
        """Offsets of shared variables: the module's first, so that all functions agree, then the kernel's own."""
        reachable, used = self._reachable()
        if pointed_functions(self.module):  # called through memory from any kernel: all must agree on offsets
            used |= set(self.module.variables)
        for variable in (*self.module.variables.values(), *self.kernel.variables.values()):
            if variable.space != "shared" or (variable.name in self.module.variables and variable.name not in used):
                continue
            self._place(variable)
        for function in reachable:
            if function is not self.kernel:
                for variable in function.variables.values():
                    if variable.space == "shared":
                        self._place(variable)
        if any(not mentions(function).specials.isdisjoint(special.RESERVED) for function in reachable):
            self.reserved_at = align_up(self.static_shared, 16)
            self.static_shared = self.reserved_at + special.RESERVED_BYTES
        start = align_up(self.static_shared, 16)
        for name in self._dynamic:
            self.shared_offsets[name] = start
        if self._dynamic:
            self.static_shared = start

    def _place(self, variable: Variable) -> None:
        if variable.unsized or (variable.extern and variable.size == 0):
            self._dynamic.append(variable.name)
            return
        at = align_up(self.static_shared, max(variable.align, 1))
        self.shared_offsets[variable.name] = at
        self.static_shared = at + variable.size

    def _reachable(self) -> tuple[list[Function], set[str]]:
        """The kernel and every device function that it can call; all that have their address taken, too. And the names
        that they mention.
        """
        seen: dict[str, Function] = {}
        mentioned: set[str] = set()
        work = [self.kernel]
        while work:
            function = work.pop()
            if function.name in seen or function.body is None:
                continue
            seen[function.name] = function
            found = mentions(function)
            names = found.named | found.called
            mentioned |= names
            for name in names:
                other = self.module.functions.get(name)
                if other is not None and not other.entry:
                    work.append(other)
        return list(seen.values()), mentioned

    def range_metadata(self, limit: int) -> int:
        """The number of the metadata node that says ``0 <= value < limit``."""
        number = self.ranges.get(limit)
        if number is None:
            number = self.ranges[limit] = 100 + len(self.ranges)
        return number

    # -- errors, declarations -------------------------------------------------------------------------------------

    def error(self, message: str, line: int) -> PtxError:
        """An error that quotes the PTX line."""
        text = self.module.text
        return PtxError(message, line, text[line - 1] if 0 < line <= len(text) else "")

    def declare(self, ret: str, name: str, args: list[str]) -> None:
        """Declare an external function or intrinsic once."""
        if name.startswith("mgp_") or name in self.declared:
            return
        plain = [arg.split(" align")[0] for arg in args]
        self.declared[name] = f"declare {ret} @{name}({', '.join(plain)})"

    def want(self, name: str) -> None:
        """Note that a device function must be generated."""
        if name not in self.wanted:
            self.wanted.append(name)

    # -- symbols --------------------------------------------------------------------------------------------------

    def is_parameter(self, function: Function, name: str) -> bool:
        """Whether a name is one of the kernel's parameters (constant during the launch)."""
        return name not in function.variables and any(p.name == name for p in function.params)

    def symbol_address(self, e: Emitter, sym: Sym) -> str:
        """A symbol's address in its own state space, as an i64."""
        assert isinstance(e, FunctionGen)
        name = sym.name
        if name in e.function.variables or name in self.module.variables:
            variable = e.find_variable(name)
            assert variable is not None
            if variable.space == "shared":
                return str(self.shared_offsets[name] + sym.offset)
            pointer = self._variable_pointer(e, variable)
            value = e.op(f"ptrtoint ptr {pointer} to i64")
        elif e.is_param_variable(name):
            value = e.op(f"ptrtoint ptr {e.param_slot(name)} to i64")
        elif name in self.module.functions:
            function = self.module.functions[name]
            if function.entry:
                raise e.fail(f"not supported: address of the kernel {name} (dynamic parallelism)")
            if function.body is None:
                raise e.fail(f"undefined function {name}")
            self.want(name)
            value = e.op(f'ptrtoint ptr @"f.{name}" to i64')
        else:
            raise e.fail(f"undefined symbol {name}")
        return e.op(f"add i64 {value}, {sym.offset}") if sym.offset else value

    def _variable_pointer(self, e: FunctionGen, variable: Variable) -> str:
        if variable.space in ("local", "param"):
            return e.local_pointer(variable.name)
        index = self.globals_index[variable.name]
        key = f"global.{index}"
        known = e.fields.get(key)
        if known is None:
            table = e.field("globals", entry=True)
            e.temp += 2
            known = f"%t{e.temp}"
            e.entry.append(f"  %t{e.temp - 1} = getelementptr i8, ptr {table}, i64 {8 * index}")
            e.entry.append(f"  {known} = load ptr, ptr %t{e.temp - 1}, !invariant.load !0")
            e.fields[key] = known
        return known

    def pointer(self, e: Emitter, operand: Operand, space: str) -> str:
        """An address operand as an LLVM pointer."""
        assert isinstance(e, FunctionGen)
        if not isinstance(operand, Addr):
            raise e.fail("expected an address in brackets")
        base, offset = operand.base, operand.offset
        if isinstance(base, Sym):
            return self._symbol_pointer(e, base, offset + base.offset)
        if isinstance(base, Imm):
            value = str((base.value + offset) & 0xFFFFFFFFFFFFFFFF)
        else:
            assert isinstance(base, Reg)
            value = e.get(base, "b64")
        if space == "shared":
            pointer = e.op(f"getelementptr i8, ptr {e.shared_base()}, i64 {value}")
        else:
            pointer = e.op(f"inttoptr i64 {value} to ptr")
        if offset and not isinstance(base, Imm):
            pointer = e.op(f"getelementptr i8, ptr {pointer}, i64 {offset}")
        return pointer

    def _symbol_pointer(self, e: FunctionGen, base: Sym, offset: int) -> str:
        variable = e.find_variable(base.name)
        if variable is not None and variable.space == "shared":
            at = self.shared_offsets[base.name] + offset
            return e.op(f"getelementptr i8, ptr {e.shared_base()}, i64 {at}")
        if variable is not None:
            pointer = self._variable_pointer(e, variable)
        elif e.is_param_variable(base.name):
            pointer = e.param_slot(base.name)
        else:
            raise e.fail(f"undefined symbol {base.name}")
        return e.op(f"getelementptr i8, ptr {pointer}, i64 {offset}") if offset else pointer

    # -- suspend points -------------------------------------------------------------------------------------------

    def lower_send(self, e: FunctionGen, instr: Instr, receive: Block) -> None:
        """The first half of a suspend point: mailbox, frame, return."""
        warp.send(e, instr, receive)

    def lower_receive(self, e: FunctionGen, instr: Instr) -> None:
        """The second half: the result."""
        warp.receive(e, instr)

    # -- the module -----------------------------------------------------------------------------------------------

    @property
    def suspending(self) -> bool:
        """Whether the kernel has suspend points."""
        assert self.kernel.body is not None
        return any(isinstance(item, Instr) and suspends(item) for item in self.kernel.body)

    def generate(self) -> str:
        """The module's text."""
        step = self.suspending
        main = FunctionGen(self, self.kernel, "step" if step else "body")
        parts = [main.generate()]
        self.local_bytes = align_up(main.local_bytes, 16)
        done: set[str] = set()
        while len(done) < len(self.wanted):
            for name in list(self.wanted):
                if name not in done:
                    done.add(name)
                    parts.append(self._device_function(name))
        parts.append(self._step_kernel(main) if step else self._loop_kernel())
        return (
            "\n".join([*parts, _once([*self.helpers.values(), *self.declared.values()])])
            + "\nattributes #0 = { nounwind null_pointer_is_valid }\n"
            + _METADATA
            + "".join(f"!{number} = !{{i32 0, i32 {limit}}}\n" for limit, number in self.ranges.items())
        )

    def _device_function(self, name: str) -> str:
        function = self.module.functions[name]
        assert function.body is not None
        for item in function.body:
            if isinstance(item, Instr) and suspends(item) and item.name != YIELD:
                raise self.error(f"not supported: {item.name} in a function that is called recursively or by pointer",
                                 item.line)  # fmt: skip
        return FunctionGen(self, function, "func").generate()

    def _fields(self, names: list[str]) -> list[str]:
        out = []
        for name in names:
            value = self.fixed.field(name) if self.fixed is not None else None
            if value is not None:
                out.append(f"  %{name} = add i32 0, {value}")
                continue
            out.append(f"  %{name}.p = getelementptr i8, ptr %tc, i64 {CONTEXT.offset[name]}")
            out.append(f"  %{name} = load {CONTEXT.kind[name]}, ptr %{name}.p, !invariant.load !0")
        return out

    def _loop_kernel(self) -> str:
        """The loop over a block's threads, round the inlined body."""
        call = "  call void @body(ptr %tc, ptr %params, ptr %shared, i32 %x, i32 %y, i32 %z)"
        return "\n".join([
            f'define void @"{self.symbol}"({_CONTEXT}) #0 {{', "entry:",
            *self._fields(["ntx", "nty", "ntz", "params", "shared"]),
            *_nest("", "entry", [*self._tell_thread(""), call]),
            "  ret void", "}", "",
        ])  # fmt: skip

    def _tell_thread(self, tag: str) -> list[str]:
        """Stores of the thread's index for device functions, where there are any."""
        out = []
        if self.uses_calls:
            for axis in "xyz":
                out.append(f"  %at.{axis}{tag} = getelementptr i8, ptr %tc, i64 {CONTEXT.offset['t' + axis]}")
                out.append(f"  store i32 %{axis}{tag}, ptr %at.{axis}{tag}")
        if self.traced:
            out += [
                f"  %tr.a{tag} = mul i32 %z{tag}, %nty", f"  %tr.b{tag} = add i32 %tr.a{tag}, %y{tag}",
                f"  %tr.c{tag} = mul i32 %tr.b{tag}, %ntx", f"  %tr.d{tag} = add i32 %tr.c{tag}, %x{tag}",
                f"  %tr.p{tag} = getelementptr i8, ptr %tc, i64 {CONTEXT.offset['thread']}",
                f"  store volatile i32 %tr.d{tag}, ptr %tr.p{tag}",
            ]  # fmt: skip
        return out

    def _step_kernel(self, main: FunctionGen) -> str:
        """The kernel with suspend points: regions, the table of suspend points, the call of the scheduler."""
        self.declare("void", "migproxy_rt_block", ["ptr", "ptr", "ptr", "ptr"])
        points = warp.describe(main)
        self.point_lines += [i.line for block in main.graph.blocks for i in block.instrs if i.suspend > 0]
        rows = ", ".join(f"[2 x i32] [i32 {kind}, i32 {barrier}]" for kind, barrier in points)
        return "\n".join([
            *main.regions,
            f"@points = internal constant [{len(points)} x [2 x i32]] [{rows}]",
            self._region(len(points), inlined=bool(main.regions)),
            f'define void @"{self.symbol}"(ptr %tc) #0 {{',
            "  call void @migproxy_rt_block(ptr %tc, ptr @step, ptr @region, ptr @points)", "  ret void", "}", "",
        ])  # fmt: skip

    def _region(self, count: int, *, inlined: bool) -> str:
        """``i32 region(tc, point)``: all threads from one suspend point to their next.

        Returns what the steps returned if all returned the same, otherwise −1; each one's return is in `returned`.
        """
        points = list(range(count)) if inlined else [-1]
        cases = " ".join(f"i32 {k}, label %case.{k}" for k in points[1:])
        lines = [
            f"define internal i32 @region({_CONTEXT}, i32 %point) #0 {{", "entry:",
            *self._fields(["ntx", "nty", "ntz", "returned"]), "  %rows = mul i32 %nty, %ntx",
            f"  switch i32 %point, label %case.{points[0]} [{cases}]",
        ]  # fmt: skip
        mine = self.alias("frame")
        for k in points:
            tag = f".{k}"
            step, at = (f"step.{k}", str(k)) if inlined else ("step", "%point")
            work = [
                f"  %zr{tag} = mul nuw nsw i32 %z{tag}, %rows", f"  %yr{tag} = mul nuw nsw i32 %y{tag}, %ntx",
                f"  %zy{tag} = add nuw nsw i32 %zr{tag}, %yr{tag}",
                f"  %t{tag} = add nuw nsw i32 %zy{tag}, %x{tag}",
                *self._tell_thread(tag),
                f"  %r{tag} = call i32 @{step}(ptr %tc, i32 %t{tag}, i32 {at}, i32 %x{tag}, i32 %y{tag}, i32 %z{tag})",
                f"  %t64{tag} = zext i32 %t{tag} to i64",
                f"  %rp{tag} = getelementptr i32, ptr %returned, i64 %t64{tag}",
                f"  store i32 %r{tag}, ptr %rp{tag}{mine}",
            ]  # fmt: skip
            lines += [f"case.{k}:", *_nest(tag, f"case.{k}", work), "  br label %check"]
        lines += [
            "check:", "  %n0 = mul i32 %rows, %ntz", f"  %first = load i32, ptr %returned{mine}", "  br label %cmp",
            "cmp:", "  %i = phi i32 [ 0, %check ], [ %i1, %cmp ]", "  %diff = phi i32 [ 0, %check ], [ %diff1, %cmp ]",
            "  %i64 = zext i32 %i to i64", "  %ip = getelementptr i32, ptr %returned, i64 %i64",
            f"  %v = load i32, ptr %ip{mine}", "  %vx = xor i32 %v, %first",
            "  %diff1 = or i32 %diff, %vx", "  %i1 = add nuw nsw i32 %i, 1", "  %more = icmp ult i32 %i1, %n0",
            "  br i1 %more, label %cmp, label %done",
            "done:", "  %same = icmp eq i32 %diff1, 0", "  %out = select i1 %same, i32 %first, i32 -1",
            "  ret i32 %out", "}", "",
        ]  # fmt: skip
        return "\n".join(lines)

    @staticmethod
    def alias(space: str) -> str:
        """Metadata that says which memory an access touches: state spaces are disjoint, and frames are ours alone."""
        numbers = {"frame": (10, 20), "shared": (11, 21), "global": (12, 22), "const": (12, 22)}
        if space not in numbers:
            return ", !noalias !10"
        scope, others = numbers[space]
        return f", !alias.scope !{scope}, !noalias !{others}"


_CONTEXT = f"ptr noalias nonnull align 64 dereferenceable({CONTEXT.size}) %tc"

_METADATA = """
!0 = !{}
!1 = distinct !{!1, !"memory"}
!2 = distinct !{!2, !1, !"frame"}
!3 = distinct !{!3, !1, !"shared"}
!4 = distinct !{!4, !1, !"global"}
!10 = !{!2}
!11 = !{!3}
!12 = !{!4}
!20 = !{!3, !4}
!21 = !{!2, !4}
!22 = !{!2, !3}
"""


def _nest(tag: str, before: str, work: list[str]) -> list[str]:
    """Loops over z, y and x round `work`, which is one block; ends at the label ``out``."""
    lines = [f"  br label %zloop{tag}"]
    outer = before
    for axis, inner in (("z", "y"), ("y", "x")):
        lines += [
            f"{axis}loop{tag}:", f"  %{axis}{tag} = phi i32 [ 0, %{outer} ], [ %{axis}1{tag}, %{axis}end{tag} ]",
            f"  br label %{inner}loop{tag}",
        ]  # fmt: skip
        outer = f"{axis}loop{tag}"
    lines += [
        f"xloop{tag}:", f"  %x{tag} = phi i32 [ 0, %{outer} ], [ %x1{tag}, %xloop{tag} ]", *work,
        f"  %x1{tag} = add nuw nsw i32 %x{tag}, 1", f"  %xd{tag} = icmp eq i32 %x1{tag}, %ntx",
        f"  br i1 %xd{tag}, label %yend{tag}, label %xloop{tag}",
    ]  # fmt: skip
    for axis, after in (("y", f"zend{tag}"), ("z", f"out{tag}")):
        lines += [
            f"{axis}end{tag}:", f"  %{axis}1{tag} = add nuw nsw i32 %{axis}{tag}, 1",
            f"  %{axis}d{tag} = icmp eq i32 %{axis}1{tag}, %nt{axis}",
            f"  br i1 %{axis}d{tag}, label %{after}, label %{axis}loop{tag}",
        ]  # fmt: skip
    return [*lines, f"out{tag}:"]


def pointed_functions(module: Module) -> list[str]:
    """Device functions whose address stands in a variable's initial value (virtual tables, function tables)."""
    found: dict[str, None] = {}
    for variable in module.variables.values():
        for value in variable.init or ():
            if isinstance(value, tuple) and value[0] in module.functions:
                found[value[0]] = None
    return list(found)


def function_table(module: Module, names: list[str], globals_index: dict[str, int], symbol: str) -> str:
    """A module with nothing but device functions and a table of their addresses under `symbol`."""
    gen = ModuleGen(module, Function("$table", True, 0, body=[]), globals_index, f"{symbol}.kernel")
    for name in names:
        gen.want(name)
    items = ", ".join(f'ptr @"f.{name}"' for name in names)
    return gen.generate() + f'@"{symbol}" = constant [{len(names)} x ptr] [{items}]\n'


def _once(parts: list[str]) -> str:
    """Helpers and declarations, less those that are repeated: helpers bring their own."""
    seen: set[str] = set()
    out = []
    for line in "\n".join(parts).split("\n"):
        if line.startswith("declare "):
            name = line.split("@", 1)[1].split("(", 1)[0]
            if name in seen:
                continue
            seen.add(name)
        out.append(line)
    return "\n".join(out)
