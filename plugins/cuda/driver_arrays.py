"""Driver API: CUDA arrays, their copies, textures and surfaces."""

from __future__ import annotations

import struct

from migproxy_plugins.cuda import arrays
from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.memory_unsafe import get_bytes, put_bytes, put_u64
from migproxy_plugins.cuda.registry import serves

from migproxy.errors import CudaError
from migproxy.session import api

_ARRAY = struct.Struct("<QQII")  # width, height, format, channels
_ARRAY_3D = struct.Struct("<QQQIII4x")  # width, height, depth, format, channels, flags
# type; array, mipmapped array or address; format, channels; width or bytes, height, pitch
_RESOURCE = struct.Struct("<I4xQIIQQQ")
RESOURCE_SIZE, TEXTURE_SIZE, VIEW_SIZE = 144, 104, 112
_OF_ARRAY, _OF_MIPMAP, _OF_LINEAR, _OF_PITCH = range(4)


@serves()
def cuArrayCreate(out: int, description: int) -> None:
    need_context()
    width, height, form, channels = _ARRAY.unpack(get_bytes(description, _ARRAY.size))
    put_u64(out, arrays.create(arrays.Array(width, height, 0, form, channels, 0)))


@serves()
def cuArray3DCreate(out: int, description: int) -> None:
    need_context()
    put_u64(out, arrays.create(arrays.Array(*_ARRAY_3D.unpack(get_bytes(description, _ARRAY_3D.size)))))


@serves()
def cuArrayDestroy(array: int) -> None:
    arrays.destroy(array)


@serves()
def cuArrayGetDescriptor(out: int, array: int) -> None:
    found = arrays.array(array)
    put_bytes(out, _ARRAY.pack(found.width, found.height, found.format, found.channels))


@serves()
def cuArray3DGetDescriptor(out: int, array: int) -> None:
    found = arrays.array(array)
    data = _ARRAY_3D.pack(found.width, found.height, found.depth, found.format, found.channels, found.flags)
    put_bytes(out, data)


@serves()
def cuArrayGetPlane(out: int, array: int, plane: int) -> None:
    put_u64(out, arrays.plane(array, plane))


@serves()
def cuMipmappedArrayCreate(out: int, description: int, levels: int) -> None:
    need_context()
    made_of = arrays.Array(*_ARRAY_3D.unpack(get_bytes(description, _ARRAY_3D.size)))
    put_u64(out, arrays.create_mipmap(made_of, levels))


@serves()
def cuMipmappedArrayDestroy(mipmap: int) -> None:
    arrays.destroy_mipmap(mipmap)


@serves()
def cuMipmappedArrayGetLevel(out: int, mipmap: int, level: int) -> None:
    put_u64(out, arrays.level(mipmap, level))


# -- copies along an array's rows ------------------------------------------------------------------------------------
def to_array(array: int, offset: int, source: int, size: int, stream: int | None) -> None:
    """Copy linear memory into an array, along its rows."""
    need_context()
    for target, at, extent in arrays.runs(array, offset, size):
        api.copy_box(target, api.Box(source + at, extent[0], extent[1]), extent, stream)


def from_array(destination: int, array: int, offset: int, size: int, stream: int | None) -> None:
    """Copy an array's bytes, along its rows, into linear memory."""
    need_context()
    for origin, at, extent in arrays.runs(array, offset, size):
        api.copy_box(api.Box(destination + at, extent[0], extent[1]), origin, extent, stream)


@serves()
def cuMemcpyHtoA(array: int, offset: int, source: int, size: int) -> None:
    to_array(array, offset, source, size, None)


@serves()
def cuMemcpyHtoAAsync(array: int, offset: int, source: int, size: int, stream: int) -> None:
    to_array(array, offset, source, size, stream)


@serves()
def cuMemcpyDtoA(array: int, offset: int, source: int, size: int) -> None:
    check_device_memory(source)
    to_array(array, offset, source, size, None)


@serves()
def cuMemcpyAtoH(destination: int, array: int, offset: int, size: int) -> None:
    from_array(destination, array, offset, size, None)


