"""Programs that rely on the lanes of a warp running in step, without saying so.

CUDA has called this wrong since Volta, but GPUs still run converged lanes in step, and programs written before (CuPy's
partition kernels among them) depend on it. Two signs are heeded: volatile stores to shared memory, the old idiom of
warp reductions; and blocks of one warp whose loops read and write memory. There, lanes wait for each other where a
GPU's would be in step: round such stores, and at the head and the exit of loops. The wait is an ``activemask`` without
a result: released when no lane of the warp can do anything else, the lanes that are furthest behind first.
"""

from __future__ import annotations

from dataclasses import replace

from migproxy.softgpu.ptx.ast import Function, Instr, Label, Module

_PRIVATE = ("param", "local", "const")


def _meet(line: int) -> Instr:
    return Instr("activemask", ("b32",), [None], line)


def keep_volatile_order(function: Function) -> None:
    """Put a wait before and after each volatile store to shared memory."""
    body = function.body
    if body is None or not any(_volatile_store(item) for item in body):
        return
    out: list[Instr | Label] = []
    for item in body:
        if _volatile_store(item):
            out += [_meet(item.line), item, _meet(item.line)]
        else:
            out.append(item)
    function.body = out


def _volatile_store(item: Instr | Label) -> bool:
    return isinstance(item, Instr) and item.name == "st" and "volatile" in item.mods and "shared" in item.mods


def relies_on_lockstep(module: Module, kernel: Function) -> bool:
    """Whether a kernel, run with blocks of one warp, could be a program that relies on its lanes being in step."""
    functions = [kernel, *(f for f in module.functions.values() if not f.entry)]
    return any(_heads(f) for f in functions) and all(
        any(_touches(item, name) for f in functions for item in f.body or ()) for name in ("ld", "st")
    )


def _touches(item: Instr | Label, name: str) -> bool:
    return isinstance(item, Instr) and item.name == name and not any(space in item.mods for space in _PRIVATE)


def _heads(function: Function) -> set[str]:
    """Labels that a later branch jumps back to."""
    seen: set[str] = set()
    out: set[str] = set()
    for item in function.body or ():
        if isinstance(item, Label):
            seen.add(item.name)
        elif item.name in ("bra", "brx"):
            out.update(target for target in item.targets if target in seen)
    return out


def in_step(module: Module) -> Module:
    """A copy of the module in which lanes meet at the head and the exit of every loop."""
    return replace(module, functions={name: _in_step(f) for name, f in module.functions.items()})


def _in_step(function: Function) -> Function:
    heads = _heads(function)
    if not heads or function.body is None:
        return function
    body: list[Instr | Label] = []
    for item in function.body:
        body.append(item)
        if isinstance(item, Label):
            if item.name in heads:
                body.append(_meet(item.line))
        elif item.name == "bra" and item.pred is not None and item.targets[0] in heads:
            body.append(_meet(item.line))
    return replace(function, body=body)
