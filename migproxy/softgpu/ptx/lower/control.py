"""Branches, calls, returns, traps."""

from __future__ import annotations

from migproxy.softgpu.ptx import cooperative, types
from migproxy.softgpu.ptx.ast import Imm, Instr, Reg, Sym, Variable
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.layout import CONTEXT

#: functions that the device runtime provides, with the number of arguments
BUILTINS = ("vprintf", "__assertfail", "malloc", "free")
FAULT_TRAP, FAULT_ASSERT, FAULT_ILLEGAL = 719, 710, 715


@lowers("call")
def call(e: Emitter, i: Instr) -> None:
    for mod in i.mods:
        if mod != "uni":
            raise e.fail(f"unknown modifier .{mod} of call")
    callee = i.callee
    if isinstance(callee, Sym):
        function = e.gen.module.functions.get(callee.name)
        if function is None:
            raise e.fail(f"call of an undeclared function {callee.name}")
        if function.body is None:
            if callee.name in BUILTINS:
                _builtin(e, i, callee.name)
                return
            raise e.fail(f"undefined function {callee.name}: the software GPU's runtime does not provide it")
        target = f'@"f.{callee.name}"'
        rets, params = function.rets, function.params
        e.gen.want(callee.name)
    elif isinstance(callee, Reg):
        target = e.op(f"inttoptr i64 {e.get(callee, 'b64')} to ptr")
        if i.proto not in e.function.protos:
            raise e.fail("indirect call without a prototype")
        rets, params = e.function.protos[i.proto]
        e.gen.indirect = True
    else:
        raise e.fail("call of something that is no function")
    if len(rets) != len(i.rets) or len(params) != len(i.args):
        raise e.fail("number of arguments differs from the function's")
    args = ["ptr %tc"]
    results: list[tuple[Reg, Variable, str]] = []
    for operand, variable in zip(i.rets, rets, strict=True):
        if isinstance(operand, Sym):
            args.append(f"ptr {e.param_slot(operand.name)}")
        elif isinstance(operand, Reg):
            slot = e.temporary(max(variable.size, 8))
            results.append((operand, variable, slot))
            args.append(f"ptr {slot}")
        else:
            raise e.fail("result of a call must be a parameter or a register")
    for operand, variable in zip(i.args, params, strict=True):
        if isinstance(operand, Sym) and e.is_param_variable(operand.name):
            args.append(f"ptr {e.param_slot(operand.name)}")
        else:
            slot = e.temporary(max(variable.size, 8))
            kind = variable.type
            e.emit(f"store {types.llvm(kind)} {e.get(operand, kind)}, ptr {slot}")
            args.append(f"ptr {slot}")
    e.gen.uses_calls = True
    e.emit(f"call void {target}({', '.join(args)})")
    for register, variable, slot in results:
        ty = types.llvm(variable.type)
        e.put(register, variable.type, e.op(f"load {ty}, ptr {slot}"))


def _argument(e: Emitter, i: Instr, number: int, ty: str) -> str:
    operand = i.args[number]
    if isinstance(operand, Sym) and e.is_param_variable(operand.name):
        return e.op(f"load {ty}, ptr {e.param_slot(operand.name)}")
    return e.coerce(e.get(operand, "b64"), "i64", ty)


def _builtin(e: Emitter, i: Instr, name: str) -> None:
    result = ""
    ty = "i32"
    if name == "vprintf":
        fmt, values = _argument(e, i, 0, "i64"), _argument(e, i, 1, "i64")
        result = e.call("i32", "migproxy_rt_printf", "ptr %tc", f"i64 {fmt}", f"i64 {values}")
    elif name == "__assertfail":
        message, file = _argument(e, i, 0, "i64"), _argument(e, i, 1, "i64")
        line, function = _argument(e, i, 2, "i32"), _argument(e, i, 3, "i64")
        e.fault(FAULT_ASSERT, message, file, e.op(f"zext i32 {line} to i64"), function)
        return
    elif name == "malloc":
        ty = "i64"
        result = e.op(f"ptrtoint ptr {e.call('ptr', 'malloc', f'i64 {_argument(e, i, 0, ty)}')} to i64")
    elif name == "free":
        pointer = e.op(f"inttoptr i64 {_argument(e, i, 0, 'i64')} to ptr")
        e.call("void", "free", f"ptr {pointer}")
        return
    if i.rets:
        operand = i.rets[0]
        if isinstance(operand, Sym):
            e.emit(f"store {ty} {result}, ptr {e.param_slot(operand.name)}")
        else:
            e.put(operand, f"b{ty[1:]}", result)


@lowers("bar", "barrier")
def arrive(e: Emitter, i: Instr) -> None:
    """bar.arrive: counted, not waited for. (All other barriers are suspend points.)"""
    for mod in i.mods:
        if mod not in ("arrive", "aligned", "cta"):
            raise e.fail(f"not supported: {i.name} with .{mod}")
    number = e.op(f"and i32 {e.get(i.ops[0], 'u32')}, 15")
    base = e.op(f"getelementptr i8, ptr %tc, i64 {CONTEXT.offset['pending']}")
    slot = e.op(f"getelementptr i32, ptr {base}, i32 {number}")
    count = e.op(f"load i32, ptr {slot}")
    e.emit(f"store i32 {e.op(f'add i32 {count}, 1')}, ptr {slot}")


@lowers(cooperative.WAIT)
def grid_wait(e: Emitter, i: Instr) -> None:
    """One thread of the block waits for the other blocks."""
    first = e.op(f"icmp eq i32 {e.thread_number()}, 0")
    wait, after = e.fresh_label("wait"), e.fresh_label("waited")
    e.cond_branch(first, wait, after)
    e.start(wait)
    e.call("void", "migproxy_rt_grid", "ptr %tc")
    e.branch(after)
    e.start(after)


@lowers("trap", "brkpt")
def trap(e: Emitter, i: Instr) -> None:
    if i.name == "brkpt":
        return  # without a debugger a breakpoint does nothing
    e.fault(FAULT_TRAP, "0", "0", "0", "0")


@lowers("nanosleep")
def nanosleep(e: Emitter, i: Instr) -> None:
    e.call("void", "migproxy_rt_sleep", f"i32 {e.get(i.ops[0], 'u32')}")


@lowers("bra", "brx", "ret", "exit")
def jump(e: Emitter, i: Instr) -> None:
    """Block ends are written by the function generator."""
    raise e.fail(f"{i.name} in the middle of a block")


__all__ = ["BUILTINS", "Imm"]
