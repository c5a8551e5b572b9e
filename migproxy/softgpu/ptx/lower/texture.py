"""Textures and surfaces: fetches, stores, queries, by the functions of `texture_ir`."""

from __future__ import annotations

from migproxy.softgpu import texture_layout as layout
from migproxy.softgpu.ptx import types
from migproxy.softgpu.ptx.ast import Addr, Instr, Operand, Texel, Vec
from migproxy.softgpu.ptx.emitter import Emitter, lowers
from migproxy.softgpu.ptx.lower.common import kind_of, kinds_of
from migproxy.softgpu.ptx.texture_ir import MODES, SHAPES, P

_NAN = "0x7FF8000000000000"
_VECTORS = {"v2": 2, "v4": 4}
_QUERIES = {
    "width": (0, "width"), "height": (0, "height"), "depth": (0, "depth"), "array_size": (1, "layers"),
    "num_mipmap_levels": (1, "levels"), "normalized_coords": (1, "normalized"), "filter_mode": (1, "filter"),
    "addr_mode_0": (1, "mode_x"), "addr_mode_1": (1, "mode_y"), "addr_mode_2": (1, "mode_z"),
}  # fmt: skip


def _shape(e: Emitter, i: Instr) -> str:
    for mod in i.mods:
        if mod in SHAPES:
            return mod
    raise e.fail(f"not supported: {i.name}.{'.'.join(i.mods)} (multi-sample textures)")


def _only(e: Emitter, i: Instr, *allowed: str) -> None:
    for mod in i.mods:
        if mod not in allowed and mod not in SHAPES and mod not in _VECTORS and not types.is_type(mod):
            raise e.fail(f"not supported: .{mod} of {i.name}")


def _object(e: Emitter, operand: Operand) -> tuple[str, tuple[Operand, ...]]:
    """The handle and the coordinates of a texel operand."""
    if not isinstance(operand, Texel):
        raise e.fail("expected an object with coordinates")
    if operand.sampler is not None:
        raise e.fail("not supported: separate samplers (.texmode_independent)")
    return e.get(operand.base, "b64"), operand.coordinates.items


def _plain(e: Emitter, items: tuple[Operand, ...], kind: str) -> list[str]:
    """Up to three coordinates of a kind; zero where there are fewer."""
    values = [e.get(item, kind) for item in items[:3]]
    return values + ["0.0" if kind == "f32" else "0"] * (3 - len(values))


def _coordinates(e: Emitter, i: Instr, shape: str, items: tuple[Operand, ...], kind: str) -> tuple[list[str], str]:
    """Three coordinates and the layer."""
    layer = "0"
    if shape[0] == "a":
        layer, items = e.get(items[0], "u32"), items[1:]
    count = 3 if "cube" in shape else SHAPES[shape]
    if len(items) < count:
        raise e.fail(f"{i.name}.{shape} needs {count} coordinates")
    return _plain(e, items[:count], kind), layer


def _put_four(e: Emitter, i: Instr, kind: str, out: str) -> None:
    """Four words from memory to the destination."""
    dest = i.ops[0]
    if not isinstance(dest, Vec):
        raise e.fail("not supported: a result that is no vector (residency)")
    for n, item in enumerate(dest.items):
        if item is not None:
            at = e.op(f"getelementptr i8, ptr {out}, i64 {4 * n}")
            e.put(item, "f32" if kind == "f32" else "b32", e.op(f"load {types.llvm(kind)}, ptr {at}"))


@lowers("tex")
def tex(e: Emitter, i: Instr) -> None:
    _only(e, i, "level", "grad", "base")
    shape = _shape(e, i)
    kinds = kinds_of(i)
    if len(kinds) != 2 or kinds[0] not in ("f32", "s32", "u32", "b32"):
        raise e.fail("not supported: tex with results that are not 32 bits wide")
    handle, items = _object(e, i.ops[1])
    extra = 1 if "level" in i.mods else 2 if "grad" in i.mods else 0
    if len(i.ops) != 2 + extra:
        raise e.fail("not supported: tex with offsets or depth comparison")
    out = e.temporary(16)
    dims = SHAPES[shape]
    if kinds[1] == "s32":
        if "cube" in shape or "grad" in i.mods:
            raise e.fail("tex with integer coordinates of this shape")
        (x, y, z), layer = _coordinates(e, i, shape, items, "s32")
        level = e.get(i.ops[2], "s32") if extra else "0"
        e.call("void", f"{P}fetch", "ptr %tc", f"i64 {handle}", f"i32 {x}", f"i32 {y}", f"i32 {z}", f"i32 {layer}",
               f"i32 {dims}", f"i32 {level}", f"ptr {out}")  # fmt: skip
    else:
        (x, y, z), layer = _coordinates(e, i, shape, items, "f32")
        lod = _NAN
        if "level" in i.mods:
            lod = e.get(i.ops[2], "f32")
        elif "grad" in i.mods:
            lod = _lod_of_gradients(e, i, handle, dims)
        cube = int("cube" in shape)
        e.call("void", f"{P}tex", "ptr %tc", f"i64 {handle}", f"float {x}", f"float {y}", f"float {z}",
               f"i32 {layer}", f"i32 {dims}", f"i32 {cube}", f"float {lod}", f"ptr {out}")  # fmt: skip
    _put_four(e, i, kinds[0], out)


