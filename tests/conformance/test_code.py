"""Modules, libraries, kernels and launches."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from transports import Arguments, Host, launch

from migproxy.errors import CudaError

Read = Callable[[int, int], bytes]
Device = Callable[[bytes | int], int]
Kernel = Callable[[str], int]

PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 total = 5;
.visible .entry add(.param .u64 out, .param .u32 value)
{
    .reg .u32 %r<4>;
    .reg .u64 %d<3>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [value];
    ld.global.u32 %r2, [total];
    add.u32 %r3, %r1, %r2;
    cvta.to.global.u64 %d2, %d1;
    st.global.u32 [%d2], %r3;
    ret;
}
"""


def fails(*statuses: int) -> Any:
    return pytest.raises(CudaError, check=lambda error: error.status in statuses)


def ints(data: bytes) -> list[int]:
    return array("i", data).tolist()


def test_ptx_text(cuda: Any, device: Device, read: Read) -> None:
    module = cuda.module_load(PTX)
    function = cuda.module_function(module, b"add")
    out = device(4)
    launch(cuda, function, (1, 1, 1), (1, 1, 1), ctypes.c_void_p(out), ctypes.c_uint32(37))
    assert ints(read(out, 4)) == [42]
    address, size = cuda.module_global(module, b"total")
    assert size == 4
    assert ints(read(address, 4)) == [5]
    hundred = Host((100).to_bytes(4, "little"))
    cuda.memcpy_htod(address, hundred.address, 4)
    launch(cuda, function, (1, 1, 1), (1, 1, 1), ctypes.c_void_p(out), ctypes.c_uint32(1))
    assert ints(read(out, 4)) == [101]
    cuda.module_unload(module)


def test_a_kernel_is_one_object_as_long_as_its_module(cuda: Any) -> None:
    one, other = cuda.module_load(PTX), cuda.module_load(PTX)
    assert cuda.module_function(one, b"add") == cuda.module_function(one, b"add")
    assert cuda.module_function(one, b"add") != cuda.module_function(other, b"add")
    cuda.module_unload(one)
    assert cuda.module_function(other, b"add") == cuda.module_function(other, b"add")
    cuda.module_unload(other)


def test_names_that_are_not_there(cuda: Any) -> None:
    module = cuda.module_load(PTX)
    with fails(500):
        cuda.module_function(module, b"subtract")
    with fails(500):
        cuda.module_global(module, b"difference")
    cuda.module_unload(module)


def test_images_that_are_none(cuda: Any) -> None:
    with fails(200, 218):
        cuda.module_load(b"this is no module at all")
    with fails(218):
        cuda.module_load(PTX.replace(b"add.u32", b"frobnicate.u32"))


def test_libraries(cuda: Any, device: Device, read: Read) -> None:
    library = cuda.library_load(PTX)
    kernel = cuda.library_kernel(library, b"add")
    out = device(4)
    launch(cuda, kernel, (1, 1, 1), (1, 1, 1), ctypes.c_void_p(out), ctypes.c_uint32(2))
    assert ints(read(out, 4)) == [7]
    with fails(500):
        cuda.library_kernel(library, b"subtract")
    cuda.library_unload(library)


def test_attributes_and_parameters(cuda: Any, kernel: Kernel) -> None:
    assert cuda.function_attribute(kernel("narrow"), 0) == 64
    assert cuda.function_attribute(kernel("count"), 0) == 1024
    assert cuda.function_parameters(kernel("saxpy")) == [(0, 4), (8, 8), (16, 8), (24, 4)]
    assert cuda.function_parameters(kernel("packed")) == [(0, 1), (8, 24), (32, 8), (40, 2)]
    assert cuda.function_parameters(kernel("trap")) == []


