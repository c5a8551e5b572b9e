"""CUDA arrays: memory with a shape and a format, here simply pitched device memory.

Textures and surfaces on them need instructions that the PTX compiler refuses so far, so arrays can be made, described,
copied and destroyed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.card import PITCH_ALIGNMENT
from migproxy.softgpu.memory import MemoryApi
from migproxy.softgpu.state import Context, entry, need

_ARRAY = struct.Struct("<QQII")  # width, height, format, channels
_ARRAY_3D = struct.Struct("<QQQIIIxxxx")  # width, height, depth, format, channels, flags
#: ``CUarray_format`` → bytes of one channel.
_CHANNEL_BYTES = {0x01: 1, 0x02: 2, 0x03: 4, 0x08: 1, 0x09: 2, 0x0A: 4, 0x10: 2, 0x20: 4}
_SURFACE_LOAD_STORE, _TEXTURE_GATHER = 0x02, 0x08


@dataclass(eq=False)
class Array:
    """A CUDA array."""

    context: Context
    width: int
    height: int
    depth: int
    format: int
    channels: int
    flags: int
    address: int
    pitch: int

    @property
    def plane(self) -> int:
        return self.pitch * max(self.height, 1)


def channel_bytes(array: Array) -> int:
    """Bytes of one element, all channels."""
    return _CHANNEL_BYTES[array.format] * array.channels


class ArrayApi(MemoryApi):
    """``cuArray*``."""

    def array(self, handle: int) -> Array:
        return self.handles.get(handle, Array)

    @entry
    def cuArrayCreate(self, pHandle: int, pAllocateArray: int) -> None:
        need(pHandle and pAllocateArray)
        width, height, kind, channels = raw.unpack(_ARRAY, pAllocateArray)
        self._create_array(pHandle, width, height, 0, kind, channels, 0)

    @entry
    def cuArray3DCreate(self, pHandle: int, pAllocateArray: int) -> None:
        need(pHandle and pAllocateArray)
        width, height, depth, kind, channels, flags = raw.unpack(_ARRAY_3D, pAllocateArray)
        need(
            not flags & ~(_SURFACE_LOAD_STORE | _TEXTURE_GATHER),
            "layered, cube and sparse arrays are not supported",
            status.NOT_SUPPORTED,
        )
        self._create_array(pHandle, width, height, depth, kind, channels, flags)

    def _create_array(
        self, out: int, width: int, height: int, depth: int, kind: int, channels: int, flags: int
    ) -> None:
        context = self.context()
        need(kind in _CHANNEL_BYTES, f"array format {kind:#x} is not supported", status.NOT_SUPPORTED)
        need(width > 0 and channels in (1, 2, 4) and not (depth and not height), f"array of width {width}")
        pitch = -(-width * _CHANNEL_BYTES[kind] * channels // PITCH_ALIGNMENT) * PITCH_ALIGNMENT
        size = pitch * max(height, 1) * max(depth, 1)
        allocation = self.space.allocate(context.device, size, context.handle)
        array = Array(context, width, height, depth, kind, channels, flags, allocation.base, pitch)
        raw.write_u64(out, self.handles.add(array))

    @entry
    def cuArrayDestroy(self, hArray: int) -> None:
        array = self.array(hArray)
        context = self.context()
        self.handles.drop(hArray)
        for stream in list(context.streams):
            stream.queue.last().wait()
        self.space.free(array.address)

    @entry
    def cuArrayGetDescriptor(self, pArrayDescriptor: int, hArray: int) -> None:
        array = self.array(hArray)
        raw.write_bytes(pArrayDescriptor, _ARRAY.pack(array.width, array.height, array.format, array.channels))

    @entry
    def cuArray3DGetDescriptor(self, pArrayDescriptor: int, hArray: int) -> None:
        array = self.array(hArray)
        packed = _ARRAY_3D.pack(array.width, array.height, array.depth, array.format, array.channels, array.flags)
        raw.write_bytes(pArrayDescriptor, packed)

    def forget_context(self, context: Context) -> None:
        super().forget_context(context)
        for handle, array in self.handles.items_of_kind(Array):
            if array.context is context:
                self.handles.drop(handle)
