"""Threads that poll give the others of their block a turn.

The threads of a block take turns on one worker, each until it must wait. A thread that spins on a flag would never end
its turn, so a turn also ends, with ``$yield``, before each test of an asynchronous barrier, before ``nanosleep`` (the
back-off of every polite spin), and at the head of short loops that do nothing but read memory until it changes, or try
to take a lock.

Barriers of thread block clusters are here, too: each block is a cluster of its own.
"""

from __future__ import annotations

from migproxy.softgpu.ptx.ast import Function, Imm, Instr, Label, Reg
from migproxy.softgpu.ptx.cfg import defs_uses

YIELD = "$yield"
#: instructions of a loop that counts as polling
_SHORT = 24
_ORDERED = ("volatile", "acquire", "relaxed", "mmio")
_QUIET = ("ld", "atom", "setp", "and", "or", "xor", "not", "mov", "bra", "membar", "fence", "cvt", "cvta", "shr", "shl",
          "add", "sub", "lop3", "bfe", "selp", "prmt", YIELD)  # fmt: skip


def rewrite(function: Function) -> None:
    """Put turns' ends into a function's body."""
    body = function.body
    if body is None:
        return
    heads = _polling_heads(body)
    if not heads and not any(isinstance(item, Instr) and (_waits(item) or _cluster(item)) for item in body):
        return
    out: list[Instr | Label] = []
    for number, item in enumerate(body):
        if isinstance(item, Label):
            out.append(item)
            if number in heads:
                out.append(Instr(YIELD, (), [], item.line))
            continue
        if _waits(item):
            out.append(Instr(YIELD, (), [], item.line, item.pred, item.pred_not))
        if _cluster(item):
            if "wait" in item.mods:
                out.append(Instr("barrier", ("sync",), [Imm(15)], item.line, item.pred, item.pred_not))
            continue
        out.append(item)
    function.body = out


def _waits(item: Instr) -> bool:
    return item.name == "nanosleep" or (item.name == "mbarrier" and bool({"test_wait", "try_wait"} & set(item.mods)))


def _cluster(item: Instr) -> bool:
    return item.name == "barrier" and "cluster" in item.mods


def _polling_heads(body: list[Instr | Label]) -> set[int]:
    """Positions of the labels at which loops begin that only poll."""
    places = {item.name: number for number, item in enumerate(body) if isinstance(item, Label)}
    found = set()
    for number, item in enumerate(body):
        if isinstance(item, Instr) and item.name == "bra":
            start = places.get(item.targets[0], number)
            if start < number <= start + _SHORT and _polls(body[start : number + 1]):
                found.add(start)
    return found


def _polls(loop: list[Instr | Label]) -> bool:
    instrs = [item for item in loop if isinstance(item, Instr)]
    leaves = any(item.name == "bra" and item.pred is not None for item in instrs)
    if not leaves or any(item.name not in _QUIET for item in instrs):
        return False
    changing = {name for item in instrs for name in defs_uses(item)[0]}
    polls = False
    for item in instrs:
        if item.name == "atom":
            # A lock is taken with constants; what computes with the value it found is an update, and ends.
            values = [operand for operand in item.ops[2:] if isinstance(operand, Reg)]
            if any(operand.name in changing for operand in values):
                return False
            polls = True
        elif item.name == "ld" and any(mod in _ORDERED for mod in item.mods):
            polls = True
    return polls
