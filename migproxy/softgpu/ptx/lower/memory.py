"""Moves, loads, stores, address conversions, hints."""

from __future__ import annotations

from migproxy.softgpu.ptx import check, types
from migproxy.softgpu.ptx.ast import Addr, Instr, Operand, Sym, Vec
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower.common import kind_of

_SPACES = ("global", "shared", "local", "const", "param")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_ORDERED = ("relaxed", "acquire", "release", "volatile", "mmio")
_HINTS = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "unified", "uniform",
          "shared::cta", "param::entry", "param::func")  # fmt: skip


def space_of(e: Emitter, i: Instr) -> str:
    """The state space modifier, empty for generic."""
    for mod in i.mods:
        base = mod.split("::")[0]
        if base in _SPACES:
            if mod == "shared::cluster":
                return "shared"  # without clusters, a cluster is the block
            return base
    return ""


def vector_of(i: Instr) -> int:
    """Elements of a vector access."""
    for mod in i.mods:
        if mod in ("v2", "v4", "v8"):
            return int(mod[1:])
    return 1


def examine(e: Emitter, pointer: str, space: str, size: int, kind: int, value: str = "null") -> None:
    """In check mode, have the runtime look at an access before it happens; `value` holds what it will write."""
    if e.gen.checked and space not in ("param", "local"):
        address = e.op(f"ptrtoint ptr {pointer} to i64")
        line = e.instr.line if e.instr is not None else 0
        e.call("void", "migproxy_rt_check", "ptr %tc", f"i64 {address}", f"i32 {size}", f"i32 {kind}", f"i32 {line}",
               f"ptr {value}")  # fmt: skip


def check_access(e: Emitter, i: Instr) -> None:
    """Refuse modifiers of loads and stores that mean nothing known."""
    for mod in i.mods:
        if types.is_type(mod) or mod in _SPACES or mod in _SCOPES or mod in _ORDERED or mod in _HINTS:
            continue
        if mod in ("v2", "v4", "v8", "shared::cluster") or mod.startswith(("L1::", "L2::")):
            continue
        raise e.fail(f"unknown modifier .{mod} of {i.name}")


