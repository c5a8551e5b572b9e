"""cuSOLVER against NumPy on plain buffers."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.softgpu.libraries import cusolver, cusparse_types
from migproxy.softgpu.libraries.status import CUSOLVERError

from .conftest import draw, tolerance

TYPES = list(cusolver.TYPES.items())
CUDA_TYPES = {"s": 0, "d": 1, "c": 4, "z": 5}
each_type = pytest.mark.parametrize(("letter", "dtype"), TYPES)


def positive(rng, n, dtype):
    a = draw(rng, (n, n), dtype)
    return np.asfortranarray(a @ a.conj().T + n * np.eye(n, dtype=dtype))


@each_type
@pytest.mark.parametrize("pivoting", [True, False])
def test_lu_and_solve(put, rng, letter, dtype, pivoting):
    n = 5
    a = np.asfortranarray(draw(rng, (n, n), dtype) + (0 if pivoting else n) * np.eye(n, dtype=dtype))
    original, info = a.copy(), np.ones(1, np.int32)
    pivots = put(np.zeros(n, np.int32)) if pivoting else 0
    assert getattr(cusolver, letter + "getrf_bufferSize")(0, n, n, put(a), n) > 0
    getattr(cusolver, letter + "getrf")(0, n, n, put(a), n, 0, pivots, put(info))
    assert info[0] == 0
    for trans in (0, 1, 2):
        b = draw(rng, (n, 2), dtype)
        x = b.copy(order="F")
        getattr(cusolver, letter + "getrs")(0, trans, n, 2, put(a), n, pivots, put(x), n, put(info))
        matrix = [original, original.T, original.conj().T][trans]
        np.testing.assert_allclose(matrix @ x, b, **tolerance(dtype))


def test_singular_lu_reports_the_pivot(put):
    a, info, pivots = np.zeros((3, 3), order="F"), np.zeros(1, np.int32), np.zeros(3, np.int32)
    a[0, 0] = 1
    cusolver.dgetrf(0, 3, 3, put(a), 3, 0, put(pivots), put(info))
    assert info[0] == 2


@each_type
@pytest.mark.parametrize("uplo", [0, 1])
def test_cholesky(put, rng, letter, dtype, uplo):
    a = positive(rng, 4, dtype)
    original, info = a.copy(), np.ones(1, np.int32)
    getattr(cusolver, letter + "potrf")(0, uplo, 4, put(a), 4, 0, 0, put(info))
    factor = np.tril(a) if uplo == 0 else np.triu(a).conj().T
    np.testing.assert_allclose(factor @ factor.conj().T, original, **tolerance(dtype))
    other = np.triu_indices(4, 1) if uplo == 0 else np.tril_indices(4, -1)
    np.testing.assert_array_equal(a[other], original[other])
    b = draw(rng, (4, 3), dtype)
    x = b.copy(order="F")
    getattr(cusolver, letter + "potrs")(0, uplo, 4, 3, put(a), 4, put(x), 4, put(info))
    np.testing.assert_allclose(original @ x, b, **tolerance(dtype))
    bad = np.asfortranarray(-original)
    getattr(cusolver, letter + "potrf")(0, uplo, 4, put(bad), 4, 0, 0, put(info))
    assert info[0] == 1


def test_batched_cholesky(put, rng):
    batch, right = [positive(rng, 3, np.float64) for _ in range(3)], [draw(rng, (3, 1), np.float64) for _ in range(3)]
    original, info = [a.copy() for a in batch], np.ones(3, np.int32)
    batch[1][...] = -1
    solution = [b.copy(order="F") for b in right]
    table, targets = put.table([put(a) for a in batch]), put.table([put(x) for x in solution])
    cusolver.dpotrfBatched(0, 0, 3, table, 3, put(info), 3)
    assert info.tolist() == [0, 1, 0]
    cusolver.dpotrsBatched(0, 0, 3, 1, table, 3, targets, 3, put(info), 3)
    np.testing.assert_allclose(original[2] @ solution[2], right[2])


@each_type
@pytest.mark.parametrize(("m", "n"), [(6, 4), (4, 4), (3, 5)])
def test_qr(put, rng, letter, dtype, m, n):
    a = draw(rng, (m, n), dtype)
    original, k, info = a.copy(), min(m, n), np.ones(1, np.int32)
    tau = np.zeros(k, dtype)
    getattr(cusolver, letter + "geqrf")(0, m, n, put(a), m, put(tau), 0, 0, put(info))
    q = np.zeros((m, m), dtype, order="F")
    q[:, : min(n, m)] = a[:, :m]
    name = letter + ("orgqr" if letter in "sd" else "ungqr")
    assert getattr(cusolver, name + "_bufferSize")(0, m, m, k, put(q), m, put(tau)) > 0
    getattr(cusolver, name)(0, m, m, k, put(q), m, put(tau), 0, 0, put(info))
    np.testing.assert_allclose(q.conj().T @ q, np.eye(m), **tolerance(dtype))
    np.testing.assert_allclose(q @ np.triu(a), original, **tolerance(dtype))
    for side, trans in [(0, 0), (0, 2), (1, 0), (1, 2)]:
        c = draw(rng, (m, 2) if side == 0 else (2, m), dtype)
        out = c.copy(order="F")
        trans = trans if letter in "cz" else min(trans, 1)
        name = letter + ("ormqr" if letter in "sd" else "unmqr")
        rows, columns = out.shape
        getattr(cusolver, name)(0, side, trans, rows, columns, k, put(a), m, put(tau), put(out), rows, 0, 0, put(info))
        factor = q.conj().T if trans else q
        np.testing.assert_allclose(out, factor @ c if side == 0 else c @ factor, **tolerance(dtype))


@each_type
@pytest.mark.parametrize("jobs", ["AO", "OS", "NN", "AA", "SS"])
def test_gesvd(put, rng, letter, dtype, jobs):
    m, n = 6, 4
    a = draw(rng, (m, n), dtype)
    original, s, info = a.copy(), np.zeros(n, a.real.dtype), np.ones(1, np.int32)
    u, vt = np.zeros((m, m), dtype, order="F"), np.zeros((n, n), dtype, order="F")
    job_u, job_vt = map(ord, jobs)
    getattr(cusolver, letter + "gesvd")(
        0, job_u, job_vt, m, n, put(a), m, put(s), put(u), m, put(vt), n, 0, 1, 0, put(info)
    )
    assert info[0] == 0
    np.testing.assert_allclose(s, np.linalg.svd(original, compute_uv=False), **tolerance(dtype))
    if jobs != "NN":
        left = a if jobs[0] == "O" else u
        right = a[:n] if jobs[1] == "O" else vt
        np.testing.assert_allclose(left[:, :n] * s @ right, original, **tolerance(dtype))
    if jobs[0] == "A":
        np.testing.assert_allclose(u.conj().T @ u, np.eye(m), **tolerance(dtype))


def test_gesvd_refuses_wide_matrices():
    assert cusolver.dgesvd_bufferSize(0, 3, 4) >= 0
    with pytest.raises(CUSOLVERError) as caught:
        cusolver.dgesvd(0, ord("N"), ord("N"), 3, 4, 0, 3, 0, 0, 3, 0, 4, 0, 0, 0, 0)
    assert caught.value.status == 3


@each_type
@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("econ", [0, 1])
def test_gesvdj(put, rng, letter, dtype, m, n, econ):
    a, k, info = draw(rng, (m, n), dtype), min(m, n), np.ones(1, np.int32)
    s, u, v = np.zeros(k, a.real.dtype), np.zeros((m, m), dtype, order="F"), np.zeros((n, n), dtype, order="F")
    getattr(cusolver, letter + "gesvdj")(0, 1, econ, m, n, put(a), m, put(s), put(u), m, put(v), n, 0, 0, put(info), 0)
    np.testing.assert_allclose(u[:, :k] * s @ v[:, :k].conj().T, a, **tolerance(dtype))
    assert (np.abs(u[:, k:]).sum() == 0) == (econ == 1 or m == k)


@each_type
def test_batched_svd(put, rng, letter, dtype):
    batch = np.ascontiguousarray(draw(rng, (3, 4, 5), dtype))  # three 5 x 4 matrices, column-major
    s, info = np.zeros((3, 4), batch.real.dtype), np.ones(3, np.int32)
    u, v = np.zeros((3, 5, 5), dtype), np.zeros((3, 4, 4), dtype)
    getattr(cusolver, letter + "gesvdjBatched")(
        0, 1, 5, 4, put(batch), 5, put(s), put(u), 5, put(v), 4, 0, 0, put(info), 0, 3
    )
    for index in range(3):
        product = u[index].T[:, :4] * s[index] @ v[index].conj()
        np.testing.assert_allclose(product, batch[index].T, **tolerance(dtype))
    u, residual = np.zeros((3, 4, 5), dtype), np.ones(3)
    getattr(cusolver, letter + "gesvdaStridedBatched")(
        0, 1, 4, 5, 4, put(batch), 5, 20, put(s), 4, put(u), 5, 20, put(v), 4, 16, 0, 0, put(info), put(residual), 3
    )
    assert residual.max() < 1e-4
    for index in range(3):
        np.testing.assert_allclose(u[index].T * s[index] @ v[index].conj(), batch[index].T, **tolerance(dtype))
    assert info.tolist() == [0, 0, 0]


@each_type
@pytest.mark.parametrize("uplo", [0, 1])
def test_symmetric_eigenvalues(put, rng, letter, dtype, uplo):
    family = "sy" if letter in "sd" else "he"
    full = positive(rng, 4, dtype)
    half = np.asfortranarray(np.tril(full) if uplo == 0 else np.triu(full))
    w, info = np.zeros(4, full.real.dtype), np.ones(1, np.int32)
    number, real_number = CUDA_TYPES[letter], CUDA_TYPES[letter] % 4
    for call in (
        lambda a: getattr(cusolver, f"{letter}{family}evd")(0, 1, uplo, 4, put(a), 4, put(w), 0, 0, put(info)),
        lambda a: getattr(cusolver, f"{letter}{family}evj")(0, 1, uplo, 4, put(a), 4, put(w), 0, 0, put(info), 0),
        lambda a: cusolver.xsyevd(
            0, 0, 1, uplo, 4, number, put(a), 4, real_number, put(w), number, 0, 0, 0, 0, put(info)
        ),
        lambda a: getattr(cusolver, f"{letter}{family}evjBatched")(
            0, 1, uplo, 4, put(a), 4, put(w), 0, 0, put(info), 0, 1
        ),
    ):
        vectors = half.copy(order="F")
        w[...] = 0
        call(vectors)
        np.testing.assert_allclose(full @ vectors, vectors * w, rtol=1e-3, atol=1e-3)
        assert (np.diff(w) >= 0).all()


@each_type
def test_general_eigenvalues(put, rng, letter, dtype):
    a, n = draw(rng, (5, 5), dtype), 5
    wide = np.complex64 if letter in "sc" else np.complex128
    w, v, info = np.zeros(n, wide), np.zeros((n, n), dtype, order="F"), np.ones(1, np.int32)
    kind, complex_kind = CUDA_TYPES[letter], 4 if letter in "sc" else 5
    arguments = (0, 0, 0, 1, n, kind, put(a), n, complex_kind, put(w), kind, put(v), n, kind, put(v), n, kind)
    device, host = cusolver.xgeev_bufferSize(*arguments)
    assert device > 0
    assert host > 0
    cusolver.xgeev(*arguments, 0, device, 0, host, put(info))
    vectors = v.astype(wide)
    if letter in "sd":
        for column in np.flatnonzero(w.imag > 0):
            pair = v[:, column] + 1j * v[:, column + 1]
            vectors[:, column], vectors[:, column + 1] = pair, pair.conj()
    np.testing.assert_allclose(a @ vectors, vectors * w, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ss", "dx", "sh", "zz", "ck", "zy"])
def test_refining_solvers(put, rng, name):
    dtype = cusolver.TYPES[name[0]]
    a, b = draw(rng, (4, 4), dtype), draw(rng, (4, 2), dtype)
    x, info, pivots = np.zeros((4, 2), dtype, order="F"), np.ones(1, np.int32), np.zeros(4, np.int32)
    solve, size = getattr(cusolver, name + "gesv"), getattr(cusolver, name + "gesv_bufferSize")
    assert size(0, 4, 2, put(a), 4, put(pivots), put(b), 4, put(x), 4, 0) > 0
    assert solve(0, 4, 2, put(a), 4, put(pivots), put(b), 4, put(x), 4, 0, 0, put(info)) >= 0
    np.testing.assert_allclose(a @ x, b, **tolerance(dtype))
    zero = np.zeros((4, 4), dtype, order="F")
    assert solve(0, 4, 2, put(zero), 4, put(pivots), put(b), 4, put(x), 4, 0, 0, put(info)) < 0
    tall, right = draw(rng, (6, 3), dtype), draw(rng, (6, 2), dtype)
    x = np.zeros((6, 2), dtype, order="F")
    least = getattr(cusolver, name + "gels")
    assert least(0, 6, 3, 2, put(tall), 6, put(right), 6, put(x), 6, 0, 0, put(info)) >= 0
    np.testing.assert_allclose(x[:3], np.linalg.lstsq(tall, right, rcond=None)[0], **tolerance(dtype))


@each_type
def test_sytrf_is_symmetric_not_hermitian(put, rng, letter, dtype):
    from scipy.linalg import ldl

    a = draw(rng, (4, 4), dtype)
    a = np.asfortranarray(a + a.T)
    lower, middle, order = ldl(a, hermitian=False)
    pivots, info = np.zeros(4, np.int32), np.ones(1, np.int32)
    getattr(cusolver, letter + "sytrf")(0, 0, 4, put(a), 4, put(pivots), 0, 0, put(info))
    assert info[0] == 0
    np.testing.assert_allclose(np.diag(a)[0], middle[0, 0], **tolerance(dtype))
    assert (pivots != 0).all()
    assert lower.shape == (4, 4)
    assert len(order) == 4


@each_type
def test_sparse_solver(put, rng, letter, dtype):
    dense = draw(rng, (6, 6), dtype, "C") * (rng.random((6, 6)) < 0.4) + 3 * np.eye(6, dtype=dtype)
    from scipy import sparse

    a = sparse.csr_array(dense.astype(dtype))
    b, x, singular = draw(rng, 6, dtype), np.zeros(6, dtype), np.zeros(1, np.int32)
    descr = cusparse_types.mat_descrs.add(cusparse_types.MatDescr(base=1))
    indices = put(a.indices.astype(np.int32) + 1), put(a.indptr.astype(np.int32) + 1)
    getattr(cusolver, letter + "csrlsvqr")(
        0, 6, a.nnz, descr, put(a.data), indices[1], indices[0], put(b), 0.0, 1, put(x), put(singular)
    )
    np.testing.assert_allclose(dense @ x, b, **tolerance(dtype))
    assert singular[0] == -1
    values = np.zeros(a.nnz, dtype)
    getattr(cusolver, letter + "csrlsvqr")(
        0, 6, a.nnz, descr, put(values), indices[1], indices[0], put(b), 0.0, 1, put(x), put(singular)
    )
    assert singular[0] >= 0


def test_contexts_and_settings():
    handle, info = cusolver.create(), cusolver.createSyevjInfo()
    cusolver.setStream(handle, 5)
    assert cusolver.getStream(handle) == 5
    cusolver.xsyevjSetTolerance(info, 1e-7)
    cusolver.xsyevjSetMaxSweeps(info, 3)
    assert cusolver.xsyevjGetSweeps(handle, info) == 0
    cusolver.destroySyevjInfo(info)
    cusolver.destroy(handle)
    assert cusolver._getVersion() == (11, 7, 5)
    assert cusolver._getVersionNumber() == 11705
    with pytest.raises(CUSOLVERError):
        cusolver.xsyevjSetTolerance(info, 1e-7)
    with pytest.raises(CUSOLVERError, match=r"cusolver.sgebrd is not supported") as caught:
        cusolver.sgebrd()
    assert caught.value.status == 9
    with pytest.raises(TypeError):
        cusolver.dpotrf_bufferSize(1)
