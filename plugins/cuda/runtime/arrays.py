"""CUDA arrays, textures and surfaces of the runtime API.

Descriptions are structs at addresses, as in C; the runtime's become the driver's, in which they are kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from migproxy_plugins.cuda import arrays, driver_arrays, driver_copies
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.array_formats import INTEGERS, from_channels, to_channels
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_u64, get_u64_array, put_bytes
from migproxy_plugins.cuda.runtime.calls import context_call
from migproxy_plugins.cuda.status import CudaRuntimeStatus

from migproxy.session import api

_CHANNELS = struct.Struct("<5i")
_EXTENT = struct.Struct("<3Q")
# cudaMemcpy3DParms: srcArray, srcPos, srcPtr (ptr, pitch, xsize, ysize), dstArray, dstPos, dstPtr, extent, kind
_COPY_3D = struct.Struct("<Q3Q4QQ3Q4Q3Qi")
# cudaMemcpy3DPeerParms: the same with a device after each pointer instead of the kind
_COPY_3D_PEER = struct.Struct("<Q3Q4Qi4xQ3Q4Qi4x3Q")
# cudaTextureDesc: address modes, filter and read mode, sRGB, border colour, normalised coordinates, anisotropy, mipmap
# filter, bias and clamps, no trilinear optimisation, seamless cube map
_TEXTURE = struct.Struct("<6i4fiIi3f2i")
# CUDA_TEXTURE_DESC: address modes, filter mode, flags, anisotropy, mipmap filter, bias and clamps, border colour
_DRIVER_TEXTURE = struct.Struct("<4iIIi3f4f")
_READ_AS_INTEGER, _NORMALIZED_COORDINATES, _SRGB, _NO_TRILINEAR, _SEAMLESS = 0x01, 0x02, 0x10, 0x20, 0x40
# cudaResourceDesc: type; array, mipmapped array or address; the rest by type
_RESOURCE = struct.Struct("<I4xQ")
_AFTER_CHANNELS = 24  # cudaChannelFormatDesc and padding
_RESOURCE_BYTES: Final = 64
_VIEW_BYTES: Final = 48
_KINDS = range(5)


@dataclass(frozen=True, slots=True)
class Extent:
    """A ``cudaExtent`` of an array, in elements; 0 for dimensions it does not have."""

    width: int
    height: int
    depth: int


def _format(channels: int) -> tuple[int, int]:
    *bits, kind = _CHANNELS.unpack(get_bytes(channels, _CHANNELS.size))
    found = from_channels((bits[0], bits[1], bits[2], bits[3]), kind)
    if found is None:
        raise CudaRuntimeStatus(st.CUDART_INVALID_CHANNEL_DESCRIPTOR, f"channels of {bits} bits, kind {kind}")
    return found


def channels_of(form: int, channels: int) -> bytes:
    """Return the ``cudaChannelFormatDesc`` of a format."""
    bits, kind = to_channels(form, channels)
    return _CHANNELS.pack(*bits, kind)


@context_call
def malloc_array(channels: int, width: int, height: int, flags: int = 0) -> int:
    """``cudaMallocArray``; `channels` is the address of a ``cudaChannelFormatDesc``."""
    return arrays.create(arrays.Array(width, height, 0, *_format(channels), flags))


@context_call
def malloc_3d_array(channels: int, width: int, height: int, depth: int, flags: int = 0) -> int:
    """``cudaMalloc3DArray``."""
    return arrays.create(arrays.Array(width, height, depth, *_format(channels), flags))


@context_call
def malloc_mipmapped_array(channels: int, extent: Extent, levels: int, flags: int = 0) -> int:
    """``cudaMallocMipmappedArray``."""
    size = extent.width, extent.height, extent.depth
    return arrays.create_mipmap(arrays.Array(*size, *_format(channels), flags), levels)


@context_call
def free_array(array: int) -> None:
    """``cudaFreeArray``; 0 is no error."""
    if array:
        arrays.destroy(array)


@context_call
def free_mipmapped_array(mipmap: int) -> None:
    """``cudaFreeMipmappedArray``; 0 is no error."""
    if mipmap:
        arrays.destroy_mipmap(mipmap)


@context_call
def mipmapped_array_level(mipmap: int, level: int) -> int:
    """``cudaGetMipmappedArrayLevel``."""
    return arrays.level(mipmap, level)


@context_call
def array_plane(array: int, plane: int) -> int:
    """``cudaArrayGetPlane``."""
    return arrays.plane(array, plane)


@context_call
def array_info(array: int) -> tuple[bytes, Extent, int]:
    """``cudaArrayGetInfo``: ``cudaChannelFormatDesc``, extent, flags."""
    found = arrays.array(array)
    return channels_of(found.format, found.channels), Extent(found.width, found.height, found.depth), found.flags


# -- copies ----------------------------------------------------------------------------------------------------------
def _check_kind(kind: int) -> None:
    if kind not in _KINDS:
        raise CudaRuntimeStatus(st.CUDART_INVALID_MEMCPY_DIRECTION, f"cudaMemcpyKind {kind}")


@context_call
def memcpy_2d_to_array(
    array: int, x: int, y: int, source: int, pitch: int, width: int, height: int, kind: int, stream: int | None = None
) -> None:
    """``cudaMemcpy2DToArray`` and, with a stream, ``cudaMemcpy2DToArrayAsync``; `x` and `width` in bytes."""
    _check_kind(kind)
    if height > 1 and width > pitch:
        raise CudaRuntimeStatus(st.CUDART_INVALID_PITCH, "a row is wider than its pitch")
    extent = width, height, 1
    api.copy_box(arrays.box(array, x, y, 0, extent), api.Box(source, pitch, height), extent, stream)


@context_call
def memcpy_2d_from_array(
    destination: int,
    pitch: int,
    array: int,
    x: int,
    y: int,
    width: int,
    height: int,
    kind: int,
    stream: int | None = None,
) -> None:
    """``cudaMemcpy2DFromArray`` and, with a stream, ``cudaMemcpy2DFromArrayAsync``; `x` and `width` in bytes."""
    _check_kind(kind)
    if height > 1 and width > pitch:
        raise CudaRuntimeStatus(st.CUDART_INVALID_PITCH, "a row is wider than its pitch")
    extent = width, height, 1
    api.copy_box(api.Box(destination, pitch, height), arrays.box(array, x, y, 0, extent), extent, stream)


@context_call
def memcpy_2d_array_to_array(
    to: int, to_x: int, to_y: int, array: int, x: int, y: int, width: int, height: int, kind: int
) -> None:
    """``cudaMemcpy2DArrayToArray``."""
    _check_kind(kind)
    extent = width, height, 1
    api.copy_box(arrays.box(to, to_x, to_y, 0, extent), arrays.box(array, x, y, 0, extent), extent)


def _offset(array: int, x: int, y: int) -> int:
    return y * arrays.array(array).row + x


@context_call
def memcpy_to_array(array: int, x: int, y: int, source: int, size: int, kind: int, stream: int | None = None) -> None:
    """``cudaMemcpyToArray`` and, with a stream, ``cudaMemcpyToArrayAsync``: along the array's rows."""
    _check_kind(kind)
    driver_arrays.to_array(array, _offset(array, x, y), source, size, stream)


