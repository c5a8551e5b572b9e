"""Launching: faults, threads, linking, the object cache, refusals."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from migproxy.errors import KernelFault, PtxError
from migproxy.softgpu.ptx import Kernel, cache, engine, image, load_module, native, tuner, workers
from migproxy.softgpu.ptx.specialize import constants

from . import kit, sources

I32, I64 = np.int32, np.int64


@pytest.fixture(scope="module")
def basics() -> Mapping[str, Kernel]:
    return kit.load(kit.cuda(sources.BASICS, "compute_90")).kernels


def fault(kernel: Kernel, grid: int, block: int, *args: object) -> KernelFault:
    with pytest.raises(KernelFault) as info:
        kit.launch(kernel, grid, block, *args)
    return info.value


def test_null_and_wild_addresses(basics: Mapping[str, Kernel]) -> None:
    for base in (0, 0xDEAD0000):
        error = fault(basics["writes"], 1, 32, np.uint64(base), I64(0))
        assert error.status == 700
        assert f"{base:#x}" in str(error)
        assert "kernel writes, block (0, 0, 0), thread (0, 0, 0)" in str(error)


def test_inaccessible_memory(basics: Mapping[str, Kernel]) -> None:
    libc = workers._libc
    address = workers._map(1 << 16, 0)
    libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        kit.launch(basics["writes"], 1, 32, np.uint64(address), I64(0))
        assert ctypes.c_int.from_address(address).value == 1
        last = mmap.PAGESIZE // 4 - 16
        error = fault(basics["writes"], 1, 32, np.uint64(address), I64(last))
        assert error.status == 700
        assert f"{address + mmap.PAGESIZE:#x} in kernel writes, block (0, 0, 0), thread (16, 0, 0)" in str(error)
    finally:
        libc.munmap(address, 1 << 16)


def test_misaligned_vector(basics: Mapping[str, Kernel]) -> None:
    memory = np.zeros(64, np.uint8)
    start = -memory.ctypes.data % 16
    assert fault(basics["misaligned"], 1, 1, memory[start:]).status == 716


def test_trap_and_assert(basics: Mapping[str, Kernel], capfd: pytest.CaptureFixture[str]) -> None:
    assert fault(basics["traps"], 1, 32, np.array([3], I32)).status == 719
    kit.launch(basics["traps"], 1, 32, np.array([4], I32))
    error = fault(basics["asserts"], 1, 32, np.array([1, 2, 9] + [0] * 29, I32))
    assert error.status == 710
    assert "small" in str(error)
    assert "thread (2, 0, 0)" in str(error)
    assert "Assertion" in capfd.readouterr().err


def test_threads_that_wait_for_ever(basics: Mapping[str, Kernel]) -> None:
    error = fault(basics["stuck"], 1, 32, np.zeros(1, I32))
    assert error.status == 702 or error.status == 719


def test_after_a_fault_launches_go_on(basics: Mapping[str, Kernel]) -> None:
    for _ in range(20):
        fault(basics["writes"], 64, 128, np.uint64(8), I64(0))
    a = np.ones(1000, np.float32)
    out = np.zeros_like(a)
    kit.launch(basics["add"], 8, 128, a, a, out, I32(1000))
    assert (out == 2).all()


def test_concurrent_launches(basics: Mapping[str, Kernel]) -> None:
    n = 20_000
    wrong: list[int] = []

    def work(seed: int) -> None:
        a = np.full(n, seed, np.float32)
        out = np.zeros_like(a)
        for turn in range(10):
            if turn % 3 == 2:
                fault(basics["writes"], 4, 32, np.uint64(16), I64(0))
            kit.launch(basics["add"], (n + 255) // 256, 256, a, a, out, I32(n))
            sums = np.zeros(4, np.float32)
            kit.launch(basics["reduce"], 4, 128, a, sums, I32(n), shared=512)
            if not (out == 2 * seed).all() or sums.sum() != n * seed + 4 * 128:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_tuned_variants_agree(basics: Mapping[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = basics["add"]
    monkeypatch.setattr(tuner.Tuner, "PRICE", 0.0)
    n = tuner.HEAVY + 77
    for shift in (0, 5):
        a = np.arange(n, dtype=np.float32) + shift
        out = np.zeros(n - shift, np.float32)
        for _ in range(3):
            out[:] = 0
            kit.launch(kernel, (n + 127) // 128, 128, a, a, out, I32(n - shift))
            assert (out == 2 * a[: n - shift]).all()
    assert len(kernel._tuner.code) == 2


def test_addresses_are_never_constants() -> None:
    data = np.array([0x7F0012345678, 5], np.uint64).tobytes()
    fixed = constants((1, 1, 1), (32, 1, 1), data, [(0, 8), (8, 8)])
    assert fixed.word(0, 8) is None
    assert fixed.word(8, 8) == 5
    assert fixed.word(8, 4) == 5


def test_linking() -> None:
    one = (
        kit.HEAD
        + """
