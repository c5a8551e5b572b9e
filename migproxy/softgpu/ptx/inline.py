"""Inlines, in PTX, the device functions in which a thread may have to wait for others.

A suspended thread must be able to leave and come back, so no machine-code frame may lie between the scheduler and a
suspend point: such functions become part of the kernel. All others stay functions.
"""

from __future__ import annotations

from dataclasses import replace

from migproxy.errors import PtxError
from migproxy.softgpu.ptx.ast import (
    Addr,
    Function,
    Instr,
    Label,
    Module,
    Not,
    Operand,
    Pair,
    Reg,
    Sym,
    Texel,
    Variable,
    Vec,
)
from migproxy.softgpu.ptx.polling import YIELD
from migproxy.softgpu.ptx.table import suspends


def suspending_functions(module: Module) -> set[str]:
    """Names of the device functions that contain a suspend point, or call one that does."""
    out = {name for name, f in module.functions.items() if f.body and not f.entry and _direct(f)}
    while True:
        more = {
            name
            for name, f in module.functions.items()
            if name not in out and not f.entry and any(callee in out for callee in _callees(f))
        }
        if not more:
            return out
        out |= more


def _direct(function: Function) -> bool:
    # an exit ends the thread: it, too, must not have a frame of the callee below it
    return any(isinstance(i, Instr) and (suspends(i) or i.name == "exit") for i in function.body or ())


def _waits(module: Module, name: str) -> bool:
    """Whether a recursive function really waits for other threads, and does not only give them turns."""
    seen: set[str] = set()
    work = [name]
    while work:
        function = module.functions.get(work.pop())
        if function is None or function.name in seen:
            continue
        seen.add(function.name)
        if any(isinstance(i, Instr) and i.name != YIELD and (suspends(i) or i.name == "exit")
               for i in function.body or ()):  # fmt: skip
            return True
        work.extend(_callees(function))
    return False


def _callees(function: Function) -> set[str]:
    return {
        i.callee.name
        for i in function.body or ()
        if isinstance(i, Instr) and i.name == "call" and isinstance(i.callee, Sym)
    }


class _Copy:
    """One inlined copy of a function: how its names are renamed."""

    def __init__(self, function: Function, call: Instr, number: int, text: list[str]) -> None:
        self.function = function
        self.tag = f"$i{number}."
        self.end = f"{self.tag}end"
        self.alias: dict[str, str] = {}
        self.before: list[Instr] = []
        self.after: list[Instr] = []
        self.new: list[Variable] = []
        for variable, operand in zip(function.params, call.args, strict=True):
            self._bind(variable, operand, call, text, result=False)
        for variable, operand in zip(function.rets, call.rets, strict=True):
            self._bind(variable, operand, call, text, result=True)
        self.own = {v.name for v in function.variables.values() if v.space in ("local", "param")}

    def _bind(self, variable: Variable, operand: Operand, call: Instr, text: list[str], *, result: bool) -> None:
        """Tie a parameter to the caller's operand: memory to memory by name, a register by a move."""
        if isinstance(operand, Sym) and not variable.register:
            self.alias[variable.name] = operand.name
            return
        if variable.register:
            inner: Operand = Reg(self.tag + variable.name)
            pair = [operand, inner] if result else [inner, operand]
            move = Instr("mov", (variable.type,), pair, call.line)
        else:
            name = self.tag + variable.name
            self.new.append(replace(variable, name=name, space="param", register=False))
            self.alias[variable.name] = name
            address = Addr(Sym(name), 0)
            opcode = "ld" if result else "st"
            move = Instr(opcode, ("param", variable.type), [operand, address] if result else [address, operand],
                         call.line)  # fmt: skip
        (self.after if result else self.before).append(move)

    def name(self, name: str) -> str:
        if name in self.alias:
            return self.alias[name]
        return self.tag + name if name in self.own else name

    def operand(self, operand: Operand) -> Operand:
        if isinstance(operand, Reg):
            return Reg(self.tag + operand.name)
        if isinstance(operand, Sym):
            return Sym(self.name(operand.name), operand.offset)
        if isinstance(operand, Addr):
            base = self.operand(operand.base)
            return Addr(base, operand.offset)  # type: ignore[arg-type]
        if isinstance(operand, Vec):
            return Vec(tuple(self.operand(item) for item in operand.items))
        if isinstance(operand, Texel):
            coordinates = Vec(tuple(self.operand(item) for item in operand.coordinates.items))
            return Texel(self.operand(operand.base), coordinates, self.operand(operand.sampler))
        if isinstance(operand, Pair):
            return Pair(self.operand(operand.first), self.operand(operand.second))
        if isinstance(operand, Not):
            return Not(Reg(self.tag + operand.reg.name))
        return operand

    def instr(self, item: Instr) -> Instr:
        pred = Reg(self.tag + item.pred.name) if item.pred is not None else None
        if item.name == "ret":
            return Instr("bra", (), [], item.line, pred, item.pred_not, targets=(self.end,))
        ops = [self.operand(operand) for operand in item.ops]
        if item.name == "bra":
            ops = []
        elif item.name == "brx":
            ops = ops[:1]
        return Instr(
            item.name, item.mods, ops, item.line, pred, item.pred_not,
            callee=self.operand(item.callee), rets=tuple(self.operand(o) for o in item.rets),
            args=tuple(self.operand(o) for o in item.args), proto=self.tag + item.proto if item.proto else "",
            targets=tuple(self.tag + target for target in item.targets),
        )  # fmt: skip