@context_call
def memcpy_from_array(
    destination: int, array: int, x: int, y: int, size: int, kind: int, stream: int | None = None
) -> None:
    """``cudaMemcpyFromArray`` and, with a stream, ``cudaMemcpyFromArrayAsync``: along the array's rows."""
    _check_kind(kind)
    driver_arrays.from_array(destination, array, _offset(array, x, y), size, stream)


@context_call
def memcpy_array_to_array(to: int, to_x: int, to_y: int, array: int, x: int, y: int, size: int, kind: int) -> None:
    """``cudaMemcpyArrayToArray``: along the rows of both."""
    _check_kind(kind)
    arrays.copy_runs(to, _offset(to, to_x, to_y), array, _offset(array, x, y), size, None)


def _side(array: int, position: tuple[int, ...], pointer: tuple[int, ...]) -> tuple[driver_copies.Side, int]:
    """Return one side of a 3-D copy with the bytes of its elements."""
    x, y, z = position
    if array:
        element = arrays.array(array).element
        return driver_copies.Side(driver_copies.ARRAY, 0, array, x * element, y, z, 0, 0), element
    address, pitch, _, rows = pointer
    return driver_copies.Side(driver_copies.UNIFIED, address, 0, x, y, z, pitch, rows), 1


def read_copy_3d(
    parameters: int, *, peer: bool = False
) -> tuple[driver_copies.Side, driver_copies.Side, int, int, int]:
    """Read a ``cudaMemcpy3DParms``: destination, source, width in bytes, height, depth.

    Raises
    ------
    CudaRuntimeStatus
        1 for a side that is both array and pointer, or neither; 21 for a direction there is not.
    """
    shape = _COPY_3D_PEER if peer else _COPY_3D
    f = list(shape.unpack(get_bytes(parameters, shape.size)))
    if peer:
        del f[17], f[8]
    else:
        _check_kind(f[19])
    if bool(f[0]) == bool(f[4]) or bool(f[8]) == bool(f[12]):
        raise CudaRuntimeStatus(st.INVALID_VALUE, "a side of a copy is an array or a pointer")
    source, from_element = _side(f[0], tuple(f[1:4]), tuple(f[4:8]))
    destination, to_element = _side(f[8], tuple(f[9:12]), tuple(f[12:16]))
    width, height, depth = f[16:19]
    # The extent is in elements if an array takes part.
    width *= max(from_element, to_element)
    for side in (source, destination):
        side.pitch, side.rows = side.pitch or width, side.rows or height
    return destination, source, width, height, depth


@context_call
def memcpy_3d(parameters: int, stream: int | None = None, *, peer: bool = False) -> None:
    """``cudaMemcpy3D``, ``cudaMemcpy3DPeer`` and, with a stream, their asynchronous forms."""
    destination, source, width, height, depth = read_copy_3d(parameters, peer=peer)
    driver_copies.copy_rows(destination, source, width, height, depth, stream)


