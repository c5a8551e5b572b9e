"""Check mode: what it finds, and that it finds nothing in correct programs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from migproxy.errors import KernelFault
from migproxy.softgpu.ptx import Kernel

from . import kit, sources

SOURCE = r"""
extern "C" __global__ void race(int* o) {
  __shared__ int s[64]; int t = threadIdx.x; s[t] = 0; __syncthreads(); s[t] = t; o[t] = s[(t + 63) & 63];
}
extern "C" __global__ void ordered(int* o) {
  __shared__ int s[64]; int t = threadIdx.x; s[t] = t; __syncthreads(); o[t] = s[(t + 1) & 63];
}
extern "C" __global__ void late(int* o) {  // the second round overwrites what others still read
  __shared__ int s[64]; int t = threadIdx.x; s[t] = t; __syncthreads(); o[t] = s[(t + 1) & 63]; s[t] = 5;
}
extern "C" __global__ void warp_ordered(int* o) {
  __shared__ int s[64]; int t = threadIdx.x; s[t] = t; __syncwarp(); o[t] = s[t ^ 1];
}
extern "C" __global__ void unwritten(int* o) {
  __shared__ int s[64]; int t = threadIdx.x; if (t != 7) s[t] = t; __syncthreads(); o[t] = s[t];
}
extern "C" __global__ void beyond(int* o, int n) { extern __shared__ int s[]; s[threadIdx.x + n] = 1; o[0] = 1; }
extern "C" __global__ void divergent(int* o) {
  if (threadIdx.x & 1) { o[0] = 1; __syncthreads(); } else { o[1] = 2; __syncthreads(); }
}
extern "C" __global__ void counted(int* o) {
  __shared__ int s; if (threadIdx.x == 0) s = 0; __syncthreads(); atomicAdd(&s, 1); __syncthreads(); o[0] = s;
}
extern "C" __global__ void values(int* o, int n) {
  __shared__ int s; s = threadIdx.x / n; __syncthreads(); o[threadIdx.x] = s;
}
extern "C" __global__ void winner(int* o) {  // any thread may win, but all write the same
  __shared__ int s; if (threadIdx.x == 0) s = 0; __syncthreads(); if (threadIdx.x > 9) s = 1; __syncthreads(); o[0] = s;
}
extern "C" __global__ void added(int* o) {
  __shared__ int s; atomicAdd(&s, 1); __syncthreads(); o[0] = s;
}
extern "C" __global__ void missing(int* o) {
  __shared__ int s; if (threadIdx.x == 0) s = 1;
  if (threadIdx.x < 32) { asm volatile("bar.sync 1, 64;"); o[0] = s; }
  else { asm volatile("bar.sync 2, 64;"); o[1] = s; }
}
extern "C" __global__ void vectors(float4* a, int at) { *(float4*)((char*)a + at) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void writes(char* a, int at) { *(int*)(a + at) = 1; }
"""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Kernel]:
    monkeypatch.setenv("MIGPROXY_SOFTGPU", "check")
    return kit.load(kit.cuda(SOURCE)).kernels


def finding(kernel: Kernel, *args: object, block: int = 64, shared: int = 0) -> KernelFault:
    with pytest.raises(KernelFault) as info:
        kit.launch(kernel, 1, block, *args, shared=shared)
    assert f"kernel {kernel.name}" in str(info.value)
    assert "PTX line" in str(info.value)
    return info.value


def test_findings(kernels: Mapping[str, Kernel]) -> None:
    out = np.zeros(64, np.int32)
    race = finding(kernels["race"], out)
    assert race.status == 719
    assert "read after thread" in str(race)
    assert "ld.shared" in str(race)
    assert "written after thread" in str(finding(kernels["late"], out))
    unwritten = finding(kernels["unwritten"], out)
    assert "never written, at offset 28" in str(unwritten)
    assert "thread (7, 0, 0)" in str(unwritten)
    beyond = finding(kernels["beyond"], out, np.int32(1), shared=256)
    assert beyond.status == 700
    assert "offset 256" in str(beyond)
    assert "bar.sync" in str(finding(kernels["divergent"], out))
    values = finding(kernels["values"], out, np.int32(32))
    assert "thread 31 wrote another value" in str(values)
    assert "thread (32, 0, 0)" in str(values)
    assert "never written, at offset 0" in str(finding(kernels["added"], out))
    missing = finding(kernels["missing"], out)
    assert missing.status == 702
    assert "bar.sync 1, 64" in str(missing)
    assert "st.global.v4" in str(finding(kernels["vectors"], np.zeros(64, np.uint8), np.int32(1), block=1))


def test_correct_programs_have_none(kernels: Mapping[str, Kernel]) -> None:
    out = np.zeros(64, np.int32)
    for name in ("ordered", "warp_ordered", "counted", "winner"):
        kit.launch(kernels[name], 2, 64, out)
    kit.launch(kernels["values"], 1, 64, out, np.int32(64))
    kit.launch(kernels["beyond"], 1, 64, out, np.int32(0), shared=256)


def test_global_memory(kernels: Mapping[str, Kernel]) -> None:
    memory = np.zeros(256, np.uint8)
    start = -memory.ctypes.data % 16
    area = memory[start : start + 128]
    kit.launch(kernels["writes"], 1, 1, area, np.int32(128))  # unknown bounds: any page that is accessible
    misaligned = finding(kernels["writes"], area, np.int32(2), block=1)
    assert misaligned.status == 716
    kernels["writes"]._module.bounds = lambda: [(16, 32, 0), (area.ctypes.data, area.ctypes.data + 128, 0)]
    kit.launch(kernels["writes"], 1, 1, area, np.int32(124))
    for at in (128, -4):
        outside = finding(kernels["writes"], area, np.int32(at), block=1)
        assert outside.status == 700
        assert "outside every allocation" in str(outside)


def test_real_kernels_are_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGPROXY_SOFTGPU", "check")
    basics = kit.load(kit.cuda(sources.BASICS, "compute_90")).kernels
    rng = np.random.default_rng(0)
    a, b = rng.random((32, 32), np.float32), rng.random((32, 32), np.float32)
    c = np.zeros((32, 32), np.float32)
    kit.launch(basics["matmul"], (2, 2, 1), (16, 16, 1), a, b, c, np.int32(32))
    assert np.allclose(c, a @ b, rtol=1e-5)
    sums = np.zeros(2, np.float32)
    kit.launch(basics["reduce"], 2, 64, a, sums, np.int32(a.size), shared=256)
    assert np.allclose(sums.sum(), a.sum() + 2 * 64)
    warps = kit.load(kit.cuda(sources.WARPS)).kernels
    kit.launch(warps["divergent"], 1, 64, np.zeros(64, np.int32))
    kit.launch(warps["named"], 1, 64, np.zeros(32, np.int32))
