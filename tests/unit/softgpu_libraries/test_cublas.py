"""cuBLAS against NumPy on plain buffers."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.errors import CudaError
from migproxy.softgpu.libraries import cublas, views_unsafe
from migproxy.softgpu.libraries.status import CUBLASError

from .conftest import draw, tolerance

TYPES = list(cublas.TYPES.items())


def op(matrix, operation):
    return [matrix, matrix.T, matrix.T.conj()][operation]


@pytest.mark.parametrize(("letter", "dtype"), TYPES)
@pytest.mark.parametrize(("ta", "tb"), [(0, 0), (1, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize("beta", [0, 0.5])
def test_gemm_with_leading_dimensions(put, rng, letter, dtype, ta, tb, beta):
    m, n, k = 5, 4, 3
    a = draw(rng, (m + 2, k) if ta == 0 else (k + 2, m), dtype)
    b = draw(rng, (k + 1, n) if tb == 0 else (n + 1, k), dtype)
    c = draw(rng, (m + 3, n), dtype)
    if beta == 0:
        c[:m] = np.nan
    before = c.copy()
    true_a, true_b = (a[:m], a[:k])[ta != 0], (b[:k], b[:n])[tb != 0]
    alpha = dtype(2)
    getattr(cublas, letter + "gemm")(
        0, ta, tb, m, n, k, put(alpha, dtype), put(a), m + 2 if ta == 0 else k + 2, put(b), k + 1 if tb == 0 else n + 1,
        put(beta, dtype), put(c), m + 3,
    )  # fmt: skip
    expected = alpha * (op(true_a, ta) @ op(true_b, tb))
    if beta:
        expected = expected + dtype(beta) * before[:m]
    np.testing.assert_allclose(c[:m], expected, **tolerance(dtype))
    np.testing.assert_array_equal(c[m:], before[m:])


def test_gemm_strided_shares_a_matrix_at_stride_zero(put, rng):
    a, b = draw(rng, (2, 3), np.float64), rng.standard_normal((4, 5, 3))
    c = np.zeros((4, 5, 2))
    cublas.dgemmStridedBatched(0, 0, 0, 2, 5, 3, put(1.0), put(a), 2, 0, put(b), 3, 15, put(0.0), put(c), 2, 10, 4)
    np.testing.assert_allclose(c.swapaxes(1, 2), a @ b.swapaxes(1, 2))


def test_gemm_batched(put, rng):
    a, b, c = ([draw(rng, (3, 3), np.complex64) for _ in range(4)] for _ in range(3))
    tables = [put.table([put(matrix) for matrix in group]) for group in (a, b, c)]
    one, zero = put(1, np.complex64), put(0, np.complex64)
    cublas.cgemmBatched(0, 0, 0, 3, 3, 3, one, tables[0], 3, tables[1], 3, zero, tables[2], 3, 4)
    for left, right, out in zip(a, b, c, strict=True):
        np.testing.assert_allclose(out, left @ right, rtol=1e-4, atol=1e-5)


def test_gemm_ex_half_accumulates_in_single(put):
    # 4096 ones: half-precision accumulation would stop at 2048.
    a, b, c = np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16), np.zeros((1, 1), np.float16)
    one, zero = put(1, np.float32), put(0, np.float32)
    cublas.gemmEx(0, 0, 0, 1, 1, 4096, one, put(a), 2, 1, put(b), 2, 4096, zero, put(c), 2, 1, 68, -1)
    assert c[0, 0] == 4096


def test_gemm_ex_bfloat16_and_int8(put):
    one, zero = put(1, np.float32), put(0, np.float32)
    a = np.array([[1.5, -2.0]], np.float32).view(np.uint32) >> 16
    a16, c16 = a.astype(np.uint16), np.zeros((1, 1), np.uint16)
    cublas.gemmEx(0, 0, 1, 1, 1, 2, one, put(a16), 14, 1, put(a16), 14, 1, zero, put(c16), 14, 1, 68, -1)
    assert (c16.astype(np.uint32) << 16).view(np.float32)[0, 0] == 6.25
    a8, c32 = np.array([[100, 100]], np.int8), np.zeros((1, 1), np.int32)
    one, zero = put(1, np.int32), put(0, np.int32)
    cublas.gemmEx(0, 0, 1, 1, 1, 2, one, put(a8), 3, 1, put(a8), 3, 1, zero, put(c32), 10, 1, 72, -1)
    assert c32[0, 0] == 20000


def test_gemm_ex_refuses_unknown_types(put):
    one = put(1, np.float32)
    with pytest.raises(CUBLASError) as caught:
        cublas.gemmEx(0, 0, 0, 1, 1, 1, one, one, 28, 1, one, 28, 1, one, one, 0, 1, 68, -1)
    assert caught.value.status == 15


@pytest.mark.parametrize(("letter", "dtype"), TYPES)
def test_level_one(put, rng, letter, dtype):
    x, y = draw(rng, 20, dtype), draw(rng, 10, dtype)
    x2, result = x[::2], np.zeros(1, dtype)
    real, index = np.zeros(1, x.real.dtype), np.zeros(1, np.int32)
    size = np.abs(x2.real) + (np.abs(x2.imag) if letter in "cz" else 0)
    getattr(cublas, f"i{letter}amax")(0, 10, put(x), 2, put(index))
    assert index[0] == size.argmax() + 1
    getattr(cublas, f"i{letter}amin")(0, 10, put(x), 2, put(index))
    assert index[0] == size.argmin() + 1
    getattr(cublas, {"s": "sasum", "d": "dasum", "c": "scasum", "z": "dzasum"}[letter])(0, 10, put(x), 2, put(real))
    np.testing.assert_allclose(real[0], size.sum(), rtol=1e-5)
    getattr(cublas, {"s": "snrm2", "d": "dnrm2", "c": "scnrm2", "z": "dznrm2"}[letter])(0, 10, put(x), 2, put(real))
    np.testing.assert_allclose(real[0], np.linalg.norm(x2), rtol=1e-5)
    for name in ["dot"] if letter in "sd" else ["dotu", "dotc"]:
        getattr(cublas, letter + name)(0, 10, put(x), 2, put(y), -1, put(result))
        expected = ((x2.conj() if name == "dotc" else x2) * y[::-1]).sum()
        np.testing.assert_allclose(result[0], expected, **tolerance(dtype))
    before, expected = x.copy(), y + dtype(3) * x2
    getattr(cublas, letter + "axpy")(0, 10, put(3, dtype), put(x), 2, put(y), 1)
    np.testing.assert_allclose(y, expected, **tolerance(dtype))
    getattr(cublas, letter + "scal")(0, 10, put(2, dtype), put(x), 2)
    np.testing.assert_allclose(x[::2], 2 * before[::2])
    np.testing.assert_array_equal(x[1::2], before[1::2])


@pytest.mark.parametrize(("letter", "dtype"), TYPES)
def test_level_two(put, rng, letter, dtype):
    a, x, y = draw(rng, (4, 3), dtype), draw(rng, 3, dtype), draw(rng, 4, dtype)
    expected = a @ x + dtype(2) * y
    getattr(cublas, letter + "gemv")(0, 0, 4, 3, put(1, dtype), put(a), 4, put(x), 1, put(2, dtype), put(y), 1)
    np.testing.assert_allclose(y, expected, **tolerance(dtype))
    for name in ["ger"] if letter in "sd" else ["geru", "gerc"]:
        expected = a + np.outer(y, x.conj() if name == "gerc" else x)
        getattr(cublas, letter + name)(0, 4, 3, put(1, dtype), put(y), 1, put(x), 1, put(a), 4)
        np.testing.assert_allclose(a, expected, **tolerance(dtype))


@pytest.mark.parametrize("uplo", [0, 1])
def test_sbmv(put, rng, uplo):
    n, k = 6, 2
    full = draw(rng, (n, n), np.float64)
    full = np.tril(np.triu(full + full.T, -k), k)
    band = np.zeros((k + 1, n), order="F")
    for column in range(n):
        for row in range(max(0, column - k), min(n, column + k + 1)):
            if uplo == 0 and row >= column:
                band[row - column, column] = full[row, column]
            if uplo == 1 and row <= column:
                band[k + row - column, column] = full[row, column]
    x, y = rng.standard_normal(n), np.zeros(n)
    cublas.dsbmv(0, uplo, n, k, put(1.0), put(band), k + 1, put(x), 1, put(0.0), put(y), 1)
    np.testing.assert_allclose(y, full @ x)


@pytest.mark.parametrize(("letter", "dtype"), TYPES)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("uplo", [0, 1])
@pytest.mark.parametrize("trans", [0, 1, 2])
def test_trsm(put, rng, letter, dtype, side, uplo, trans):
    order = (4, 3)[side]
    a = draw(rng, (order, order), dtype) + 4 * np.eye(order, dtype=dtype)
    a = np.asfortranarray(a)
    b = draw(rng, (4, 3), dtype)
    right = b.copy()
    arguments = (put(2, dtype), put(a), order, put(b), 4)
    getattr(cublas, letter + "trsm")(0, side, uplo, trans, 0, 4, 3, *arguments)
    triangle = op(np.tril(a) if uplo == 0 else np.triu(a), trans)
    np.testing.assert_allclose(triangle @ b if side == 0 else b @ triangle, 2 * right, **tolerance(dtype))


@pytest.mark.parametrize(("letter", "dtype"), TYPES)
def test_syrk_geam_dgmm(put, rng, letter, dtype):
    a, c = draw(rng, (4, 3), dtype), draw(rng, (4, 4), dtype)
    before = c.copy()
    getattr(cublas, letter + "syrk")(0, 0, 0, 4, 3, put(1, dtype), put(a), 4, put(0, dtype), put(c), 4)
    np.testing.assert_allclose(np.tril(c), np.tril(a @ a.T), **tolerance(dtype))
    np.testing.assert_array_equal(np.triu(c, 1), np.triu(before, 1))
    out, x = np.zeros((3, 4), dtype, order="F"), draw(rng, 4, dtype)
    one, zero = put(1, dtype), put(0, dtype)
    getattr(cublas, letter + "geam")(0, 2, 0, 3, 4, one, put(a), 4, zero, 0, 3, put(out), 3)
    np.testing.assert_allclose(out, a.T.conj())
    getattr(cublas, letter + "dgmm")(0, 1, 3, 4, put(out), 3, put(x), 1, put(out), 3)
    np.testing.assert_allclose(out, a.T.conj() * x, **tolerance(dtype))


@pytest.mark.parametrize("uplo", [0, 1])
def test_packed_triangles(put, rng, uplo):
    full, packed, again = draw(rng, (4, 4), np.float32), np.zeros(10, np.float32), np.zeros((4, 4), np.float32, "F")
    cublas.strttp(0, uplo, 4, put(full), 4, put(packed))
    assert packed[1] == (full[1, 0] if uplo == 0 else full[0, 1])
    cublas.stpttr(0, uplo, 4, put(packed), put(again), 4)
    np.testing.assert_array_equal(again, np.tril(full) if uplo == 0 else np.triu(full))


@pytest.mark.parametrize("pivoting", [True, False])
def test_batched_lu(put, rng, pivoting):
    batch = [draw(rng, (3, 3), np.float64) + 3 * np.eye(3) for _ in range(2)]
    batch = [np.asfortranarray(matrix) for matrix in batch]
    original, right = [matrix.copy() for matrix in batch], [draw(rng, (3, 2), np.float64) for _ in range(2)]
    solution, inverse = [matrix.copy(order="F") for matrix in right], [np.zeros((3, 3), order="F") for _ in range(2)]
    pivots = put(np.zeros((2, 3), np.int32)) if pivoting else 0
    info, host = np.ones(2, np.int32), np.ones(1, np.int32)
    factors, x = (put.table([put(matrix) for matrix in group]) for group in (batch, solution))
    cublas.dgetrfBatched(0, 3, factors, 3, pivots, put(info), 2)
    assert info.tolist() == [0, 0]
    assert cublas.dgetrsBatched(0, 0, 3, 2, factors, 3, pivots, x, 3, put(host), 2) == 0
    cublas.dgetriBatched(0, 3, factors, 3, pivots, put.table([put(matrix) for matrix in inverse]), 3, put(info), 2)
    for index in range(2):
        np.testing.assert_allclose(original[index] @ solution[index], right[index], atol=1e-12)
        np.testing.assert_allclose(original[index] @ inverse[index], np.eye(3), atol=1e-12)


def test_contexts(put):
    handle = cublas.create()
    cublas.setStream(handle, 7)
    cublas.setPointerMode(handle, 1)
    cublas.setMathMode(handle, 3)
    assert (cublas.getStream(handle), cublas.getPointerMode(handle), cublas.getMathMode(handle)) == (7, 1, 3)
    assert cublas.getVersion(handle) >= 120000
    cublas.destroy(handle)
    with pytest.raises(CUBLASError) as caught:
        cublas.getStream(handle)
    assert caught.value.status == 1
    assert caught.value.status_name == "CUBLAS_STATUS_NOT_INITIALIZED"


def test_bad_arguments_are_errors_not_crashes(put):
    one = put(1.0)
    with pytest.raises(CUBLASError) as caught:
        cublas.dgemm(0, 0, 0, 3, 3, 3, one, one, 2, one, 3, one, one, 3)
    assert caught.value.status == 7
    with pytest.raises(CudaError) as fault:
        cublas.dscal(0, 3, one, 0, 1)
    assert fault.value.status == 700


def test_guard_sees_every_range(put):
    seen = []
    before = views_unsafe.set_guard(lambda address, nbytes: seen.append((address, nbytes)))
    try:
        x, one = np.ones(7, np.float32), put(2, np.float32)
        cublas.sscal(0, 3, one, put(x), 3)
    finally:
        views_unsafe.set_guard(before)
    assert sorted(seen) == sorted([(one, 4), (put(x), 28)])
    assert x.tolist() == [2, 1, 1, 2, 1, 1, 2]
