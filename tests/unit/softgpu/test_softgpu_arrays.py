"""Arrays, mipmapped arrays, and the objects made of them."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from softgpu_session import Session

from migproxy.softgpu import errors_table as status
from migproxy.softgpu import texture_layout as layout

ARRAY_3D = struct.Struct("<QQQIIIxxxx")
COPY_3D = struct.Struct("<QQQQI4xQQQQQQQQQQI4xQQQQQQQQQ")
COPY_2D = struct.Struct("<QQI4xQQQQQQI4xQQQQQQ")
HOST, DEVICE, ARRAY = 1, 2, 3
LAYERED, SURFACE, CUBE = 1, 2, 4


def array(session: Session, *extent: int, kind: int = layout.F32, channels: int = 1, flags: int = 0) -> int:
    width, height, depth = (*extent, 0, 0)[:3]
    return session.u64("cuArray3DCreate", session.data(ARRAY_3D.pack(width, height, depth, kind, channels, flags)))


def copy_3d(session: Session, source: tuple[int, ...], to: tuple[int, ...], extent: tuple[int, int, int]) -> int:
    """(type, address or array, pitch, rows, x, y, z) on both sides."""

    def side(kind: int, place: int, pitch: int, rows: int, x: int, y: int, z: int) -> tuple[int, ...]:
        places = {HOST: (place, 0, 0), DEVICE: (0, place, 0), ARRAY: (0, 0, place)}[kind]
        return (x, y, z, 0, kind, *places, 0, pitch, rows)

    return session.cuda.cuMemcpy3D(session.data(COPY_3D.pack(*side(*source), *side(*to), *extent)))


def resource(kind: int, *rest: int) -> bytes:
    codes = {0: "Q", 1: "Q", 2: "QIIQ", 3: "QIIQQQ"}[kind]
    return struct.pack("<Ixxxx" + codes, kind, *rest).ljust(144, b"\0")


def texture(modes: tuple[int, int, int] = (1, 1, 1), filter_: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<IIIIII", *modes, filter_, flags, 0).ljust(104, b"\0")


@pytest.mark.parametrize("extent", [(68,), (68, 19), (68, 19, 31)])
@pytest.mark.parametrize(("kind", "dtype"), [(layout.U8, np.uint8), (layout.F16, np.float16), (layout.F32, np.float32)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_box_goes_into_an_array_and_comes_back(
    session: Session, extent: tuple[int, ...], kind: int, dtype: type, channels: int
) -> None:
    shape = (*extent[1:][::-1], extent[0] * channels)
    data = (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)
    back = np.zeros_like(data)
    handle = array(session, *extent, kind=kind, channels=channels)
    row = shape[-1] * data.itemsize
    box = (row, (*extent, 1, 1)[1], (*extent, 1, 1)[2])
    assert copy_3d(session, (HOST, data.ctypes.data, row, box[1], 0, 0, 0), (ARRAY, handle, 0, 0, 0, 0, 0), box) == 0
    assert copy_3d(session, (ARRAY, handle, 0, 0, 0, 0, 0), (HOST, back.ctypes.data, row, box[1], 0, 0, 0), box) == 0
    assert np.array_equal(data, back)


def test_a_part_of_an_array_is_copied_where_it_says(session: Session) -> None:
    handle = array(session, 16, 8)
    whole = np.arange(128, dtype=np.float32).reshape(8, 16)
    copy_3d(session, (HOST, whole.ctypes.data, 64, 8, 0, 0, 0), (ARRAY, handle, 0, 0, 0, 0, 0), (64, 8, 1))
    part = np.zeros((3, 5), np.float32)
    fields = (4 * 7, 2, ARRAY, 0, 0, handle, 0, 0, 0, HOST, part.ctypes.data, 0, 0, 20, 20, 3)
    session.ok("cuMemcpy2D", session.data(COPY_2D.pack(*fields)))
    assert np.array_equal(part, whole[2:5, 7:12])


@pytest.mark.parametrize(
    ("at", "extent"),
    [((4, 0, 0), (64, 8, 1)), ((0, 1, 0), (64, 8, 1)), ((0, 0, 1), (64, 8, 1)), ((2, 0, 0), (4, 1, 1))],
)
def test_a_copy_beyond_an_array_is_refused(
    session: Session, at: tuple[int, int, int], extent: tuple[int, int, int]
) -> None:
    handle = array(session, 16, 8)
    data = np.zeros(1024, np.uint8)
    found = copy_3d(session, (HOST, data.ctypes.data, 64, 8, 0, 0, 0), (ARRAY, handle, 0, 0, *at), extent)
    assert found == status.INVALID_VALUE


def test_layers_are_planes(session: Session) -> None:
    handle = array(session, 8, 0, 5, flags=LAYERED)
    rows = np.arange(40, dtype=np.float32).reshape(5, 8)
    copy_3d(session, (HOST, rows.ctypes.data, 32, 1, 0, 0, 0), (ARRAY, handle, 0, 0, 0, 0, 0), (32, 1, 5))
    one = np.zeros(8, np.float32)
    copy_3d(session, (ARRAY, handle, 0, 0, 0, 0, 3), (HOST, one.ctypes.data, 32, 1, 0, 0, 0), (32, 1, 1))
    assert np.array_equal(one, rows[3])


@pytest.mark.parametrize(
    ("extent", "flags", "expected"),
    [
        ((0, 0, 0), 0, status.INVALID_VALUE),
        ((8, 0, 4), 0, status.INVALID_VALUE),
        ((8, 8, 0), LAYERED, status.INVALID_VALUE),
        ((8, 4, 6), CUBE, status.INVALID_VALUE),
        ((8, 8, 12), CUBE, status.INVALID_VALUE),
        ((1 << 20, 0, 0), 0, status.INVALID_VALUE),
        ((8, 8, 1 << 15), 0, status.INVALID_VALUE),
        ((8, 8, 0), 0x40, status.NOT_SUPPORTED),
        ((8, 8, 12), CUBE | LAYERED, 0),
        ((8, 8, 6), CUBE, 0),
    ],
)
def test_arrays_have_the_shapes_that_cuda_has(
    session: Session, extent: tuple[int, int, int], flags: int, expected: int
) -> None:
    descriptor = session.data(ARRAY_3D.pack(*extent, layout.F32, 1, flags))
    assert session.cuda.cuArray3DCreate(session.at, descriptor) == expected


def test_an_array_tells_what_it_is_and_gives_its_memory_back(session: Session) -> None:
    session.ok("cuMemGetInfo", session.at, session.at + 8)
    free = ctypes.c_uint64.from_address(session.at).value
    handle = array(session, 100, 50, 3, kind=layout.S16, channels=2, flags=LAYERED | SURFACE)
    session.ok("cuArray3DGetDescriptor", session.at, handle)
    assert ARRAY_3D.unpack(session.out.raw[: ARRAY_3D.size]) == (100, 50, 3, layout.S16, 2, LAYERED | SURFACE)
    session.ok("cuArrayDestroy", handle)
    assert session.cuda.cuArrayDestroy(handle) == status.INVALID_HANDLE
    session.ok("cuMemGetInfo", session.at, session.at + 8)
    assert ctypes.c_uint64.from_address(session.at).value == free


def test_levels_of_a_mipmapped_array_halve(session: Session) -> None:
    descriptor = session.data(ARRAY_3D.pack(20, 9, 0, layout.F32, 1, 0))
    handle = session.u64("cuMipmappedArrayCreate", descriptor, 100)
    sizes = []
    for level in range(5):
        one = session.u64("cuMipmappedArrayGetLevel", handle, level)
        assert one == session.u64("cuMipmappedArrayGetLevel", handle, level)
        session.ok("cuArray3DGetDescriptor", session.at, one)
        sizes.append(ARRAY_3D.unpack(session.out.raw[: ARRAY_3D.size])[:3])
        assert session.cuda.cuArrayDestroy(one) == status.INVALID_HANDLE
    assert sizes == [(20, 9, 0), (10, 4, 0), (5, 2, 0), (2, 1, 0), (1, 1, 0)]
    assert session.cuda.cuMipmappedArrayGetLevel(session.at, handle, 5) == status.INVALID_VALUE
    session.ok("cuMipmappedArrayDestroy", handle)
    assert session.cuda.cuArray3DGetDescriptor(session.at, one) == status.INVALID_HANDLE


def test_a_texture_keeps_its_descriptors(session: Session) -> None:
    handle = array(session, 8, 8)
    res, tex = resource(0, handle), texture()
    made = session.u64("cuTexObjectCreate", session.data(res), session.data(tex), 0)
    out = ctypes.create_string_buffer(144)
    session.ok("cuTexObjectGetResourceDesc", ctypes.addressof(out), made)
    assert out.raw == res
    session.ok("cuTexObjectGetTextureDesc", ctypes.addressof(out), made)
    assert out.raw[:104] == tex
    assert session.cuda.cuTexObjectGetResourceViewDesc(ctypes.addressof(out), made) == status.INVALID_VALUE
    session.ok("cuTexObjectDestroy", made)
    assert session.cuda.cuTexObjectDestroy(made) == status.INVALID_VALUE
    assert session.cuda.cuTexObjectGetResourceDesc(ctypes.addressof(out), made) == status.INVALID_VALUE


def test_textures_that_make_no_sense_are_refused(session: Session) -> None:
    memory = session.alloc(4096)
    ints, floats = array(session, 8, 8, kind=layout.S32), array(session, 8, 8)

    def create(res: bytes, tex: bytes) -> int:
        return session.cuda.cuTexObjectCreate(session.at, session.data(res), session.data(tex), 0)

    assert create(resource(0, ints), texture(filter_=1)) == status.INVALID_VALUE
    assert create(resource(0, floats), texture(filter_=1)) == 0
    assert create(resource(0, floats), texture(modes=(4, 0, 0))) == status.INVALID_VALUE
    assert create(resource(0, 12345), texture()) == status.INVALID_HANDLE
    assert create(resource(2, memory, layout.F32, 1, 4096), texture()) == 0
    assert create(resource(2, memory + 4, layout.F32, 1, 64), texture()) == status.INVALID_VALUE
    assert create(resource(2, memory, layout.F32, 1, 1 << 30), texture()) == status.INVALID_VALUE
    assert create(resource(3, memory, layout.F32, 1, 16, 8, 64), texture()) == 0
    assert create(resource(3, memory, layout.F32, 1, 16, 8, 32), texture()) == status.INVALID_VALUE
    assert create(resource(3, memory, layout.F32, 1, 8, 8, 48), texture()) == status.INVALID_VALUE


def test_surfaces_are_of_arrays_made_for_them(session: Session) -> None:
    plain, made = array(session, 8, 8), array(session, 8, 8, flags=SURFACE)
    assert session.cuda.cuSurfObjectCreate(session.at, session.data(resource(0, plain))) == status.INVALID_VALUE
    surface = session.u64("cuSurfObjectCreate", session.data(resource(0, made)))
    assert session.cuda.cuTexObjectDestroy(surface) == status.INVALID_VALUE
    session.ok("cuSurfObjectDestroy", surface)
