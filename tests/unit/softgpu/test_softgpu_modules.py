"""Modules, libraries, the linker, launches and their limits, occupancy, C entries."""

from __future__ import annotations

import ctypes
import struct
import threading

import pytest
from softgpu_session import PTX, Session

from migproxy.softgpu import container

INVALID_VALUE, INVALID_IMAGE, NO_BINARY, INVALID_PTX, OUT_OF_RESOURCES = 1, 200, 209, 218, 701


def test_the_container_keeps_its_texts() -> None:
    image = container.wrap([PTX, b".version 8.0\n.entry other() {}"])
    assert container.is_container(image)
    assert container.length(image[: container.HEADER.size]) == len(image)
    assert container.unwrap(image) == [PTX, b".version 8.0\n.entry other() {}"]
    assert container.kernel_names(image) == ["store", "wait", "fault", "assertion", "other"]
    assert container.unwrap(container.wrap(PTX + b"\0")) == [PTX]
    assert container.unwrap(image + b"\0" * 7) == container.unwrap(image)


@pytest.mark.parametrize("damage", [0, 9, 30, 60, -1])
def test_a_damaged_container_is_an_error(damage: int) -> None:
    image = bytearray(container.wrap(PTX))
    image[damage] ^= 1
    with pytest.raises(ValueError, match="container"):
        container.unwrap(bytes(image))
    with pytest.raises(ValueError, match="container"):
        container.unwrap(container.wrap(PTX)[:-1])


def test_a_module_from_text_and_from_a_container_is_the_same(session: Session) -> None:
    session.u64("cuModuleLoadData", session.data(PTX + b"\0"))
    session.u64("cuModuleLoadData", session.data(container.wrap(PTX)))
    session.u64("cuModuleLoadDataEx", session.data(container.wrap([PTX, PTX])), 0, 0, 0)
    assert session.engine.loaded == [PTX] * 4


@pytest.mark.parametrize(
    ("image", "status", "word"),
    [
        (b"\x7fELF\x02\x01\x01\x33\0\0\0\0\0\0\0\0", NO_BINARY, "cubin"),
        (b"\x50\xed\x55\xba\x01\0\x10\0", NO_BINARY, "fat binary"),
        (b"hello\0", INVALID_IMAGE, "neither"),
        (b"\x7fMIGPTX\0\x02" + bytes(31), INVALID_IMAGE, "version 2"),
        (b".version 8.0\nsyntax error\n\0", INVALID_PTX, "PTX line 3"),
    ],
)
def test_images_that_cannot_be_loaded(session: Session, image: bytes, status: int, word: str) -> None:
    log = ctypes.create_string_buffer(200)
    options = (ctypes.c_uint32 * 2)(5, 6)
    values = (ctypes.c_uint64 * 2)(ctypes.addressof(log), 200)
    result = session.cuda.cuModuleLoadDataEx(
        session.at, session.data(image), 2, ctypes.addressof(options), ctypes.addressof(values)
    )
    assert result == status
    assert word in session.cuda.last_error_detail
    assert log.value.decode() == session.cuda.last_error_detail


def test_globals_are_device_memory_of_the_module(session: Session) -> None:
    module = session.u64("cuModuleLoadData", session.data(b".version 8.0\n.global table\n\0"))
    session.ok("cuModuleGetGlobal", session.at, session.at + 8, module, session.data(b"table\0"))
    address, size = struct.unpack("<QQ", session.out.raw[:16])
    assert size == 64
    session.write(address, b"x" * 64)
    assert session.cuda.cuModuleGetGlobal(session.at, 0, module, session.data(b"nothing\0")) == 500
    session.ok("cuModuleUnload", module)
    assert session.cuda.cuMemsetD8(address, 0, 64) == INVALID_VALUE


def test_parameters_by_pointers_and_by_one_buffer(session: Session) -> None:
    memory, store = session.alloc(8), session.function("store")
    assert session.launch(store, 0, memory, 11) == 0
    assert session.read(memory, 4) == struct.pack("<I", 11)
    packed = session.data(struct.pack("<QIxxxx", memory + 4, 12))
    extra = session.data(struct.pack("<QQQQQ", 1, packed, 2, session.data(struct.pack("<Q", 12)), 0))
    session.ok("cuLaunchKernel", store, 1, 1, 1, 1, 1, 1, 0, 0, 0, extra)
    assert session.read(memory + 4, 4) == struct.pack("<I", 12)
    longer = session.data(struct.pack("<QQQQQ", 1, packed, 2, session.data(struct.pack("<Q", 16)), 0))
    assert session.cuda.cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, 0, 0, longer) == OUT_OF_RESOURCES
    assert session.cuda.cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0) == INVALID_VALUE


