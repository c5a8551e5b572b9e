"""The driver with the real PTX compiler: kernels from NVRTC."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from softgpu_session import Session

from migproxy.softgpu import container
from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.libcuda import SoftCuda

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="kernels are compiled by NVRTC")

SOURCE = r"""
#include <cooperative_groups.h>
__device__ int counter = 5;
__constant__ float factors[4];

extern "C" __global__ void saxpy(float a, const float *x, float *y, int n)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        y[i] += a * x[i] * factors[i & 3];
}
extern "C" __global__ void count() { atomicAdd(&counter, 1); }
extern "C" __global__ void reverse(int *data, int n)
{
    extern __shared__ int tile[];
    tile[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
extern "C" __global__ void rounds(int *cells, int n)
{
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    for (int round = 0; round < 3; round++) {
        int next = cells[(blockIdx.x + 1) % n];
        grid.sync();
        if (threadIdx.x == 0)
            cells[blockIdx.x] = next;
        grid.sync();
    }
}
extern "C" __global__ void outside(int *data) { data[1 << 24] = 1; }
extern "C" __global__ void wait_for(volatile int *flag) { while (*flag == 0) {} }
"""


def _include_options() -> list[bytes]:
    """Where ``cooperative_groups.h`` and what it includes are."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    folders: set[Path] = set()
    for name in ("cooperative_groups.h", "nv/target"):
        found = [header for place in places for header in place.glob(f"**/{name}")]
        if not found:
            pytest.skip(f"CUDA's header {name} is not installed")
        folders |= {header.parents[name.count("/")] for header in found}
    return [b"-I" + str(folder).encode() for folder in sorted(folders)]


@pytest.fixture(scope="module")
def image() -> bytes:
    error, program = nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"test.cu", 0, [], [])
    assert int(error) == 0
    options = [b"--gpu-architecture=compute_80", *_include_options()]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    assert int(error) == 0
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    return container.wrap(text)


@pytest.fixture
def real(image: bytes) -> Iterator[tuple[Session, int]]:
    session = Session()
    session.cuda = SoftCuda(CardSpec(memory=64 * MIB))
    session.ok("cuInit", 0)
    session.ok("cuCtxSetCurrent", session.u64("cuDevicePrimaryCtxRetain", 0))
    yield session, session.u64("cuModuleLoadData", session.data(image))
    session.ok("cuDevicePrimaryCtxReset", 0)


def _launch(
    session: Session,
    module: int,
    name: str,
    layout: str,
    *values: float,
    threads: int = 64,
    shared: int = 0,
    stream: int = 0,
    grid: int = 1,
) -> int:
    function = session.u64("cuModuleGetFunction", module, session.data(name.encode() + b"\0"))
    pointers = [session.data(struct.pack("<" + kind, value)) for kind, value in zip(layout, values, strict=True)]
    table = session.data(struct.pack(f"<{len(pointers)}Q", *pointers))
    return session.cuda.cuLaunchKernel(function, grid, 1, 1, threads, 1, 1, shared, stream, table, 0)


def _global(session: Session, module: int, name: str) -> int:
    session.ok("cuModuleGetGlobal", session.at, session.at + 8, module, session.data(name.encode() + b"\0"))
    return int(struct.unpack("<Q", session.out.raw[:8])[0])


def test_a_kernel_computes(real: tuple[Session, int]) -> None:
    session, module = real
    x, y = np.arange(1000, dtype=np.float32), np.ones(1000, np.float32)
    on_x, on_y = session.alloc(4000), session.alloc(4000)
    session.write(on_x, x.tobytes())
    session.write(on_y, y.tobytes())
    session.write(_global(session, module, "factors"), np.array([1, 2, 3, 4], np.float32).tobytes())
    assert _launch(session, module, "saxpy", "fQQi", 2.0, on_x, on_y, 1000, grid=3) == 0
    expected = y + 2 * x * np.tile(np.array([1, 2, 3, 4], np.float32), 250)
    assert (np.frombuffer(session.read(on_y, 4000), np.float32) == expected).all()


def test_globals_start_as_written_and_are_shared_by_launches(real: tuple[Session, int]) -> None:
    session, module = real
    for _ in range(3):
        assert _launch(session, module, "count", "", threads=100, grid=2) == 0
    assert session.read(_global(session, module, "counter"), 4) == struct.pack("<i", 605)


def test_barriers_and_dynamic_shared_memory(real: tuple[Session, int]) -> None:
    session, module = real
    data = session.alloc(1024)
    session.write(data, np.arange(256, dtype=np.int32).tobytes())
    assert _launch(session, module, "reverse", "Qi", data, 256, threads=256, shared=1024) == 0
    assert (np.frombuffer(session.read(data, 1024), np.int32) == np.arange(255, -1, -1)).all()


def test_an_access_outside_is_a_sticky_fault_that_names_the_kernel(real: tuple[Session, int]) -> None:
    session, module = real
    assert _launch(session, module, "outside", "Q", session.alloc(64), threads=1) == 0
    assert session.cuda.cuCtxSynchronize() == 700
    assert "outside" in session.cuda.last_error_detail
    assert session.cuda.cuMemAlloc(session.at, 4) == 700


def test_a_running_kernel_sees_another_streams_write(real: tuple[Session, int]) -> None:
    session, module = real
    flag, first, second = session.alloc(4), session.stream(), session.stream()
    assert _launch(session, module, "wait_for", "Q", flag, threads=1, stream=first) == 0
    assert session.cuda.cuStreamQuery(first) == 600
    session.ok("cuMemsetD32Async", flag, 1, 1, second)
    session.ok("cuStreamSynchronize", first)


def test_what_nvrtc_says_of_a_kernel(real: tuple[Session, int]) -> None:
    session, module = real
    function = session.u64("cuModuleGetFunction", module, session.data(b"saxpy\0"))
    infos = []
    for index in range(4):
        session.ok("cuFuncGetParamInfo", function, index, session.at, session.at + 8)
        infos.append(struct.unpack("<QQ", session.out.raw[:16]))
    assert infos == [(0, 4), (8, 8), (16, 8), (24, 4)]
    assert session.i32("cuFuncGetAttribute", 2, function) == 16


@pytest.mark.parametrize("blocks", [1, 6])
def test_blocks_of_a_cooperative_launch_wait_for_each_other(real: tuple[Session, int], blocks: int) -> None:
    session, module = real
    cells = session.alloc(4 * blocks)
    session.write(cells, np.arange(blocks, dtype=np.int32).tobytes())
    function = session.u64("cuModuleGetFunction", module, session.data(b"rounds\0"))
    values = [session.data(struct.pack("<Q", cells)), session.data(struct.pack("<i", blocks))]
    table = session.data(struct.pack("<QQ", *values))
    session.ok("cuLaunchCooperativeKernel", function, blocks, 1, 1, 32, 1, 1, 0, 0, table)
    expected = np.roll(np.arange(blocks, dtype=np.int32), -3)
    assert (np.frombuffer(session.read(cells, 4 * blocks), np.int32) == expected).all()
