"""cuSPARSE against SciPy on plain buffers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from migproxy.softgpu.libraries import cusparse, cusparse_generic
from migproxy.softgpu.libraries.status import CuSparseError

from .conftest import draw, tolerance

CUDA_TYPES = {"s": 0, "d": 1, "c": 4, "z": 5}
each_type = pytest.mark.parametrize(("letter", "dtype"), list(cusparse.TYPES.items()))
I32, I64 = 2, 3


def random_csr(rng, shape, dtype, density=0.4):
    dense = draw(rng, shape, dtype, "C") * (rng.random(shape) < density)
    return sparse.csr_array(dense.astype(dtype))


class Described:
    """A sparse matrix in memory with its descriptor, in any format."""

    def __init__(self, put, matrix, kind, layout="csr", base=0, index=np.int32):
        self.index_kind = I32 if index == np.int32 else I64
        self.matrix = matrix.asformat(layout)
        self.values = np.array(self.matrix.data)
        rows, cols = matrix.shape
        if layout == "coo":
            self.first, self.second = (np.array(part, index) + base for part in self.matrix.coords)
            arguments = (put(self.first), put(self.second), put(self.values), self.index_kind, base, kind)
            self.desc = cusparse.createCoo(rows, cols, matrix.nnz, *arguments)
        else:
            self.first = np.array(self.matrix.indptr, index) + index(base)
            self.second = np.array(self.matrix.indices, index) + index(base)
            arguments = (put(self.first), put(self.second), put(self.values), self.index_kind, self.index_kind, base)
            make = cusparse.createCsr if layout == "csr" else cusparse.createCsc
            self.desc = make(rows, cols, matrix.nnz, *arguments, kind)


@each_type
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
@pytest.mark.parametrize("operation", [0, 1, 2])
@pytest.mark.parametrize(("base", "index"), [(0, np.int32), (1, np.int64)])
def test_spmv_and_spmm(put, rng, letter, dtype, layout, operation, base, index):
    kind, a = CUDA_TYPES[letter], random_csr(rng, (5, 4), dtype)
    described = Described(put, a, kind, layout, base, index)
    dense = [a.toarray(), a.toarray().T, a.toarray().conj().T][operation]
    x, y = draw(rng, dense.shape[1], dtype), draw(rng, dense.shape[0], dtype)
    expected = dtype(2) * (dense @ x) + dtype(3) * y
    vec_x, vec_y = cusparse.createDnVec(len(x), put(x), kind), cusparse.createDnVec(len(y), put(y), kind)
    alpha, beta = put(2, dtype), put(3, dtype)
    size = cusparse.spMV_bufferSize(0, operation, alpha, described.desc, vec_x, beta, vec_y, kind, 0)
    assert size > 0
    cusparse.spMV(0, operation, alpha, described.desc, vec_x, beta, vec_y, kind, 0, 0)
    np.testing.assert_allclose(y, expected, **tolerance(dtype))
    b, c = draw(rng, (3, dense.shape[1]), dtype), np.full((dense.shape[0], 3), np.nan, dtype, order="F")
    mat_b = cusparse.createDnMat(3, dense.shape[1], 3, put(b), kind, 1)
    mat_c = cusparse.createDnMat(dense.shape[0], 3, dense.shape[0], put(c), kind, 1)
    cusparse.spMM(0, operation, 1, alpha, described.desc, mat_b, put(0, dtype), mat_c, kind, 0, 0)
    np.testing.assert_allclose(c, dtype(2) * (dense @ b.T), **tolerance(dtype))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_spgemm_keeps_the_structure(put, index):
    # Row 0: 1·1 + 1·(-1) cancels, and stays an entry as on the GPU.
    a = sparse.csr_array(np.array([[1.0, 1.0], [0.0, 2.0]]))
    b = sparse.csr_array(np.array([[1.0, 0.0], [-1.0, 3.0]]))
    left, right = Described(put, a, 1, index=index), Described(put, b, 1, index=index)
    kind = left.index_kind
    empty = cusparse.createCsr(2, 2, 0, put(np.zeros(3, index)), 0, 0, kind, kind, 0, 1)
    work, one, zero = cusparse.spGEMM_createDescr(), put(1.0), put(0.0)
    arguments = (0, 0, 0, one, left.desc, right.desc, zero, empty, 1, 0, work)
    assert cusparse.spGEMM_workEstimation(*arguments, 0, 0) > 0
    cusparse.spGEMM_workEstimation(*arguments, 1, put(0.0))
    assert cusparse.spGEMM_compute(*arguments, 0, 0) > 0
    cusparse.spGEMM_compute(*arguments, 1, put(0.0))
    extents = np.zeros(3, np.int64)
    cusparse.spMatGetSize(empty, put(extents), put(extents) + 8, put(extents) + 16)
    assert extents.tolist() == [2, 2, 4]
    offsets, columns, values = np.zeros(3, index), np.zeros(4, index), np.zeros(4)
    cusparse.csrSetPointers(empty, put(offsets), put(columns), put(values))
    cusparse.spGEMM_copy(*arguments)
    cusparse.spGEMM_destroyDescr(work)
    assert offsets.tolist() == [0, 2, 4]
    assert columns.tolist() == [0, 1, 0, 1]
    assert values.tolist() == [0.0, 3.0, -2.0, 6.0]
    with pytest.raises(CuSparseError) as caught:
        cusparse.spGEMM_compute(*arguments, 1, put(0.0))
    assert caught.value.status == 3  # the shared state is gone
    work = cusparse.spGEMM_createDescr()
    with pytest.raises(CuSparseError) as caught:
        cusparse.spGEMM_workEstimation(0, 1, *arguments[2:10], work, 0, 0)
    assert caught.value.status == 10


@each_type
def test_additions(put, rng, letter, dtype):
    a, b = random_csr(rng, (4, 6), dtype), random_csr(rng, (4, 6), dtype)
    expected = (2 * a.toarray() + 3 * b.toarray()).astype(dtype)
    union = (a.toarray() != 0) | (b.toarray() != 0)
    descr = cusparse.createMatDescr()
    parts = []
    for matrix in (a, b):
        indices, offsets = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
        parts.append((descr, matrix.nnz, put(matrix.data), put(offsets), put(indices)))
    alpha, beta, total = put(2, dtype), put(3, dtype), np.zeros(1, np.int32)
    offsets = np.zeros(5, np.int32)
    assert getattr(cusparse, letter + "csrgeam2_bufferSizeExt")(
        0, 4, 6, alpha, *parts[0], beta, *parts[1], descr, 0, put(offsets), 0
    ) > 0  # fmt: skip
    patterns = [(part[0], part[1], part[3], part[4]) for part in parts]
    cusparse.xcsrgeam2Nnz(0, 4, 6, *patterns[0], *patterns[1], descr, put(offsets), put(total), 0)
    assert total[0] == union.sum()
    columns, values = np.zeros(total[0], np.int32), np.zeros(total[0], dtype)
    getattr(cusparse, letter + "csrgeam2")(
        0, 4, 6, alpha, *parts[0], beta, *parts[1], descr, put(values), put(offsets), put(columns), 0
    )
    np.testing.assert_allclose(sparse.csr_array((values, columns, offsets), (4, 6)).toarray(), expected, rtol=1e-5)
    kind = CUDA_TYPES[letter]
    left, right = Described(put, a, kind), Described(put, b, kind)
    target = cusparse.createCsr(4, 6, 0, put(offsets), 0, 0, I32, I32, 0, kind)
    work = cusparse.spGEAM_createDescr()
    arguments = (0, 0, 0, alpha, left.desc, beta, right.desc, target, kind, 0, work)
    assert cusparse.spGEAM_bufferSize(*arguments) > 0
    cusparse.spGEAM_nnz(*arguments, 0)
    values[...] = 0
    cusparse.csrSetPointers(target, put(offsets), put(columns), put(values))
    cusparse.spGEAM(*arguments, 0)
    np.testing.assert_allclose(sparse.csr_array((values, columns, offsets), (4, 6)).toarray(), expected, rtol=1e-5)


@each_type
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("operation", [0, 1, 2])
def test_spsm(put, rng, letter, dtype, lower, unit, operation):
    kind, n = CUDA_TYPES[letter], 5
    full = draw(rng, (n, n), dtype, "C") + 4 * np.eye(n, dtype=dtype)
    a = Described(put, sparse.csr_array(full), kind)
    cusparse.spMatSetAttribute(a.desc, 0, int(not lower))
    cusparse.spMatSetAttribute(a.desc, 1, int(unit))
    b, c = draw(rng, (2, n), dtype), np.zeros((n, 2), dtype, order="F")
    mat_b, mat_c = cusparse.createDnMat(2, n, 2, put(b), kind, 1), cusparse.createDnMat(n, 2, n, put(c), kind, 1)
    work, alpha = cusparse.spSM_createDescr(), put(2, dtype)
    arguments = (0, operation, 1, alpha, a.desc, mat_b, mat_c, kind, 0, work)
    assert cusparse.spSM_bufferSize(*arguments) > 0
    cusparse.spSM_analysis(*arguments, 0)
    cusparse.spSM_solve(*arguments)
    triangle = np.tril(full) if lower else np.triu(full)
    if unit:
        np.fill_diagonal(triangle, 1)
    triangle = [triangle, triangle.T, triangle.conj().T][operation]
    np.testing.assert_allclose(triangle @ c, 2 * b.T, **tolerance(dtype))


@each_type
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_dense_conversions(put, rng, letter, dtype, layout):
    kind, a = CUDA_TYPES[letter], random_csr(rng, (4, 5), dtype)
    out = np.ones((4, 5), dtype, order="F")
    dense = cusparse.createDnMat(4, 5, 4, put(out), kind, 1)
    cusparse.sparseToDense(0, Described(put, a, kind, layout).desc, dense, 0, 0)
    np.testing.assert_array_equal(out, a.toarray())
    matrix = a.asformat(layout)
    if layout == "coo":
        first, size = np.zeros(a.nnz, np.int32), np.zeros(a.nnz, np.int32)
        target = cusparse.createCoo(4, 5, 0, put(first), put(size), put(np.zeros(a.nnz, dtype)), I32, 0, kind)
    else:
        first, second, values = (
            np.zeros(k, t) for k, t in zip((len(matrix.indptr), a.nnz, a.nnz), (np.int32, np.int32, dtype), strict=True)
        )
        make = cusparse.createCsr if layout == "csr" else cusparse.createCsc
        target = make(4, 5, 0, put(first), put(second), put(values), I32, I32, 0, kind)
    cusparse.denseToSparse_analysis(0, dense, target, 0, 0)
    extents = np.zeros(3, np.int64)
    cusparse.spMatGetSize(target, put(extents), put(extents) + 8, put(extents) + 16)
    assert extents[2] == a.nnz
    cusparse.denseToSparse_convert(0, dense, target, 0, 0)
    if layout == "coo":
        np.testing.assert_array_equal(first, sparse.coo_array(a).coords[0])
    else:
        matrix.sort_indices()
        np.testing.assert_array_equal(first, matrix.indptr)
        np.testing.assert_array_equal(second, matrix.indices)
        np.testing.assert_array_equal(values, matrix.data)


@each_type
def test_transpose_sorts_and_compression(put, rng, letter, dtype):
    a = random_csr(rng, (6, 5), dtype)
    indptr, indices = a.indptr.astype(np.int32), a.indices.astype(np.int32)
    values, pointers, rows = np.zeros(a.nnz, dtype), np.zeros(6, np.int32), np.zeros(a.nnz, np.int32)
    cusparse.csr2cscEx2(
        0, 6, 5, a.nnz, put(a.data), put(indptr), put(indices), put(values), put(pointers), put(rows),
        CUDA_TYPES[letter], 1, 0, 1, 0,
    )  # fmt: skip
    expected = a.tocsc()
    for ours, theirs in ((values, expected.data), (pointers, expected.indptr), (rows, expected.indices)):
        np.testing.assert_array_equal(ours, theirs)
    coordinates, again = np.zeros(a.nnz, np.int32), np.zeros(7, np.int32)
    cusparse.xcsr2coo(0, put(indptr), a.nnz, 6, put(coordinates), 0)
    np.testing.assert_array_equal(coordinates, sparse.coo_array(a).coords[0])
    cusparse.xcoo2csr(0, put(coordinates), a.nnz, 6, put(again), 0)
    np.testing.assert_array_equal(again, indptr)
    shuffle = rng.permutation(a.nnz)
    first, second, order = coordinates[shuffle], indices[shuffle], np.zeros(a.nnz, np.int32)
    cusparse.createIdentityPermutation(0, a.nnz, put(order))
    cusparse.xcoosortByRow(0, 6, 5, a.nnz, put(first), put(second), put(order), 0)
    np.testing.assert_array_equal(first, coordinates)
    np.testing.assert_array_equal(second, indices)
    np.testing.assert_array_equal(a.data[shuffle][order], a.data)
    cusparse.xcoosortByColumn(0, 6, 5, a.nnz, put(first), put(second), 0, 0)
    np.testing.assert_array_equal(second, np.sort(indices))
    backwards = np.concatenate([indices[s:e][::-1] for s, e in pairwise(indptr)])
    descr = cusparse.createMatDescr()
    cusparse.xcsrsort(0, 6, 5, a.nnz, descr, put(indptr), put(backwards), 0, 0)
    np.testing.assert_array_equal(backwards, indices)
    dense, counts, total = np.asfortranarray(a.toarray()), np.zeros(6, np.int32), np.zeros(1, np.int32)
    getattr(cusparse, letter + "nnz")(0, 0, 6, 5, descr, put(dense), 6, put(counts), put(total))
    np.testing.assert_array_equal(counts, np.diff(indptr))
    assert total[0] == a.nnz
    kept = getattr(cusparse, letter + "nnz_compress")(0, 6, descr, put(a.data), put(indptr), put(counts), 0.7)
    assert kept == (np.abs(a.data) > 0.7).sum() == counts.sum()
    values, columns, offsets = np.zeros(kept, dtype), np.zeros(kept, np.int32), np.zeros(7, np.int32)
    getattr(cusparse, letter + "csr2csr_compress")(
        0, 6, 5, descr, put(a.data), put(indices), put(indptr), a.nnz, put(counts), put(values), put(columns),
        put(offsets), 0.7,
    )  # fmt: skip
    out = sparse.csr_array((values, columns, offsets), (6, 5)).toarray()
    np.testing.assert_array_equal(out, np.where(np.abs(dense) > 0.7, dense, 0))


@each_type
def test_incomplete_factorisations_of_a_full_pattern_are_exact(put, rng, letter, dtype):
    n = 6
    dense = draw(rng, (n, n), dtype, "C")
    dense = dense @ dense.conj().T + n * np.eye(n, dtype=dtype)
    a = sparse.csr_array(dense)
    indptr, indices = a.indptr.astype(np.int32), a.indices.astype(np.int32)
    descr, position = cusparse.createMatDescr(), np.zeros(1, np.int32)
    values, info = np.array(a.data), cusparse.createCsrilu02Info()
    arguments = (0, n, a.nnz, descr, put(values), put(indptr), put(indices), info)
    assert getattr(cusparse, letter + "csrilu02_bufferSize")(*arguments) > 0
    getattr(cusparse, letter + "csrilu02_analysis")(*arguments, 0, 0)
    getattr(cusparse, letter + "csrilu02")(*arguments, 0, 0)
    cusparse.xcsrilu02_zeroPivot(0, info, put(position))
    assert position[0] == -1
    factors = sparse.csr_array((values, indices, indptr)).toarray()
    np.testing.assert_allclose((np.tril(factors, -1) + np.eye(n)) @ np.triu(factors), dense, **tolerance(dtype))
    values, info = np.array(a.data), cusparse.createCsric02Info()
    arguments = (0, n, a.nnz, descr, put(values), put(indptr), put(indices), info)
    getattr(cusparse, letter + "csric02_analysis")(*arguments, 0, 0)
    getattr(cusparse, letter + "csric02")(*arguments, 0, 0)
    lower = np.tril(sparse.csr_array((values, indices, indptr)).toarray())
    np.testing.assert_allclose(lower @ lower.conj().T, dense, **tolerance(dtype))


def test_ilu_keeps_the_pattern_and_names_zero_pivots(put):
    dense = np.array([[4.0, 1, 0], [1, 4, 1], [0, 1, 4]])
    a = sparse.csr_array(dense)
    indptr, indices, values = a.indptr.astype(np.int32), a.indices.astype(np.int32), np.array(a.data)
    descr, info, position = cusparse.createMatDescr(), cusparse.createCsrilu02Info(), np.zeros(1, np.int32)
    arguments = (0, 3, a.nnz, descr, put(values), put(indptr), put(indices), info, 0, 0)
    cusparse.dcsrilu02(*arguments)
    factors = sparse.csr_array((values, indices, indptr)).toarray()
    np.testing.assert_allclose((np.tril(factors, -1) + np.eye(3)) @ np.triu(factors), dense)
    values[:2] = 0
    cusparse.dcsrilu02(*arguments)
    with pytest.raises(CuSparseError) as caught:
        cusparse.xcsrilu02_zeroPivot(0, info, put(position))
    assert (caught.value.status, position[0]) == (9, 0)
    values[...] = a.data
    values[:2] = 0
    cusparse.dcsrilu02_numericBoost(0, info, 1, put(1e-3), put(2.0))
    cusparse.dcsrilu02(*arguments)
    cusparse.xcsrilu02_zeroPivot(0, info, put(position))
    assert values[0] == 2.0
    missing = sparse.csr_array(np.array([[1.0, 0, 0], [1, 0, 1], [0, 0, 1]]))
    arrays = missing.indptr.astype(np.int32), missing.indices.astype(np.int32), np.array(missing.data)
    cusparse.dcsrilu02_analysis(0, 3, 4, descr, put(arrays[2]), put(arrays[0]), put(arrays[1]), info, 0, 0)
    with pytest.raises(CuSparseError):
        cusparse.xcsrilu02_zeroPivot(0, info, put(position))
    assert position[0] == 1


@each_type
def test_banded_solvers(put, rng, letter, dtype):
    m, batch = 6, 3
    far, low, high, farther = (draw(rng, (batch, m), dtype, "C") for _ in range(4))
    middle, x = draw(rng, (batch, m), dtype, "C") + 6, draw(rng, (batch, m), dtype, "C")
    three = [np.diag(low[i, 1:], -1) + np.diag(middle[i]) + np.diag(high[i, :-1], 1) for i in range(batch)]
    one = x[:2].T.copy(order="F")
    getattr(cusparse, letter + "gtsv2")(0, m, 2, put(low), put(middle), put(high), put(one), m, 0)
    np.testing.assert_allclose(three[0] @ one, x[:2].T, **tolerance(dtype))
    strided = x.copy()
    diagonals = [put(part) for part in (low, middle, high)]
    getattr(cusparse, letter + "gtsv2StridedBatch")(0, m, *diagonals, put(strided), batch, m, 0)
    woven, low_t, middle_t, high_t = (np.ascontiguousarray(part.T) for part in (x, low, middle, high))
    diagonals = [put(part) for part in (low_t, middle_t, high_t)]
    getattr(cusparse, letter + "gtsvInterleavedBatch")(0, 0, m, *diagonals, put(woven), batch, 0)
    for index in range(batch):
        np.testing.assert_allclose(three[index] @ strided[index], x[index], **tolerance(dtype))
    np.testing.assert_allclose(woven.T, strided, **tolerance(dtype))
    five = [three[i] + np.diag(far[i, 2:], -2) + np.diag(farther[i, :-2], 2) for i in range(batch)]
    woven = np.ascontiguousarray(x.T)
    parts = [np.ascontiguousarray(part.T) for part in (far, low, middle, high, farther)]
    addresses = [put(part) for part in parts]
    getattr(cusparse, letter + "gpsvInterleavedBatch")(0, 0, m, *addresses, put(woven), batch, 0)
    for index in range(batch):
        np.testing.assert_allclose(five[index] @ woven[:, index], x[index], **tolerance(dtype))


def test_sparse_vectors(put):
    values, indices, dense = np.array([1.0, 2.0j, 3.0]), np.array([4, 0, 2], np.int64), np.arange(5) * (1 + 1j)
    vector = cusparse.createSpVec(5, 3, put(indices), put(values), I64, 0, 5)
    other, result = cusparse.createDnVec(5, put(dense), 5), np.zeros(1, complex)
    cusparse.spVV(0, 2, vector, other, put(result), 5, 0)
    np.testing.assert_allclose(result[0], np.vdot(values, dense[indices]))
    cusparse.gather(0, other, vector)
    np.testing.assert_array_equal(values, dense[indices])
    fields = cusparse.spVecGet(vector)
    assert (fields.size, fields.nnz, fields.idxType, fields.idxBase, fields.valueType) == (5, 3, I64, 0, 5)


def test_descriptors(put):
    described = Described(put, sparse.csr_array(np.eye(3)), 1)
    fields = cusparse.csrGet(described.desc)
    assert (fields.rows, fields.cols, fields.nnz, fields.rowOffsetType, fields.valueType) == (3, 3, 3, I32, 1)
    assert cusparse.spMatGetValues(described.desc) == put(described.values)
    assert (cusparse.spMatGetFormat(described.desc), cusparse.spMatGetIndexBase(described.desc)) == (1, 0)
    with pytest.raises(CuSparseError):
        cusparse.cooGet(described.desc)
    cusparse.destroySpMat(described.desc)
    with pytest.raises(CuSparseError) as caught:
        cusparse.csrGet(described.desc)
    assert caught.value.words == "invalid value"
    matrix = cusparse.createDnMat(3, 2, 3, 64, 1, 1)
    cusparse.dnMatSetStridedBatch(matrix, 4, 6)
    batch = cusparse.dnMatGetStridedBatch(matrix)
    assert (batch.count, batch.stride) == (4, 6)
    handle = cusparse.create()
    assert cusparse.getVersion(handle) == 12510
    cusparse.destroy(handle)
    with pytest.raises(CuSparseError, match=r"cusparse.sbsrilu02 is not supported"):
        cusparse.sbsrilu02()


def test_a_product_that_no_memory_holds_is_refused_at_once():
    columns = np.zeros(100_000, np.int32)
    tall = sparse.csr_array((np.ones(100_000), columns, np.arange(100_001)), (100_000, 1))
    with pytest.raises(CuSparseError, match="INSUFFICIENT_RESOURCES"):
        cusparse_generic.structural_product(tall, tall.T, 1.0)
