"""CUDA arrays, textures and surfaces of this process: made in the executor, their descriptions kept here.

Descriptions answer queries without asking, and let a copy beyond an array's edges fail in its call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.array_formats import NV12, element_bytes
from migproxy_plugins.cuda.registry import refuse

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api import streams
from migproxy.session.session import on_fork

Extent = tuple[int, int, int]
# CUDA_ARRAY3D_*
_SPARSE, _DEFERRED_MAPPING = 0x40, 0x80
#: From here on: block-compressed, planar and packed formats, of which the driver knows the elements.
_FIRST_SPECIAL_FORMAT = 0x40


@dataclass(frozen=True, slots=True)
class Array:
    """What an array is.

    Attributes
    ----------
    width, height, depth : int
        In elements; 0 where the array has no such dimension.
    format, channels, flags : int
        As in ``CUDA_ARRAY3D_DESCRIPTOR``.
    level_of : int
        The mipmapped array that it is a level of, or the array that it is a plane of; it is not destroyed by itself.
    """

    width: int
    height: int
    depth: int
    format: int
    channels: int
    flags: int
    level_of: int = 0

    @property
    def element(self) -> int:
        """Bytes of an element; 0 for block-compressed formats."""
        return element_bytes(self.format, self.channels)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.width * self.element


@dataclass(frozen=True, slots=True)
class View:
    """A texture or surface: the resource's fields and the descriptions it was made of, as the driver API has them.

    Attributes
    ----------
    resource : tuple of int
        Type; array, mipmapped array or address; format, channels; width or bytes; height; pitch.
    texture, view : bytes
        ``CUDA_TEXTURE_DESC`` and ``CUDA_RESOURCE_VIEW_DESC``; empty where there is none.
    """

    resource: tuple[int, ...]
    texture: bytes = b""
    view: bytes = b""


_arrays: dict[int, Array] = {}
_mipmaps: dict[int, Array] = {}
_textures: dict[int, View] = {}
_surfaces: dict[int, View] = {}


def _after_fork() -> None:
    """A child has none of its parent's."""
    for table in (_arrays, _mipmaps, _textures, _surfaces):
        table.clear()


on_fork(_after_fork)


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    status, outs = api.driver_call(name, arguments)
    if status:
        raise CudaError(status, name)
    return outs


def array(handle: int) -> Array:
    """Return an array's description.

    Raises
    ------
    CudaError
        400 for a handle that is not this process's.
    """
    try:
        return _arrays[handle]
    except KeyError:
        raise CudaError(st.INVALID_HANDLE, f"array {handle:#x}") from None


def mipmap(handle: int) -> Array:
    """Return the description of a mipmapped array's first level; see `array`."""
    try:
        return _mipmaps[handle]
    except KeyError:
        raise CudaError(st.INVALID_HANDLE, f"mipmapped array {handle:#x}") from None


def _check(description: Array) -> None:
    if description.format < _FIRST_SPECIAL_FORMAT and not description.element:
        raise CudaError(st.INVALID_VALUE, f"array format {description.format:#x}")
    if description.flags & (_SPARSE | _DEFERRED_MAPPING):
        raise refuse("cuArray3DCreate", "an array's memory is mapped by the executor, not piece by piece")


def create(description: Array) -> int:
    """Create an array."""
    d = description
    _check(d)
    (handle,) = _call("cuArray3DCreate", d.width, d.height, d.depth, d.format, d.channels, d.flags)
    _arrays[handle] = d
    return int(handle)


def _quiet() -> None:
    """Wait until nothing uses what is about to go, as the driver does; here, since the executor never waits."""
    if not streams.capturing():
        api.context_synchronize()


def destroy(handle: int) -> None:
    """Destroy an array."""
    if array(handle).level_of:
        raise CudaError(st.INVALID_HANDLE, "a level goes with its mipmapped array")
    _quiet()
    _call("cuArrayDestroy", handle)
    del _arrays[handle]
    for plane in [each for each, found in _arrays.items() if found.level_of == handle]:
        del _arrays[plane]


def plane(handle: int, index: int) -> int:
    """Return the array of a plane of a multi-planar array."""
    if array(handle).format != NV12:
        raise CudaError(st.INVALID_VALUE, "an array without planes")
    made, *values = _call("cuArrayGetPlane", handle, index)
    _arrays[made] = Array(*values, level_of=handle)
    return int(made)


def create_mipmap(description: Array, levels: int) -> int:
    """Create a mipmapped array."""
    d = description
    _check(d)
    (handle,) = _call("cuMipmappedArrayCreate", d.width, d.height, d.depth, d.format, d.channels, d.flags, levels)
    _mipmaps[handle] = d
    return int(handle)


