"""Atomic operations, reductions to memory, fences."""

from __future__ import annotations

from migproxy.softgpu.ptx import check, types
from migproxy.softgpu.ptx.ast import Instr, Operand, Vec
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower import half
from migproxy.softgpu.ptx.lower.common import kind_of
from migproxy.softgpu.ptx.lower.memory import examine, space_of, vector_of

_OPS = ("add", "and", "or", "xor", "exch", "cas", "min", "max", "inc", "dec", "cas")
_ORDER = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
_KNOWN = {"relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys", "global", "shared",
          "shared::cta", "shared::cluster", "noftz", "v2", "v4", "v8", "async", *_OPS}  # fmt: skip


@lowers("atom", "red")
def atom(e: Emitter, i: Instr) -> None:
    for mod in i.mods:
        if mod not in _KNOWN and not types.is_type(mod) and not mod.startswith(("L1::", "L2::")):
            raise e.fail(f"unknown modifier .{mod} of {i.name}")
    if "async" in i.mods:
        raise e.fail("not supported: red.async")
    kind = kind_of(e, i)
    op = next((mod for mod in i.mods if mod in _OPS), "")
    if not op:
        raise e.fail(f"{i.name} without an operation")
    order = next((_ORDER[mod] for mod in i.mods if mod in _ORDER), "monotonic")
    result = i.name == "atom"
    operands = i.ops[1:] if result else i.ops
    pointer = e.space_pointer(operands[0], space_of(e, i))
    count = vector_of(i)
    examine(e, pointer, space_of(e, i), types.size(kind) * count,
            check.ATOMIC if op == "exch" else check.UPDATE)  # fmt: skip
    if count > 1:
        dests = i.ops[0].items if result and isinstance(i.ops[0], Vec) else (None,) * count
        sources = operands[1]
        assert isinstance(sources, Vec)
        for n in range(count):
            at = e.op(f"getelementptr i8, ptr {pointer}, i64 {n * types.size(kind)}") if n else pointer
            old = _one(e, op, kind, at, [sources.items[n]], order)
            _put(e, dests[n], kind, old)
        return
    old = _one(e, op, kind, pointer, operands[1:], order)
    if result:
        _put(e, i.ops[0], kind, old)


def _put(e: Emitter, dest: Operand, kind: str, old: str) -> None:
    plain = kind if kind in ("f32", "f64") or types.llvm(kind) == f"i{types.width(kind)}" else f"b{types.width(kind)}"
    if dest is not None:
        e.put(dest, plain, old)


def _one(e: Emitter, op: str, kind: str, pointer: str, values: list[Operand], order: str) -> str:
    """One atomic operation; the old value in memory's type."""
    if kind in ("f16", "bf16", "f16x2", "bf16x2"):
        return _halves(e, op, kind, pointer, values)
    ty = types.llvm(kind)
    size = types.size(kind)
    if op == "cas":
        plain = f"b{types.width(kind)}"
        it = types.llvm(plain)
        compare, new = e.get(values[0], plain), e.get(values[1], plain)
        fail = {"release": "monotonic", "acq_rel": "acquire"}.get(order, order)
        pair = e.op(f"cmpxchg ptr {pointer}, {it} {compare}, {it} {new} {order} {fail}, align {size}")
        return e.coerce(e.op(f"extractvalue {{ {it}, i1 }} {pair}, 0"), it, ty)
    if op == "exch":
        return e.op(f"atomicrmw xchg ptr {pointer}, {ty} {e.get(values[0], kind)} {order}, align {size}")
    value = e.get(values[0], kind)
    if op in ("and", "or", "xor"):
        return e.op(f"atomicrmw {op} ptr {pointer}, {ty} {value} {order}, align {size}")
    if op == "add":
        return e.op(f"atomicrmw {'fadd' if types.floating(kind) else 'add'} ptr {pointer}, {ty} {value} {order}, "
                    f"align {size}")  # fmt: skip
    if op in ("min", "max"):
        name = op if types.signed(kind) else f"f{op}" if types.floating(kind) else f"u{op}"
        return e.op(f"atomicrmw {name} ptr {pointer}, {ty} {value} {order}, align {size}")
    return _loop(e, pointer, ty, order, size, lambda old: _wrap(e, op, ty, old, value))


