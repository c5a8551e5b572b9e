"""Asynchronous barriers in shared memory (mbarrier), and what completes on them: asynchronous copies.

Copies are done when they are issued, so a barrier only counts. Its word: pending arrivals in bits 0 to 19, arrivals
that the next phase expects in 20 to 39, bytes still to come in 40 to 62 (signed), the phase's parity in 63. The state
that an arrival returns is the word as it was.
"""

from __future__ import annotations

from migproxy.softgpu.ptx import check
from migproxy.softgpu.ptx.ast import Addr, Instr, Operand
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.exprs import Val, load, store
from migproxy.softgpu.ptx.irkit import Fn
from migproxy.softgpu.ptx.lower.memory import examine, space_of
from migproxy.softgpu.ptx.polling import YIELD

_COUNT, _BYTES = (1 << 20) - 1, (1 << 23) - 1
_SYMBOL = "mgp_mbarrier"
_KNOWN = ("parity", "noComplete", "expect_tx", "acquire", "release", "relaxed", "cta", "cluster", "shared",
          "shared::cta", "shared::cluster", "b64")  # fmt: skip


def _change() -> str:
    """``i64 mbarrier(ptr barrier, i64 arrivals, i64 bytes, i64 dropped)``: count, and the word as it was."""
    f = Fn("internal i64", _SYMBOL, "ptr %barrier", "i64 %arrivals", "i64 %bytes", "i64 %dropped")
    old = load(f, "i64", "%barrier")
    arrivals, extra, dropped = (Val(f, "i64", f"%{name}") for name in ("arrivals", "bytes", "dropped"))
    pending = ((old & _COUNT) - arrivals) & _COUNT
    expected = ((old >> 20) - dropped) & _COUNT
    to_come = ((old >> 40) + extra) & _BYTES
    phase = old >> 63
    complete = pending.eq(0) & to_come.eq(0)
    phase = phase ^ complete.convert("zext", "i64")
    pending = complete.choose(expected, pending)
    store(f, pending | (expected << 20) | (to_come << 40) | (phase << 63), "%barrier")
    f.ret(f"i64 {old.text}")
    return f.text()


def count(e: Emitter, pointer: str, arrivals: str, bytes_: str = "0", dropped: str = "0") -> str:
    """Count arrivals and bytes on a barrier; the state before."""
    e.gen.helpers.setdefault(_SYMBOL, _change())
    return e.call("i64", _SYMBOL, f"ptr {pointer}", f"i64 {arrivals}", f"i64 {bytes_}", f"i64 {dropped}")


def _wide(e: Emitter, operand: Operand) -> str:
    return e.op(f"zext i32 {e.get(operand, 'u32')} to i64")


def barrier_pointer(e: Emitter, i: Instr, operand: Operand, space: str) -> str:
    """A barrier operand as a pointer."""
    if not isinstance(operand, Addr):
        raise e.fail(f"{i.name} needs the address of a barrier")
    pointer = e.space_pointer(operand, space)
    examine(e, pointer, space, 8, check.ATOMIC)
    return pointer


@lowers("mbarrier")
def mbarrier(e: Emitter, i: Instr) -> None:
    action, *mods = i.mods
    for mod in mods:
        if mod not in _KNOWN:
            raise e.fail(f"unknown modifier .{mod} of mbarrier")
    ops = i.ops
    if action == "pending_count":
        state = e.op(f"and i64 {e.get(ops[1], 'b64')}, {_COUNT}")
        e.put(ops[0], "b32", e.op(f"trunc i64 {state} to i32"))
        return
    space = space_of(e, i)
    if action in ("init", "inval", "expect_tx", "complete_tx"):
        pointer = barrier_pointer(e, i, ops[0], space)
        if action == "init":
            arrivals = _wide(e, ops[1])
            e.emit(f"store i64 {e.op(f'mul i64 {arrivals}, {(1 << 20) + 1}')}, ptr {pointer}")
        elif action == "inval":
            e.emit(f"store i64 0, ptr {pointer}")
        else:
            bytes_ = _wide(e, ops[1])
            count(e, pointer, "0", bytes_ if action == "expect_tx" else e.op(f"sub i64 0, {bytes_}"))
        return
    pointer = barrier_pointer(e, i, ops[1], space)
    if action in ("arrive", "arrive_drop"):
        last = _wide(e, ops[2]) if len(ops) > 2 else ""
        if "expect_tx" in mods:
            arrivals, bytes_ = "1", last
        else:
            arrivals, bytes_ = last or "1", "0"
        state = count(e, pointer, arrivals, bytes_, arrivals if action == "arrive_drop" else "0")
        e.put(ops[0], "b64", state)
    elif action in ("test_wait", "try_wait"):
        # Ended turns come before these, see `polling`; the time limit of try_wait is one look.
        now = e.op(f"lshr i64 {e.op(f'load i64, ptr {pointer}')}, 63")
        if "parity" in mods:
            mine = e.op(f"and i64 {_wide(e, ops[2])}, 1")
        else:
            mine = e.op(f"lshr i64 {e.get(ops[2], 'b64')}, 63")
        e.put(ops[0], "pred", e.op(f"icmp ne i64 {now}, {mine}"))
    else:
        raise e.fail(f"not supported: mbarrier.{action}")