def destroy_mipmap(handle: int) -> None:
    """Destroy a mipmapped array with its levels."""
    mipmap(handle)
    _quiet()
    _call("cuMipmappedArrayDestroy", handle)
    del _mipmaps[handle]
    for level in [each for each, found in _arrays.items() if found.level_of == handle]:
        del _arrays[level]


def level(handle: int, index: int) -> int:
    """Return the array of one level."""
    mipmap(handle)
    made, *values = _call("cuMipmappedArrayGetLevel", handle, index)
    _arrays[made] = Array(*values, level_of=handle)
    return int(made)


def create_texture(made_of: View) -> int:
    """Create a texture object."""
    _check_resource(made_of.resource)
    (handle,) = _call("cuTexObjectCreate", list(made_of.resource), made_of.texture, made_of.view)
    _textures[handle] = made_of
    return int(handle)


def create_surface(made_of: View) -> int:
    """Create a surface object."""
    _check_resource(made_of.resource)
    (handle,) = _call("cuSurfObjectCreate", list(made_of.resource))
    _surfaces[handle] = made_of
    return int(handle)


def _check_resource(resource: tuple[int, ...]) -> None:
    if resource[0] == 0:
        array(resource[1])
    elif resource[0] == 1:
        mipmap(resource[1])


def _view(table: dict[int, View], handle: int) -> View:
    try:
        return table[handle]
    except KeyError:
        raise CudaError(st.INVALID_VALUE, f"{handle:#x} is no texture or surface of this process") from None


def texture(handle: int) -> View:
    """Return what a texture object was made of.

    Raises
    ------
    CudaError
        1 for a number that is no texture object of this process.
    """
    return _view(_textures, handle)


def surface(handle: int) -> View:
    """Return what a surface object was made of; see `texture`."""
    return _view(_surfaces, handle)


def destroy_texture(handle: int) -> None:
    """Destroy a texture object."""
    texture(handle)
    _call("cuTexObjectDestroy", handle)
    del _textures[handle]


def destroy_surface(handle: int) -> None:
    """Destroy a surface object."""
    surface(handle)
    _call("cuSurfObjectDestroy", handle)
    del _surfaces[handle]


def box(handle: int, x: int, y: int, z: int, extent: Extent) -> api.Box:
    """Return the side of a copy that is a box (in bytes, rows and slices) of an array.

    Raises
    ------
    CudaError
        1 for a box beyond the array's edges, 400 for a handle that is not this process's.
    """
    found = array(handle)
    width, height, depth = extent
    inside = y + height <= max(found.height, 1) and z + depth <= max(found.depth, 1)
    if found.element and not (inside and x + width <= found.row):
        raise CudaError(st.INVALID_VALUE, f"a box of {extent} at {(x, y, z)} is not inside the array")
    return api.Box(handle, array=True, x=x, y=y, z=z)


def runs(handle: int, offset: int, size: int) -> Iterator[tuple[api.Box, int, Extent]]:
    """Cut `size` bytes from byte `offset` of an array on, counted along its rows, into boxes.

    Returns
    -------
    iterator
        The box in the array, the byte of the run at which it starts, and its extent.
    """
    found = array(handle)
    row, done = found.row, 0
    if not row or offset + size > row * max(found.height, 1) * max(found.depth, 1):
        raise CudaError(st.INVALID_VALUE, "outside the array")
    while done < size:
        line, x = divmod(offset + done, row)
        z, y = divmod(line, max(found.height, 1))
        rows = 1 if x else max(1, min((size - done) // row, max(found.height, 1) - y))
        width = min(row - x, size - done)
        extent = width, rows, 1
        yield box(handle, x, y, z, extent), done, extent
        done += width * rows


def copy_runs(to_array: int, to_offset: int, from_array: int, from_offset: int, size: int, stream: int | None) -> None:
    """Copy `size` bytes along the rows of two arrays, whose shapes may differ: cut at the rows' ends of both."""
    pieces = [*runs(to_array, to_offset, size), *runs(from_array, from_offset, size)]
    ends = {at + extent[0] * (row + 1) for _, at, extent in pieces for row in range(extent[1])}
    for start, end in itertools.pairwise(sorted({0, *ends})):
        target, _, extent = next(runs(to_array, to_offset + start, end - start))
        origin, _, _ = next(runs(from_array, from_offset + start, end - start))
        api.copy_box(target, origin, extent, stream)