def inline(module: Module, kernel: Function) -> Function:
    """The kernel with every call of a suspending function replaced by the function's body."""
    names = suspending_functions(module)
    if not names or not names & _callees(kernel):
        return kernel
    out = replace(kernel, regs=dict(kernel.regs), variables=dict(kernel.variables), protos=dict(kernel.protos))
    out.body = []
    counter = [0]
    _expand(module, out, kernel.body or [], names, counter, ())
    return out


def _expand(
    module: Module, out: Function, body: list[Instr | Label], names: set[str], counter: list[int], path: tuple[str, ...]
) -> None:
    assert out.body is not None
    for item in body:
        if not (isinstance(item, Instr) and item.name == "call" and isinstance(item.callee, Sym)):
            out.body.append(item)
            continue
        name = item.callee.name
        if name not in names:
            out.body.append(item)
            continue
        if name in path and not _waits(module, name):
            out.body.append(item)
            continue
        if name in path:
            raise PtxError(f"not supported: barrier or warp operation in the recursive function {name}", item.line,
                           module.text[item.line - 1])  # fmt: skip
        function = module.functions[name]
        counter[0] += 1
        if len(item.args) != len(function.params) or len(item.rets) != len(function.rets):
            raise PtxError("number of arguments differs from the function's", item.line, module.text[item.line - 1])
        copy = _Copy(function, item, counter[0], module.text)
        skip = f"{copy.tag}skip"
        if item.pred is not None:
            out.body.append(Instr("bra", (), [], item.line, item.pred, not item.pred_not, targets=(skip,)))
        for reg, kind in function.regs.items():
            out.regs[copy.tag + reg] = kind
        for variable in function.variables.values():
            inner = replace(variable, name=copy.name(variable.name))
            out.variables.setdefault(inner.name, inner)
        for variable in copy.new:
            out.variables[variable.name] = variable
        for proto, kinds in function.protos.items():
            out.protos[copy.tag + proto] = kinds
        renamed: list[Instr | Label] = [
            copy.instr(part) if isinstance(part, Instr) else Label(copy.tag + part.name, part.line)
            for part in function.body or ()
        ]
        out.body.extend(copy.before)
        _expand(module, out, renamed, names, counter, (*path, name))
        out.body.append(Label(copy.end, item.line))
        out.body.extend(copy.after)
        if item.pred is not None:
            out.body.append(Label(skip, item.line))
