"""CUDA arrays and mipmapped arrays: memory with a shape and a format, here simply pitched device memory.

What a GPU hides (its tiled layout) has no counterpart: rows lie at a pitch, layers, slices and cube faces are planes
one after another. Textures and surfaces on them are in `textures`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.card import PITCH_ALIGNMENT
from migproxy.softgpu.memory import MemoryApi
from migproxy.softgpu.state import Context, entry, need
from migproxy.softgpu.texture_layout import CHANNEL_BYTES, LEVELS

_ARRAY = struct.Struct("<QQII")  # width, height, format, channels
_ARRAY_3D = struct.Struct("<QQQIIIxxxx")  # width, height, depth, format, channels, flags
LAYERED, SURFACE_LOAD_STORE, CUBEMAP, _TEXTURE_GATHER, _COLOR_ATTACHMENT = 0x01, 0x02, 0x04, 0x08, 0x20
#: Device attributes with the limits of each kind of array: width, height, depth or layers.
_LIMITS = {
    "1D": (21,), "2D": (22, 23), "3D": (24, 25, 26), "1D layered": (42, 0, 43), "2D layered": (27, 28, 29),
    "cube": (52, 52), "cube layered": (53, 53, 54),
}  # fmt: skip


@dataclass(eq=False)
class Array:
    """A CUDA array; a level of a mipmapped array is one, too, with ``mipmap`` naming what it belongs to."""

    context: Context
    width: int
    height: int
    depth: int
    format: int
    channels: int
    flags: int
    address: int
    pitch: int
    mipmap: Mipmap | None = None

    @property
    def plane(self) -> int:
        return self.pitch * max(self.height, 1)

    @property
    def element(self) -> int:
        """Bytes of one element, all channels."""
        return CHANNEL_BYTES[self.format] * self.channels

    @property
    def size(self) -> int:
        return self.plane * max(self.depth, 1)


@dataclass(eq=False)
class Mipmap:
    """A mipmapped array: each level has half the extent of the one before; layers and faces stay as many."""

    context: Context
    address: int
    levels: list[Array] = field(default_factory=list)
    #: The handles of the levels that were asked for.
    handles: dict[int, int] = field(default_factory=dict)


def channel_bytes(array: Array) -> int:
    """Bytes of one element, all channels."""
    return array.element


def _kind(height: int, depth: int, flags: int) -> str:
    if flags & CUBEMAP:
        return "cube layered" if flags & LAYERED else "cube"
    if flags & LAYERED:
        return "2D layered" if height else "1D layered"
    return "3D" if depth else "2D" if height else "1D"


class ArrayApi(MemoryApi):
    """``cuArray*``, ``cuMipmappedArray*``."""

    def array(self, handle: int) -> Array:
        return self.handles.get(handle, Array)

    def mipmap(self, handle: int) -> Mipmap:
        return self.handles.get(handle, Mipmap)

    @entry
    def cuArrayCreate(self, pHandle: int, pAllocateArray: int) -> None:
        need(pHandle and pAllocateArray)
        width, height, kind, channels = raw.unpack(_ARRAY, pAllocateArray)
        self._create_array(pHandle, (width, height, 0), kind, channels, 0)

    @entry
    def cuArray3DCreate(self, pHandle: int, pAllocateArray: int) -> None:
        need(pHandle and pAllocateArray)
        width, height, depth, kind, channels, flags = raw.unpack(_ARRAY_3D, pAllocateArray)
        self._create_array(pHandle, (width, height, depth), kind, channels, flags)

    def _check_array(
        self, context: Context, extent: tuple[int, int, int], kind: int, channels: int, flags: int
    ) -> None:
        width, height, depth = extent
        known = LAYERED | SURFACE_LOAD_STORE | CUBEMAP | _TEXTURE_GATHER | _COLOR_ATTACHMENT
        need(not flags & ~known, f"array flags {flags:#x}: depth and sparse arrays", status.NOT_SUPPORTED)
        need(kind in CHANNEL_BYTES, f"array format {kind:#x} is not supported", status.NOT_SUPPORTED)
        need(width > 0 and channels in (1, 2, 4), f"array of width {width} with {channels} channels")
        need(height or not depth or flags & LAYERED, "depth without height")
        need(not flags & LAYERED or depth > 0, "a layered array without layers")
        if flags & CUBEMAP:
            need(width == height and depth % 6 == 0 and depth > 0, "cube faces are square, six to a cube")
            need(flags & LAYERED or depth == 6, "a cube has six faces")
        name = _kind(height, depth, flags)
        for size, attribute in zip(extent, _LIMITS[name], strict=False):
            most = context.device.attributes[attribute] if attribute else 0
            need(size <= most or not attribute, f"{name} array of {extent}; at most {most}")

    def _create_array(self, out: int, extent: tuple[int, int, int], kind: int, channels: int, flags: int) -> None:
        context = self.context()
        self._check_array(context, extent, kind, channels, flags)
        array = _shaped(context, extent, kind, channels, flags)
        array.address = self.space.allocate(context.device, array.size, context.handle).base
        raw.write_u64(out, self.handles.add(array))

    @entry
    def cuArrayDestroy(self, hArray: int) -> None:
        array = self.array(hArray)
        need(array.mipmap is None, "a level is destroyed with its mipmapped array", status.INVALID_HANDLE)
        context = self.context()
        self.handles.drop(hArray)
        quiet(context)
        self.space.free(array.address)

    @entry
    def cuArrayGetDescriptor(self, pArrayDescriptor: int, hArray: int) -> None:
        need(pArrayDescriptor)
        array = self.array(hArray)
        raw.write_bytes(pArrayDescriptor, _ARRAY.pack(array.width, array.height, array.format, array.channels))

    @entry
    def cuArray3DGetDescriptor(self, pArrayDescriptor: int, hArray: int) -> None:
        need(pArrayDescriptor)
        array = self.array(hArray)
        packed = _ARRAY_3D.pack(array.width, array.height, array.depth, array.format, array.channels, array.flags)
        raw.write_bytes(pArrayDescriptor, packed)

    # ---- mipmapped arrays ---------------------------------------------------------------------------------------

    @entry
    def cuMipmappedArrayCreate(self, pHandle: int, pMipmappedArrayDesc: int, numMipmapLevels: int) -> None:
        need(pHandle and pMipmappedArrayDesc)
        width, height, depth, kind, channels, flags = raw.unpack(_ARRAY_3D, pMipmappedArrayDesc)
        context = self.context()
        extent = (width, height, depth)
        self._check_array(context, extent, kind, channels, flags)
        whole = flags & (LAYERED | CUBEMAP)
        largest = max(width, height, 0 if whole else depth)
        need(numMipmapLevels >= 1, "a mipmapped array without levels")
        count = min(numMipmapLevels, largest.bit_length(), LEVELS)
        mipmap = Mipmap(context, 0)
        for level in range(count):
            sizes = [max(size >> level, 1) if size else 0 for size in extent]
            shape = (sizes[0], sizes[1], depth if whole else sizes[2])
            array = _shaped(context, shape, kind, channels, flags)
            array.mipmap = mipmap
            mipmap.levels.append(array)
        total = sum(array.size for array in mipmap.levels)
        address = mipmap.address = self.space.allocate(context.device, total, context.handle).base
        for array in mipmap.levels:
            array.address = address
            address += array.size
        raw.write_u64(pHandle, self.handles.add(mipmap))

    @entry
    def cuMipmappedArrayGetLevel(self, pLevelArray: int, hMipmappedArray: int, level: int) -> None:
        need(pLevelArray)
        mipmap = self.mipmap(hMipmappedArray)
        need(0 <= level < len(mipmap.levels), f"level {level} of {len(mipmap.levels)}")
        if level not in mipmap.handles:
            mipmap.handles[level] = self.handles.add(mipmap.levels[level])
        raw.write_u64(pLevelArray, mipmap.handles[level])

    @entry
    def cuMipmappedArrayDestroy(self, hMipmappedArray: int) -> None:
        mipmap = self.mipmap(hMipmappedArray)
        context = self.context()
        for handle in (hMipmappedArray, *mipmap.handles.values()):
            self.handles.drop(handle)
        quiet(context)
        self.space.free(mipmap.address)

    def forget_context(self, context: Context) -> None:
        super().forget_context(context)
        owned: list[tuple[int, Array | Mipmap]] = [*self.handles.items_of_kind(Array)]
        owned += self.handles.items_of_kind(Mipmap)
        for handle, item in owned:
            if item.context is context:
                self.handles.drop(handle)


def _shaped(context: Context, extent: tuple[int, int, int], kind: int, channels: int, flags: int) -> Array:
    """An array without memory yet."""
    width, height, depth = extent
    pitch = -(-width * CHANNEL_BYTES[kind] * channels // PITCH_ALIGNMENT) * PITCH_ALIGNMENT
    return Array(context, width, height, depth, kind, channels, flags, 0, pitch)


def quiet(context: Context) -> None:
    """Wait until everything submitted has run: it may use what is about to go."""
    for stream in list(context.streams):
        stream.queue.last().wait()