.extern .func (.param .b32 r) outside (.param .b32 x);
.extern .global .align 4 .u32 shared_value;
.visible .entry k(.param .u64 p) {
 .reg .b64 %a<2>; .reg .b32 %r<4>;
 ld.param.u64 %a0, [p]; mov.u32 %r0, %tid.x; mad.wide.u32 %a1, %r0, 4, %a0;
 { .param .b32 q; st.param.b32 [q], %r0; .param .b32 z; call.uni (z), outside, (q); ld.param.b32 %r1, [z]; }
 ld.global.u32 %r2, [shared_value]; add.u32 %r1, %r1, %r2; st.global.u32 [%a1], %r1; ret; }
"""
    )
    two = (
        kit.HEAD
        + """
.visible .global .align 4 .u32 shared_value = 1000;
.visible .func (.param .b32 r) outside (.param .b32 x) {
 .reg .b32 %r<2>; ld.param.b32 %r0, [x]; mul.lo.u32 %r1, %r0, %r0; st.param.b32 [r], %r1; ret; }
"""
    )
    out = np.zeros(8, np.uint32)
    kit.launch(kit.load(one, two).kernels["k"], 1, 8, out)
    assert (out == np.arange(8) ** 2 + 1000).all()
    with pytest.raises(PtxError, match="undefined"):
        kit.load(one)
    with pytest.raises(PtxError, match="twice"):
        kit.load(two, two)


@pytest.mark.parametrize(("line", "message"), [
    ("frobnicate.u32 %r0, %r1", "unknown instruction frobnicate"),
    ("add.wrong.u32 %r0, %r1, %r1", "unknown modifier .wrong"),
    ("tex.2d.v4.f32.f32 {%r0,%r1,%r2,%r3}, [t, {%r0,%r1}]", "tex"),
    ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r0}, [%r1]", "tensor-core"),
    ("add.u32 %r0, %r99, 1", "unknown register %r99"),
    ("bra nowhere", "no such label"),
    ("ld.global.u32 %r0, [nothing]", "undefined symbol nothing"),
])  # fmt: skip
def test_unknown_text_names_its_line(line: str, message: str) -> None:
    text = f"{kit.HEAD}.visible .entry k() {{\n.reg .b32 %r<4>;\n{line};\nret;\n}}"
    with pytest.raises(PtxError) as info:
        kit.load(text)
    assert message in str(info.value)
    assert line.split(" ")[0] in str(info.value)
    assert "PTX line 6" in str(info.value)


def test_variables_share_one_block_of_memory() -> None:
    text = kit.HEAD + "".join(f".global .align {2 ** (n % 5)} .b8 v{n}[{n + 1}] = {{{n}}};\n" for n in range(40))
    asked: list[tuple[str, int, int]] = []

    def place(name: str, size: int, align: int) -> int:
        asked.append((name, size, align))
        return kit.place(name, size, align)

    module = load_module(text.encode(), place_global=place)
    assert len(asked) == 1
    assert asked[0][2] == 16
    for n in range(40):
        address, size = module.globals[f"v{n}"]
        assert size == n + 1
        assert address % 2 ** (n % 5) == 0
        assert ctypes.string_at(address, size) == bytes([n]) + bytes(n)


def test_limits() -> None:
    text = f"""{kit.HEAD}.visible .entry k(.param .align 8 .b8 s[12], .param .u16 h, .param .f64 d) .reqntid 8, 4
{{ .shared .align 16 .b8 a[100]; ret; }}
.visible .entry m() .maxntid 64 {{ ret; }}"""
    module = kit.load(text)
    k = module.kernels["k"]
    assert (k.params, k.param_size, k.reqntid, k.max_threads) == ([(0, 12), (12, 2), (16, 8)], 24, (8, 4, 1), 32)
    assert k.static_shared == 100
    assert (module.kernels["m"].max_threads, module.kernels["m"].reqntid) == (64, None)
    with pytest.raises(KernelFault):
        k.launch((1, 1, 1), (1025, 1, 1), 0, 0)


def test_shared_memory_ends_where_it_ends() -> None:
    text = f"""{kit.HEAD}.extern .shared .align 16 .b8 sm[];
