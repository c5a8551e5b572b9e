"""Suspend points: what a thread leaves in its mailbox before it waits, and what it finds after.

Before: operands go to the thread's items of the scheduler's arrays (`kind`, `mask`, `value`, `aux`), live registers
to its frame, and the step returns the state in which the thread waits. After the scheduler has released the whole
group, `result` and `group` hold what the operation yields for this thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Imm, Instr, Operand
from migproxy.softgpu.ptx.cfg import Block
from migproxy.softgpu.ptx.polling import YIELD

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.funcgen import FunctionGen

#: operation codes, shared with the scheduler in ``runtime``
SHFL, VOTE, MATCH_ANY, MATCH_ALL, SYNC, ACTIVE, ELECT = range(1, 8)
REDUX = {"add": 8, "and": 9, "or": 10, "xor": 11, "min": 12, "max": 13, "umin": 14, "umax": 15}
#: barriers: the plain one, and those that reduce a predicate
BAR, BAR_POPC, BAR_AND, BAR_OR = 32, 33, 34, 35


def _array(e: FunctionGen, name: str, ty: str) -> str:
    base = e.field(name, entry=True)
    return e.op(f"getelementptr {ty}, ptr {base}, i64 %thread64")


def _post(e: FunctionGen, name: str, ty: str, value: str) -> None:
    e.emit(f"store {ty} {value}, ptr {_array(e, name, ty)}{e.gen.alias('frame')}")


def _fetch(e: FunctionGen, name: str, ty: str) -> str:
    return e.op(f"load {ty}, ptr {_array(e, name, ty)}{e.gen.alias('frame')}")


def send(e: FunctionGen, i: Instr, receive: Block) -> None:
    """Post the operands, keep the live registers, return."""
    from migproxy.softgpu.ptx.funcgen import BARRIER_WAIT, WARP_WAIT, YIELDED

    state = WARP_WAIT
    if i.name == YIELD:
        state = YIELDED
    elif i.name in ("bar", "barrier") and "warp" not in i.mods:
        _send_barrier(e, i)
        state = BARRIER_WAIT
    else:
        _send_warp(e, i)
    e.save_frame(receive.live_in)
    e.emit(f"ret i32 {state | i.suspend << 8}")


def describe(e: FunctionGen) -> list[tuple[int, int]]:
    """For each suspend point, its operation's code, and its number if it is a plain barrier of the whole block."""
    out = [(0, -1)]
    for block in e.graph.blocks:
        for i in block.instrs:
            if i.suspend > 0:
                out.append((_code(i), _plain_barrier(i)))
    return out


def _plain_barrier(i: Instr) -> int:
    """The number of a barrier that all threads of the block join, −1 for anything else."""
    if i.name in ("bar", "barrier") and "warp" not in i.mods and "red" not in i.mods and len(i.ops) == 1:
        number = i.ops[0]
        if isinstance(number, Imm):
            return number.value & 15
    return -1


def _code(i: Instr) -> int:
    if i.name in ("bar", "barrier") and "warp" not in i.mods:
        if "red" not in i.mods:
            return BAR
        return BAR_POPC if "popc" in i.mods else BAR_AND if "and" in i.mods else BAR_OR
    if i.name == "match":
        return MATCH_ANY if "any" in i.mods else MATCH_ALL
    if i.name == "redux":
        kind = next(mod for mod in i.mods if types.is_type(mod))
        op = next(mod for mod in i.mods if mod in REDUX)
        return REDUX[f"u{op}" if op in ("min", "max") and not types.signed(kind) else op]
    return {"shfl": SHFL, "vote": VOTE, "activemask": ACTIVE, "elect": ELECT}.get(i.name, SYNC)


def _send_barrier(e: FunctionGen, i: Instr) -> None:
    for mod in i.mods:
        if mod not in ("sync", "red", "aligned", "cta", "popc", "and", "or", "u32", "pred"):
            raise e.fail(f"not supported: {i.name} with .{mod}")
    ops = i.ops
    if _plain_barrier(i) >= 0:
        return  # the scheduler knows everything about it
    if "red" in i.mods:
        ops = i.ops[1:]
        flag = e.get(ops[-1], "pred")
        ops = ops[:-1]
        _post(e, "value", "i64", e.op(f"zext i1 {flag} to i64"))
    _post(e, "mask", "i32", e.op(f"and i32 {e.get(ops[0], 'u32')}, 15"))
    _post(e, "aux", "i32", e.get(ops[1], "u32") if len(ops) > 1 else "0")