# -- textures and surfaces -------------------------------------------------------------------------------------------
def _read_resource(address: int) -> tuple[int, ...]:
    kind, what = _RESOURCE.unpack(get_bytes(address, _RESOURCE.size))
    if kind in (0, 1):
        return kind, what, 0, 0, 0, 0, 0
    rest = address + _RESOURCE.size
    if kind == 2:
        return kind, what, *_format(rest), get_u64(rest + _AFTER_CHANNELS), 0, 0
    if kind == 3:
        return kind, what, *_format(rest), *get_u64_array(rest + _AFTER_CHANNELS, 3)
    raise CudaRuntimeStatus(st.INVALID_VALUE, f"a resource of type {kind}")


def _put_resource(out: int, resource: tuple[int, ...]) -> None:
    kind, what, form, channels, width, height, pitch = resource
    data = _RESOURCE.pack(kind, what)
    if kind == 2:
        data += channels_of(form, channels) + struct.pack("<4xQ", width)
    elif kind == 3:
        data += channels_of(form, channels) + struct.pack("<4xQQQ", width, height, pitch)
    put_bytes(out, data.ljust(_RESOURCE_BYTES, b"\0"))


def _resource_format(resource: tuple[int, ...]) -> int:
    if resource[0] == 0:
        return arrays.array(resource[1]).format
    return arrays.mipmap(resource[1]).format if resource[0] == 1 else resource[2]


def _driver_texture(description: bytes, form: int) -> bytes:
    f = _TEXTURE.unpack(description)
    flags = _READ_AS_INTEGER if f[4] == 0 and form in INTEGERS else 0
    flags |= _NORMALIZED_COORDINATES if f[10] else 0
    flags |= (_SRGB if f[5] else 0) | (_NO_TRILINEAR if f[16] else 0) | (_SEAMLESS if f[17] else 0)
    data = _DRIVER_TEXTURE.pack(*f[:4], flags, f[11], f[12], *f[13:16], *f[6:10])
    return data.ljust(driver_arrays.TEXTURE_SIZE, b"\0")


def _runtime_texture(description: bytes, form: int) -> bytes:
    *modes, filter_mode, flags, anisotropy, mipmap, bias, low, high, r, g, b, a = _DRIVER_TEXTURE.unpack_from(
        description
    )
    read = 0 if flags & _READ_AS_INTEGER or form not in INTEGERS else 1
    return _TEXTURE.pack(
        *modes, filter_mode, read, bool(flags & _SRGB), r, g, b, a, bool(flags & _NORMALIZED_COORDINATES), anisotropy,
        mipmap, bias, low, high, bool(flags & _NO_TRILINEAR), bool(flags & _SEAMLESS),
    )  # fmt: skip


@context_call
def create_texture_object(resource: int, texture: int, view: int = 0) -> int:
    """``cudaCreateTextureObject``, of the addresses of its descriptions; `view` may be 0."""
    made_of = _read_resource(resource)
    description = _driver_texture(get_bytes(texture, _TEXTURE.size), _resource_format(made_of))
    seen = get_bytes(view, _VIEW_BYTES).ljust(driver_arrays.VIEW_SIZE, b"\0") if view else b""
    return arrays.create_texture(arrays.View(made_of, description, seen))


@context_call
def destroy_texture_object(texture: int) -> None:
    """``cudaDestroyTextureObject``; 0 is no error."""
    if texture:
        arrays.destroy_texture(texture)


@context_call
def create_surface_object(resource: int) -> int:
    """``cudaCreateSurfaceObject``."""
    return arrays.create_surface(arrays.View(_read_resource(resource)))


@context_call
def destroy_surface_object(surface: int) -> None:
    """``cudaDestroySurfaceObject``; 0 is no error."""
    if surface:
        arrays.destroy_surface(surface)


@context_call
def texture_object_resource(out: int, texture: int) -> None:
    """``cudaGetTextureObjectResourceDesc``."""
    _put_resource(out, arrays.texture(texture).resource)


@context_call
def surface_object_resource(out: int, surface: int) -> None:
    """``cudaGetSurfaceObjectResourceDesc``."""
    _put_resource(out, arrays.surface(surface).resource)


@context_call
def texture_object_texture(out: int, texture: int) -> None:
    """``cudaGetTextureObjectTextureDesc``."""
    found = arrays.texture(texture)
    put_bytes(out, _runtime_texture(found.texture, _resource_format(found.resource)))


@context_call
def texture_object_view(out: int, texture: int) -> None:
    """``cudaGetTextureObjectResourceViewDesc``."""
    view = arrays.texture(texture).view
    if not view:
        raise CudaRuntimeStatus(st.INVALID_VALUE, "the texture was made without a resource view")
    put_bytes(out, view[:_VIEW_BYTES])


def read_extent(packed: bytes) -> Extent:
    """Read a ``cudaExtent`` that was passed by value."""
    return Extent(*_EXTENT.unpack(packed))


def packed_extent(extent: Extent) -> bytes:
    """Return a ``cudaExtent``."""
    return _EXTENT.pack(extent.width, extent.height, extent.depth)