@lowers(YIELD)
def no_turns(e: Emitter, i: Instr) -> None:
    """In functions that cannot be suspended, a turn does not end."""


@lowers("mapa")
def mapa(e: Emitter, i: Instr) -> None:
    """The address in another block of the cluster: there is only this one."""
    kind = "b32" if "u32" in i.mods else "b64"
    e.put(i.ops[0], kind, e.get(i.ops[1], kind))


@lowers("getctarank")
def getctarank(e: Emitter, i: Instr) -> None:
    e.put(i.ops[0], "b32", "0")


def _copy(e: Emitter, dest: Operand, to_space: str, source: Operand, from_space: str, size: str) -> None:
    if not isinstance(dest, Addr) or not isinstance(source, Addr):
        raise e.fail("cp.async needs two addresses")
    to, origin = e.space_pointer(dest, to_space), e.space_pointer(source, from_space)
    if e.gen.checked:
        _examine_block(e, origin, from_space, size, check.READ)
        _examine_block(e, to, to_space, size, check.WRITE)
    e.call("void", "llvm.memcpy.p0.p0.i64", f"ptr {to}", f"ptr {origin}", f"i64 {size}", "i1 false")


def _examine_block(e: Emitter, pointer: str, space: str, size: str, kind: int) -> None:
    """Examine each 16 bytes of a block whose size is known only when the kernel runs."""
    loop, body, after = (e.fresh_label(name) for name in ("look", "piece", "seen"))
    e.branch(before := e.fresh_label("block"))
    e.start(before)
    e.branch(loop)
    e.start(loop)
    at, following = e.name(), e.name()
    e.emit(f"{at} = phi i64 [ 0, %{before} ], [ {following}, %{body} ]")
    e.cond_branch(e.op(f"icmp ult i64 {at}, {size}"), body, after)
    e.start(body)
    examine(e, e.op(f"getelementptr i8, ptr {pointer}, i64 {at}"), space, 16, kind)
    e.emit(f"{following} = add i64 {at}, 16")
    e.branch(loop)
    e.start(after)


def bulk(e: Emitter, i: Instr) -> None:
    """cp.async.bulk without tensor maps: done at once, and completed on its barrier."""
    mods = i.mods
    if "commit_group" in mods or "wait_group" in mods or "prefetch" in mods:
        return
    if i.name != "cp" or "tensor" in mods or any(mod.startswith("multicast") or mod == "cp_mask" for mod in mods):
        raise e.fail("not supported: cp.async.bulk with tensor maps, multicast or masks, and cp.reduce.async.bulk")
    spaces = [mod.split("::")[0] for mod in mods if mod.split("::")[0] in ("shared", "global")]
    if len(spaces) != 2:
        raise e.fail("cp.async.bulk between two state spaces")
    size = _wide(e, i.ops[2])
    _copy(e, i.ops[0], spaces[0], i.ops[1], spaces[1], size)
    if "mbarrier::complete_tx::bytes" in mods:
        pointer = barrier_pointer(e, i, i.ops[3], "shared")
        count(e, pointer, "0", e.op(f"sub i64 0, {size}"))


def copies_arrive(e: Emitter, i: Instr) -> None:
    """cp.async.mbarrier.arrive: this thread's copies are done, so it arrives now; one that it announced itself."""
    pointer = barrier_pointer(e, i, i.ops[0], space_of(e, i))
    if "noinc" in i.mods:
        count(e, pointer, "1")


@lowers("cp")
def cp(e: Emitter, i: Instr) -> None:
    mods = i.mods
    if "bulk" in mods:
        bulk(e, i)
        return
    if mods[:1] != ("async",):
        raise e.fail("not supported: cp.reduce")
    if "mbarrier" in mods:
        copies_arrive(e, i)
        return
    if "commit_group" in mods or "wait_group" in mods or "wait_all" in mods:
        return  # the copies below are done when issued
    dest, source, size = i.ops[0], i.ops[1], e.constant_value(i.ops[2])
    if not isinstance(dest, Addr) or not isinstance(source, Addr):
        raise e.fail("cp.async needs two addresses")
    to, origin = e.space_pointer(dest, "shared"), e.space_pointer(source, "global")
    examine(e, to, "shared", size, check.WRITE)
    ignore = i.ops[3] if len(i.ops) > 3 else None
    if ignore is None:
        examine(e, origin, "global", size, check.READ)
        e.call("void", "llvm.memcpy.p0.p0.i64", f"ptr align {size} {to}", f"ptr align {size} {origin}",
               f"i64 {size}", "i1 false")  # fmt: skip
        return
    # a source size below the copy size: the rest is zeros
    if e.is_predicate(ignore):
        length = e.op(f"select i1 {e.get(ignore, 'pred')}, i64 0, i64 {size}")
    else:
        length = _wide(e, ignore)
    e.call("void", "llvm.memset.p0.i64", f"ptr {to}", "i8 0", f"i64 {size}", "i1 false")
    e.call("void", "llvm.memcpy.p0.p0.i64", f"ptr {to}", f"ptr {origin}", f"i64 {length}", "i1 false")