@lowers("mov")
def mov(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    source = i.ops[1]
    plain = kind
    if kind in ("f16", "bf16", "f16x2", "bf16x2"):
        plain = f"b{types.width(kind)}"
    if "v2" in i.mods or "v4" in i.mods:
        raise e.fail("not supported: mov of vector registers")
    if kind == "pred" and not isinstance(source, Vec):
        e.put(i.ops[0], "pred", e.get(source, "pred"))
        return
    if isinstance(source, Addr):
        raise e.fail("mov of an address expression")
    e.put(i.ops[0], plain, e.get(source, plain))


def _memory_type(kind: str) -> str:
    """The LLVM type in which memory of this PTX type is accessed."""
    return types.storage(kind) if kind != "pred" else "i8"


def _plain(kind: str) -> str:
    """The PTX type whose LLVM type is the memory type."""
    return kind if kind in ("f32", "f64") else f"{'s' if types.signed(kind) else 'b'}{types.width(kind)}"


@lowers("ld", "ldu")
def ld(e: Emitter, i: Instr) -> None:
    check_access(e, i)
    kind = kind_of(e, i)
    space = space_of(e, i)
    count = vector_of(i)
    operand = i.ops[1]
    assert isinstance(operand, Addr)
    if space == "param" and e.gen.fixed is not None and count == 1 and _fixed_parameter(e, i, operand, kind):
        return
    pointer = e.space_pointer(operand, space)
    ty = _memory_type(kind)
    size = types.size(kind)
    examine(e, pointer, space, size * count, check.READ)
    ordered = any(mod in _ORDERED for mod in i.mods)
    constant = space == "const" or "nc" in i.mods
    if space == "param" and isinstance(operand.base, Sym) and e.function.entry:
        constant = e.gen.is_parameter(e.function, operand.base.name)
    tail = e.gen.alias(space) + (", !invariant.load !0" if constant and not ordered else "")
    dests: tuple[Operand, ...] = i.ops[0].items if isinstance(i.ops[0], Vec) else (i.ops[0],)
    if count != len(dests):
        raise e.fail("number of destinations differs from the vector size")
    if count > 1 and not ordered and space != "param":
        whole = e.op(f"load <{count} x {ty}>, ptr {pointer}, align {min(size * count, 16)}{tail}")
        for n, dest in enumerate(dests):
            if dest is not None:
                e.put(dest, _plain(kind), e.op(f"extractelement <{count} x {ty}> {whole}, i32 {n}"), ty)
        return
    values = []
    for n in range(count):
        at = e.op(f"getelementptr i8, ptr {pointer}, i64 {n * size}") if n else pointer
        if ordered and ty != "i128":
            order = "acquire" if "acquire" in i.mods else "monotonic"
            values.append(e.op(f"load atomic volatile {ty}, ptr {at} {order}, align {size}"))
        else:
            values.append(e.op(f"load {'volatile ' if ordered else ''}{ty}, ptr {at}, align {min(size, 16)}{tail}"))
    if "acquire" in i.mods and e.gen.spins:
        e.call("void", "migproxy_rt_spin", "ptr %tc")
    for dest, value in zip(dests, values, strict=True):
        e.put(dest, _plain(kind), value, ty)


def _fixed_parameter(e: Emitter, i: Instr, operand: Addr, kind: str) -> bool:
    """A parameter that this compilation takes as constant."""
    fixed = e.gen.fixed
    if fixed is None or not isinstance(operand.base, Sym) or not e.function.entry:
        return False
    if not e.gen.is_parameter(e.function, operand.base.name):
        return False
    value = fixed.word(e.gen.param_offsets[operand.base.name] + operand.offset, types.size(kind))
    if value is None:
        return False
    plain = f"{'s' if types.signed(kind) else 'b'}{types.width(kind)}"
    e.put(i.ops[0], plain, str(value), f"i{types.width(kind)}")
    return True


@lowers("st")
def st(e: Emitter, i: Instr) -> None:
    check_access(e, i)
    kind = kind_of(e, i)
    space = space_of(e, i)
    count = vector_of(i)
    operand = i.ops[0]
    if "async" in i.mods or "bulk" in i.mods:
        raise e.fail("not supported: st.async and st.bulk")
    assert isinstance(operand, Addr)
    sources: tuple[Operand, ...] = i.ops[1].items if isinstance(i.ops[1], Vec) and count > 1 else (i.ops[1],)
    if count != len(sources):
        raise e.fail("number of sources differs from the vector size")
    values = [e.get(source, _plain(kind)) for source in sources]
    pointer = e.space_pointer(operand, space)
    ty = _memory_type(kind)
    size = types.size(kind)
    ordered = any(mod in _ORDERED for mod in i.mods)
    written = "null"
    if e.gen.checked and space in ("shared", "") and not ordered:
        written = e.temporary(size * count)
        for n, value in enumerate(values):
            e.emit(f"store {ty} {value}, ptr {e.op(f'getelementptr i8, ptr {written}, i64 {n * size}')}, align 1")
    examine(e, pointer, space, size * count, check.ATOMIC if ordered else check.WRITE, written)
    tail = e.gen.alias(space)
    if count > 1 and not ordered and space != "param":
        vector = f"<{count} x {ty}>"
        whole = "poison"
        for n, value in enumerate(values):
            whole = e.op(f"insertelement {vector} {whole}, {ty} {value}, i32 {n}")
        e.emit(f"store {vector} {whole}, ptr {pointer}, align {min(size * count, 16)}{tail}")
        return
    for n, value in enumerate(values):
        at = e.op(f"getelementptr i8, ptr {pointer}, i64 {n * size}") if n else pointer
        if ordered and ty != "i128":
            order = "release" if "release" in i.mods else "monotonic"
            e.emit(f"store atomic volatile {ty} {value}, ptr {at} {order}, align {size}")
        else:
            e.emit(f"store {'volatile ' if ordered else ''}{ty} {value}, ptr {at}, align {min(size, 16)}{tail}")


@lowers("cvta")
def cvta(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    space = space_of(e, i)
    if not space:
        raise e.fail("cvta without a state space")
    ty = types.llvm(kind)
    value = e.get(i.ops[1], kind)
    if space == "shared":
        # shared addresses are offsets; generic ones are the process's own
        base = e.coerce(e.op(f"ptrtoint ptr {e.shared_base()} to i64"), "i64", ty)
        value = e.op(f"{'sub' if 'to' in i.mods else 'add'} {ty} {value}, {base}")
    e.put(i.ops[0], kind, value)


@lowers("isspacep")
def isspacep(e: Emitter, i: Instr) -> None:
    space = i.mods[0].split("::")[0]
    address = e.get(i.ops[1], "b64")
    base = e.op(f"ptrtoint ptr {e.shared_base()} to i64")
    shared = e.op(f"icmp ult i64 {e.op(f'sub i64 {address}, {base}')}, 4294967296")
    if space == "shared":
        e.put(i.ops[0], "pred", shared)
        return
    if space in ("const", "param"):
        e.put(i.ops[0], "pred", "false")
        return
    local = e.local_test(address)
    if space == "local":
        e.put(i.ops[0], "pred", local)
    elif space == "global":
        e.put(i.ops[0], "pred", e.op(f"xor i1 {e.op(f'or i1 {shared}, {local}')}, true"))
    else:
        raise e.fail(f"unknown state space .{space}")


@lowers("prefetch", "prefetchu", "discard", "applypriority")
def hint(e: Emitter, i: Instr) -> None:
    """Cache hints change no result: nothing to do."""


@lowers("createpolicy")
def createpolicy(e: Emitter, i: Instr) -> None:
    """A cache policy is opaque and nothing here reads it."""
    e.put(i.ops[0], "b64", "0")


@lowers("alloca")
def alloca(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    if e.suspending:
        raise e.fail("not supported: alloca in a kernel with barriers or warp operations")
    size = e.coerce(e.get(i.ops[1], kind), types.llvm(kind), "i64")
    align = e.constant_value(i.ops[2]) if len(i.ops) > 2 else 16
    _room(e, size)
    value = e.op(f"ptrtoint ptr {e.op(f'alloca i8, i64 {size}, align {max(align, 16)}')} to i64")
    e.put(i.ops[0], kind, value, "i64")


def _room(e: Emitter, size: str) -> None:
    """A fault when the stack has no room for `size` bytes more."""
    now = e.op(f"ptrtoint ptr {e.call('ptr', 'llvm.stacksave.p0')} to i64")
    left = e.op(f"sub i64 {now}, {e.field('stack_limit', entry=True)}")
    over, fine = e.fresh_label("over"), e.fresh_label("room")
    e.cond_branch(e.op(f"icmp slt i64 {left}, {size}"), over, fine)
    e.start(over)
    e.call("void", "migproxy_rt_overflow", "ptr %tc")
    e.branch(fine)
    e.start(fine)


@lowers("stacksave")
def stacksave(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    e.put(i.ops[0], kind, e.op(f"ptrtoint ptr {e.call('ptr', 'llvm.stacksave.p0')} to i64"), "i64")


@lowers("stackrestore")
def stackrestore(e: Emitter, i: Instr) -> None:
    kind = kind_of(e, i)
    pointer = e.op(f"inttoptr i64 {e.coerce(e.get(i.ops[0], kind), types.llvm(kind), 'i64')} to ptr")
    e.call("void", "llvm.stackrestore.p0", f"ptr {pointer}")


@lowers("nop", "griddepcontrol", "pmevent")
def nothing(e: Emitter, i: Instr) -> None:
    """No effect on results."""
