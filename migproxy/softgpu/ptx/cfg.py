"""Basic blocks, liveness and suspend points of one function body.

A suspend point is an instruction at which a thread must wait for other threads: barriers and warp operations. It is
split in two: the *send* half ends a block (operands go to the thread's mailbox), the *receive* half starts the next
(the result comes back). What is live into a receiving block is what the thread's frame must keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from migproxy.softgpu.ptx.ast import Addr, Function, Instr, Label, Not, Operand, Pair, Reg, Texel, Vec
from migproxy.softgpu.ptx.table import suspends, without_result


@dataclass(slots=True)
class Block:
    """Straight-line code. `succs` are block numbers; `suspend` is the suspend point that it resumes from, or −1."""

    number: int
    instrs: list[Instr] = field(default_factory=list)
    succs: list[int] = field(default_factory=list)
    suspend: int = -1
    live_in: int = 0
    live_out: int = 0
    uses: int = 0
    defs: int = 0
    #: everything that the block may write, guarded or not
    writes: int = 0
    #: registers whose copy in the thread's frame is still good at the block's end
    clean_out: int = 0


@dataclass(slots=True)
class Graph:
    """The blocks of a function, in text order; block 0 is the entry."""

    blocks: list[Block]
    labels: dict[str, int]
    #: register name to its bit in the live sets, for those that some block reads and another may have written
    index: dict[str, int]
    names: list[str]
    #: number of suspend points; they are numbered from 1 (0 is the function's start)
    suspends: int = 0

    def registers(self, live: int) -> list[str]:
        """The register names of a live set."""
        out = []
        while live:
            low = live & -live
            out.append(self.names[low.bit_length() - 1])
            live ^= low
        return out


def operand_registers(operand: Operand, out: list[str]) -> None:
    """Add the names of the registers in an operand."""
    if isinstance(operand, Reg):
        out.append(operand.name)
    elif isinstance(operand, Addr):
        if isinstance(operand.base, Reg):
            out.append(operand.base.name)
    elif isinstance(operand, Vec):
        for item in operand.items:
            operand_registers(item, out)
    elif isinstance(operand, Texel):
        for part in (operand.base, operand.sampler, operand.coordinates):
            operand_registers(part, out)
    elif isinstance(operand, Pair):
        operand_registers(operand.first, out)
        operand_registers(operand.second, out)
    elif isinstance(operand, Not):
        out.append(operand.reg.name)


def defs_uses(instr: Instr) -> tuple[list[str], list[str]]:
    """Registers that an instruction writes and reads (both halves of a suspend point together)."""
    defs: list[str] = []
    uses: list[str] = []
    if instr.name == "call":
        for operand in instr.rets:
            operand_registers(operand, defs)
        for operand in instr.args:
            operand_registers(operand, uses)
        operand_registers(instr.callee, uses)
    else:
        into = uses if without_result(instr) else defs
        for operand in instr.ops:
            if isinstance(operand, Reg):  # nearly all are
                into.append(operand.name)
            else:
                operand_registers(operand, into)
            into = uses
    if instr.pred is not None:
        uses.append(instr.pred.name)
        uses.extend(defs)  # a guarded instruction may leave the old value
    return defs, uses


def build(function: Function, *, with_suspends: bool) -> Graph:
    """Cut the body into blocks and compute liveness."""
    assert function.body is not None
    blocks: list[Block] = [Block(0)]
    labels: dict[str, int] = {}
    suspend_count = 0

    def fresh() -> Block:
        block = Block(len(blocks))
        blocks.append(block)
        return block

    current = blocks[0]
    ended = False  # whether control cannot fall off the end of `current`
    for item in function.body:
        if isinstance(item, Label):
            if current.instrs or current.number == 0 or ended:
                following = fresh()
                if not ended:
                    current.succs.append(following.number)
                current = following
            labels[item.name] = current.number
            ended = False
            continue
        if ended:  # unreachable text after a jump
            current = fresh()
            ended = False
        if with_suspends and suspends(item):
            if item.pred is not None:  # make the guard a branch round the suspend point
                skip = f"$skip{len(blocks)}.{item.line}"
                guard = Instr("bra", (), [], item.line, item.pred, not item.pred_not, targets=(skip,))
                current.instrs.append(guard)
                inner = fresh()
                current.succs.append(inner.number)
                guard_block = current
                current = inner
            else:
                guard_block = None
                skip = ""
            suspend_count += 1
            send = Instr(item.name, item.mods, item.ops, item.line, suspend=suspend_count)
            current.instrs.append(send)
            receive = fresh()
            receive.suspend = suspend_count
            current.succs.append(receive.number)
            receive.instrs.append(Instr(item.name, item.mods, item.ops, item.line, suspend=-suspend_count - 1))
            current = receive
            if guard_block is not None:
                after = fresh()
                current.succs.append(after.number)
                guard_block.succs.append(after.number)
                labels[skip] = after.number
                current = after
            continue
        current.instrs.append(item)
        if item.name in ("bra", "brx"):
            if item.pred is None:
                ended = True
            else:
                following = fresh()
                current.succs.append(following.number)
                current = following
        elif item.name in ("ret", "exit", "trap") and item.pred is None:
            ended = True
    for block in blocks:
        for instr in block.instrs:
            if instr.name in ("bra", "brx"):
                block.succs.extend(labels[target] for target in instr.targets if labels[target] not in block.succs)
    graph = Graph(blocks, labels, {}, [], suspend_count)
    preds = _liveness(graph)
    if suspend_count:
        _cleanness(graph, preds)
    return graph


def _cleanness(graph: Graph, preds: list[list[int]]) -> None:
    """Forward analysis: a register is clean where no path since the last suspend point wrote it."""
    every = (1 << len(graph.names)) - 1
    for block in graph.blocks:
        block.clean_out = every & ~block.writes
    work = list(range(len(graph.blocks)))
    while work:
        block = graph.blocks[work.pop()]
        if block.suspend > 0:
            clean = every
        elif block.number == 0:
            clean = 0
        else:
            clean = every
            for number in preds[block.number]:
                clean &= graph.blocks[number].clean_out
        clean &= ~block.writes
        if clean != block.clean_out:
            block.clean_out = clean
            work.extend(block.succs)


def _liveness(graph: Graph) -> list[list[int]]:
    """Compute live sets; returns each block's predecessors."""
    index = graph.index
    names = graph.names
    defined: list[tuple[set[str], set[str]]] = []
    used: list[dict[str, None]] = []  # in order, so that the same text comes out each time
    for block in graph.blocks:
        definite: set[str] = set()
        written: set[str] = set()
        exposed: dict[str, None] = {}
        for instr in block.instrs:
            defs, uses = defs_uses(instr)
            if instr.suspend > 0:
                defs = []
            elif instr.suspend < -1:
                uses = []
            for name in uses:
                if name not in definite:
                    exposed[name] = None
            written.update(defs)
            if instr.pred is None:
                definite.update(defs)
        defined.append((definite, written))
        used.append(exposed)
        for name in exposed:
            if name not in index:
                index[name] = len(names)
                names.append(name)

    def mask(found: Iterable[str]) -> int:
        out = 0
        for name in found:
            number = index.get(name)
            if number is not None:
                out |= 1 << number
        return out

    for block, exposed, (definite, written) in zip(graph.blocks, used, defined, strict=True):
        block.uses, block.defs = mask(exposed), mask(definite)
        block.writes = block.defs if len(written) == len(definite) else mask(written)
    preds: list[list[int]] = [[] for _ in graph.blocks]
    for block in graph.blocks:
        for succ in block.succs:
            preds[succ].append(block.number)
    work = list(range(len(graph.blocks)))
    queued = set(work)
    while work:
        block = graph.blocks[work.pop()]
        queued.discard(block.number)
        out = 0
        for succ in block.succs:
            out |= graph.blocks[succ].live_in
        block.live_out = out
        live_in = block.uses | (out & ~block.defs)
        if live_in != block.live_in:
            block.live_in = live_in
            for number in preds[block.number]:
                if number not in queued:
                    queued.add(number)
                    work.append(number)
    return preds