def _lod_of_gradients(e: Emitter, i: Instr, handle: str, dims: int) -> str:
    steps = []
    for operand in i.ops[2:4]:
        items = operand.items if isinstance(operand, Vec) else (operand,)
        steps += _plain(e, items[:dims], "f32")
    return e.call("float", f"{P}gradient", "ptr %tc", f"i64 {handle}", *[f"float {step}" for step in steps])


@lowers("tld4")
def tld4(e: Emitter, i: Instr) -> None:
    _only(e, i, "r", "g", "b", "a")
    if _shape(e, i) != "2d" or len(i.ops) != 2:
        raise e.fail("not supported: tld4 of this shape, with offsets or comparison")
    handle, items = _object(e, i.ops[1])
    x, y, _ = _plain(e, items[:2], "f32")
    channel = "rgba".index(i.mods[0])
    out = e.temporary(16)
    e.call("void", f"{P}gather", "ptr %tc", f"i64 {handle}", f"float {x}", f"float {y}", f"i32 {channel}",
           f"ptr {out}")  # fmt: skip
    _put_four(e, i, kinds_of(i)[0], out)


def _surface(e: Emitter, i: Instr, operand: Operand) -> tuple[str, int, str]:
    """The address of a surface access (0 if it falls outside and does nothing), its element count, its type."""
    _only(e, i, "b", *MODES, "ca", "cg", "cs", "cv", "wb", "wt")
    if "b" not in i.mods:
        raise e.fail(f"not supported: formatted {i.name}.p")
    shape = _shape(e, i)
    handle, items = _object(e, operand)
    (x, y, z), layer = _coordinates(e, i, shape, items, "s32")
    if SHAPES[shape] < 3:
        z = layer
    kind = kind_of(e, i)
    count = next((size for mod, size in _VECTORS.items() if mod in i.mods), 1)
    mode = next((number for name, number in MODES.items() if name in i.mods), MODES["trap"])
    address = e.call("i64", f"{P}surface", "ptr %tc", f"i64 {handle}", f"i32 {x}", f"i32 {y}", f"i32 {z}",
                     f"i32 {count * types.size(kind)}", f"i32 {mode}")  # fmt: skip
    return address, count, kind


def _place(e: Emitter, address: str) -> tuple[str, str]:
    """A pointer for an access: of scratch memory where there is nothing; and whether there is something."""
    there = e.op(f"icmp ne i64 {address}, 0")
    pointer = e.op(f"inttoptr i64 {address} to ptr")
    return e.op(f"select i1 {there}, ptr {pointer}, ptr {e.temporary(16)}"), there


@lowers("suld")
def suld(e: Emitter, i: Instr) -> None:
    address, count, kind = _surface(e, i, i.ops[1])
    pointer, there = _place(e, address)
    dest = i.ops[0]
    items = dest.items if isinstance(dest, Vec) else (dest,)
    if len(items) != count:
        raise e.fail("number of destinations differs from the vector size")
    ty = f"i{types.width(kind)}"
    for n, item in enumerate(items):
        at = e.op(f"getelementptr i8, ptr {pointer}, i64 {n * types.size(kind)}")
        value = e.op(f"select i1 {there}, {ty} {e.op(f'load {ty}, ptr {at}')}, {ty} 0")
        e.put(item, f"b{types.width(kind)}", value)


@lowers("sust")
def sust(e: Emitter, i: Instr) -> None:
    address, count, kind = _surface(e, i, i.ops[0])
    pointer, _ = _place(e, address)
    source = i.ops[1]
    items = source.items if isinstance(source, Vec) else (source,)
    if len(items) != count:
        raise e.fail("number of sources differs from the vector size")
    ty = f"i{types.width(kind)}"
    for n, item in enumerate(items):
        at = e.op(f"getelementptr i8, ptr {pointer}, i64 {n * types.size(kind)}")
        e.emit(f"store {ty} {e.get(item, f'b{types.width(kind)}')}, ptr {at}")


@lowers("txq", "suq")
def query(e: Emitter, i: Instr) -> None:
    operand = i.ops[1]
    if not isinstance(operand, Addr) or operand.offset or len(i.ops) > 2:
        raise e.fail(f"not supported: {i.name} of a level")
    found = _QUERIES.get(i.mods[0])
    if found is None:
        raise e.fail(f"not supported: {i.name}.{i.mods[0]}")
    of_head, name = found
    offset = layout.OFFSET[name] if of_head else layout.HEAD_SIZE + layout.LEVEL_OFFSET[name]
    handle = e.get(operand.base, "b64")
    e.put(i.ops[0], "b32", e.call("i32", f"{P}query", "ptr %tc", f"i64 {handle}", f"i32 {offset}"))