def _wrap(e: Emitter, op: str, ty: str, old: str, bound: str) -> str:
    """inc: 0 at the bound, else one more; dec: the bound at 0 or above the bound, else one less."""
    if op == "inc":
        wrapped = e.op(f"icmp uge {ty} {old}, {bound}")
        return e.op(f"select i1 {wrapped}, {ty} 0, {ty} {e.op(f'add {ty} {old}, 1')}")
    zero = e.op(f"icmp eq {ty} {old}, 0")
    above = e.op(f"icmp ugt {ty} {old}, {bound}")
    wrapped = e.op(f"or i1 {zero}, {above}")
    return e.op(f"select i1 {wrapped}, {ty} {bound}, {ty} {e.op(f'sub {ty} {old}, 1')}")


def _loop(e: Emitter, pointer: str, ty: str, order: str, size: int, change) -> str:  # type: ignore[no-untyped-def]
    """A compare-and-swap loop; `change` computes the new value from the old."""
    loop, done = e.fresh_label("cas"), e.fresh_label("swapped")
    first = e.op(f"load atomic {ty}, ptr {pointer} monotonic, align {size}")
    before = e.label
    e.branch(loop)
    e.start(loop)
    old, seen = e.name(), e.name()
    place = len(e.lines)
    new = change(old)
    fail = {"release": "monotonic", "acq_rel": "acquire"}.get(order, order)
    pair = e.op(f"cmpxchg ptr {pointer}, {ty} {old}, {ty} {new} {order} {fail}, align {size}")
    e.emit(f"{seen} = extractvalue {{ {ty}, i1 }} {pair}, 0")
    e.lines.insert(place, f"  {old} = phi {ty} [ {first}, %{before} ], [ {seen}, %{e.label} ]")
    ok = e.op(f"extractvalue {{ {ty}, i1 }} {pair}, 1")
    e.cond_branch(ok, done, loop)
    e.start(done)
    return old


def _halves(e: Emitter, op: str, kind: str, pointer: str, values: list[Operand]) -> str:
    """add, min, max, exch and cas on halves and pairs of them, by compare-and-swap on their bits."""
    form = kind.removesuffix("x2")
    bits = types.width(kind)
    ty = f"i{bits}"
    given = e.get(values[0], f"b{bits}")
    if op == "exch":
        return e.op(f"atomicrmw xchg ptr {pointer}, {ty} {given} monotonic, align {bits // 8}")

    def change(old: str) -> str:
        out = ""
        for lane in range(bits // 16):
            a, b = (_half_lane(e, value, ty, lane) for value in (old, given))
            x, y = half.widen(e, a, form), half.widen(e, b, form)
            if op == "add":
                value = e.op(f"fadd float {x}, {y}")
            elif op in ("min", "max"):
                from migproxy.softgpu.ptx.lower.floating import minmax_value

                value = minmax_value(e, op, "float", x, y, nan=False)
            else:
                raise e.fail(f"atom.{op} has no type .{kind}")
            piece = e.coerce(half.narrow(e, value, form), "i16", ty)
            out = e.op(f"or {ty} {out}, {e.op(f'shl {ty} {piece}, 16')}") if lane else piece
        return out

    return _loop(e, pointer, ty, "monotonic", bits // 8, change)


def _half_lane(e: Emitter, value: str, ty: str, lane: int) -> str:
    if ty == "i16":
        return value
    return e.op(f"trunc i32 {e.op(f'lshr i32 {value}, 16') if lane else value} to i16")


@lowers("membar", "fence")
def fence(e: Emitter, i: Instr) -> None:
    known = ("cta", "gl", "sys", "gpu", "cluster", "sc", "acq_rel", "acquire", "release", "proxy", "alias", "async",
             "mbarrier_init", "global", "shared::cta", "shared::cluster",
             "sync_restrict::shared::cta", "sync_restrict::shared::cluster")  # fmt: skip
    for mod in i.mods:
        if mod not in known and not mod.startswith("async"):
            raise e.fail(f"not supported: {i.name} with .{mod}")
    e.emit("fence seq_cst")
