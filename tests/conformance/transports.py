"""The ways from a test to a driver, and what tests of a driver need: kernels, parameters, host memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

TRANSPORTS = ("software-direct", "software-proxied", "gpu-direct", "gpu-proxied")
#: On an H100 a context alone takes half a GiB of it.
QUOTA = 2 << 30

SOURCE = r"""
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void where(int* out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 10000 + thread;
}
extern "C" __global__ void reverse(int* data) {
    extern __shared__ int shared[];
    shared[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void count(int* counter) { atomicAdd(counter, 1); }
struct Pair { char c; double d; short s; };
extern "C" __global__ void packed(char a, Pair pair, long long* out, short b) {
    out[0] = a; out[1] = pair.c; out[2] = (long long)pair.d; out[3] = pair.s; out[4] = b;
}
__device__ int table[4] = {1, 2, 3, 4};
extern "C" __global__ void read_table(int* out) { out[threadIdx.x] = table[threadIdx.x]; }
extern "C" __global__ void spin(long long clocks, int* out) {
    long long start = clock64();
    while (clock64() - start < clocks) {}
    *out += 1;
}
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void store(int* where) { *where = 1; }
extern "C" __global__ void __launch_bounds__(64) narrow(int* out) { out[threadIdx.x] = 1; }
"""


def compile_ptx(source: str = SOURCE) -> bytes:
    """Compile CUDA C++ to PTX for any device from compute capability 8.0 on."""
    from cuda.bindings import nvrtc

    error, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], [])
    assert error == 0, error
    options = [b"--gpu-architecture=compute_80"]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error != 0:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    _, size = nvrtc.nvrtcGetPTXSize(program)
    ptx = bytearray(size)
    nvrtc.nvrtcGetPTX(program, ptx)
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(ptx).rstrip(b"\0")


class Proxied:
    """`migproxy.session.api` of this process."""

    def __init__(self) -> None:
        from migproxy.session import api

        self._api = api
        api.ensure_context()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def memory_type(self, pointer: int) -> int:
        """Return the ``CUmemorytype``, 0 for memory that the driver does not know."""
        return int(self._api.pointer_facts(pointer).memory_type)


@contextlib.contextmanager
def opened(transport: str) -> Iterator[Any]:
    """Open one of `TRANSPORTS`; yields an object with the functions of `migproxy.session.api`."""
    device, way = transport.split("-")
    if way == "direct":
        from direct import Direct

        from migproxy.executor.driver import open_driver

        driver = Direct(open_driver("software" if device == "software" else "0"))
        try:
            yield driver
        finally:
            driver.close()
        return
    from migproxy.session import session

    before = dict(os.environ)
    os.environ["MIGPROXY_DEVICE"] = "software" if device == "software" else "0"
    os.environ["MIGPROXY_MEMORY"] = str(QUOTA)
    try:
        driver = Proxied()
    finally:
        # What names our broker and function there is for children, and the next tests' children are not ours.
        os.environ.clear()
        os.environ.update(before)
    try:
        yield driver
    finally:
        session.close_current()


class Arguments:
    """A kernel's arguments as ``void *kernelParams[]``; keep it, by name, until the launch has returned."""

    def __init__(self, *values: Any) -> None:
        self._values = values
        self._pointers = (ctypes.c_void_p * max(len(values), 1))(*[ctypes.addressof(each) for each in values])
        self.address = ctypes.addressof(self._pointers)


class Host:
    """Ordinary host memory with an address; it lives as long as this object."""

    def __init__(self, data: bytes | int) -> None:
        self._buffer = (
            ctypes.create_string_buffer(data, len(data)) if isinstance(data, bytes) else (ctypes.c_char * data)()
        )
        self.address = ctypes.addressof(self._buffer)
        self.size = len(self._buffer)

    @property
    def data(self) -> bytes:
        """The content."""
        return bytes(self._buffer)

    def fill(self, byte: int) -> None:
        """Overwrite all of it."""
        ctypes.memset(self.address, byte, self.size)


def launch(
    cuda: Any,
    function: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    *values: Any,
    shared: int = 0,
    stream: int = 0,
) -> None:
    """Launch a kernel with ctypes values as its arguments."""
    arguments = Arguments(*values)
    cuda.launch(function, grid, block, shared, stream, arguments.address)
