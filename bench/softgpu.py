"""How fast is the software GPU? Kernels beside NumPy, in turn in one process: ``python -m bench.softgpu``.

Kernels are those that CuPy and textbooks write: CuPy's elementwise form (strided arrays, grid-stride loop), a tiled
matrix product in shared memory, a block reduction. The figure is the ratio of the best times; a figure of one run means
nothing on a machine that does other work. Compile times are of the first launch and of one from the disk cache, also of
a huge kernel: as much PTX as CuPy's largest special functions have.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = r"""
struct Array { float* data; long long size, shape, stride; };
extern "C" __global__ void elementwise(const Array a, const Array b, Array c, long long n) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)blockDim.x * gridDim.x)
    *(float*)((char*)c.data + i * c.stride) =
        *(const float*)((const char*)a.data + i * a.stride) + *(const float*)((const char*)b.data + i * b.stride);
}
extern "C" __global__ void product(const float* A, const float* B, float* C, int n) {
  __shared__ float As[16][16], Bs[16][16]; int tx = threadIdx.x, ty = threadIdx.y;
  int r = blockIdx.y * 16 + ty, c = blockIdx.x * 16 + tx; float acc = 0;
  for (int k = 0; k < n; k += 16) {
    As[ty][tx] = A[r * n + k + tx]; Bs[ty][tx] = B[(k + ty) * n + c]; __syncthreads();
    for (int j = 0; j < 16; j++) acc += As[ty][j] * Bs[j][tx];
    __syncthreads();
  }
  C[r * n + c] = acc;
}
extern "C" __global__ void sum(const float* a, float* o, int n) {
  __shared__ float s[32]; float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) v += a[i];
  for (int k = 16; k; k >>= 1) v += __shfl_down_sync(~0u, v, k);
  if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) { for (int w = 1; w < blockDim.x / 32; w++) v += s[w]; atomicAdd(o, v); }
}
"""


def huge() -> str:
    """A kernel that calls functions which nvrtc inlines, again and again: 460 kB of PTX."""
    terms = "\n".join(
        f"  v += pow(x, v + {k}) * tgamma(x + {k}) + lgamma(v * {k}) + erfcinv(x / {k});" for k in range(2, 12)
    )
    return f"""
extern "C" __global__ void huge(double* a, int n) {{
  int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return;
  double x = a[i], v = x;
{terms}
  a[i] = v;
}}
"""


def ptx(source: str) -> bytes:
    """Kernels, compiled by nvrtc."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"bench.cu", 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=compute_80"])
    if status != 0:
        raise SystemExit("nvrtc cannot compile the kernels")
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text: bytes = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    return text


def best(call: Callable[[], Any], rounds: int) -> float:
    """The least time of several calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


class Bench:
    """The kernels, loaded."""

    def __init__(self, text: bytes) -> None:
        from migproxy.softgpu.ptx import load_module

        self.globals: list[np.ndarray] = []
        self.kernels = load_module(text, place_global=self._place).kernels

    def _place(self, _: str, size: int, align: int) -> int:
        self.globals.append(np.zeros(size + align, np.uint8))
        return -(-self.globals[-1].ctypes.data // align) * align

    def launch(self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], *args: bytes) -> None:
        """One launch with packed arguments."""
        kernel = self.kernels[name]
        packed = np.zeros(kernel.param_size, np.uint8)
        for (offset, size), arg in zip(kernel.params, args, strict=True):
            packed[offset : offset + size] = np.frombuffer(arg, np.uint8)
        kernel.launch(grid, block, 0, packed.ctypes.data)


def _address(array: np.ndarray) -> bytes:
    return np.uint64(array.ctypes.data).tobytes()


def _strided(array: np.ndarray) -> bytes:
    return np.array([array.ctypes.data, array.size, array.size, array.itemsize], np.int64).tobytes()


def measure(size: int, side: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of kernel and NumPy, and their ratio, for each benchmark."""
    text, large = ptx(SOURCE), ptx(huge())
    out: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIGPROXY_CACHE_DIR"] = folder
        from migproxy.softgpu.ptx import native

        native.runtime()
        for name, each in (("huge compile", large), ("huge cached", large), ("compile", text), ("cached", text)):
            start = time.perf_counter()
            bench = Bench(each)
            for kernel in bench.kernels.values():
                kernel.compile()
            out[name] = {"seconds": time.perf_counter() - start}
        rng = np.random.default_rng(0)
        a, b = rng.random(size, np.float32), rng.random(size, np.float32)
        c, total = np.zeros_like(a), np.zeros(1, np.float32)
        m, n = rng.random((side, side), np.float32), rng.random((side, side), np.float32)
        p = np.zeros_like(m)
        blocks = ((size + 127) // 128, 1, 1)
        length, edge = np.int64(size).tobytes(), np.int32(side).tobytes()
        tiles = (side // 16, side // 16, 1)
        pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "a + b": (
                lambda: bench.launch("elementwise", blocks, (128, 1, 1), _strided(a), _strided(b), _strided(c), length),
                lambda: np.add(a, b),
            ),
            "sum": (
                lambda: bench.launch("sum", (64, 1, 1), (256, 1, 1), _address(a), _address(total),
                                     np.int32(size).tobytes()),
                lambda: a.sum(),
            ),
            "matrix product": (
                lambda: bench.launch("product", tiles, (16, 16, 1), _address(m), _address(n), _address(p), edge),
                lambda: m @ n,
            ),
        }  # fmt: skip
        for name, (ours, theirs) in pairs.items():
            for _ in range(4):  # lets the kernel be compiled for these sizes
                ours()
                theirs()
            mine, numpy = best(ours, rounds), best(theirs, rounds)
            out[name] = {"seconds": mine, "numpy": numpy, "ratio": mine / numpy}
        assert (c == a + b).all()
        assert np.allclose(p, m @ n, rtol=1e-4)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.softgpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=10_000_000, help="items of a + b and sum (default 10,000,000)")
    parser.add_argument("--side", type=int, default=512, help="side of the square matrices, a multiple of 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    figures = measure(options.size, options.side // 16 * 16, options.rounds)
    for name, row in figures.items():
        ratio = f"  {row['ratio']:6.2f} × NumPy ({row['numpy'] * 1e3:.2f} ms)" if "ratio" in row else ""
        print(f"{name:16} {row['seconds'] * 1e3:9.2f} ms{ratio}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