def test_compiled_code(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    n = 10_000
    x, y = array("f", range(n)), array("f", [0.5] * n)
    on_device = device(x.tobytes()), device(y.tobytes())
    arguments = Arguments(
        ctypes.c_float(3), ctypes.c_void_p(on_device[0]), ctypes.c_void_p(on_device[1]), ctypes.c_int(n)
    )
    cuda.launch(kernel("saxpy"), (-(-n // 256), 1, 1), (256, 1, 1), 0, 0, arguments.address)
    assert array("f", read(on_device[1], 4 * n)).tolist() == [3.0 * i + 0.5 for i in range(n)]


def test_grid_and_block_have_three_dimensions(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    blocks, threads = 2 * 3 * 4, 5 * 2 * 3
    out = device(4 * blocks * threads)
    launch(cuda, kernel("where"), (2, 3, 4), (5, 2, 3), ctypes.c_void_p(out))
    expected = [block * 10_000 + thread for block in range(blocks) for thread in range(threads)]
    assert ints(read(out, 4 * blocks * threads)) == expected


def test_dynamic_shared_memory_and_barrier(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    out = device(array("i", range(300)).tobytes())
    launch(cuda, kernel("reverse"), (1, 1, 1), (300, 1, 1), ctypes.c_void_p(out), shared=1200)
    assert ints(read(out, 1200)) == list(range(299, -1, -1))


def test_atomics(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    counter = device(bytes(4))
    launch(cuda, kernel("count"), (33, 1, 1), (77, 1, 1), ctypes.c_void_p(counter))
    assert ints(read(counter, 4)) == [33 * 77]


def test_initialised_globals(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    out = device(16)
    launch(cuda, kernel("read_table"), (1, 1, 1), (4, 1, 1), ctypes.c_void_p(out))
    assert ints(read(out, 16)) == [1, 2, 3, 4]


class Pair(ctypes.Structure):
    _fields_ = (("c", ctypes.c_char), ("d", ctypes.c_double), ("s", ctypes.c_short))


def test_parameters_of_every_size(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    out = device(40)
    arguments = Arguments(ctypes.c_char(b"\x07"), Pair(b"\x08", 9.0, 10), ctypes.c_void_p(out), ctypes.c_short(11))
    cuda.launch(kernel("packed"), (1, 1, 1), (1, 1, 1), 0, 0, arguments.address)
    assert struct.unpack("<5q", read(out, 40)) == (7, 8, 9, 10, 11)


def test_packed_parameters(cuda: Any, kernel: Kernel, device: Device, read: Read) -> None:
    """The ``extra`` form of a launch."""
    out = device(bytes(8))
    packed = Host(struct.pack("<bxxxxxxxbxxxxxxxdhxxxxxxQh", 1, 2, 3.0, 4, device(40), 5))
    out = struct.unpack_from("<Q", packed.data, 32)[0]
    size = ctypes.c_size_t(packed.size)
    extra = (ctypes.c_void_p * 5)(1, packed.address, 2, ctypes.addressof(size), 0)
    cuda.launch(kernel("packed"), (1, 1, 1), (1, 1, 1), 0, 0, 0, ctypes.addressof(extra))
    assert struct.unpack("<5q", read(out, 40)) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "statuses"),
    [
        ((0, 1, 1), (1, 1, 1), 0, (1,)),
        ((1, 1, 1), (0, 1, 1), 0, (1,)),
        ((1, 1, 1), (1025, 1, 1), 0, (1,)),
        ((1, 1, 1), (32, 33, 1), 0, (1,)),
        ((1, 65536, 1), (1, 1, 1), 0, (1,)),
        ((1, 1, 1), (1, 1, 1), 1 << 20, (1,)),
    ],
)
def test_limits_are_checked_in_the_call(
    cuda: Any, kernel: Kernel, device: Device, grid: Any, block: Any, shared: int, statuses: tuple[int, ...]
) -> None:
    with fails(*statuses):
        launch(cuda, kernel("count"), grid, block, ctypes.c_void_p(device(4)), shared=shared)
    cuda.context_synchronize()


def test_launch_bounds_are_checked_in_the_call(cuda: Any, kernel: Kernel, device: Device) -> None:
    arguments = Arguments(ctypes.c_void_p(device(4096)))
    with fails(1, 701):
        cuda.launch(kernel("narrow"), (1, 1, 1), (65, 1, 1), 0, 0, arguments.address)
    cuda.launch(kernel("narrow"), (1, 1, 1), (64, 1, 1), 0, 0, arguments.address)
    cuda.context_synchronize()
