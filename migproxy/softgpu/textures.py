"""Texture and surface objects.

The handle of an object is the address of its record (see `texture_layout`), which generated code reads without asking
anyone. Records live in memory that is never given back, so that a kernel with a stale handle finds a dead record, which
is a fault of its context.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import texture_layout as layout
from migproxy.softgpu.arrays import CUBEMAP, SURFACE_LOAD_STORE, Array, ArrayApi, quiet
from migproxy.softgpu.card import CardSpec
from migproxy.softgpu.state import Context, Engine, entry, need

_RESOURCE_SIZE, _TEXTURE_SIZE, _VIEW_SIZE = 144, 104, 112
_RESOURCE = struct.Struct("<IxxxxQIIQQQ")  # type, array or address, format, channels, width or size, height, pitch
_TEXTURE = struct.Struct("<IIIIIIIfffffff")
_VIEW = struct.Struct("<IxxxxQQQIIII")
_OF_ARRAY, _OF_MIPMAP, _OF_LINEAR, _OF_PITCH = range(4)
_READ_AS_INTEGER, _NORMALIZED, _SRGB, _NO_TRILINEAR, _SEAMLESS = 0x01, 0x02, 0x10, 0x20, 0x40
_TEXTURE_ALIGNMENT, _PITCH_ALIGNMENT = 14, 51
_WIDEST_LINEAR = 69
#: ``CUresourceViewFormat`` → (format, channels), in order from 1; block-compressed ones follow.
_VIEW_FORMATS = [
    (kind, channels)
    for kind in (layout.U8, layout.S8, layout.U16, layout.S16, layout.U32, layout.S32, layout.F16, layout.F32)
    for channels in (1, 2, 4)
]
_SLOTS = 64


@dataclass
class View:
    """A texture or surface object, with the descriptors that it was made of."""

    context: Context
    resource: bytes
    texture: bytes = b""
    view: bytes = b""


@dataclass
class _Level:
    address: int
    plane: int
    pitch: int
    width: int
    height: int
    depth: int


@dataclass
class _Source:
    """What a resource descriptor, and perhaps a view of it, name."""

    format: int
    channels: int
    levels: list[_Level]
    linear: bool = False
    cube: bool = False


class _Records:
    """Memory for records; a freed one is used again as late as possible."""

    def __init__(self) -> None:
        self._blocks: list[raw.Buffer] = []
        self._free: deque[int] = deque()

    def take(self) -> int:
        if not self._free:
            block = raw.Buffer(_SLOTS * layout.SIZE)
            self._blocks.append(block)
            self._free.extend(block.address + slot * layout.SIZE for slot in range(_SLOTS))
        return self._free.popleft()

    def give(self, address: int) -> None:
        raw.write_u32(address, 0)
        self._free.append(address)


@dataclass
class _Views:
    records: _Records = field(default_factory=_Records)
    textures: dict[int, View] = field(default_factory=dict)
    surfaces: dict[int, View] = field(default_factory=dict)


class TextureApi(ArrayApi):
    """``cuTexObject*``, ``cuSurfObject*``."""

    def __init__(self, spec: CardSpec | None = None, engine: Engine | None = None) -> None:
        super().__init__(spec, engine)
        self._views = _Views()

    # ---- textures -----------------------------------------------------------------------------------------------

    @entry
    def cuTexObjectCreate(self, pTexObject: int, pResDesc: int, pTexDesc: int, pResViewDesc: int) -> None:
        context = self.context()
        need(pTexObject and pResDesc and pTexDesc)
        view = raw.read_bytes(pResViewDesc, _VIEW_SIZE) if pResViewDesc else b""
        made = View(context, raw.read_bytes(pResDesc, _RESOURCE_SIZE), raw.read_bytes(pTexDesc, _TEXTURE_SIZE), view)
        source = self._source(context, made.resource)
        if view:
            source = _viewed(source, view)
        record = _texture_record(source, made.texture)
        handle = self._views.records.take()
        raw.write_bytes(handle, record)
        self._views.textures[handle] = made
        raw.write_u64(pTexObject, handle)

    @entry
    def cuTexObjectDestroy(self, texObject: int) -> None:
        self._drop(self._views.textures, texObject)

    @entry
    def cuTexObjectGetResourceDesc(self, pResDesc: int, texObject: int) -> None:
        need(pResDesc)
        raw.write_bytes(pResDesc, self._view(self._views.textures, texObject).resource)

    @entry
    def cuTexObjectGetTextureDesc(self, pTexDesc: int, texObject: int) -> None:
        need(pTexDesc)
        raw.write_bytes(pTexDesc, self._view(self._views.textures, texObject).texture)

    @entry
    def cuTexObjectGetResourceViewDesc(self, pResViewDesc: int, texObject: int) -> None:
        need(pResViewDesc)
        view = self._view(self._views.textures, texObject).view
        need(view, "the texture was made without a resource view")
        raw.write_bytes(pResViewDesc, view)

    # ---- surfaces -----------------------------------------------------------------------------------------------

    @entry
    def cuSurfObjectCreate(self, pSurfObject: int, pResDesc: int) -> None:
        context = self.context()
        need(pSurfObject and pResDesc)
        resource = raw.read_bytes(pResDesc, _RESOURCE_SIZE)
        kind, handle = _RESOURCE.unpack_from(resource)[:2]
        need(kind == _OF_ARRAY, "surfaces are of arrays")
        need(self.array(handle).flags & SURFACE_LOAD_STORE, "the array was made without surface load and store")
        record = _record(self._source(context, resource), magic=layout.SURFACE)
        address = self._views.records.take()
        raw.write_bytes(address, record)
        self._views.surfaces[address] = View(context, resource)
        raw.write_u64(pSurfObject, address)

    @entry
    def cuSurfObjectDestroy(self, surfObject: int) -> None:
        self._drop(self._views.surfaces, surfObject)

    @entry
    def cuSurfObjectGetResourceDesc(self, pResDesc: int, surfObject: int) -> None:
        need(pResDesc)
        raw.write_bytes(pResDesc, self._view(self._views.surfaces, surfObject).resource)

    # ---- what objects are made of -------------------------------------------------------------------------------

    @staticmethod
    def _view(views: dict[int, View], handle: int) -> View:
        found = views.get(handle)
        if found is None:
            raise CudaError(status.INVALID_VALUE, f"{handle:#x} is no such object")
        return found

    def _drop(self, views: dict[int, View], handle: int) -> None:
        # Applications drop objects right after the launch that uses them; it must find its record.
        quiet(self._view(views, handle).context)
        if views.pop(handle, None) is not None:
            self._views.records.give(handle)

    def _source(self, context: Context, resource: bytes) -> _Source:
        kind, place, form, channels, width, height, pitch = _RESOURCE.unpack_from(resource)
        need(int.from_bytes(resource[136:140], "little") == 0, "resource flags are zero")
        if kind == _OF_ARRAY:
            array = self.array(place)
            return _Source(array.format, array.channels, [_level(array)], cube=bool(array.flags & CUBEMAP))
        if kind == _OF_MIPMAP:
            levels = self.mipmap(place).levels
            first = levels[0]
            shown = [_level(level) for level in levels]
            return _Source(first.format, first.channels, shown, cube=bool(first.flags & CUBEMAP))
        need(kind in (_OF_LINEAR, _OF_PITCH), f"resource type {kind}")
        need(form in layout.CHANNEL_BYTES, f"format {form:#x} is not supported", status.NOT_SUPPORTED)
        need(channels in (1, 2, 4), f"{channels} channels")
        attributes = context.device.attributes
        alignment = attributes[_TEXTURE_ALIGNMENT]
        need(place and place % alignment == 0, f"{place:#x} is not aligned to {alignment}")
        element = layout.CHANNEL_BYTES[form] * channels
        if kind == _OF_LINEAR:
            count = width // element
            need(0 < count <= attributes[_WIDEST_LINEAR], f"{count} elements of linear memory")
            self.space.require(place, width)
            return _Source(form, channels, [_Level(place, width, width, count, 1, 1)], linear=True)
        need(width > 0 and height > 0 and pitch >= width * element, f"{width} × {height} at a pitch of {pitch}")
        need(pitch % attributes[_PITCH_ALIGNMENT] == 0, f"a pitch of {pitch}")
        self.space.require(place, pitch * (height - 1) + width * element)
        return _Source(form, channels, [_Level(place, pitch * height, pitch, width, height, 1)])

    def forget_context(self, context: Context) -> None:
        super().forget_context(context)
        for views in (self._views.textures, self._views.surfaces):
            for handle, view in list(views.items()):
                if view.context is context:
                    del views[handle]
                    self._views.records.give(handle)


def _level(array: Array) -> _Level:
    return _Level(
        array.address, array.plane, array.pitch, array.width, max(array.height, 1), max(array.depth, 1)
    )  # fmt: skip


def _viewed(source: _Source, view: bytes) -> _Source:
    """The part of a resource that a view shows, in the view's format."""
    form, width, height, depth, first, last, first_layer, last_layer = _VIEW.unpack_from(view)
    need(not source.linear, "a view of linear memory")
    kind, channels = source.format, source.channels
    if form:
        need(form <= len(_VIEW_FORMATS), "block-compressed views are not supported", status.NOT_SUPPORTED)
        kind, channels = _VIEW_FORMATS[form - 1]
        have = layout.CHANNEL_BYTES[source.format] * source.channels
        need(layout.CHANNEL_BYTES[kind] * channels == have, "the view's elements have another size")
    need(first <= last < len(source.levels), f"levels {first} to {last} of {len(source.levels)}")
    levels = source.levels[first : last + 1]
    base = levels[0]
    need((width, max(height, 1)) == (base.width, base.height), "the view's extent is not the level's")
    need(not depth or depth in (base.depth, last_layer - first_layer + 1), f"a view of depth {depth}")
    if first_layer or last_layer:
        need(first_layer <= last_layer < base.depth, f"layers {first_layer} to {last_layer} of {base.depth}")
        count = last_layer - first_layer + 1
        levels = [_Level(v.address + first_layer * v.plane, v.plane, v.pitch, v.width, v.height, count) for v in levels]
    return _Source(kind, channels, levels, cube=source.cube)