def test_parameters_are_read_when_the_launch_is_made(session: Session) -> None:
    stream, memory, store = session.stream(), session.alloc(4), session.function("store")
    assert session.launch(session.function("wait"), stream) == 0
    # The arguments of `launch` are gone when it returns; the kernel must have its own copy.
    assert session.launch(store, stream, memory, 21) == 0
    session.engine.gate.set()
    session.ok("cuStreamSynchronize", stream)
    assert session.read(memory, 4) == struct.pack("<I", 21)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "status"),
    [
        ((0, 1, 1), (1, 1, 1), 0, INVALID_VALUE),
        ((1, 65536, 1), (1, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (1025, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (1, 1, 65), 0, INVALID_VALUE),
        ((1, 1, 1), (32, 32, 2), 0, INVALID_VALUE),
        ((1, 1, 1), (512, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (256, 1, 1), 48 * 1024 + 1, INVALID_VALUE),
        ((2**31 - 1, 65535, 65535), (256, 1, 1), 48 * 1024, 0),
    ],
)
def test_launch_limits(
    session: Session, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int, status: int
) -> None:
    module = session.u64("cuModuleLoadData", session.data(b".version 8.0\n.entry nothing() {}\0"))
    function = session.u64("cuModuleGetFunction", module, session.data(b"nothing\0"))
    kernel = session.cuda.function(function).kernel
    kernel.max_threads, kernel.params, kernel.param_size = 256, [], 0
    assert session.cuda.cuLaunchKernel(function, *grid, *block, shared, 0, 0, 0) == status
    session.ok("cuCtxSynchronize")


def test_more_shared_memory_after_opting_in(session: Session) -> None:
    store = session.function("store")
    session.ok("cuFuncSetAttribute", store, 8, 163 * 1024)
    assert session.i32("cuFuncGetAttribute", 8, store) == 163 * 1024
    assert session.cuda.cuFuncSetAttribute(store, 8, 163 * 1024 + 1) == INVALID_VALUE
    session.ok("cuFuncSetAttribute", store, 9, 0xFFFFFFFF)
    assert session.i32("cuFuncGetAttribute", 9, store) == -1


def test_what_a_kernel_says_of_itself(session: Session) -> None:
    store = session.function("store")
    session.ok("cuFuncGetParamInfo", store, 1, session.at, session.at + 8)
    assert struct.unpack("<QQ", session.out.raw[:16]) == (8, 4)
    assert session.cuda.cuFuncGetParamInfo(store, 2, session.at, session.at + 8) == INVALID_VALUE
    assert ctypes.string_at(session.u64("cuFuncGetName", store)) == b"store"
    assert session.i32("cuFuncGetAttribute", 0, store) == 1024


def test_libraries(session: Session) -> None:
    library = session.u64("cuLibraryLoadData", session.data(container.wrap(PTX)), 0, 0, 0, 0, 0, 0)
    assert session.u64("cuLibraryGetKernelCount", library) & 0xFFFFFFFF == 4
    kernels = (ctypes.c_uint64 * 4)()
    session.ok("cuLibraryEnumerateKernels", ctypes.addressof(kernels), 4, library)
    names = [ctypes.string_at(session.u64("cuKernelGetName", kernel)) for kernel in kernels]
    assert names == [b"store", b"wait", b"fault", b"assertion"]
    kernel = session.u64("cuLibraryGetKernel", library, session.data(b"store\0"))
    assert kernel == kernels[0]
    memory = session.alloc(8)
    assert session.launch(session.u64("cuKernelGetFunction", kernel), 0, memory, 5) == 0
    assert session.launch(kernel, 0, memory + 4, 6) == 0
    assert session.read(memory, 8) == struct.pack("<II", 5, 6)
    module = session.u64("cuLibraryGetModule", library)
    assert session.cuda.cuModuleUnload(module) == 800
    session.ok("cuLibraryUnload", library)
    assert session.launch(kernel) == 400


def test_linking_ptx(session: Session) -> None:
    link = _link(session)
    session.ok("cuLinkAddData", link, 1, session.data(PTX), len(PTX), 0, 0, 0, 0)
    other = b".version 8.0\n.entry other() {}\0"
    session.ok("cuLinkAddData", link, 1, session.data(other), len(other), 0, 0, 0, 0)
    assert session.cuda.cuLinkAddData(link, 0, session.data(b"\x7fELF1234"), 8, 0, 0, 0, 0) == NO_BINARY
    session.ok("cuLinkComplete", link, session.at, session.at + 8)
    image, size = struct.unpack("<QQ", session.out.raw[:16])
    copied = ctypes.string_at(image, size)
    session.ok("cuLinkDestroy", link)
    module = session.u64("cuModuleLoadData", session.data(copied))
    assert session.u64("cuModuleGetFunction", module, session.data(b"other\0"))


def _link(session: Session) -> int:
    session.ok("cuLinkCreate", 0, 0, 0, session.at)
    return ctypes.c_uint64.from_address(session.at).value


def test_occupancy(session: Session) -> None:
    store = session.function("store")
    assert session.i32("cuOccupancyMaxActiveBlocksPerMultiprocessor", store, 1024, 0) == 2
    assert session.i32("cuOccupancyMaxActiveBlocksPerMultiprocessor", store, 32, 0) == 32
    assert session.i32("cuOccupancyMaxActiveBlocksPerMultiprocessor", store, 64, 48 * 1024) == 3
    session.ok("cuOccupancyMaxPotentialBlockSize", session.at, session.at + 4, store, 0, 0, 0)
    grid, block = struct.unpack("<ii", session.out.raw[:8])
    assert (grid, block) == (32, 1024)


def test_a_cooperative_launch_of_more_than_one_block_is_refused(session: Session) -> None:
    store, memory = session.function("store"), session.alloc(4)
    pointers = session.data(struct.pack("<QQ", session.data(struct.pack("<Q", memory)), session.data(b"abcd")))
    session.ok("cuLaunchCooperativeKernel", store, 1, 1, 1, 32, 1, 1, 0, 0, pointers)
    assert session.cuda.cuLaunchCooperativeKernel(store, 2, 1, 1, 32, 1, 1, 0, 0, pointers) == 801
    assert session.cuda.cuLaunchCooperativeKernel(store, 10_000, 1, 1, 32, 1, 1, 0, 0, pointers) == 720
    assert session.read(memory, 4) == b"abcd"


def test_launch_by_configuration(session: Session) -> None:
    store, memory = session.function("store"), session.alloc(4)
    pointers = session.data(struct.pack("<QQ", session.data(struct.pack("<Q", memory)), session.data(b"efgh")))
    priority = struct.pack("<I4xi60x", 8, -1)
    config = struct.pack("<7I4xQQI4x", 1, 1, 1, 1, 1, 1, 0, 0, session.data(priority), 1)
    session.ok("cuLaunchKernelEx", session.data(config), store, pointers, 0)
    assert session.read(memory, 4) == b"efgh"
    cluster = struct.pack("<I4xIII52x", 4, 2, 1, 1)
    config = struct.pack("<7I4xQQI4x", 2, 1, 1, 1, 1, 1, 0, 0, session.data(cluster), 1)
    assert session.cuda.cuLaunchKernelEx(session.data(config), store, pointers, 0) == 801


def test_c_entries_can_be_called_from_a_bare_thread(session: Session) -> None:
    kinds = [ctypes.c_uint64] + [ctypes.c_uint32] * 7 + [ctypes.c_uint64] * 3
    launch = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(session.cuda.callback_pointer("cuLaunchKernel"))
    memory, store, stream = session.alloc(4), session.function("store"), session.stream()
    pointers = session.data(struct.pack("<QQ", session.data(struct.pack("<Q", memory)), session.data(b"ijkl")))
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(launch(store, 1, 1, 1, 1, 1, 1, 0, stream, pointers, 0)))
    thread.start()
    thread.join(10)
    synchronize = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)(session.cuda.callback_pointer("cuStreamSynchronize"))
    assert results == [0]
    assert synchronize(stream) == 0
    assert session.read(memory, 4) == b"ijkl"
    session.ok("cuGetProcAddress", session.data(b"cuStreamSynchronize_ptsz\0"), session.at, 12000, 0, session.at + 8)
    assert struct.unpack("<QI", session.out.raw[:12]) == (session.cuda.callback_pointer("cuStreamSynchronize"), 0)
    assert session.cuda.cuGetProcAddress(session.data(b"cuNothing\0"), session.at, 12000, 0, session.at + 8) == 500
