"""Kernels compiled from CUDA C++ by nvrtc, compared with NumPy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping

import numpy as np
import pytest

from migproxy.softgpu.ptx import Kernel, LoadedModule

from . import kit, sources

I32 = np.int32


@pytest.fixture(scope="module")
def module() -> LoadedModule:
    return kit.load(kit.cuda(sources.BASICS, "compute_90"))


@pytest.fixture(scope="module")
def basics(module: LoadedModule) -> Mapping[str, Kernel]:
    return module.kernels


@pytest.fixture(scope="module")
def warps() -> Mapping[str, Kernel]:
    return kit.load(kit.cuda(sources.WARPS)).kernels


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_add(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    n = 100_003
    a, b = rng.random(n, np.float32), rng.random(n, np.float32)
    c = np.zeros(n, np.float32)
    kit.launch(basics["add"], (n + 127) // 128, 128, a, b, c, I32(n))
    assert (c == a + b).all()


def test_grid_of_three_dimensions(basics: Mapping[str, Kernel]) -> None:
    out = np.zeros((6, 10, 12), np.int32)
    kit.launch(basics["grid3"], (3, 2, 2), (4, 5, 3), out)
    z, y, x = np.indices(out.shape)
    assert (out == x + 100 * y + 10000 * z).all()


def test_reduction_with_barriers_in_a_called_function(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    a = rng.random(50_000, np.float32)
    out = np.zeros(20, np.float32)
    kit.launch(basics["reduce"], 20, 256, a, out, I32(len(a)), shared=1024)
    assert np.allclose(out.sum(), a.sum() + 20 * 256)


def test_atomics(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    n = 30_000
    a = rng.integers(0, 100_000, n).astype(np.int32)
    hist, m = np.zeros(16, np.int32), np.zeros(8, np.uint32)
    f, d, x = np.zeros(1, np.float32), np.zeros(1), np.zeros(1, np.uint64)
    m[1], m[6] = 1 << 30, 0xFFFFFFFF
    kit.launch(basics["atomics"], (n + 255) // 256, 256, hist, m, f, d, x, a, I32(n))
    assert (hist == np.bincount(a & 15, minlength=16)).all()
    assert (m[0], m[1], f[0], d[0]) == (a.max(), a.min(), n, a.sum())
    assert x[0] == np.bitwise_xor.reduce(a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    assert (m[2], m[3], m[4], m[5]) == (n % 7, (-n) % 7, 5, 3 * n)
    assert m[6] == 0
    assert m[7:8].view(np.float16)[0] == 100


def test_structs_constants_and_globals(module: LoadedModule) -> None:
    kind = np.dtype([("x", "f4"), ("y", "i4", 5), ("z", "f8")], align=True)
    p = np.zeros(1, kind)
    p["x"], p["y"], p["z"] = 1.5, [1, 2, 3, 4, 5], 0.5
    out = np.zeros(32)
    kernel = module.kernels["structs"]
    assert kernel.params == [(0, 32), (32, 8)]
    kit.launch(kernel, 2, 32, p[0], out)
    t = np.arange(32)
    assert (out == 1.5 + (t % 5 + 1) * 0.5 + (t & 7) + 1 + 9).all()
    assert module.globals["table"][1] == 32
    assert kernel.const_bytes >= 32


def test_function_pointers_recursion_virtual_calls(basics: Mapping[str, Kernel]) -> None:
    out = np.zeros(32, np.int32)
    kit.launch(basics["calls"], 1, 32, out, I32(0))
    fib = [0, 1]
    for _ in range(12):
        fib.append(fib[-1] + fib[-2])
    assert out.tolist() == [(i + 1 if i & 1 else 2 * i) + fib[i % 12] + (i if i & 1 else 3 * i) for i in range(32)]


def test_tiled_matrix_product(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    n = 64
    a, b = rng.random((n, n), np.float32), rng.random((n, n), np.float32)
    c = np.zeros((n, n), np.float32)
    kit.launch(basics["matmul"], (4, 4, 1), (16, 16, 1), a, b, c, I32(n))
    assert np.allclose(c, a @ b, rtol=1e-5)


def test_switch(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    v = rng.integers(1, 10_000, 64).astype(np.int32)
    out = np.zeros(64, np.int32)
    kit.launch(basics["cases"], 1, 64, v, out)
    for x, r in zip(v.tolist(), out.view(np.uint32).tolist(), strict=True):
        want = [x * 3, x ^ 77, x // 7, -x, x % 13, 32 - x.bit_length(), x.bit_count(), int(f"{x:032b}"[::-1], 2),
                (x & -x).bit_length()][x % 9]  # fmt: skip
        assert r == want & 0xFFFFFFFF


def test_local_arrays_across_a_barrier(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    v = rng.integers(0, 1000, 64).astype(np.int32)
    out = np.zeros(64, np.int32)
    kit.launch(basics["locals"], 1, 64, v, out)
    assert (out == np.sort(v)[v & 63]).all()
    assert basics["locals"].local_bytes >= 256


def test_vector_access(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    a, out = aligned((64, 4), np.float32), aligned((64, 4), np.float32)
    a[:] = rng.random((64, 4))
    b = rng.integers(0, 256, (64, 4)).astype(np.uint8)
    c = np.zeros((64, 2), np.int16)
    kit.launch(basics["vectors"], 1, 64, a, out, b, c)
    assert (out == a[:, ::-1]).all()
    wide = b.astype(np.int16)
    assert (c == np.stack([wide[:, 0] - wide[:, 1], wide[:, 2] * wide[:, 3]], 1)).all()


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 16, np.uint8)
    start = -raw.ctypes.data % 16
    return raw[start : start + size].view(dtype).reshape(shape)


def test_halves(basics: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal(500).astype(np.float16) for _ in range(2))
    out, bf = np.zeros(500, np.float16), np.zeros(500, np.uint16)
    kit.launch(basics["halves"], 4, 128, a, b, out, bf, I32(500))
    assert (out == (a.astype(np.float64) * b + a).astype(np.float16)).all()
    assert np.allclose((bf.astype(np.uint32) << 16).view(np.float32), a.astype(np.float32) * 3, rtol=2**-8)


def test_printf(basics: Mapping[str, Kernel]) -> None:
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            kit.launch(basics["prints"], 1, 32, I32(-3))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        assert file.read() == b"-3 text  2.50|7   |x 1099511627776 %\n"


def test_warp_operations(warps: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    v = rng.integers(0, 100, 64).astype(np.int32)
    out = np.zeros(64 * 14, np.int32)
    kit.launch(warps["warps"], 1, 64, v, out)
    o = out.reshape(14, 64)
    t = np.arange(64)
    base, lane = t // 32 * 32, t % 32
    assert (o[0] == v[base + (lane ^ 5)]).all()
    assert (o[1] == np.where(t % 16 >= 3, v[t - 3], v)).all()
    assert (o[2] == v[t // 8 * 8 + (t * 7) % 8]).all()
    ballots = [sum((int(v[w * 32 + j]) & 1) << j for j in range(32)) for w in range(2)]
    assert (o[3].view(np.uint32) == np.repeat(np.array(ballots, np.uint32), 32)).all()
    two = v.reshape(2, 32)
    assert (o[4] == np.repeat((two > 90).any(1), 32)).all()
    assert (o[5] == 1).all()
    same = [sum(1 << j for j in range(32) if v[b + j] % 5 == v[i] % 5) for i, b in enumerate(base)]
    assert (o[6].view(np.uint32) == np.array(same, np.uint32)).all()
    assert (o[7] == 0).all()  # all lanes, plus one
    assert (o[8] == np.repeat(two.sum(1), 32)).all()
    assert (o[9] == np.repeat(two.max(1), 32)).all()
    assert (o[10] == np.where(lane < 28, v[np.minimum(t + 4, 63)], v)).all()
    odd = np.array([0xAAAAAAAA + sum(int(x) > 50 for x in row[1::2]) for row in two], np.uint32)
    assert (o[11].view(np.uint32) == np.where(t & 1, np.repeat(odd, 32), 0)).all()
    assert (o[12] == (v > 50).sum()).all()
    assert (o[13] == 1).all()


def test_cooperative_groups(warps: Mapping[str, Kernel], rng: np.random.Generator) -> None:
    v = rng.integers(0, 100, 64).astype(np.int32)
    out = np.zeros(128, np.int32)
    kit.launch(warps["groups"], 1, 64, v, out)
    assert (out[:64] == np.repeat(v.reshape(8, 8).sum(1) + np.arange(8) * 1000, 8)).all()
    assert out[64:][::3].tolist() == [1100 + i for i in range(11)] * 2


def test_divergence(warps: Mapping[str, Kernel]) -> None:
    out = np.zeros(64, np.int32)
    kit.launch(warps["divergent"], 1, 64, out)
    # lane t < 7 counts the lanes that loop with it: 7 + 6 + … + 1 of them, each adding as many
    assert (out[:60] == 32 + sum(k * k for k in range(1, 8))).all()
    assert (out[60:] == 0).all()


def test_named_barriers(warps: Mapping[str, Kernel]) -> None:
    out = np.zeros(32, np.int32)
    kit.launch(warps["named"], 1, 64, out)
    assert (out == np.arange(32) ** 2).all()


def test_blocks_that_wait_for_earlier_ones(warps: Mapping[str, Kernel]) -> None:
    flags, out = np.zeros(500, np.int32), np.zeros(500, np.int32)
    kit.launch(warps["lookback"], 500, 32, flags, out)
    assert (out == np.arange(1, 501)).all()


def test_cub_block_primitives(rng: np.random.Generator) -> None:
    if not any("cccl" in path for path in kit.includes()):
        pytest.skip("needs the CUB headers")
    k = kit.load(kit.cuda(sources.CUB)).kernels
    a = rng.random(1024, np.float32)
    out = np.zeros(4, np.float32)
    kit.launch(k["b_reduce"], 4, 256, a, out)
    assert np.allclose(out, a.reshape(4, 256).sum(1))
    v = rng.integers(0, 1000, 512).astype(np.int32)
    scan = np.zeros(513, np.int32)
    kit.launch(k["b_scan"], 1, 128, v, scan)
    assert (scan[:512] == np.cumsum(v) - v).all()
    assert scan[512] == v.sum()
