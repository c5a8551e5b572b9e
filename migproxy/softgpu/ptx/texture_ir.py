"""Texture sampling and surface addressing, in LLVM IR: what ``tex``, ``tld4``, ``suld`` and ``sust`` call.

Records are those of `migproxy.softgpu.texture_layout`. Filtering follows the appendix on texture fetching of the CUDA
C++ guide: a linear filter's weights have 8 bits of fraction, a point filter takes the texel that the coordinate falls
into. The four results are 32-bit words, integers or floats as the texture is read.
"""

from __future__ import annotations

from migproxy.softgpu import texture_layout as layout
from migproxy.softgpu.ptx.exprs import Cell, Val, constant, load, pick, store
from migproxy.softgpu.ptx.irkit import Fn
from migproxy.softgpu.ptx.layout import CONTEXT as C

#: what the names of these functions start with; code that calls one needs `native.textures`
P = "migproxy_tx_"
#: coordinates within a plane or volume; a layer is none
SHAPES = {"1d": 1, "2d": 2, "3d": 3, "a1d": 1, "a2d": 2, "cube": 2, "acube": 2}
#: what surface accesses outside do
MODES = {"zero": 0, "clamp": 1, "trap": 2}
ILLEGAL, MISALIGNED = 700, 716
_MAGIC = {"texture": layout.TEXTURE, "surface": layout.SURFACE}


def _field(f: Fn, record: str, name: str, ty: str = "i32") -> Val:
    return load(f, ty, record, layout.OFFSET[name])


def _level(f: Fn, record: str, level: Val) -> str:
    offset = level.wide() * layout.LEVEL.size + layout.HEAD_SIZE
    return f.op(f"getelementptr i8, ptr {record}, i64 {offset.text}")


def _of_level(f: Fn, row: str, name: str) -> Val:
    return load(f, "i64" if name in ("address", "plane", "pitch") else "i32", row, layout.LEVEL_OFFSET[name])


def _argument(f: Fn, ty: str, name: str) -> Val:
    return Val(f, ty, f"%{name}")


def _fault(f: Fn, status: int, address: str) -> None:
    thread = f.op(f"load volatile i32, ptr {f.place(C, '%tc', 'thread')}")
    f.emit(f"call void @migproxy_rt_fault(ptr %tc, i32 {status}, i32 {thread}, i64 0, i64 0, i64 0, i64 {address})")


def _record(f: Fn, kind: str) -> str:
    """The record of the handle, alive and of this kind; otherwise a fault."""
    record = f.op("inttoptr i64 %handle to ptr")
    with f.when(load(f, "i32", record).ne(_MAGIC[kind]).text):
        _fault(f, ILLEGAL, "%handle")
    return record


def texel() -> str:
    """``void texel(ptr record, ptr row, i32 x, i32 y, i32 z, ptr out)``: one texel, which must exist, as four words."""
    f = Fn("void", f"{P}texel", "ptr %record", "ptr %row", "i32 %x", "i32 %y", "i32 %z", "ptr %out")
    place = _of_level(f, "%row", "address") + _argument(f, "i32", "z").wide() * _of_level(f, "%row", "plane")
    place = place + _argument(f, "i32", "y").wide() * _of_level(f, "%row", "pitch")
    place = place + _argument(f, "i32", "x").wide() * _field(f, "%record", "element").wide()
    pointer = f.op(f"inttoptr i64 {place.text} to ptr")
    one = _field(f, "%record", "value").eq(layout.INTEGER)
    top = one.choose(constant(f, "i32", 1), constant(f, "float", 1.0).bits())
    for number in range(4):
        store(f, top if number == 3 else constant(f, "i32", 0), "%out", 4 * number)
        with f.when((_field(f, "%record", "channels") > number).text):
            store(f, _channel(f, pointer, number), "%out", 4 * number)
    f.ret()
    return f.text()


