"""What the functions do, one request after another: a CPU phase, copies, kernels.

Runs in a function's process, or in a plain one. Each maker takes CuPy and the sizes and returns a callable that carries
out one request to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Request = Callable[[], None]

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {
        **{"matrix": 64, "copy": 1 << 16, "spin": 0.001, "requests": 3, "memory": "256MiB"},
        **{"small": 1 << 10, "small_requests": 2, "seconds": 0.3, "options": 1 << 10, "scenarios": 2},
        **{"points": 1 << 10, "clusters": 4, "iterations": 2, "signal": 1 << 10, "passes": 2},
    },
    "full": {
        **{"matrix": 4096, "copy": 100 << 20, "spin": 0.004, "requests": 60, "memory": "4GiB"},
        **{"small": 1 << 20, "small_requests": 200, "seconds": 5, "options": 1 << 23, "scenarios": 60},
        **{"points": 1 << 20, "clusters": 64, "iterations": 8, "signal": 1 << 23, "passes": 16},
    },
}


def spin(seconds: float) -> None:
    """The CPU phase."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def pinned(cp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a NumPy array in pinned memory."""
    import numpy as np

    count = int(np.prod(shape))
    memory = cp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def inference(cp: Any, size: dict[str, Any]) -> Request:
    """Like an inference request: about 45% GPU (two matrix products), 15% copy, 40% CPU."""
    a = cp.random.rand(size["matrix"], size["matrix"], dtype=cp.float32)
    host = cp.cuda.alloc_pinned_memory(size["copy"])
    device = cp.empty(size["copy"], cp.uint8)
    stream = cp.cuda.get_current_stream()

    def request() -> None:
        spin(size["spin"])
        device.data.copy_from_host_async(host.ptr, size["copy"], stream)
        stream.synchronize()
        for _ in range(2):
            a @ a
        stream.synchronize()

    return request


def black_scholes(cp: Any, size: dict[str, Any]) -> Request:
    """Prices of European calls under many volatilities, and their sums: three arrays in, one small one out."""
    count = size["options"]
    host = pinned(cp, (3, count), cp.float32)
    host[0], host[1], host[2] = 100.0, 90.0, 1.5
    inputs = cp.empty((3, count), cp.float32)

    @cp.fuse()  # type: ignore[untyped-decorator]
    def price(spot: Any, strike: Any, years: Any, volatility: Any) -> Any:
        wide = volatility * cp.sqrt(years)
        d1 = (cp.log(spot / strike) + (0.03 + 0.5 * volatility * volatility) * years) / wide
        # Zelen and Severo's approximation of the normal distribution (Abramowitz and Stegun 26.2.17)
        k = 1.0 / (1.0 + 0.2316419 * cp.abs(d1))
        tail = k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978 + k * 1.330274429))))
        below = 1.0 - 0.3989422804 * cp.exp(-0.5 * d1 * d1) * tail
        return spot * below - strike * cp.exp(-0.03 * years) * (below - wide)

    def request() -> None:
        spin(size["spin"])
        inputs.set(host)
        sums = [price(*inputs, cp.float32(0.1 + 0.005 * each)).sum() for each in range(size["scenarios"])]
        cp.asnumpy(cp.stack(sums))

    return request


def kmeans(cp: Any, size: dict[str, Any]) -> Request:
    """Lloyd's iterations on points that come from the host; their labels go back."""
    points, clusters = size["points"], size["clusters"]
    host = pinned(cp, (points, 16), cp.float32)
    host[:] = (cp.random.rand(points, 16, dtype=cp.float32)).get()
    device = cp.empty((points, 16), cp.float32)
    numbers = cp.arange(clusters)

    def request() -> None:
        spin(size["spin"])
        device.set(host)
        centers = device[:clusters].copy()
        for _ in range(size["iterations"]):
            distance = (centers * centers).sum(1) - 2.0 * (device @ centers.T)
            labels = distance.argmin(1)
            member = (labels[:, None] == numbers).astype(cp.float32)
            centers = (member.T @ device) / cp.maximum(member.sum(0), 1.0)[:, None]
        cp.asnumpy(labels.astype(cp.uint8))

    return request


def fft_pipeline(cp: Any, size: dict[str, Any]) -> Request:
    """A signal from the host, filtered again and again in the frequency domain; a spectrum of it goes back."""
    count = size["signal"]
    host = pinned(cp, (count,), cp.complex64)
    host[:] = 1.0
    device = cp.empty(count, cp.complex64)
    window = cp.exp(-cp.linspace(0.0, 4.0, count, dtype=cp.float32)).astype(cp.complex64)

    def request() -> None:
        spin(size["spin"])
        device.set(host)
        signal = device
        for _ in range(size["passes"]):
            signal = cp.fft.ifft(cp.fft.fft(signal) * window)
        cp.asnumpy(cp.abs(signal[: count // 16]))

    return request


def small(cp: Any, size: dict[str, Any]) -> Request:
    """50 dependent small kernels, each synchronised."""
    x = cp.ones(size["small"], dtype=cp.float32)
    stream = cp.cuda.get_current_stream()

    def request() -> None:
        for _ in range(50):
            x + 1
            stream.synchronize()

    return request


def heavy(cp: Any, size: dict[str, Any]) -> Request:
    """One matrix product."""
    a = cp.random.rand(size["matrix"], size["matrix"], dtype=cp.float32)
    stream = cp.cuda.get_current_stream()

    def request() -> None:
        a @ a
        stream.synchronize()

    return request


#: What can be run at once for a makespan.
WORKLOADS: dict[str, Callable[[Any, dict[str, Any]], Request]] = {
    "inference": inference,
    "black_scholes": black_scholes,
    "kmeans": kmeans,
    "fft_pipeline": fft_pipeline,
}
KINDS = {**WORKLOADS, "small": small, "heavy": heavy}
