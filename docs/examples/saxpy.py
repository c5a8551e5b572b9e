"""a*x + y with cuda.core: a templated CUDA C++ kernel, compiled at run time, launched on a stream."""

import ctypes
import sys

import numpy as np
from cuda.core import Device, LaunchConfig, LegacyPinnedMemoryResource, Program, ProgramOptions, launch

SIZE = 100_000
FACTOR = 10.0
SOURCE = """
template<typename T>
__global__ void saxpy(const T a, const T* x, const T* y, T* out, size_t n) {
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        out[i] = a * x[i] + y[i];
}
"""


def as_array(buffer, dtype):
    """Return pinned memory as a NumPy array."""
    address = int(buffer.handle)
    return np.frombuffer((ctypes.c_byte * buffer.size).from_address(address), dtype=dtype)


def run(device, stream, dtype, kernel):
    """Return whether the kernel computes what NumPy computes."""
    pinned = LegacyPinnedMemoryResource()
    size = SIZE * np.dtype(dtype).itemsize
    host = [pinned.allocate(size) for _ in range(3)]
    x, y, out = (as_array(each, dtype) for each in host)
    random = np.random.default_rng(1979)
    x[:], y[:], out[:] = random.random(SIZE, dtype), random.random(SIZE, dtype), 0

    on_device = [device.allocate(size, stream=stream) for _ in range(3)]
    for source, target in zip(host[:2], on_device[:2], strict=True):
        source.copy_to(target, stream=stream)
    launch(stream, LaunchConfig(grid=64, block=256), kernel, dtype(FACTOR), *on_device, np.uint64(SIZE))
    on_device[2].copy_to(host[2], stream=stream)
    stream.sync()

    expected = dtype(FACTOR) * x + y
    same = bool(np.allclose(out, expected))
    print(
        f"{np.dtype(dtype).name}: sum {out.sum(dtype=np.float64):.3f}",
        "same as NumPy" if same else "DIFFERS FROM NUMPY",
    )
    for each in on_device:
        each.close(stream)
    del x, y, out
    return same


def main():
    device = Device()
    device.set_current()
    stream = device.create_stream()
    options = ProgramOptions(std="c++17", arch=f"sm_{device.arch}")
    names = ("saxpy<float>", "saxpy<double>")
    module = Program(SOURCE, code_type="c++", options=options).compile("cubin", name_expressions=names)
    print(f"{SIZE} numbers, one kernel for each type")
    results = [
        run(device, stream, dtype, module.get_kernel(name))
        for dtype, name in zip((np.float32, np.float64), names, strict=True)
    ]
    stream.close()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