@serves()
def cuMemcpyAtoHAsync(destination: int, array: int, offset: int, size: int, stream: int) -> None:
    from_array(destination, array, offset, size, stream)


@serves()
def cuMemcpyAtoD(destination: int, array: int, offset: int, size: int) -> None:
    check_device_memory(destination)
    from_array(destination, array, offset, size, None)


@serves()
def cuMemcpyAtoA(to: int, to_offset: int, array: int, offset: int, size: int) -> None:
    need_context()
    arrays.copy_runs(to, to_offset, array, offset, size, None)


def check_device_memory(pointer: int) -> None:
    """Raise CUDA_ERROR_INVALID_VALUE for an address that the device does not see."""
    if not api.pointer_facts(pointer).memory_type:
        raise CudaError(st.INVALID_VALUE, f"{pointer:#x} is no device memory of this session")


# -- textures and surfaces -------------------------------------------------------------------------------------------
def read_resource(address: int) -> tuple[int, ...]:
    """Read a ``CUDA_RESOURCE_DESC``: fields that its type does not have are 0."""
    kind, what, form, channels, width, height, pitch = _RESOURCE.unpack(get_bytes(address, _RESOURCE.size))
    if kind in (_OF_ARRAY, _OF_MIPMAP):
        return kind, what, 0, 0, 0, 0, 0
    if kind == _OF_LINEAR:
        return kind, what, form, channels, width, 0, 0
    if kind == _OF_PITCH:
        return kind, what, form, channels, width, height, pitch
    raise CudaError(st.INVALID_VALUE, f"a resource of type {kind}")


def _put_resource(out: int, view: arrays.View) -> None:
    put_bytes(out, _RESOURCE.pack(*view.resource).ljust(RESOURCE_SIZE, b"\0"))


@serves()
def cuTexObjectCreate(out: int, resource: int, texture: int, view: int) -> None:
    need_context()
    description = get_bytes(texture, TEXTURE_SIZE)
    made_of = arrays.View(read_resource(resource), description, get_bytes(view, VIEW_SIZE) if view else b"")
    put_u64(out, arrays.create_texture(made_of))


@serves()
def cuTexObjectDestroy(texture: int) -> None:
    arrays.destroy_texture(texture)


@serves()
def cuTexObjectGetResourceDesc(out: int, texture: int) -> None:
    _put_resource(out, arrays.texture(texture))


@serves()
def cuTexObjectGetTextureDesc(out: int, texture: int) -> None:
    put_bytes(out, arrays.texture(texture).texture)


@serves()
def cuTexObjectGetResourceViewDesc(out: int, texture: int) -> None:
    view = arrays.texture(texture).view
    if not view:
        raise CudaError(st.INVALID_VALUE, "the texture was made without a resource view")
    put_bytes(out, view)


@serves()
def cuSurfObjectCreate(out: int, resource: int) -> None:
    need_context()
    put_u64(out, arrays.create_surface(arrays.View(read_resource(resource))))


@serves()
def cuSurfObjectDestroy(surface: int) -> None:
    arrays.destroy_surface(surface)


@serves()
def cuSurfObjectGetResourceDesc(out: int, surface: int) -> None:
    _put_resource(out, arrays.surface(surface))


# -- what only sparse arrays and those with deferred mapping have, and both are refused -------------------------------
@serves()
def cuArrayGetMemoryRequirements(out: int, array: int, device: int) -> None:
    arrays.array(array)
    raise CudaError(st.INVALID_VALUE, "not an array with deferred mapping")


@serves()
def cuMipmappedArrayGetMemoryRequirements(out: int, mipmap: int, device: int) -> None:
    arrays.mipmap(mipmap)
    raise CudaError(st.INVALID_VALUE, "not an array with deferred mapping")


@serves()
def cuArrayGetSparseProperties(out: int, array: int) -> None:
    arrays.array(array)
    raise CudaError(st.INVALID_VALUE, "not a sparse array")


@serves()
def cuMipmappedArrayGetSparseProperties(out: int, mipmap: int) -> None:
    arrays.mipmap(mipmap)
    raise CudaError(st.INVALID_VALUE, "not a sparse array")