def _texture_record(source: _Source, texture: bytes) -> bytes:
    fields = _TEXTURE.unpack_from(texture)
    modes = fields[:3]
    filter_, flags, _, mip_filter, bias, low, high = fields[3:10]
    border = fields[10:14]
    known = _READ_AS_INTEGER | _NORMALIZED | _SRGB | _NO_TRILINEAR | _SEAMLESS
    need(not flags & ~known, f"texture flags {flags:#x}")
    need(all(mode <= layout.BORDER for mode in modes), f"address modes {modes}")
    need(filter_ <= layout.LINEAR and mip_filter <= layout.LINEAR, f"filter modes {filter_}, {mip_filter}")
    size = layout.CHANNEL_BYTES[source.format]
    floating = source.format in (layout.F16, layout.F32)
    if floating:
        value = layout.FLOATING
    elif size == 4 or flags & _READ_AS_INTEGER:
        value = layout.INTEGER
    else:
        value = layout.FRACTION
    if source.linear:
        filter_ = layout.POINT
    need(filter_ == layout.POINT or value != layout.INTEGER, "linear filtering of values that are read as integers")
    need(not flags & _SRGB or source.format == layout.U8, "sRGB is for bytes")
    normalized = bool(flags & _NORMALIZED) or source.cube
    if source.cube:
        modes = (layout.CLAMP,) * 3  # a direction always hits a face
    if not normalized:
        # Without normalised coordinates there is nothing to repeat: CUDA clamps.
        modes = tuple(mode if mode == layout.BORDER else layout.CLAMP for mode in modes)
    words = [int(item) & 0xFFFFFFFF for item in border] if value == layout.INTEGER else list(_words(*border))
    return _record(
        source, magic=layout.TEXTURE, value=value, filter=filter_, mip_filter=mip_filter, normalized=int(normalized),
        mode_x=modes[0], mode_y=modes[1], mode_z=modes[2], srgb=int(bool(flags & _SRGB) and value == layout.FRACTION),
        bias=bias, low=low, high=high, border_0=words[0], border_1=words[1], border_2=words[2], border_3=words[3],
    )  # fmt: skip


def _words(*values: float) -> tuple[int, ...]:
    return struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))


def _record(source: _Source, **fields: float) -> bytes:
    """Pack an object's record; fields that are not named are zero."""
    fields |= {
        "format": source.format, "channels": source.channels, "levels": len(source.levels),
        "element": layout.CHANNEL_BYTES[source.format] * source.channels, "layers": source.levels[0].depth,
        "linear": int(source.linear),
    }  # fmt: skip
    head = layout.HEAD.pack(*(fields.get(name, 0) for name in layout.FIELDS))
    levels = b"".join(
        layout.LEVEL.pack(v.address, v.plane, v.pitch, v.width, v.height, v.depth, 0) for v in source.levels
    )
    return (head.ljust(layout.HEAD_SIZE, b"\0") + levels).ljust(layout.SIZE, b"\0")
