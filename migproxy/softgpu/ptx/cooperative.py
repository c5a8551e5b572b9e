"""Grid-wide barriers of cooperative launches.

Two forms reach us. CUDA C++ keeps a counter in a workspace whose address the driver leaves in ``%envreg1`` and
``%envreg2``, and one thread of each block spins on it; it runs as it is, since a cooperative launch gives each block a
worker thread of its own. NVVM (Numba) calls ``cudaCGSynchronize`` of the device runtime, which becomes a barrier of the
block, a wait of one thread for the other blocks, and another barrier.
"""

from __future__ import annotations

from migproxy.softgpu.ptx.ast import Addr, Function, Imm, Instr, Label, Operand, Reg, Sym
from migproxy.softgpu.ptx.mentions import mentions

#: the instruction that stands for one thread's wait for the other blocks
WAIT = "$grid"
_SYNC = "cudaCGSynchronize"
_HANDLE = "cudaCGGetIntrinsicHandle"


def rewrite(function: Function) -> None:
    """Replace calls of the device runtime's cooperative functions in a function's body."""
    body = function.body
    if body is None or not any(_callee(item) in (_SYNC, _HANDLE) for item in body):
        return
    out: list[Instr | Label] = []
    for item in body:
        name = _callee(item)
        if name not in (_SYNC, _HANDLE) or not isinstance(item, Instr):
            out.append(item)
            continue
        if name == _SYNC:
            for part in ("barrier", WAIT, "barrier"):
                ops: list[Operand] = [Imm(15)] if part == "barrier" else []
                mods = ("sync",) if ops else ()
                out.append(Instr(part, mods, ops, item.line, item.pred, item.pred_not))
        for result in item.rets:
            value = Imm(0 if name == _SYNC else 1)
            kind = "b32" if name == _SYNC else "b64"
            if isinstance(result, Sym):
                target: list[Operand] = [Addr(result, 0), value]
                out.append(Instr("st", ("param", kind), target, item.line))
            elif isinstance(result, Reg):
                out.append(Instr("mov", (kind,), [result, value], item.line))
    function.body = out


def _callee(item: Instr | Label) -> str:
    if isinstance(item, Instr) and item.name == "call" and isinstance(item.callee, Sym):
        return item.callee.name
    return ""


def uses_workspace(function: Function) -> bool:
    """Whether a body reads the workspace's address, and so may spin for other blocks."""
    return any(name.startswith("%envreg") for name in mentions(function).specials)
