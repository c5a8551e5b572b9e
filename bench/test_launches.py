"""What does a call cost when the host is the limit?

Each benchmark makes N small calls and waits for their completion once; the time is divided by N. Natively the driver's
launch is part of the calling thread's time; proxied it moves to the executor's core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

cp = pytest.importorskip("cupy")

FULL, SMOKE = 3000, 20


def _measure(benchmark: Any, smoke: bool, call: Callable[[], object]) -> None:
    count = SMOKE if smoke else FULL
    stream = cp.cuda.get_current_stream()

    def loop() -> None:
        for _ in range(count):
            call()
        stream.synchronize()

    loop()
    benchmark.extra_info["calls"] = count
    benchmark.pedantic(loop, rounds=2 if smoke else 9, iterations=1, warmup_rounds=1)


@pytest.fixture(scope="module")
def x() -> Any:
    return cp.ones(1000, dtype=cp.float32)


@pytest.fixture(scope="module")
def y() -> Any:
    return cp.ones(1000, dtype=cp.float32)


def test_add(benchmark: Any, smoke: bool, x: Any, y: Any) -> None:
    """``a + b``: allocates its result."""
    _measure(benchmark, smoke, lambda: x + y)


def test_exp(benchmark: Any, smoke: bool, x: Any) -> None:
    """``cupy.exp(a)``."""
    _measure(benchmark, smoke, lambda: cp.exp(x))


def test_add_out(benchmark: Any, smoke: bool, x: Any, y: Any) -> None:
    """``cupy.add(a, b, out)``: the launch alone."""
    out = cp.empty_like(x)
    _measure(benchmark, smoke, lambda: cp.add(x, y, out))


def test_sum(benchmark: Any, smoke: bool, x: Any) -> None:
    """``a.sum()``: CUB's device reduction."""
    _measure(benchmark, smoke, lambda: x.sum())


def test_raw_kernel(benchmark: Any, smoke: bool, x: Any) -> None:
    """A RawKernel with one array argument."""
    kernel = cp.RawKernel('extern "C" __global__ void inc(float* a) { a[threadIdx.x] += 1; }', "inc")
    _measure(benchmark, smoke, lambda: kernel((1,), (128,), (x,)))


def test_event_record(benchmark: Any, smoke: bool) -> None:
    """Recording an event."""
    event = cp.cuda.Event(disable_timing=True)
    _measure(benchmark, smoke, event.record)


def test_numba_launch(benchmark: Any, smoke: bool) -> None:
    """A Numba kernel with three device arrays."""
    cuda = pytest.importorskip("numba.cuda")
    import numpy as np

    @cuda.jit
    def add(a: Any, b: Any, out: Any) -> None:
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] + b[i]

    a, b, out = (cuda.to_device(np.ones(1000, np.float32)) for _ in range(3))
    configured = add[8, 128]
    configured(a, b, out)
    count = SMOKE if smoke else 1000

    def loop() -> None:
        for _ in range(count):
            configured(a, b, out)
        cuda.synchronize()

    benchmark.extra_info["calls"] = count
    benchmark.pedantic(loop, rounds=2 if smoke else 9, iterations=1, warmup_rounds=1)


def test_cuda_core_launch(benchmark: Any, smoke: bool) -> None:
    """``cuda.core.launch`` of a kernel with one pointer and one scalar."""
    core = pytest.importorskip("cuda.core")
    device = core.Device(0)
    device.set_current()
    stream = device.create_stream()
    arch = "".join(str(part) for part in device.compute_capability)
    program = core.Program(
        'extern "C" __global__ void inc(float* a, int n) { if (threadIdx.x < n) a[threadIdx.x] += 1; }',
        code_type="c++",
        options=core.ProgramOptions(arch=f"sm_{arch}"),
    )
    kernel = program.compile("cubin").get_kernel("inc")
    buffer = device.allocate(4096, stream=stream)
    config = core.LaunchConfig(grid=1, block=128)
    import numpy as np

    pointer, length = int(buffer.handle), np.int32(128)
    core.launch(stream, config, kernel, pointer, length)
    count = SMOKE if smoke else 3000

    def loop() -> None:
        for _ in range(count):
            core.launch(stream, config, kernel, pointer, length)
        stream.sync()

    benchmark.extra_info["calls"] = count
    benchmark.pedantic(loop, rounds=2 if smoke else 9, iterations=1, warmup_rounds=1)
