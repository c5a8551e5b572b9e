"""Kernels that read textures and read and write surfaces, against a model of texture fetching in NumPy."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from softgpu_session import Session
from test_softgpu_arrays import ARRAY, ARRAY_3D, CUBE, HOST, LAYERED, SURFACE, copy_3d, resource

from migproxy.softgpu import texture_layout as layout
from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.libcuda import SoftCuda
from migproxy.softgpu.texture_layout import BORDER, CLAMP, LINEAR, MIRROR, POINT, WRAP

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="kernels are compiled by NVRTC")

SOURCE = r"""
#define AT int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return
#define KERNEL(name, T, fetch) extern "C" __global__ void name(cudaTextureObject_t t, const float4 *at, T *out, int n) \
    { AT; float4 p = at[i]; out[i] = fetch; }
KERNEL(one, float4, tex1D<float4>(t, p.x))
KERNEL(two, float4, tex2D<float4>(t, p.x, p.y))
KERNEL(three, float4, tex3D<float4>(t, p.x, p.y, p.z))
KERNEL(two_int, int4, tex2D<int4>(t, p.x, p.y))
KERNEL(fetch, float4, tex1Dfetch<float4>(t, (int)p.x))
KERNEL(fetch_uint, uint4, tex1Dfetch<uint4>(t, (int)p.x))
KERNEL(one_layered, float4, tex1DLayered<float4>(t, p.x, (int)p.w))
KERNEL(two_layered, float4, tex2DLayered<float4>(t, p.x, p.y, (int)p.w))
KERNEL(level, float4, tex2DLod<float4>(t, p.x, p.y, p.w))
KERNEL(slope, float4, tex2DGrad<float4>(t, p.x, p.y, make_float2(p.z, 0), make_float2(0, p.w)))
KERNEL(cube, float4, texCubemap<float4>(t, p.x, p.y, p.z))
KERNEL(cube_layered, float4, texCubemapLayered<float4>(t, p.x, p.y, p.z, (int)p.w))
KERNEL(gather, float4, tex2Dgather<float4>(t, p.x, p.y, 1))
extern "C" __global__ void swap_rows(cudaSurfaceObject_t s, int w, int h)
{
    int x = threadIdx.x, y = threadIdx.y;
    if (x >= w || y >= h / 2) return;
    float a = surf2Dread<float>(s, 4 * x, y), b = surf2Dread<float>(s, 4 * x, h - 1 - y);
    surf2Dwrite(b, s, 4 * x, y);
    surf2Dwrite(a, s, 4 * x, h - 1 - y);
}
extern "C" __global__ void modes(cudaSurfaceObject_t s, float *out)
{
    int x = (int)threadIdx.x - 4;
    out[threadIdx.x] = surf2Dread<float>(s, 4 * x, 1, cudaBoundaryModeZero);
    out[threadIdx.x + 32] = surf2Dread<float>(s, 4 * x, 1, cudaBoundaryModeClamp);
    surf2Dwrite(100.0f + x, s, 4 * x, 2, cudaBoundaryModeZero);
}
extern "C" __global__ void trapped(cudaSurfaceObject_t s) { surf2Dwrite(1.0f, s, 4 * 1000, 0); }
extern "C" __global__ void planes(cudaSurfaceObject_t s, int w, int h)
{
    int x = threadIdx.x, y = threadIdx.y, z = threadIdx.z;
    surf3Dwrite((short)(x + w * (y + h * z)), s, 2 * x, y, z);
}
extern "C" __global__ void layers(cudaSurfaceObject_t s)
{
    float2 v = surf1DLayeredread<float2>(s, 8 * threadIdx.x, threadIdx.y);
    surf1DLayeredwrite(make_float2(v.y, v.x), s, 8 * threadIdx.x, threadIdx.y);
}
extern "C" __global__ void size(cudaTextureObject_t t, int *out)
{
    asm("txq.width.b32 %0, [%1];" : "=r"(out[0]) : "l"(t));
    asm("txq.height.b32 %0, [%1];" : "=r"(out[1]) : "l"(t));
}
"""


class Driver(Session):
    """A session with the real compiler and the kernels above."""

    def __init__(self) -> None:
        super().__init__()
        self.cuda = SoftCuda(CardSpec(memory=256 * MIB))
        self.ok("cuInit", 0)
        self.ok("cuCtxSetCurrent", self.u64("cuDevicePrimaryCtxRetain", 0))
        _, program = nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"t.cu", 0, [], [])
        (error,) = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=compute_80"])
        assert int(error) == 0
        _, size = nvrtc.nvrtcGetPTXSize(program)
        text = b" " * size
        nvrtc.nvrtcGetPTX(program, text)
        self.module = self.u64("cuModuleLoadData", self.data(text))
        self.memory = self.alloc(1 << 20)

    def run(self, name: str, block: tuple[int, int, int], *args: int, grid: int = 1) -> int:
        """Launch; integers below 2³¹ are ints, others 64 bits wide. The status of the wait for it."""
        function = self.u64("cuModuleGetFunction", self.module, self.data(name.encode() + b"\0"))
        cells: list[Any] = [(ctypes.c_uint64 if arg >> 31 else ctypes.c_int32)(arg) for arg in args]
        params = (ctypes.c_uint64 * len(cells))(*[ctypes.addressof(cell) for cell in cells])
        self.ok("cuLaunchKernel", function, grid, 1, 1, *block, 0, 0, ctypes.addressof(params), 0)
        return self.cuda.cuCtxSynchronize()

    def sample(self, name: str, texture: int, at: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """What a kernel reads at rows of (x, y, z, w)."""
        points = np.zeros((len(at), 4), np.float32)
        points[:, : at.shape[1]] = at
        self.write(self.memory, points.tobytes())
        out = self.memory + points.nbytes
        assert self.run(name, (128, 1, 1), texture, self.memory, out, len(at), grid=-(-len(at) // 128)) == 0
        return np.frombuffer(self.read(out, points.nbytes), dtype).reshape(len(at), 4)

    def array(self, data: np.ndarray, form: int, flags: int = 0, *, one_dimension: bool = False) -> int:
        """An array of [depth or layer,] [height,] width, channels."""
        *outer, width, channels = data.shape
        height = 0 if one_dimension or not outer else outer[-1]
        depth = outer[0] if len(outer) > 1 or one_dimension else 0
        handle = self.u64("cuArray3DCreate", self.data(ARRAY_3D.pack(width, height, depth, form, channels, flags)))
        self.fill(handle, data, max(height, 1), max(depth, 1))
        return handle

    def fill(self, array: int, data: np.ndarray, height: int, depth: int) -> None:
        data = np.ascontiguousarray(data)
        row = data.shape[-1] * data.shape[-2] * data.itemsize
        there = (HOST, data.ctypes.data, row, height, 0, 0, 0)
        assert copy_3d(self, there, (ARRAY, array, 0, 0, 0, 0, 0), (row, height, depth)) == 0

    def back(self, array: int, like: np.ndarray, height: int, depth: int) -> np.ndarray:
        out = np.zeros_like(like)
        row = out.shape[-1] * out.shape[-2] * out.itemsize
        there = (HOST, out.ctypes.data, row, height, 0, 0, 0)
        assert copy_3d(self, (ARRAY, array, 0, 0, 0, 0, 0), there, (row, height, depth)) == 0
        return out

    def texture(self, res: bytes, **fields: Any) -> int:
        return self.u64("cuTexObjectCreate", self.data(res), self.data(descriptor(**fields)), 0)


def descriptor(
    *, modes: tuple[int, ...] = (CLAMP,) * 3, filter_: int = POINT, normalized: bool = False, integer: bool = False,
    srgb: bool = False, mip: int = POINT, bias: float = 0, levels: tuple[float, float] = (0, 0),
    border: tuple[float, ...] = (0, 0, 0, 0),
) -> bytes:  # fmt: skip
    flags = integer | normalized << 1 | srgb << 4
    packed = struct.pack("<IIIIIIIfffffff", *modes, filter_, flags, 0, mip, bias, *levels, *border)
    return packed.ljust(104, b"\0")


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.cuda.cuDevicePrimaryCtxReset(0)


# ---- the model ------------------------------------------------------------------------------------------------------


def _index(index: np.ndarray, count: int, mode: int) -> tuple[np.ndarray, np.ndarray]:
    inside = np.ones(index.shape, bool)
    if mode == WRAP:
        return index % count, inside
    if mode == MIRROR:
        rest = index % (2 * count)
        return np.where(rest < count, rest, 2 * count - 1 - rest), inside
    if mode == BORDER:
        inside = (index >= 0) & (index < count)
    return np.clip(index, 0, count - 1), inside


def model(
    data: np.ndarray, at: np.ndarray, modes: tuple[int, ...], filter_: int, *, normalized: bool, border: np.ndarray
) -> np.ndarray:
    """Texture fetching of `data` ([[z,] y,] x, channel) at rows of (x[, y[, z]])."""
    dims = at.shape[1]
    counts = data.shape[-2::-1]
    x = at.astype(np.float64)
    if normalized:
        for axis in range(dims):
            part = x[:, axis] - np.floor(x[:, axis])
            if modes[axis] == WRAP:
                x[:, axis] = part
            elif modes[axis] == MIRROR:
                x[:, axis] = np.where(np.floor(x[:, axis]) % 2 == 0, part, 1 - part)
            x[:, axis] *= counts[axis]
    if not normalized:
        modes = tuple(mode if mode == BORDER else CLAMP for mode in modes)

    def texels(index: np.ndarray) -> np.ndarray:
        places, inside = [], np.ones(len(index), bool)
        for axis in range(dims):
            place, within = _index(index[:, axis], counts[axis], modes[axis])
            places.append(place)
            inside &= within
        return np.where(inside[:, None], data[tuple(reversed(places))], border)

    if filter_ == POINT:
        return texels(np.floor(x).astype(int))
    low = np.floor(x - 0.5).astype(int)
    share = np.round((x - 0.5 - low) * 256) / 256
    out = np.zeros((len(at), data.shape[-1]))
    for corner in range(1 << dims):
        upper = np.array([corner >> axis & 1 for axis in range(dims)])
        weight = np.prod(np.where(upper, share, 1 - share), axis=1)
        out += weight[:, None] * texels(low + upper)
    return out


# ---- textures -------------------------------------------------------------------------------------------------------

_NAMES = {1: "one", 2: "two", 3: "three"}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    modes=st.tuples(*[st.sampled_from([WRAP, CLAMP, MIRROR, BORDER])] * 3),
    filter_=st.sampled_from([POINT, LINEAR]),
    normalized=st.booleans(),
    channels=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1 << 30),
)
def test_fetches_follow_the_model(
    driver: Driver, counts: list[int], modes: tuple[int, ...], filter_: int, normalized: bool, channels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    data = random.random((*counts[::-1], channels)).astype(np.float32)
    dims = len(counts)
    # Multiples of 1/1024 of a texel: no rounding of coordinates, and weights that must be rounded.
    at = random.integers(-2048 * 3, 2048 * 12, (200, dims)) / 1024.0
    if normalized:
        at = at / np.array([max(8, 1 << (count - 1).bit_length()) for count in counts])
    at = at.astype(np.float32)
    if filter_ == POINT:  # not on the edge of two texels
        at += np.float32(1 / 4096)
    border = random.random(4).astype(np.float32)
    array = driver.array(data, layout.F32)
    texture = driver.texture(
        resource(0, array), modes=modes, filter_=filter_, normalized=normalized, border=tuple(border)
    )
    found = driver.sample(_NAMES[dims], texture, at)
    expected = model(data, at, modes, filter_, normalized=normalized, border=border[:channels])
    # A coordinate scaled in single precision may fall on the other side of a weight's rounding.
    assert np.allclose(found[:, :channels], expected, rtol=0, atol=2 / 256 if filter_ == LINEAR else 0)
    assert np.mean(np.abs(found[:, :channels] - expected) > 1e-5) < 0.05
    driver.ok("cuTexObjectDestroy", texture)
    driver.ok("cuArrayDestroy", array)


_FRACTIONS: list[tuple[int, Any, float]] = [
    (layout.U8, np.uint8, 255), (layout.S8, np.int8, 127),
    (layout.U16, np.uint16, 65535), (layout.S16, np.int16, 32767),
]  # fmt: skip


@pytest.mark.parametrize(("form", "dtype", "top"), _FRACTIONS)
def test_small_integers_are_fractions_of_their_range(driver: Driver, form: int, dtype: Any, top: float) -> None:
    limits = np.iinfo(dtype)
    data = np.array([limits.min, limits.min + 1, 0, limits.max], dtype).reshape(1, 4, 1)
    array = driver.array(data, form)
    at = np.array([[n + 0.5, 0.5] for n in range(4)])
    found = driver.sample("two", driver.texture(resource(0, array)), at)[:, 0]
    assert np.allclose(found, np.maximum(data.ravel() / top, -1), rtol=1e-6)
    whole = driver.sample("two_int", driver.texture(resource(0, array), integer=True), at, np.int32)
    assert np.array_equal(whole[:, 0], data.ravel().astype(np.int32))
    assert np.array_equal(whole[:, 1:], [[0, 0, 1]] * 4)


def test_halves_and_whole_words(driver: Driver) -> None:
    halves = np.array([0.5, -2, 65504, 2.0**-24], np.float16).reshape(1, 4, 1)
    at = np.array([[n + 0.5, 0.5] for n in range(4)])
    found = driver.sample("two", driver.texture(resource(0, driver.array(halves, layout.F16))), at)
    assert np.array_equal(found[:, 0], halves.ravel().astype(np.float32))
    assert np.array_equal(found[:, 3], [1] * 4)
    words = np.array([-(2**31), 2**31 - 1, 0, -1], np.int32).reshape(1, 4, 1)
    texture = driver.texture(resource(0, driver.array(words, layout.S32)), integer=True)
    assert np.array_equal(driver.sample("two_int", texture, at, np.int32)[:, 0], words.ravel())


def test_srgb_becomes_linear(driver: Driver) -> None:
    data = np.array([[0, 10, 128, 255]], np.uint8).reshape(1, 1, 4)
    found = driver.sample("two", driver.texture(resource(0, driver.array(data, layout.U8)), srgb=True),
                          np.array([[0.5, 0.5]]))  # fmt: skip
    share = data.ravel() / 255
    curve = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    assert np.allclose(found[0, :3], curve[:3], rtol=1e-5)
    assert found[0, 3] == 1


def test_linear_memory_is_fetched_by_number_and_zero_outside(driver: Driver) -> None:
    memory = driver.alloc(4096)
    data = np.arange(1024, dtype=np.float32) + 1
    driver.write(memory, data.tobytes())
    texture = driver.texture(resource(2, memory, layout.F32, 4, 4096))
    found = driver.sample("fetch", texture, np.array([[0], [255], [256], [-1]], np.float32))
    assert np.array_equal(found, [[1, 2, 3, 4], [1021, 1022, 1023, 1024], [0] * 4, [0] * 4])
    bytes_ = driver.texture(resource(2, memory, layout.U8, 2, 4096), integer=True)
    assert np.array_equal(driver.sample("fetch_uint", bytes_, np.array([[1]]), np.uint32), [[0x80, 0x3F, 0, 1]])


def test_pitched_memory_is_a_plane(driver: Driver) -> None:
    memory = driver.alloc(4096)
    data = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)
    driver.write(memory, data.tobytes())
    texture = driver.texture(resource(3, memory, layout.F32, 1, 10, 8, 64), filter_=LINEAR)
    at = np.array([[0.5, 0.5], [10, 4], [3.25, 7.5], [20, 20]])
    expected = model(data[:, :10, None], at, (CLAMP,) * 3, LINEAR, normalized=False, border=np.zeros(1))
    assert np.array_equal(driver.sample("two", texture, at)[:, :1], expected)
    driver.run("size", (1, 1, 1), texture, driver.memory)
    assert np.array_equal(np.frombuffer(driver.read(driver.memory, 8), np.int32), [10, 8])


def test_layers_are_chosen_and_clamped(driver: Driver) -> None:
    data = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5, 1)
    texture = driver.texture(resource(0, driver.array(data, layout.F32, LAYERED)), filter_=LINEAR)
    at = np.array([[2.5, 1.5, 0, layer] for layer in (0, 2, 7, -1)])
    assert np.array_equal(driver.sample("two_layered", texture, at)[:, 0], data[[0, 2, 2, 0], 1, 2, 0])
    rows = np.arange(20, dtype=np.float32).reshape(4, 5, 1)
    texture = driver.texture(resource(0, driver.array(rows, layout.F32, LAYERED, one_dimension=True)))
    assert np.array_equal(driver.sample("one_layered", texture, at)[:, 0], rows[[0, 2, 3, 0], 2, 0])


def test_levels_of_detail(driver: Driver) -> None:
    mipmap = driver.u64("cuMipmappedArrayCreate", driver.data(ARRAY_3D.pack(8, 8, 0, layout.F32, 1, 0)), 4)
    for level in range(4):
        size = 8 >> level
        one = driver.u64("cuMipmappedArrayGetLevel", mipmap, level)
        driver.fill(one, np.full((size, size, 1), level, np.float32), size, 1)
    at = np.array([[0.5, 0.5, 0, lod] for lod in (-1, 0, 0.25, 0.75, 1.5, 2.75, 9)], np.float32)
    made = {"normalized": True, "filter_": LINEAR, "levels": (0, 3)}
    smooth = driver.texture(resource(1, mipmap), mip=LINEAR, **made)
    assert np.array_equal(driver.sample("level", smooth, at)[:, 0], [0, 0, 0.25, 0.75, 1.5, 2.75, 3])
    near = driver.texture(resource(1, mipmap), **made)
    assert np.array_equal(driver.sample("level", near, at)[:, 0], [0, 0, 0, 1, 2, 3, 3])
    held = driver.texture(resource(1, mipmap), mip=LINEAR, bias=0.5, **{**made, "levels": (1, 2)})
    assert np.array_equal(driver.sample("level", held, at)[:, 0], [1, 1, 1, 1.25, 2, 2, 2])
    # a step of 4/8 of the texture is 4 texels: level 2
    slopes = np.array([[0.5, 0.5, 0.5, 0], [0.5, 0.5, 0, 0.25], [0.5, 0.5, 0.01, 0.01]])
    assert np.allclose(driver.sample("slope", smooth, slopes)[:, 0], [2, 1, 0])


_AXES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)


def test_cubes_are_read_by_direction(driver: Driver) -> None:
    faces = np.zeros((6, 4, 4, 1), np.float32) + np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    texture = driver.texture(resource(0, driver.array(faces, layout.F32, CUBE)), filter_=LINEAR, modes=(WRAP,) * 3)
    assert np.array_equal(driver.sample("cube", texture, _AXES)[:, 0], range(6))
    # On +x the guide's table says s = -z, t = -y.
    face = np.zeros((6, 4, 4, 1), np.float32)
    face[0, :, :, 0] = np.arange(16).reshape(4, 4)
    texture = driver.texture(resource(0, driver.array(face, layout.F32, CUBE)))
    at = np.array([[1, 0.9, 0.9], [1, 0.9, -0.9], [1, -0.9, 0.9], [1, -0.9, -0.9]])
    assert np.array_equal(driver.sample("cube", texture, at)[:, 0], [0, 3, 12, 15])
    two = np.zeros((12, 4, 4, 1), np.float32) + np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
    texture = driver.texture(resource(0, driver.array(two, layout.F32, CUBE | LAYERED)))
    at = np.array([[*axis, layer] for layer in (0, 1, 5) for axis in _AXES])
    assert np.array_equal(driver.sample("cube_layered", texture, at)[:, 0], [*range(12), *range(6, 12)])


def test_gather_takes_one_channel_of_four_texels(driver: Driver) -> None:
    data = np.arange(32, dtype=np.float32).reshape(4, 4, 2)
    texture = driver.texture(resource(0, driver.array(data, layout.F32, 8)))
    found = driver.sample("gather", texture, np.array([[2.0, 2.0], [0, 0]]))
    assert np.array_equal(found[0], data[[2, 2, 1, 1], [1, 2, 2, 1], 1])
    assert np.array_equal(found[1], [data[0, 0, 1]] * 4)


def test_a_view_shows_some_layers_in_another_format(driver: Driver) -> None:
    data = np.arange(3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4, 1)
    array = driver.array(data, layout.F32, LAYERED)
    view = struct.pack("<IxxxxQQQIIII", 16, 4, 4, 2, 0, 0, 1, 2).ljust(112, b"\0")  # one signed 32-bit channel
    made = driver.u64(
        "cuTexObjectCreate", driver.data(resource(0, array)), driver.data(descriptor()), driver.data(view)
    )
    at = np.array([[0.5, 0.5]])
    assert driver.sample("two_int", made, at, np.int32)[0, 0] == data[1, 0, 0, 0].view(np.int32)
    out = ctypes.create_string_buffer(112)
    driver.ok("cuTexObjectGetResourceViewDesc", ctypes.addressof(out), made)
    assert out.raw == view


# ---- surfaces -------------------------------------------------------------------------------------------------------


def test_surfaces_are_read_and_written(driver: Driver) -> None:
    data = np.arange(6 * 8, dtype=np.float32).reshape(6, 8, 1)
    array = driver.array(data, layout.F32, SURFACE)
    surface = driver.u64("cuSurfObjectCreate", driver.data(resource(0, array)))
    assert driver.run("swap_rows", (32, 8, 1), surface, 8, 6) == 0
    assert np.array_equal(driver.back(array, data, 6, 1), data[::-1])
    assert driver.run("modes", (20, 1, 1), surface, driver.memory) == 0
    out = np.frombuffer(driver.read(driver.memory, 256), np.float32)
    row = data[::-1][1, :, 0]
    assert np.array_equal(out[:20], np.pad(row, (4, 8)))
    assert np.array_equal(out[32:52], np.pad(row, (4, 8), "edge"))
    assert np.array_equal(driver.back(array, data, 6, 1)[2, :, 0], 100 + np.arange(8))


def test_surfaces_have_slices_and_layers(driver: Driver) -> None:
    box = np.zeros((3, 4, 8, 1), np.int16)
    array = driver.array(box, layout.S16, SURFACE)
    surface = driver.u64("cuSurfObjectCreate", driver.data(resource(0, array)))
    assert driver.run("planes", (8, 4, 3), surface, 8, 4) == 0
    assert np.array_equal(driver.back(array, box, 4, 3).ravel(), np.arange(96))
    rows = np.arange(3 * 8 * 2, dtype=np.float32).reshape(3, 8, 2)
    array = driver.array(rows, layout.F32, SURFACE | LAYERED, one_dimension=True)
    surface = driver.u64("cuSurfObjectCreate", driver.data(resource(0, array)))
    assert driver.run("layers", (8, 3, 1), surface) == 0
    assert np.array_equal(driver.back(array, rows, 1, 3), rows[:, :, ::-1])


def _use_after_destroy(driver: Driver) -> int:
    texture = driver.texture(resource(0, driver.array(np.zeros((4, 4, 1), np.float32), layout.F32)))
    driver.ok("cuTexObjectDestroy", texture)
    return driver.run("two", (1, 1, 1), texture, driver.memory, driver.memory + 64, 1)


def _outside(driver: Driver) -> int:
    array = driver.array(np.zeros((4, 4, 1), np.float32), layout.F32, SURFACE)
    return driver.run("trapped", (1, 1, 1), driver.u64("cuSurfObjectCreate", driver.data(resource(0, array))))


@pytest.mark.parametrize("misuse", [_use_after_destroy, _outside])
def test_misuse_is_a_fault(misuse: Callable[[Driver], int]) -> None:
    driver = Driver()
    assert misuse(driver) == 700
    driver.cuda.cuDevicePrimaryCtxReset(0)
