"""Adapters of the runtime API's functions on CUDA arrays, textures and surfaces."""

from __future__ import annotations

from migproxy_plugins.cuda.memory_unsafe import put_bytes, put_u32, put_u64
from migproxy_plugins.cuda.runtime import arrays as rt
from migproxy_plugins.cuda.runtime.calls import check_device
from migproxy_plugins.cuda.runtime_adapters import serves

from migproxy.session import api

_MAX_TEXTURE_1D_LINEAR = 69


@serves()
def cudaMallocArray(out: int, channels: int, width: int, height: int, flags: int) -> None:
    put_u64(out, rt.malloc_array(channels, width, height, flags))


@serves()
def cudaMalloc3DArray(out: int, channels: int, extent: bytes, flags: int) -> None:
    size = rt.read_extent(extent)
    put_u64(out, rt.malloc_3d_array(channels, size.width, size.height, size.depth, flags))


@serves()
def cudaMallocMipmappedArray(out: int, channels: int, extent: bytes, levels: int, flags: int) -> None:
    put_u64(out, rt.malloc_mipmapped_array(channels, rt.read_extent(extent), levels, flags))


@serves()
def cudaFreeArray(array: int) -> None:
    rt.free_array(array)


@serves()
def cudaFreeMipmappedArray(mipmap: int) -> None:
    rt.free_mipmapped_array(mipmap)


@serves()
def cudaGetMipmappedArrayLevel(out: int, mipmap: int, level: int) -> None:
    put_u64(out, rt.mipmapped_array_level(mipmap, level))


@serves()
def cudaArrayGetPlane(out: int, array: int, plane: int) -> None:
    put_u64(out, rt.array_plane(array, plane))


@serves()
def cudaArrayGetInfo(channels: int, extent: int, flags: int, array: int) -> None:
    found, size, made_with = rt.array_info(array)
    if channels:
        put_bytes(channels, found)
    if extent:
        put_bytes(extent, rt.packed_extent(size))
    if flags:
        put_u32(flags, made_with)


@serves()
def cudaGetChannelDesc(channels: int, array: int) -> None:
    put_bytes(channels, rt.array_info(array)[0])


@serves()
def cudaMemcpy2DToArray(
    array: int, x: int, y: int, source: int, pitch: int, width: int, height: int, kind: int
) -> None:
    rt.memcpy_2d_to_array(array, x, y, source, pitch, width, height, kind)


@serves()
def cudaMemcpy2DToArrayAsync(
    array: int, x: int, y: int, source: int, pitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    rt.memcpy_2d_to_array(array, x, y, source, pitch, width, height, kind, stream)


@serves()
def cudaMemcpy2DFromArray(
    destination: int, pitch: int, array: int, x: int, y: int, width: int, height: int, kind: int
) -> None:
    rt.memcpy_2d_from_array(destination, pitch, array, x, y, width, height, kind)


@serves()
def cudaMemcpy2DFromArrayAsync(
    destination: int, pitch: int, array: int, x: int, y: int, width: int, height: int, kind: int, stream: int
) -> None:
    rt.memcpy_2d_from_array(destination, pitch, array, x, y, width, height, kind, stream)


@serves()
def cudaMemcpy2DArrayToArray(
    to: int, to_x: int, to_y: int, array: int, x: int, y: int, width: int, height: int, kind: int
) -> None:
    rt.memcpy_2d_array_to_array(to, to_x, to_y, array, x, y, width, height, kind)


@serves()
def cudaMemcpyToArray(array: int, x: int, y: int, source: int, size: int, kind: int) -> None:
    rt.memcpy_to_array(array, x, y, source, size, kind)


@serves()
def cudaMemcpyToArrayAsync(array: int, x: int, y: int, source: int, size: int, kind: int, stream: int) -> None:
    rt.memcpy_to_array(array, x, y, source, size, kind, stream)


@serves()
def cudaMemcpyFromArray(destination: int, array: int, x: int, y: int, size: int, kind: int) -> None:
    rt.memcpy_from_array(destination, array, x, y, size, kind)


@serves()
def cudaMemcpyFromArrayAsync(destination: int, array: int, x: int, y: int, size: int, kind: int, stream: int) -> None:
    rt.memcpy_from_array(destination, array, x, y, size, kind, stream)


@serves()
def cudaMemcpyArrayToArray(to: int, to_x: int, to_y: int, array: int, x: int, y: int, size: int, kind: int) -> None:
    rt.memcpy_array_to_array(to, to_x, to_y, array, x, y, size, kind)


@serves()
def cudaMemcpy3D(parameters: int) -> None:
    rt.memcpy_3d(parameters)


@serves()
def cudaMemcpy3DAsync(parameters: int, stream: int) -> None:
    rt.memcpy_3d(parameters, stream)


@serves()
def cudaMemcpy3DPeer(parameters: int) -> None:
    rt.memcpy_3d(parameters, peer=True)


@serves()
def cudaMemcpy3DPeerAsync(parameters: int, stream: int) -> None:
    rt.memcpy_3d(parameters, stream, peer=True)


@serves()
def cudaCreateTextureObject(out: int, resource: int, texture: int, view: int) -> None:
    put_u64(out, rt.create_texture_object(resource, texture, view))


@serves()
def cudaDestroyTextureObject(texture: int) -> None:
    rt.destroy_texture_object(texture)


@serves()
def cudaGetTextureObjectResourceDesc(out: int, texture: int) -> None:
    rt.texture_object_resource(out, texture)


@serves()
def cudaGetTextureObjectTextureDesc(out: int, texture: int) -> None:
    rt.texture_object_texture(out, texture)


@serves()
def cudaGetTextureObjectResourceViewDesc(out: int, texture: int) -> None:
    rt.texture_object_view(out, texture)


@serves()
def cudaCreateSurfaceObject(out: int, resource: int) -> None:
    put_u64(out, rt.create_surface_object(resource))


@serves()
def cudaDestroySurfaceObject(surface: int) -> None:
    rt.destroy_surface_object(surface)


@serves()
def cudaGetSurfaceObjectResourceDesc(out: int, surface: int) -> None:
    rt.surface_object_resource(out, surface)


@serves()
def cudaDeviceGetTexture1DLinearMaxWidth(width: int, channels: int, device: int) -> None:
    check_device(device)
    put_u64(width, api.device_attribute(_MAX_TEXTURE_1D_LINEAR, device))