def _send_warp(e: FunctionGen, i: Instr) -> None:
    name = i.name
    value = ""
    mask: Operand = None
    if name in ("shfl", "vote", "match", "redux") and "sync" not in i.mods:
        raise e.fail(f"not supported: {name} without .sync (not in sm_70 and later)")
    if name == "shfl":
        mask = i.ops[4]
        value = e.op(f"zext i32 {e.get(i.ops[1], 'b32')} to i64")
        _post(e, "aux", "i32", _shuffle_source(e, i))
    elif name == "vote":
        mask = i.ops[2]
        value = e.op(f"zext i1 {e.get(i.ops[1], 'pred')} to i64")
    elif name == "match":
        mask = i.ops[2]
        kind = next(mod for mod in i.mods if types.is_type(mod))
        value = e.coerce(e.get(i.ops[1], kind), types.llvm(kind), "i64")
    elif name == "redux":
        kind = next(mod for mod in i.mods if types.is_type(mod))
        if types.floating(kind):
            raise e.fail("not supported: redux.sync.f32 (sm_100)")
        mask = i.ops[2]
        value = e.op(f"zext i32 {e.get(i.ops[1], 'b32')} to i64")
    elif name == "elect":
        mask = i.ops[1]
    elif name != "activemask":
        mask = i.ops[0]
    _post(e, "mask", "i32", _mask(e, mask))
    if value:
        _post(e, "value", "i64", value)


def _mask(e: FunctionGen, operand: Operand) -> str:
    return "-1" if operand is None else e.get(operand, "b32")


def _shuffle_source(e: FunctionGen, i: Instr) -> str:
    """The lane to read from, with bit 8 set where it is in range (otherwise it is the thread's own lane)."""
    mode = next(mod for mod in i.mods if mod in ("up", "down", "bfly", "idx"))
    b = e.op(f"and i32 {e.get(i.ops[2], 'b32')}, 31")
    c = e.get(i.ops[3], "b32")
    clamp = e.op(f"and i32 {c}, 31")
    segment = e.op(f"and i32 {e.op(f'lshr i32 {c}, 8')}, 31")
    lane = e.op("and i32 %thread, 31")
    keep = e.op(f"xor i32 {segment}, -1")
    low = e.op(f"and i32 {lane}, {segment}")
    high = e.op(f"or i32 {low}, {e.op(f'and i32 {clamp}, {keep}')}")
    if mode == "up":
        source = e.op(f"sub i32 {lane}, {b}")
        valid = e.op(f"icmp sge i32 {source}, {high}")
    elif mode == "down":
        source = e.op(f"add i32 {lane}, {b}")
        valid = e.op(f"icmp sle i32 {source}, {high}")
    elif mode == "bfly":
        source = e.op(f"xor i32 {lane}, {b}")
        valid = e.op(f"icmp sle i32 {source}, {high}")
    else:
        source = e.op(f"or i32 {low}, {e.op(f'and i32 {b}, {keep}')}")
        valid = e.op(f"icmp sle i32 {source}, {high}")
    chosen = e.op(f"select i1 {valid}, i32 {source}, i32 {lane}")
    flag = e.op(f"select i1 {valid}, i32 256, i32 0")
    return e.op(f"or i32 {chosen}, {flag}")


def receive(e: FunctionGen, i: Instr) -> None:
    """Take the result from the mailbox."""
    name = i.name
    if name == YIELD:
        return
    if name in ("bar", "barrier"):
        if "red" in i.mods:
            result = _fetch(e, "result", "i64")
            if "popc" in i.mods:
                e.put(i.ops[0], "u32", e.op(f"trunc i64 {result} to i32"))
            else:
                e.put(i.ops[0], "pred", e.op(f"icmp ne i64 {result}, 0"))
        return
    result = _fetch(e, "result", "i64")
    dest, flag = e.split(i.ops[0])
    if name == "shfl":
        e.put(dest, "b32", e.op(f"trunc i64 {result} to i32"))
        if flag is not None:
            aux = _fetch(e, "aux", "i32")
            e.put(flag, "pred", e.op(f"icmp ne i32 {e.op(f'and i32 {aux}, 256')}, 0"))
    elif name == "vote":
        ballot = e.op(f"trunc i64 {result} to i32")
        group = _fetch(e, "group", "i32")
        if "ballot" in i.mods:
            e.put(dest, "b32", ballot)
        elif "any" in i.mods:
            e.put(dest, "pred", e.op(f"icmp ne i32 {ballot}, 0"))
        elif "all" in i.mods:
            e.put(dest, "pred", e.op(f"icmp eq i32 {ballot}, {group}"))
        else:
            none = e.op(f"icmp eq i32 {ballot}, 0")
            e.put(dest, "pred", e.op(f"or i1 {none}, {e.op(f'icmp eq i32 {ballot}, {group}')}"))
    elif name == "elect":
        lane = e.op(f"trunc i64 {result} to i32")
        e.put(dest, "b32", lane)
        e.put(flag, "pred", e.op(f"icmp eq i32 {lane}, {e.op('and i32 %thread, 31')}"))
    else:
        e.put(dest, "b32", e.op(f"trunc i64 {result} to i32"))
        if flag is not None:  # match.all: whether all agree
            e.put(flag, "pred", e.op(f"icmp ne i64 {result}, 0"))