def _channel(f: Fn, pointer: str, number: int) -> Val:
    """One channel of the element at a pointer, as the texture reads it."""
    fraction = _field(f, "%record", "value").eq(layout.FRACTION)

    def small(ty: str, *, signed: bool = False) -> Val:
        bits = int(ty[1:])
        raw = load(f, ty, pointer, number * bits // 8).convert("sext" if signed else "zext", "i32")
        share = raw.floating() / float((1 << bits - signed) - 1)
        if signed:
            share = share.most(-1.0)
        elif bits == 8 and number < 3:
            share = _field(f, "%record", "srgb").ne(0).choose(_linear_light(share), share)
        return fraction.choose(share.bits(), raw)

    def whole() -> Val:
        return load(f, "i32", pointer, 4 * number)

    cases = {
        layout.U8: lambda: small("i8"),
        layout.S8: lambda: small("i8", signed=True),
        layout.U16: lambda: small("i16"),
        layout.S16: lambda: small("i16", signed=True),
        layout.F16: lambda: load(f, "half", pointer, 2 * number).convert("fpext", "float").bits(),
        layout.U32: whole,
        layout.S32: whole,
        layout.F32: whole,
    }
    return pick(_field(f, "%record", "format"), cases, constant(f, "i32", 0))


def _linear_light(share: Val) -> Val:
    """sRGB to linear: the standard's curve."""
    steep = ((share + 0.055) / 1.055).intrinsic("pow", 2.4)
    return (share <= 0.04045).choose(share / 12.92, steep)


def lookup() -> str:
    """``void lookup(ptr record, ptr row, i32 x, i32 y, i32 z, i32 dims, ptr out)``: a texel by the address modes.

    The last dimension of layered textures is no coordinate: `dims` says how many are.
    """
    f = Fn("void", f"{P}lookup", "ptr %record", "ptr %row", "i32 %x", "i32 %y", "i32 %z", "i32 %dims", "ptr %out")
    dims = _argument(f, "i32", "dims")
    inside = Cell(f, "i1", 1)
    places = []
    for number, (axis, size) in enumerate((("x", "width"), ("y", "height"), ("z", "depth"))):
        count = _of_level(f, "%row", size)
        now = _argument(f, "i32", axis)
        mode = _field(f, "%record", f"mode_{axis}")
        place = Cell(f, "i32", now.most(0).least(count - 1))
        with f.when((dims > number).text):
            with f.when(mode.eq(layout.WRAP).text):
                rest = now % count
                place.set((rest < 0).choose(rest + count, rest))
            with f.when(mode.eq(layout.MIRROR).text):
                rest = now % (count * 2)
                rest = (rest < 0).choose(rest + count * 2, rest)
                place.set((rest >= count).choose(count * 2 - rest - 1, rest))
            with f.when((mode.eq(layout.BORDER) & ~now.below(count)).text):
                inside.set(0)
        places.append(place)
    with f.when((~inside.get()).text):
        for number in range(4):
            store(f, _field(f, "%record", f"border_{number}"), "%out", 4 * number)
        f.ret()
    x, y, z = (place.get().text for place in places)
    f.emit(f"call void @{P}texel(ptr %record, ptr %row, i32 {x}, i32 {y}, i32 {z}, ptr %out)")
    f.ret()
    return f.text()


def _scaled(f: Fn, axis: str, count: Val, dims: Val, number: int) -> Val:
    """A coordinate in texels: a normalised one is brought to the range that it repeats in, and scaled."""
    now = _argument(f, "float", axis)
    out = Cell(f, "float", now)
    normalized = _field(f, "%record", "normalized").ne(0)
    with f.when((normalized & (dims > number)).text):
        mode = _field(f, "%record", f"mode_{axis}")
        floor = now.floor()
        part = now - floor
        odd = (floor * 0.5).ne((floor * 0.5).floor())
        mirrored = odd.choose(constant(f, "float", 1.0) - part, part)
        share = mode.eq(layout.WRAP).choose(part, mode.eq(layout.MIRROR).choose(mirrored, now))
        out.set(share * count.floating())
    return out.get()


def sample() -> str:
    """``void sample(ptr record, i32 level, float x, float y, float z, i32 layer, i32 dims, ptr out)``: one level."""
    f = Fn("void", f"{P}sample", "ptr %record", "i32 %level", "float %x", "float %y", "float %z", "i32 %layer",
           "i32 %dims", "ptr %out")  # fmt: skip
    dims, layer = _argument(f, "i32", "dims"), _argument(f, "i32", "layer")
    row = _level(f, "%record", _argument(f, "i32", "level"))
    counts = [_of_level(f, row, size) for size in ("width", "height", "depth")]
    scaled = [_scaled(f, axis, counts[n], dims, n) for n, axis in enumerate("xyz")]
    # An axis that is no coordinate stands still: the only row, or the layer.
    still = [constant(f, "i32", 0), constant(f, "i32", 0), layer]

    def call(places: list[Val], out: str) -> None:
        arguments = ", ".join(f"i32 {place.text}" for place in places)
        f.emit(f"call void @{P}lookup(ptr %record, ptr {row}, {arguments}, i32 %dims, ptr {out})")

    with f.when(_field(f, "%record", "filter").eq(layout.POINT).text):
        call([(dims > n).choose(value.floor().whole(), still[n]) for n, value in enumerate(scaled)], "%out")
        f.ret()
    low, weight = [], []
    for n, value in enumerate(scaled):
        shifted = value - 0.5
        floor = shifted.floor()
        share = ((shifted - floor) * 256.0).intrinsic("rint") / 256.0
        low.append((dims > n).choose(floor.whole(), still[n]))
        weight.append((dims > n).choose(share, 0.0))
    totals = [Cell(f, "float") for _ in range(4)]
    corner = f.op("alloca [4 x i32], align 16")
    with f.count_up("0", "8") as index:
        number = Val(f, "i32", index)
        share = constant(f, "float", 1.0)
        places = []
        for n in range(3):
            upper = ((number >> n) & 1).ne(0)
            share = share * upper.choose(weight[n], constant(f, "float", 1.0) - weight[n])
            places.append(upper.choose(low[n] + 1, low[n]))
        with f.when(share.ne(0.0).text):
            call(places, corner)
            for n, total in enumerate(totals):
                total.set(total.get() + share * load(f, "float", corner, 4 * n))
    for n, total in enumerate(totals):
        store(f, total.get().bits(), "%out", 4 * n)
    f.ret()
    return f.text()


def _cube(f: Fn) -> None:
    """Turn a direction in x, y, z into a face and coordinates on it (the table of the CUDA C++ guide)."""
    x, y, z = (_argument(f, "float", axis) for axis in "xyz")
    ax, ay, az = (value.intrinsic("fabs") for value in (x, y, z))
    zero = constant(f, "float", 0.0)
    on_x, on_y = (ax >= ay) & (ax >= az), ay >= az
    major = on_x.choose(ax, on_y.choose(ay, az))
    negative = on_x.choose(x, on_y.choose(y, z)) < 0.0
    face = on_x.choose(constant(f, "i32", 0), on_y.choose(constant(f, "i32", 2), 4)) + negative.convert("zext", "i32")
    s = on_x.choose(negative.choose(z, zero - z), on_y.choose(x, negative.choose(zero - x, x)))
    t = on_x.choose(zero - y, on_y.choose(negative.choose(zero - z, z), zero - y))
    u, v = ((value / major + 1.0) * 0.5 for value in (s, t))
    f.emit(f"store float {u.text}, ptr %px")
    f.emit(f"store float {v.text}, ptr %py")
    layer = Val(f, "i32", f.op("load i32, ptr %player")) * 6 + face
    f.emit(f"store i32 {layer.text}, ptr %player")


def tex() -> str:
    """``void tex(ptr tc, i64 handle, float x, float y, float z, i32 layer, i32 dims, i32 cube, float lod, ptr out)``.

    A level of detail of NaN is the implicit one, which is 0 outside of graphics.
    """
    f = Fn("void", f"{P}tex", "ptr %tc", "i64 %handle", "float %x", "float %y", "float %z", "i32 %layer", "i32 %dims",
           "i32 %cube", "float %lod", "ptr %out")  # fmt: skip
    record = _record(f, "texture")
    for name, ty, start in (("x", "float", "%x"), ("y", "float", "%y"), ("layer", "i32", "%layer")):
        f.emit(f"%p{name} = alloca {ty}")
        f.emit(f"store {ty} {start}, ptr %p{name}")
    cube = _argument(f, "i32", "cube").ne(0)
    # Layers are clamped before they say which faces: a layer of cubes is six planes.
    planes = _field(f, record, "layers")
    each = cube.choose(constant(f, "i32", 6), 1)
    layer = Val(f, "i32", f.op("load i32, ptr %player")).most(0).least(planes / each - 1)
    f.emit(f"store i32 {layer.most(0).text}, ptr %player")
    with f.when(cube.text):
        _cube(f)
    x, y = f.op("load float, ptr %px"), f.op("load float, ptr %py")
    plane = f.op("load i32, ptr %player")
    lod = _argument(f, "float", "lod")
    lod = Val(f, "i1", f.op("fcmp uno float %lod, 0.0")).choose(constant(f, "float", 0.0), lod)
    levels = _field(f, record, "levels")
    lod = (lod + _field(f, record, "bias", "float")).most(_field(f, record, "low", "float"))
    lod = lod.least(_field(f, record, "high", "float")).most(0.0).least((levels - 1).floating())

    def call(level: Val, out: str) -> None:
        f.emit(f"call void @{P}sample(ptr {record}, i32 {level.text}, float {x}, float {y}, float %z, i32 {plane}, "
               f"i32 %dims, ptr {out})")  # fmt: skip

    below = (levels > 1).choose(lod, 0.0).floor()
    share = ((lod - below) * 256.0).intrinsic("rint") / 256.0
    smooth = _field(f, record, "mip_filter").eq(layout.LINEAR) & _field(f, record, "value").ne(layout.INTEGER)
    with f.when((smooth & share.ne(0.0) & (levels > 1)).text):
        corner = f.op("alloca [4 x i32], align 16")
        call(below.whole(), "%out")
        call((below.whole() + 1).least(levels - 1), corner)
        for n in range(4):
            first, second = load(f, "float", "%out", 4 * n), load(f, "float", corner, 4 * n)
            store(f, (first + (second - first) * share).bits(), "%out", 4 * n)
        f.ret()
    call((levels > 1).choose((lod + 0.5).floor().whole().least(levels - 1), 0), "%out")
    f.ret()
    return f.text()


def fetch() -> str:
    """``void fetch(ptr tc, i64 handle, i32 x, y, z, i32 layer, i32 dims, i32 level, ptr out)``: integer coordinates.

    Outside linear memory everything is zero.
    """
    f = Fn("void", f"{P}fetch", "ptr %tc", "i64 %handle", "i32 %x", "i32 %y", "i32 %z", "i32 %layer", "i32 %dims",
           "i32 %level", "ptr %out")  # fmt: skip
    record = _record(f, "texture")
    level = _argument(f, "i32", "level").most(0).least(_field(f, record, "levels") - 1)
    row = _level(f, record, level)
    x = _argument(f, "i32", "x")
    beyond = _field(f, record, "linear").ne(0) & ~x.below(_of_level(f, row, "width"))
    with f.when(beyond.text):
        for n in range(4):
            store(f, constant(f, "i32", 0), "%out", 4 * n)
        f.ret()
    dims = _argument(f, "i32", "dims")
    z = (dims > 2).choose(_argument(f, "i32", "z"), _argument(f, "i32", "layer"))
    f.emit(f"call void @{P}lookup(ptr {record}, ptr {row}, i32 %x, i32 %y, i32 {z.text}, i32 %dims, ptr %out)")
    f.ret()
    return f.text()


def gather() -> str:
    """``void gather(ptr tc, i64 handle, float x, float y, i32 channel, ptr out)``: one channel of four texels.

    In the order of the instruction: lower left, lower right, upper right, upper left, where up is a smaller y.
    """
    f = Fn("void", f"{P}gather", "ptr %tc", "i64 %handle", "float %x", "float %y", "i32 %channel", "ptr %out")
    record = _record(f, "texture")
    f.emit(f"%record = getelementptr i8, ptr {record}, i64 0")
    row = _level(f, "%record", constant(f, "i32", 0))
    two = constant(f, "i32", 2)
    low = []
    for n, (axis, size) in enumerate((("x", "width"), ("y", "height"))):
        value = _scaled(f, axis, _of_level(f, row, size), two, n)
        low.append((value - 0.5).floor().whole())
    corner = f.op("alloca [4 x i32], align 16")
    for n, (dx, dy) in enumerate(((0, 1), (1, 1), (1, 0), (0, 0))):
        x, y = (low[0] + dx).text, (low[1] + dy).text
        f.emit(f"call void @{P}lookup(ptr %record, ptr {row}, i32 {x}, i32 {y}, i32 0, i32 2, ptr {corner})")
        store(f, load(f, "i32", corner, _argument(f, "i32", "channel").wide() * 4), "%out", 4 * n)
    f.ret()
    return f.text()


def gradient() -> str:
    """``float gradient(ptr tc, i64 handle, float ux, …, float vz)``: the level of detail of two derivatives."""
    names = [f"{which}{axis}" for which in "uv" for axis in "xyz"]
    f = Fn("float", f"{P}gradient", "ptr %tc", "i64 %handle", *[f"float %{name}" for name in names])
    record = _record(f, "texture")
    row = _level(f, record, constant(f, "i32", 0))
    normalized = _field(f, record, "normalized").ne(0)
    lengths = []
    for which in "uv":
        total = constant(f, "float", 0.0)
        for axis, size in (("x", "width"), ("y", "height"), ("z", "depth")):
            scale = normalized.choose(_of_level(f, row, size).floating(), 1.0)
            step = _argument(f, "float", which + axis) * scale
            total = total + step * step
        lengths.append(total)
    longest = lengths[0].most(lengths[1])
    f.ret(f"float {(longest.intrinsic('log2') * 0.5).text}")
    return f.text()


def surface() -> str:
    """``i64 surface(ptr tc, i64 handle, i32 x, y, z, i32 dims, i32 size, i32 mode)``: an access's address, or 0.

    `x` is in bytes. The mode says what happens outside: nothing (0), the nearest element, or a fault.
    """
    f = Fn("i64", f"{P}surface", "ptr %tc", "i64 %handle", "i32 %x", "i32 %y", "i32 %z", "i32 %size", "i32 %mode")
    record = _record(f, "surface")
    row = _level(f, record, constant(f, "i32", 0))
    x, y, z = (Cell(f, "i32", _argument(f, "i32", axis)) for axis in "xyz")
    size, mode = _argument(f, "i32", "size"), _argument(f, "i32", "mode")
    width = _of_level(f, row, "width") * _field(f, record, "element")
    height, depth = _of_level(f, row, "height"), _of_level(f, row, "depth")
    with f.when(mode.eq(MODES["clamp"]).text):
        x.set(x.get().most(0).least(width - size))
        y.set(y.get().most(0).least(height - 1))
        z.set(z.get().most(0).least(depth - 1))
    inside = x.get().below(width - size + 1) & y.get().below(height) & z.get().below(depth)
    place = _of_level(f, row, "address")
    for cell, step in ((z, "plane"), (y, "pitch")):
        place = place + cell.get().convert("sext", "i64") * _of_level(f, row, step)
    place = place + x.get().convert("sext", "i64")
    with f.when((~inside).text):
        with f.when(mode.eq(MODES["trap"]).text):
            _fault(f, ILLEGAL, place.text)
        f.ret("i64 0")
    with f.when((x.get() & (size - 1)).ne(0).text):
        _fault(f, MISALIGNED, place.text)
    f.ret(f"i64 {place.text}")
    return f.text()


def query() -> str:
    """``i32 query(ptr tc, i64 handle, i32 field)``: a word of a texture's or surface's record or first level."""
    f = Fn("i32", f"{P}query", "ptr %tc", "i64 %handle", "i32 %offset")
    record = f.op("inttoptr i64 %handle to ptr")
    magic = load(f, "i32", record)
    with f.when((magic.ne(layout.TEXTURE) & magic.ne(layout.SURFACE)).text):
        _fault(f, ILLEGAL, "%handle")
    f.ret(f"i32 {load(f, 'i32', record, _argument(f, 'i32', 'offset').wide()).text}")
    return f.text()


NAMES = ("tex", "fetch", "gather", "gradient", "surface", "query")


def module() -> str:
    """The text of the texture module."""
    unary = [f"declare float @llvm.{name}.f32(float)" for name in ("floor", "fabs", "rint", "log2")]
    binary = [f"declare float @llvm.{name}.f32(float, float)" for name in ("minnum", "maxnum", "pow")]
    return "\n".join([
        texel(), lookup(), sample(), tex(), fetch(), gather(), gradient(), surface(), query(), *unary, *binary,
        "declare i32 @llvm.smin.i32(i32, i32)", "declare i32 @llvm.smax.i32(i32, i32)",
        "declare i32 @llvm.fptosi.sat.i32.f32(float)",
        "declare void @migproxy_rt_fault(ptr, i32, i32, i64, i64, i64, i64)",
    ])  # fmt: skip
