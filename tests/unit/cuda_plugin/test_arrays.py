"""CUDA arrays, textures and surfaces through a session."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator

import pytest
from c_values import Bytes, Out
from hypothesis import given, settings
from hypothesis import strategies as st
from migproxy_plugins.cuda import array_formats, registry
from migproxy_plugins.cuda.runtime import arrays as rt
from migproxy_plugins.cuda.runtime_entries import runtime_handler

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api

pytestmark = pytest.mark.usefixtures("device")

FLOAT, UNSIGNED_8 = 0x20, 0x01
HOST, DEVICE, ARRAY = 1, 2, 3


def call(name: str, *arguments: int) -> int:
    if name.startswith("cuda"):
        handler = runtime_handler(name)
        assert handler is not None
        return handler(*arguments)
    return registry.status_of(registry.load()[name])(*arguments)


def made(name: str, *arguments: int) -> int:
    out = Out()
    assert call(name, out.at, *arguments) == 0
    return int(out.value)


def create(
    width: int, height: int = 0, depth: int = 0, form: int = UNSIGNED_8, channels: int = 1, flags: int = 0
) -> int:
    return made("cuArray3DCreate", Bytes(struct.pack("<QQQIII4x", width, height, depth, form, channels, flags)).at)


@pytest.fixture
def array() -> Iterator[Callable[..., int]]:
    handles = []

    def make(*arguments: int, **named: int) -> int:
        handles.append(create(*arguments, **named))
        return handles[-1]

    yield make
    for handle in handles:
        call("cuArrayDestroy", handle)


def side(
    kind: int, at: int, pitch: int = 0, rows: int = 0, position: tuple[int, int, int] = (0, 0, 0)
) -> tuple[int, ...]:
    host, device, handle = (at if kind == wanted else 0 for wanted in (HOST, DEVICE, ARRAY))
    return (*position, 0, kind, host, device, handle, 0, pitch, rows)


def copy_3d(source: tuple[int, ...], destination: tuple[int, ...], extent: tuple[int, int, int]) -> int:
    packed = struct.pack("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ", *source, *destination, *extent)
    return call("cuMemcpy3D", Bytes(packed).at)


def content(size: int) -> bytes:
    return bytes(index * 7 % 251 for index in range(size))


def test_a_box_goes_in_and_out_by_every_kind_of_memory(array: Callable[..., int]) -> None:
    extent = width, height, depth = 40, 6, 3
    data = content(width * height * depth)
    handle = array(64, 8, 4)
    inside = side(ARRAY, handle, position=(5, 1, 1))
    assert copy_3d(side(HOST, Bytes(data).at, width, height), inside, extent) == 0
    foreign, pinned, device = Bytes(bytes(len(data))), api.host_alloc(len(data)), api.mem_alloc(len(data))
    assert copy_3d(inside, side(HOST, foreign.at, width, height), extent) == 0
    assert foreign.data == data
    assert copy_3d(inside, side(HOST, pinned, width, height), extent) == 0
    assert ctypes.string_at(pinned, len(data)) == data
    assert copy_3d(inside, side(DEVICE, device, width, height), extent) == 0
    other = array(40, 6, 3)
    assert copy_3d(side(DEVICE, device, width, height), side(ARRAY, other), extent) == 0
    back = Bytes(bytes(50 * height * depth))
    assert copy_3d(side(ARRAY, other), side(HOST, back.at, 50, height), extent) == 0
    assert b"".join(back.data[50 * row : 50 * row + width] for row in range(height * depth)) == data
    api.mem_free(device)
    api.host_free(pinned)


def test_a_large_box_is_staged_in_pieces(array: Callable[..., int]) -> None:
    width, height = 1 << 12, 3000
    data = content(width) * height
    handle = array(width, height)
    assert copy_3d(side(HOST, Bytes(data).at, width, height), side(ARRAY, handle), (width, height, 1)) == 0
    back = Bytes(bytes(len(data)))
    assert copy_3d(side(ARRAY, handle), side(HOST, back.at, width, height), (width, height, 1)) == 0
    assert back.data == data


def test_copies_along_rows_and_between_arrays_of_other_shapes(array: Callable[..., int]) -> None:
    data = content(70)
    wide, narrow = array(10, 7), array(7, 10)
    assert call("cuMemcpyHtoA", wide, 0, Bytes(data).at, 70) == 0
    assert call("cuMemcpyAtoA", narrow, 0, wide, 3, 60) == 0
    back = Bytes(bytes(60))
    assert call("cuMemcpyAtoH", back.at, narrow, 0, 60) == 0
    assert back.data == data[3:63]
    assert call("cuMemcpyAtoH", back.at, narrow, 11, 60) == 1


def test_edges_and_memory_of_others_are_invalid_in_the_call(array: Callable[..., int]) -> None:
    handle = array(16, 4)
    buffer = Bytes(bytes(64))
    host = side(HOST, buffer.at, 16, 4)
    assert copy_3d(host, side(ARRAY, handle, position=(1, 0, 0)), (16, 4, 1)) == 1
    assert copy_3d(host, side(ARRAY, handle, position=(0, 1, 0)), (16, 4, 1)) == 1
    assert copy_3d(host, side(ARRAY, handle), (16, 4, 2)) == 1
    assert copy_3d(side(DEVICE, buffer.at, 16, 4), side(ARRAY, handle), (16, 4, 1)) == 1
    small = api.mem_alloc(32)
    assert copy_3d(side(DEVICE, small, 16, 4), side(ARRAY, handle), (16, 4, 1)) == 1
    api.mem_free(small)


def test_a_description_is_answered_and_wrong_ones_fail() -> None:
    handle = create(16, 8, form=FLOAT, channels=4)
    out = Bytes(bytes(40))
    assert call("cuArray3DGetDescriptor", out.at, handle) == 0
    assert struct.unpack("<QQQIII4x", out.data) == (16, 8, 0, FLOAT, 4, 0)
    assert call("cuArrayDestroy", handle) == 0
    assert call("cuArrayDestroy", handle) == 400
    assert call("cuArray3DGetDescriptor", out.at, handle) == 400
    for wrong, status in ((0, 8, 0, FLOAT, 1, 0), 1), ((16, 8, 0, FLOAT, 3, 0), 1), ((16, 8, 0, FLOAT, 1, 0x40), 801):
        assert call("cuArray3DCreate", Out().at, Bytes(struct.pack("<QQQIII4x", *wrong)).at) == status


def test_arrays_count_against_the_quota() -> None:
    free, _ = api.mem_get_info()
    quarter = free // 4 >> 16 << 16
    handles = [create(quarter >> 16, 1 << 16) for _ in range(3)]
    assert free - api.mem_get_info()[0] >= 3 * quarter
    packed = Bytes(struct.pack("<QQQIII4x", 2 * quarter >> 16, 1 << 16, 0, UNSIGNED_8, 1, 0))
    assert call("cuArray3DCreate", Out().at, packed.at) == 2
    assert call("cuMemAlloc", Out().at, 2 * quarter) == 2
    for handle in handles:
        assert call("cuArrayDestroy", handle) == 0
    # A driver may keep a little of what it took.
    assert api.mem_get_info()[0] > free - quarter // 2


def test_levels_of_a_mipmapped_array_go_with_it() -> None:
    mipmap = made("cuMipmappedArrayCreate", Bytes(struct.pack("<QQQIII4x", 32, 16, 0, UNSIGNED_8, 1, 0)).at, 3)
    level = made("cuMipmappedArrayGetLevel", mipmap, 1)
    assert made("cuMipmappedArrayGetLevel", mipmap, 1) == level
    out = Bytes(bytes(40))
    assert call("cuArray3DGetDescriptor", out.at, level) == 0
    assert struct.unpack("<QQ", out.data[:16]) == (16, 8)
    data = Bytes(content(128))
    assert copy_3d(side(HOST, data.at, 16, 8), side(ARRAY, level), (16, 8, 1)) == 0
    assert call("cuArrayDestroy", level) == 400
    assert call("cuMipmappedArrayGetLevel", Out().at, mipmap, 9) == 1
    assert call("cuMipmappedArrayDestroy", mipmap) == 0
    assert copy_3d(side(HOST, data.at, 16, 8), side(ARRAY, level), (16, 8, 1)) == 400


def texture_of(handle: int) -> int:
    resource = Bytes(struct.pack("<I4xQ", 0, handle).ljust(144, b"\0"))
    return made("cuTexObjectCreate", resource.at, Bytes(bytes(104)).at, 0)


def test_textures_are_the_sessions_own(array: Callable[..., int]) -> None:
    handle = array(16, 4, flags=2)
    texture = texture_of(handle)
    out = Bytes(bytes(144))
    assert call("cuTexObjectGetResourceDesc", out.at, texture) == 0
    assert struct.unpack_from("<I4xQ", out.data) == (0, handle)
    assert call("cuTexObjectGetResourceViewDesc", out.at, texture) == 1
    surface = made("cuSurfObjectCreate", out.at)
    assert call("cuTexObjectDestroy", surface + 1) == 1
    assert call("cuTexObjectDestroy", texture) == 0
    assert call("cuTexObjectDestroy", texture) == 1
    assert call("cuSurfObjectDestroy", surface) == 0
    linear = Bytes(struct.pack("<I4xQIIQQQ", 2, 0x1234000, FLOAT, 1, 4096, 0, 0).ljust(144, b"\0"))
    assert call("cuTexObjectCreate", Out().at, linear.at, Bytes(bytes(104)).at, 0) == 1


kinds = st.sampled_from((layout.KIND_STREAM, layout.KIND_ARRAY, layout.KIND_MIPMAP, layout.KIND_GRAPH))
handles = st.one_of(
    st.builds(layout.make_handle, kinds, st.integers(1 << 20, 1 << 21)), st.integers(1, 1 << 63), st.just(0)
)


@settings(max_examples=40, deadline=None)
@given(handles)
def test_handles_of_nobody_are_invalid(handle: int) -> None:
    buffer, out = Bytes(bytes(64)), Out()
    assert call("cuArrayDestroy", handle) == 400
    assert call("cuMipmappedArrayDestroy", handle) == 400
    assert call("cuMipmappedArrayGetLevel", out.at, handle, 0) == 400
    assert copy_3d(side(HOST, buffer.at, 4, 1), side(ARRAY, handle), (4, 1, 1)) == 400
    resource = Bytes(struct.pack("<I4xQ", 0, handle).ljust(144, b"\0"))
    assert call("cuTexObjectCreate", out.at, resource.at, Bytes(bytes(104)).at, 0) == 400
    assert call("cuTexObjectDestroy", handle) == 1
    assert call("cuSurfObjectDestroy", handle) == 1


@settings(max_examples=20, deadline=None)
@given(handles)
def test_the_executor_decides_again(handle: int) -> None:
    """A function that skips its own checks gets the same answers."""
    for name in ("cuArrayDestroy", "cuMipmappedArrayDestroy"):
        with pytest.raises(CudaError) as caught:
            api.driver_call(name, [handle])
        assert caught.value.status == 400
    with pytest.raises(CudaError) as caught:
        api.driver_call("cuTexObjectDestroy", [handle])
    assert caught.value.status == 1


def test_the_runtimes_descriptions_are_the_drivers() -> None:
    channels = Bytes(struct.pack("<5i", 32, 0, 0, 0, 2))
    handle = made("cudaMallocArray", channels.at, 8, 4, 0)
    found, extent, flags = Bytes(bytes(20)), Bytes(bytes(24)), Out(ctypes.c_uint32)
    assert call("cudaArrayGetInfo", found.at, extent.at, flags.at, handle) == 0
    assert found.data == channels.data
    assert struct.unpack("<3Q", extent.data) == (8, 4, 0)
    # modes, filter, read mode, sRGB, border, normalised, anisotropy, mipmap filter, bias, clamps, flags
    description = struct.pack("<6i4fiIi3f2i", 0, 1, 2, 1, 0, 0, 0.5, 0.25, 0, 1, 1, 4, 1, 0.5, 1, 2, 0, 0)
    resource = Bytes(struct.pack("<I4xQ", 0, handle).ljust(64, b"\0"))
    texture = made("cudaCreateTextureObject", resource.at, Bytes(description).at, 0)
    back = Bytes(bytes(72))
    assert call("cudaGetTextureObjectTextureDesc", back.at, texture) == 0
    assert back.data == description
    data, out = Bytes(content(128)), Bytes(bytes(128))
    assert call("cudaMemcpy2DToArray", handle, 0, 0, data.at, 32, 32, 4, 1) == 0
    assert call("cudaMemcpyFromArray", out.at, handle, 4, 1, 60, 2) == 0
    assert out.data[:60] == data.data[36:96]
    assert call("cudaMemcpy2DToArray", handle, 0, 0, data.at, 8, 32, 4, 1) == 12
    assert call("cudaMallocArray", Out().at, Bytes(struct.pack("<5i", 32, 32, 32, 0, 2)).at, 8, 4, 0) == 20
    # source: array at (1, 1, 0); destination: pointer; extent in elements
    parameters = struct.pack("<Q3Q4QQ3Q4Q3Qi4x", handle, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, out.at, 12, 12, 2, 3, 2, 1, 2)
    assert call("cudaMemcpy3D", Bytes(parameters).at) == 0
    assert out.data[:24] == data.data[36:48] + data.data[68:80]
    assert call("cudaDestroyTextureObject", texture) == 0
    assert call("cudaFreeArray", handle) == 0
    assert call("cudaFreeArray", 0) == 0


@given(st.sampled_from(sorted(array_formats.CHANNEL_BYTES)), st.sampled_from((1, 2, 4)))
def test_channel_descriptors_name_formats(form: int, channels: int) -> None:
    if form >= 0xC0:
        channels = (1, 2, 4)[(form - 0xC0) % 3]
    assert array_formats.from_channels(*array_formats.to_channels(form, channels)) == (form, channels)
    assert len(rt.channels_of(form, channels)) == 20
