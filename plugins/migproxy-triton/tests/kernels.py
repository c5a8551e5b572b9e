"""Kernels of the kinds that Triton's tutorials show, on CuPy arrays; prints one line a kernel.

Knows nothing of migproxy.
``--native`` gives Triton the arrays with ``data_ptr()``, which its own driver wants.
"""

import sys
import time

import cupy as cp
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(axis=0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)


@triton.jit
def softmax_kernel(out, source, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    values = tl.load(source + row * stride + offsets, mask=mask, other=-float("inf"))
    numerator = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + offsets, numerator / tl.sum(numerator, axis=0), mask=mask)


@triton.jit
def norm_kernel(source, out, weight, bias, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    x = tl.load(source + row * columns + offsets, mask=mask, other=0.0)
    mean = tl.sum(x, axis=0) / columns
    centred = tl.where(mask, x - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    w, b = tl.load(weight + offsets, mask=mask), tl.load(bias + offsets, mask=mask)
    tl.store(out + row * columns + offsets, centred * scale * w + b, mask=mask)


@triton.jit
def dropout_kernel(source, out, n, p, seed, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    keep = tl.rand(seed, offsets) > p
    x = tl.load(source + offsets, mask=mask)
    tl.store(out + offsets, tl.where(keep, x / (1 - p), 0.0), mask=mask)


@triton.jit
def count_kernel(values, bins, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.atomic_add(bins + tl.load(values + offsets, mask=mask, other=0), 1, mask=mask)


@triton.jit
def scan_kernel(source, out, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(source + offsets, mask=offsets < n, other=0)
    tl.store(out + offsets, tl.cumsum(x, axis=0), mask=offsets < n)


@triton.jit
def transpose_kernel(source, out, rows, columns, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (r[:, None] < rows) & (c[None, :] < columns)
    block = tl.load(source + r[:, None] * columns + c[None, :], mask=mask)
    tl.store(out + c[:, None] * rows + r[None, :], tl.trans(block), mask=tl.trans(mask))


@triton.jit
def matmul_kernel(a, b, c, M, N, K, BLOCK: tl.constexpr, STEP: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    depth = tl.arange(0, STEP)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for k in range(0, K, STEP):
        left = tl.load(a + rows[:, None] * K + (k + depth)[None, :])
        right = tl.load(b + (k + depth)[:, None] * N + columns[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(tl.float16))


@triton.autotune(
    configs=[triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((128, 1), (512, 4))],
    key=["n"],
    reset_to_zero=["out"],
)
@triton.jit
def tuned_kernel(source, out, n, a, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.atomic_add(out + offsets, a * tl.load(source + offsets, mask=mask), mask=mask)


class Pointer:
    """What Triton's own driver takes."""

    def __init__(self, array):
        self._array = array
        self.dtype = array.dtype

    def data_ptr(self):
        return self._array.data.ptr


NATIVE = "--native" in sys.argv
given = Pointer if NATIVE else (lambda array: array)


def add():
    n = 10_001
    x, y = cp.arange(n, dtype=cp.float32), cp.full(n, 2, cp.float32)
    out = cp.empty_like(x)
    add_kernel[(triton.cdiv(n, 1024),)](given(x), given(y), given(out), n, BLOCK=1024)
    return bool((out == x + y).all())


def softmax():
    source = cp.random.default_rng(1).random((33, 781), dtype=cp.float32)
    out = cp.empty_like(source)
    softmax_kernel[(33,)](given(out), given(source), 781, 781, BLOCK=1024)
    expected = cp.exp(source - source.max(1, keepdims=True))
    return bool(cp.allclose(out, expected / expected.sum(1, keepdims=True), atol=1e-6))


def norm():
    rng = cp.random.default_rng(2)
    x, w, b = (rng.random(shape, dtype=cp.float32) for shape in ((17, 300), 300, 300))
    out = cp.empty_like(x)
    norm_kernel[(17,)](given(x), given(out), given(w), given(b), 300, 1e-5, BLOCK=512)
    expected = (x - x.mean(1, keepdims=True)) / cp.sqrt(x.var(1, keepdims=True) + 1e-5) * w + b
    return bool(cp.allclose(out, expected, atol=1e-4))


def dropout():
    x = cp.ones(5000, cp.float32)
    out, again = cp.empty_like(x), cp.empty_like(x)
    for each in (out, again):
        dropout_kernel[(5,)](given(x), given(each), 5000, 0.5, 123, BLOCK=1024)
    return bool((out == again).all()) and 0.4 < float((out > 0).mean()) < 0.6


def count():
    values = cp.random.default_rng(3).integers(0, 16, 4000).astype(cp.int32)
    bins = cp.zeros(16, cp.int32)
    count_kernel[(4,)](given(values), given(bins), 4000, BLOCK=1024)
    return bool((bins == cp.bincount(values, minlength=16)).all())


def scan():
    values = cp.arange(700, dtype=cp.int32)
    out = cp.empty_like(values)
    scan_kernel[(1,)](given(values), given(out), 700, BLOCK=1024)
    return bool((out == cp.cumsum(values)).all())


def transpose():
    source = cp.arange(70 * 45, dtype=cp.float16).reshape(70, 45)
    out = cp.empty((45, 70), cp.float16)
    transpose_kernel[(3, 2)](given(source), given(out), 70, 45, BLOCK=32)
    return bool((out == source.T).all())


def tuned():
    x = cp.arange(3000, dtype=cp.float32)
    out = cp.zeros_like(x)
    tuned_kernel[lambda meta: (triton.cdiv(3000, meta["BLOCK"]),)](given(x), given(out), 3000, 3.0)
    return bool((out == 3 * x).all())


def matmul():
    rng = cp.random.default_rng(4)
    a, b = (rng.random((256, 256), dtype=cp.float32).astype(cp.float16) for _ in range(2))
    c = cp.empty((256, 256), cp.float16)
    matmul_kernel[(4, 4)](given(a), given(b), given(c), 256, 256, 256, BLOCK=64, STEP=32)
    return bool(cp.allclose(c, a @ b, rtol=1e-2))


KERNELS = (add, softmax, norm, dropout, count, scan, transpose, tuned, matmul)


def main():
    skipped = {name for option in sys.argv if option.startswith("--skip=") for name in option[7:].split(",")}
    good = 0
    chosen = [each for each in KERNELS if each.__name__ not in skipped]
    for kernel in chosen:
        try:
            fine = kernel()
            start = time.perf_counter()
            kernel()
            cp.cuda.Stream.null.synchronize()
            note = f"{1e3 * (time.perf_counter() - start):.2f} ms"
        except Exception as error:
            fine, note = False, f"{type(error).__name__}: {error}".splitlines()[0][:200]
        good += fine
        print(kernel.__name__, "ok" if fine else "FAILED", note, flush=True)
    print(f"{good} of {len(chosen)} passed")
    return good != len(chosen)


if __name__ == "__main__":
    sys.exit(main())
