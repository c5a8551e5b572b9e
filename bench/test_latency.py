"""What does one call cost that waits?

Each round is one call and its wait; the median over many rounds counts.
"""

from __future__ import annotations

from typing import Any

import pytest

cp = pytest.importorskip("cupy")


def _rounds(smoke: bool) -> int:
    return 20 if smoke else 2000


@pytest.fixture(scope="module")
def x() -> Any:
    return cp.ones(1000, dtype=cp.float32)


def test_empty_sync(benchmark: Any, smoke: bool) -> None:
    """Synchronising a stream with nothing to wait for."""
    stream = cp.cuda.get_current_stream()
    stream.synchronize()
    benchmark.pedantic(stream.synchronize, rounds=_rounds(smoke), iterations=1, warmup_rounds=10)


def test_kernel_sync(benchmark: Any, smoke: bool, x: Any) -> None:
    """``a + b`` and a synchronize."""
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        x + x
        stream.synchronize()

    benchmark.pedantic(call, rounds=_rounds(smoke), iterations=1, warmup_rounds=10)


def test_launch_sync(benchmark: Any, smoke: bool) -> None:
    """The paper's figure: one launch of a kernel that does nothing and a synchronize."""
    kernel = cp.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        kernel((1,), (32,), ())
        stream.synchronize()

    benchmark.pedantic(call, rounds=_rounds(smoke), iterations=1, warmup_rounds=10)


def test_read_element(benchmark: Any, smoke: bool, x: Any) -> None:
    """``float(x[0])``."""
    benchmark.pedantic(lambda: float(x[0]), rounds=_rounds(smoke), iterations=1, warmup_rounds=10)


def test_sum_to_float(benchmark: Any, smoke: bool, x: Any) -> None:
    """``float(x.sum())``."""
    benchmark.pedantic(lambda: float(x.sum()), rounds=_rounds(smoke), iterations=1, warmup_rounds=10)


def test_matmul_sync(benchmark: Any, smoke: bool) -> None:
    """A 1,024 (smoke: 64) matrix product by cuBLAS and a synchronize."""
    a = cp.random.rand(*(2 * [64 if smoke else 1024]), dtype=cp.float32)
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        a @ a
        stream.synchronize()

    benchmark.pedantic(call, rounds=_rounds(smoke) // 4, iterations=1, warmup_rounds=3)


def test_fft_sync(benchmark: Any, smoke: bool) -> None:
    """An FFT of 2^20 (smoke: 2^10) complex64 and a synchronize."""
    a = cp.random.rand(1 << (10 if smoke else 20)).astype(cp.complex64)
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        cp.fft.fft(a)
        stream.synchronize()

    benchmark.pedantic(call, rounds=_rounds(smoke) // 4, iterations=1, warmup_rounds=3)


def test_svd(benchmark: Any, smoke: bool) -> None:
    """The SVD of a 512 (smoke: 16) matrix by cuSOLVER."""
    a = cp.random.rand(*(2 * [16 if smoke else 512]), dtype=cp.float32)
    stream = cp.cuda.get_current_stream()

    def call() -> None:
        cp.linalg.svd(a)
        stream.synchronize()

    benchmark.pedantic(call, rounds=3 if smoke else 7, iterations=1, warmup_rounds=1)
