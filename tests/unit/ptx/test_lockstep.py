"""Programs from before Volta, which take it for granted that the lanes of a warp run in step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from migproxy.softgpu.ptx import Kernel

from . import kit

SOURCE = r"""
extern "C" __global__ void bitonic(int* a, int n) {  // one warp sorts n items; every step depends on the one before
  int i = threadIdx.x;
  for (int s = 2; s <= n; s *= 2) for (int w = s / 2; w >= 1; w /= 2)
    for (int j = i; j < n / 2; j += 32) {
      int k = j + (j & -w); int v = a[k], u = a[k + w];
      if (k & s ? v < u : v > u) { a[k] = u; a[k + w] = v; }
    }
}
extern "C" __global__ void warp_sum(const float* a, float* o) {  // the last warp of a block adds up without barriers
  __shared__ volatile float s[128]; int t = threadIdx.x; s[t] = a[t]; __syncthreads();
  if (t < 64) s[t] += s[t + 64];
  __syncthreads();
  if (t < 32) {
    s[t] += s[t + 32]; s[t] += s[t + 16]; s[t] += s[t + 8]; s[t] += s[t + 4]; s[t] += s[t + 2]; s[t] += s[t + 1];
  }
  if (t == 0) *o = s[0];
}
extern "C" __global__ void warp_scan(int* a) {  // lower lanes' values move up
  __shared__ volatile int s[64]; int t = threadIdx.x; s[t] = 0; s[t + 32] = a[t];
  for (int d = 1; d < 32; d *= 2) s[t + 32] += s[t + 32 - d];
  a[t] = s[t + 32];
}
extern "C" __global__ void uneven(int* a, int* o) {  // loops of different lengths, then all read what others wrote
  int t = threadIdx.x; for (int i = 0; i < a[t]; i++) o[t] += t + i;
  int r = 0; for (int i = 0; i < 32; i++) r += o[i];
  a[t] = r;
}
__device__ int recurse(int* a, int n) {
  int r = 0; for (int i = 0; i < n; i++) { a[i] += 1; r += recurse(a, n - 2); }
  return r + 1;
}
extern "C" __global__ void recursive(int* a, int* o) { o[threadIdx.x] = recurse(a + 8 * threadIdx.x, threadIdx.x % 4); }
"""


@pytest.fixture(scope="module")
def kernels() -> Mapping[str, Kernel]:
    return kit.load(kit.cuda(SOURCE)).kernels


def test_bitonic_sort(kernels: Mapping[str, Kernel]) -> None:
    for n in (64, 256, 512):
        a = np.random.default_rng(n).integers(0, 10_000, n).astype(np.int32)
        want = np.sort(a)
        kit.launch(kernels["bitonic"], 1, 32, a, np.int32(n))
        assert (a == want).all()


def test_volatile_shared_memory(kernels: Mapping[str, Kernel]) -> None:
    a = np.random.default_rng(0).integers(0, 100, 128).astype(np.float32)
    out = np.zeros(1, np.float32)
    kit.launch(kernels["warp_sum"], 1, 128, a, out)
    assert out[0] == a.sum()
    b = np.random.default_rng(1).integers(0, 100, 32).astype(np.int32)
    want = np.cumsum(b)
    kit.launch(kernels["warp_scan"], 1, 32, b)
    assert (b == want).all()


def test_loops_of_different_lengths(kernels: Mapping[str, Kernel]) -> None:
    a = np.random.default_rng(2).integers(0, 20, 32).astype(np.int32)
    out = np.zeros(32, np.int32)
    t = np.arange(32)
    want = a * t + a * (a - 1) // 2
    kit.launch(kernels["uneven"], 1, 32, a, out)
    assert (out == want).all()
    assert (a == want.sum()).all()


def test_recursion_cannot_be_kept_in_step_but_runs(kernels: Mapping[str, Kernel]) -> None:
    a, out = np.zeros(256, np.int32), np.zeros(32, np.int32)
    kit.launch(kernels["recursive"], 1, 32, a, out)
    assert out[:4].tolist() == [1, 2, 3, 7]