.visible .entry k(.param .u32 at) {{ .reg .b32 %r<3>;
 ld.param.u32 %r0, [at]; mov.u32 %r1, sm; add.u32 %r1, %r1, %r0; st.shared.u32 [%r1], %r0; ret; }}"""
    kernel = kit.load(text).kernels["k"]
    kit.launch(kernel, 1, 1, np.uint32(4092), shared=4096)
    for offset in (4096, 1 << 20, 0xFFFFFFFC):
        assert fault(kernel, 1, 1, np.uint32(offset)).status == 700


def test_object_cache(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    store = cache.ObjectCache(folder)
    assert (folder.stat().st_mode & 0o777) == 0o700
    assert store.get("k") is None
    store.put("k", b"data")
    assert store.get("k") == b"data"
    os.utime(folder / "k", (1, 1))
    store.put("l", b"x" * 100)
    store.trim(limit=140)
    assert (store.get("k"), store.get("l")) == (None, b"x" * 100)
    folder.chmod(0o777)
    assert cache.ObjectCache(folder).get("l") is None
    assert cache.ObjectCache(None).get("l") is None


def test_the_cache_is_trimmed_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cache.ObjectCache(tmp_path / "c")
    trims: list[int] = []
    real = cache.ObjectCache.trim
    monkeypatch.setattr(cache.ObjectCache, "trim", lambda self: trims.append(1) or real(self, most=2))
    for key in "abcd":
        store.put(key, b"x")
    store.trim_at_times()
    assert trims == [1]
    assert sum(store.get(key) is not None for key in "abcd") == 2
    store.trim_at_times()
    assert trims == [1]
    os.utime(tmp_path / "c" / ".trimmed", (1, 1))
    store.trim_at_times()
    assert trims == [1, 1]


def test_compiled_code_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cache.ObjectCache(tmp_path / "c")
    monkeypatch.setattr(engine, "default_cache", lambda: store)
    text = f"""{kit.HEAD}.visible .entry k(.param .u64 p) {{ .reg .b64 %a; .reg .b32 %r;
 ld.param.u64 %a, [p]; mov.u32 %r, 1234567; st.global.u32 [%a], %r; ret; }}"""
    compiled: list[str] = []
    real = native.compile_text

    def counting(ir: str, effort: native.Effort) -> bytes:
        compiled.append(ir)
        return real(ir, effort)

    monkeypatch.setattr(native, "compile_text", counting)
    for _ in range(2):
        out = np.zeros(1, np.uint32)
        kit.launch(kit.load(text).kernels["k"], 1, 1, out)
        assert out[0] == 1234567
    assert len(compiled) == 1


@pytest.mark.parametrize("first", [native.Effort.LEAST, native.Effort.QUICK])
def test_large_kernels_are_compiled_quickly_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: native.Effort
) -> None:
    store = cache.ObjectCache(tmp_path / "c")
    monkeypatch.setattr(engine, "default_cache", lambda: store)
    efforts: list[native.Effort] = []
    real = native.compile_text

    def noting(ir: str, effort: native.Effort) -> bytes:
        efforts.append(effort)
        return real(ir, effort)

    monkeypatch.setattr(native, "compile_text", noting)
    monkeypatch.setattr(native, "LARGE", 1000)
    monkeypatch.setattr(native, "HUGE", 2000 if first is native.Effort.LEAST else 1 << 30)
    monkeypatch.setattr(native, "PROMOTE", 0.0)
    monkeypatch.setattr(tuner.Tuner, "PRICE", 0.0)
    kernel = kit.load(kit.cuda(sources.BASICS, "compute_90")).kernels["matmul"]
    rng = np.random.default_rng(0)
    a, b, c = rng.random((512, 512), np.float32), rng.random((512, 512), np.float32), np.zeros((512, 512), np.float32)
    kit.launch(kernel, (32, 32, 1), (16, 16, 1), a, b, c, I32(512))
    assert np.allclose(c, a @ b, rtol=1e-4)
    assert efforts[0] is first
    assert native.Effort.BEST in efforts, "a launch that matters gets everything that LLVM can do"
    monkeypatch.setattr(native, "price", lambda length: 1e-9)
    small = kit.load(kit.cuda(sources.BASICS, "compute_90")).kernels["matmul"]
    efforts.clear()
    for _ in range(3):
        c[...] = 0
        kit.launch(small, (2, 2, 1), (16, 16, 1), a, b, c, I32(32))
    assert efforts.count(native.Effort.BEST) == 1, "so do small launches, once they have run for long"
    assert np.allclose(c.ravel()[: 32 * 32].reshape(32, 32), a.ravel()[:1024].reshape(32, 32)
                       @ b.ravel()[:1024].reshape(32, 32), rtol=1e-4)  # fmt: skip


def test_launches_that_all_differ_get_the_best_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cache.ObjectCache(tmp_path / "c")
    monkeypatch.setattr(engine, "default_cache", lambda: store)
    efforts: list[native.Effort] = []
    real = native.compile_text
    monkeypatch.setattr(native, "compile_text", lambda ir, effort: efforts.append(effort) or real(ir, effort))
    monkeypatch.setattr(native, "first_effort", lambda _: native.Effort.LEAST)
    monkeypatch.setattr(native, "price", lambda _: 1e-9)
    kernel = kit.load(kit.cuda(sources.BASICS, "compute_90")).kernels["add"]
    n = tuner.HEAVY + 128
    a = np.arange(n, dtype=np.float32)
    for shorter in range(3):
        out = np.zeros(n, np.float32)
        kit.launch(kernel, n // 128, 128, a, a, out, I32(n - shorter))
        assert (out[: n - shorter] == 2 * a[: n - shorter]).all()
        assert not out[n - shorter :].any()
    assert efforts[0] is native.Effort.LEAST
    assert efforts.count(native.Effort.BEST) == 1


def test_the_price_of_the_best_code_grows_with_the_kernel() -> None:
    assert native.first_effort(native.LARGE - 1) is native.Effort.BEST
    assert native.price(native.LARGE - 1) == 0
    assert native.first_effort(native.LARGE) is native.Effort.QUICK
    assert native.first_effort(native.HUGE) is native.Effort.LEAST
    assert native.price(native.LARGE) == native.price(native.HUGE) == native.PROMOTE
    assert native.price(4 * native.HUGE) == 4 * native.PROMOTE


def test_registers_of_one_block_take_no_memory() -> None:
    text = f"""{kit.HEAD}.visible .entry k(.param .u64 p, .param .u32 n) {{ .reg .b64 %a; .reg .b32 %r<9>;
 .reg .pred %q; ld.param.u64 %a, [p]; ld.param.u32 %r1, [n]; add.u32 %r2, %r1, 5; setp.eq.u32 %q, %r2, 9;
 mov.u32 %r3, 1; @%q bra L; mov.u32 %r3, 2; L: st.global.u32 [%a], %r3; ret; }}"""
    written = image.Source([text]).generator("k", "k").generate()
    assert sorted(re.findall(r'%"reg\.(\S+)" = alloca', written)) == ["%a", "%r3"]


def test_a_second_load_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cache.ObjectCache(tmp_path / "c")
    monkeypatch.setattr(engine, "default_cache", lambda: store)
    text = f"""{kit.HEAD}.visible .global .align 4 .u32 v[2] = {{7, 9}}; .visible .global .u64 p = generic(v)+4;
.visible .entry k(.param .u64 p) {{ .reg .b64 %a<3>; .reg .b32 %r;
 ld.param.u64 %a0, [p]; ld.global.u64 %a1, [p]; ld.global.u32 %r, [%a1]; st.global.u32 [%a0], %r; ret; }}"""
    text = text.replace("[p]; ld.global.u32", "[q]; ld.global.u32").replace(".u64 p = generic", ".u64 q = generic")
    first = kit.load(text)
    first.kernels["k"].compile()
    monkeypatch.setattr(image, "parse", lambda _: pytest.fail("parsed again"))
    again = kit.load(text)
    out = np.zeros(1, np.uint32)
    kit.launch(again.kernels["k"], 1, 1, out)
    assert out[0] == 9
    assert again.globals["v"][1] == 8
    for entry in (tmp_path / "c").iterdir():  # damaged entries
        entry.write_bytes(b"\xc1damaged")
    monkeypatch.undo()
    monkeypatch.setattr(engine, "default_cache", lambda: store)
    kit.launch(kit.load(text).kernels["k"], 1, 1, out)
