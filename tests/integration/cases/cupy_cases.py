"""What an unmodified user of CuPy does, checked against NumPy. Run by test_cases.py; knows nothing of how it is run."""

from __future__ import annotations

import cupy as cp
import numpy as np
import pytest

RANDOM = np.random.default_rng(14)
A = RANDOM.normal(size=(17, 23))
B = RANDOM.normal(size=(17, 23))
CUBE = RANDOM.integers(-50, 50, size=(5, 6, 7))


def same(actual: cp.ndarray, expected: np.ndarray, **tolerance: float) -> None:
    assert isinstance(actual, cp.ndarray)
    assert actual.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(cp.asnumpy(actual), expected, **tolerance)


@pytest.mark.parametrize("dtype", ["b1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"])
def test_creation(dtype: str) -> None:
    same(cp.zeros((3, 4), dtype), np.zeros((3, 4), dtype))
    same(cp.ones(5, dtype), np.ones(5, dtype))
    same(cp.full((2, 2), 1, dtype), np.full((2, 2), 1, dtype))
    same(cp.eye(4, dtype=dtype), np.eye(4, dtype=dtype))
    same(cp.asarray(A).astype(dtype) if dtype[0] in "fc" else cp.asarray(CUBE).astype(dtype),
         A.astype(dtype) if dtype[0] in "fc" else CUBE.astype(dtype), rtol=1e-2 if dtype == "f2" else 1e-6)  # fmt: skip


def test_ranges_and_grids() -> None:
    same(cp.arange(10, 100, 7), np.arange(10, 100, 7))
    same(cp.linspace(0, 1, 33), np.linspace(0, 1, 33))
    for actual, expected in zip(
        cp.meshgrid(cp.arange(3), cp.arange(4)), np.meshgrid(np.arange(3), np.arange(4)), strict=True
    ):
        same(actual, expected)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "true_divide", "maximum", "arctan2", "hypot", "less"])
def test_binary_functions(name: str) -> None:
    same(getattr(cp, name)(cp.asarray(A), cp.asarray(B)), getattr(np, name)(A, B), rtol=1e-12)


@pytest.mark.parametrize("name", ["exp", "sin", "tanh", "sqrt", "floor", "sign", "isfinite", "log1p", "cbrt"])
def test_unary_functions(name: str) -> None:
    positive = np.abs(A)
    same(getattr(cp, name)(cp.asarray(positive)), getattr(np, name)(positive), rtol=1e-12)


def test_integers() -> None:
    a, b = cp.asarray(CUBE), cp.asarray(np.where(CUBE, CUBE, 3))
    a_host, b_host = a.get(), b.get()
    same(a // b, a_host // b_host)
    same(a % b, a_host % b_host)
    same(a << 2, a_host << 2)
    same((a & 12) ^ (b | 3), (a_host & 12) ^ (b_host | 3))


def test_scalars_and_in_place() -> None:
    a = cp.asarray(A)
    a += 1
    a *= a
    a[2:5] -= 3.5
    expected = (A + 1) ** 2
    expected[2:5] -= 3.5
    same(a, expected, rtol=1e-12)


def test_broadcasting() -> None:
    same(cp.asarray(A)[:, None, :] * cp.asarray(B)[None, :, :], A[:, None, :] * B[None, :, :])
    same(cp.asarray(A) + cp.arange(23), A + np.arange(23))


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", ["sum", "prod", "min", "max", "mean", "any", "all"])
def test_reductions(name: str, axis: int | tuple[int, ...] | None) -> None:
    a = (CUBE % 3 + 1).astype(float) if name == "prod" else CUBE
    same(getattr(cp, name)(cp.asarray(a), axis=axis), getattr(np, name)(a, axis=axis), rtol=1e-12)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("name", ["argmax", "argmin", "cumsum", "var", "std"])
def test_more_reductions(name: str, axis: int | None) -> None:
    same(getattr(cp, name)(cp.asarray(A), axis=axis), getattr(np, name)(A, axis=axis), rtol=1e-10)


def test_large_reductions() -> None:
    a = RANDOM.normal(size=1_000_003)
    np.testing.assert_allclose(float(cp.asarray(a).sum()), a.sum(), rtol=1e-9)
    same(cp.asarray(a[:1_000_000].reshape(1000, 1000)).max(axis=0), a[:1_000_000].reshape(1000, 1000).max(axis=0))


def test_views() -> None:
    a = cp.asarray(A)
    view = a[3:10:2, ::-1]
    same(view, A[3:10:2, ::-1])
    view[...] = 7
    expected = A.copy()
    expected[3:10:2, ::-1] = 7
    same(a, expected)
    same(a.T.reshape(-1), expected.T.reshape(-1))
    same(cp.concatenate([a, a], axis=1), np.concatenate([expected, expected], axis=1))


def test_fancy_indexing() -> None:
    a = cp.asarray(A)
    same(a[[1, 5, 5, 0]], A[[1, 5, 5, 0]])
    same(a[a > 0.5], A[A > 0.5])
    same(a[[1, 2], [3, 4]], A[[1, 2], [3, 4]])
    a[a < 0] = 0
    same(a, np.where(A < 0, 0, A))
    same(cp.where(a > 1, a, -a), np.where(a.get() > 1, a.get(), -a.get()))
    same(cp.nonzero(cp.asarray(CUBE))[1], np.nonzero(CUBE)[1])


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "i4"])
def test_matrix_products(dtype: str) -> None:
    a, b = (A * 10).astype(dtype), (B * 10).astype(dtype)
    tolerance = {"rtol": 1e-4 if dtype == "f4" else 1e-10, "atol": 1e-3 if dtype == "f4" else 0}
    same(cp.asarray(a) @ cp.asarray(b).T, a @ b.T, **tolerance)
    same(cp.asarray(a).T @ cp.asarray(b[:, 0]), a.T @ b[:, 0], **tolerance)
    stack = np.stack([a[:4, :4], b[:4, :4]])
    same(cp.matmul(cp.asarray(stack), cp.asarray(stack)), stack @ stack, **tolerance)


def test_linear_algebra() -> None:
    a = A[:, :17] + 20 * np.eye(17)
    same(cp.linalg.solve(cp.asarray(a), cp.asarray(B[:, 0])), np.linalg.solve(a, B[:, 0]), rtol=1e-10)
    same(cp.linalg.cholesky(cp.asarray(a @ a.T)), np.linalg.cholesky(a @ a.T), rtol=1e-9, atol=1e-9)
    same(cp.linalg.svd(cp.asarray(a), compute_uv=False), np.linalg.svd(a, compute_uv=False), rtol=1e-10)


def test_fourier_transform() -> None:
    same(cp.fft.fft(cp.asarray(A), axis=1), np.fft.fft(A, axis=1), rtol=1e-9, atol=1e-9)
    same(cp.fft.irfft2(cp.fft.rfft2(cp.asarray(A)), s=A.shape), A, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["i4", "f4", "f8"])
def test_sorting(dtype: str) -> None:
    a = RANDOM.normal(scale=1000, size=5000).astype(dtype)
    same(cp.sort(cp.asarray(a)), np.sort(a))
    same(cp.asarray(a)[cp.argsort(cp.asarray(a))], np.sort(a))
    same(cp.unique(cp.asarray(a)), np.unique(a))
    same(cp.sort(cp.asarray(A), axis=0), np.sort(A, axis=0))


def test_fuse() -> None:
    @cp.fuse()
    def squared_difference(x: cp.ndarray, y: cp.ndarray) -> cp.ndarray:
        return (x - y) * (x - y) + 1

    same(squared_difference(cp.asarray(A), cp.asarray(B)), (A - B) * (A - B) + 1)


def test_raw_kernel() -> None:
    kernel = cp.RawKernel(
        r"""
        extern "C" __global__ void tile_sum(const double* x, double* out, int n) {
            __shared__ double part[64];
            int i = blockIdx.x * 64 + threadIdx.x;
            part[threadIdx.x] = i < n ? x[i] : 0;
            __syncthreads();
            for (int step = 32; step; step /= 2) {
                if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
                __syncthreads();
            }
            if (!threadIdx.x) out[blockIdx.x] = part[0];
        }
        """,
        "tile_sum",
    )
    a = cp.asarray(A).ravel()
    out = cp.zeros(7)
    kernel((7,), (64,), (a, out, np.int32(a.size)))
    padded = np.pad(A.ravel(), (0, 7 * 64 - A.size)).reshape(7, 64)
    same(out, padded.sum(axis=1), rtol=1e-12)


def test_raw_module_with_template() -> None:
    module = cp.RawModule(
        code="template<typename T> __global__ void twice(T* x) { x[threadIdx.x] *= 2; }",
        options=("-std=c++17",),
        name_expressions=("twice<int>", "twice<double>"),
    )
    for dtype, name in ((np.int32, "twice<int>"), (np.float64, "twice<double>")):
        x = cp.arange(10, dtype=dtype)
        module.get_function(name)((1,), (10,), (x,))
        same(x, np.arange(10, dtype=dtype) * 2)


def test_elementwise_kernel() -> None:
    kernel = cp.ElementwiseKernel("T x, T y, float64 scale", "T z", "z = x > y ? x * scale : y", "larger")
    same(kernel(cp.asarray(A), cp.asarray(B), 3.0), np.where(A > B, A * 3, B))


def test_reduction_kernel() -> None:
    length = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length")
    same(length(cp.asarray(A), axis=1), np.linalg.norm(A, axis=1), rtol=1e-12)


def test_streams_and_events() -> None:
    start, end = cp.cuda.Event(), cp.cuda.Event()
    first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream()
    with first:
        start.record()
        a = cp.asarray(A) * 2
        end.record()
    second.wait_event(end)
    with second:
        b = a + 1
    second.synchronize()
    same(b, A * 2 + 1)
    end.synchronize()
    assert end.done
    assert cp.cuda.get_elapsed_time(start, end) >= 0
    assert first.done


def test_pinned_memory() -> None:
    import cupyx

    pinned = cupyx.empty_pinned(A.shape, A.dtype)
    pinned[...] = A
    stream = cp.cuda.Stream(non_blocking=True)
    device = cp.empty(A.shape)
    device.set(pinned, stream=stream)
    back = cupyx.zeros_like_pinned(pinned)
    device.get(stream=stream, out=back, blocking=False)
    stream.synchronize()
    np.testing.assert_array_equal(back, A)


def test_random_numbers() -> None:
    cp.random.seed(7)
    first = cp.random.random(1000)
    cp.random.seed(7)
    same(cp.random.random(1000), first.get())
    assert 0.45 < float(first.mean()) < 0.55
    normal = cp.random.normal(3, 2, size=100_000)
    assert abs(float(normal.mean()) - 3) < 0.05
    assert abs(float(normal.std()) - 2) < 0.05
    integers = cp.random.randint(0, 10, size=10_000)
    assert set(cp.unique(integers).get().tolist()) == set(range(10))
    generator = cp.random.default_rng(3)
    assert generator.standard_normal(10).shape == (10,)


def test_copies() -> None:
    fortran = np.asfortranarray(A)
    same(cp.asarray(fortran), A)
    assert cp.asarray(fortran).flags.f_contiguous
    same(cp.asarray(A[::2, 1::3]), A[::2, 1::3])
    out = np.empty_like(A)
    assert cp.asarray(A).get(out=out) is out
    np.testing.assert_array_equal(out, A)
    assert cp.asnumpy([1, 2]).tolist() == [1, 2]
    assert float(cp.asarray(2.5)) == 2.5


def test_memory_pool() -> None:
    pool = cp.get_default_memory_pool()
    a = cp.zeros(1 << 20, "u1")
    assert pool.used_bytes() >= 1 << 20
    del a
    pool.free_all_blocks()


def test_errors_are_cupys() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        cp.zeros(3) + cp.zeros(4)
    with pytest.raises(cp.cuda.compiler.CompileException):
        cp.RawKernel("this is no C", "nothing").compile()
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="CUDA_ERROR_NOT_FOUND"):
        cp.RawModule(code='extern "C" __global__ void f() {}').get_function("g")
    with pytest.raises((cp.cuda.runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError), match="invalid"):
        cp.RawKernel('extern "C" __global__ void f() {}', "f")((1,), (5000,), ())


def test_fuse_of_views_asks_for_the_kernels_occupancy() -> None:
    @cp.fuse()
    def reversed_plus_one(x: cp.ndarray) -> cp.ndarray:
        return x[::-1] + 1

    @cp.fuse()
    def spread(x: cp.ndarray) -> cp.ndarray:
        return cp.sqrt(cp.sum(x * x, axis=1))

    same(reversed_plus_one(cp.asarray(A)), A[::-1] + 1)
    same(spread(cp.asarray(A)), np.sqrt((A * A).sum(axis=1)), rtol=1e-12)
    kernel = cp.RawKernel('extern "C" __global__ void f(int* x) { x[threadIdx.x] = 1; }', "f")
    assert cp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, 128, 0) > 0
    assert cp.cuda.driver.occupancyMaxPotentialBlockSize(kernel.kernel.ptr, 0, 0)[1] >= 32


def test_fft_callbacks_are_linked_into_plans() -> None:
    load = "__device__ float2 scaled(void* x, unsigned long long i, void* by, void*) { float2 v = ((float2*)x)[i]; "
    load += "v.x *= *(float*)by; v.y *= *(float*)by; return v; }"
    store = "__device__ void late(void* x, unsigned long long i, float2 v, void*, void*) "
    store += "{ ((float2*)x)[i] = i % 16 < 8 ? float2{0.f, 0.f} : v; }"
    a = (A + 1j * B)[:, :16].astype(np.complex64)
    expected = 3 * np.fft.fft(a).astype(np.complex64)
    by = cp.array([3], np.float32)
    names = {"cb_load_name": "scaled", "cb_load_data": by.data}
    with cp.fft.config.set_cufft_callbacks(cb_load=load, **names, cb_ver="jit"):
        same(cp.fft.fft(cp.asarray(a)), expected, rtol=1e-4, atol=1e-4)
    expected[:, :8] = 0
    with cp.fft.config.set_cufft_callbacks(cb_load=load, cb_store=store, **names, cb_store_name="late", cb_ver="jit"):
        same(cp.fft.fft(cp.asarray(a)), expected, rtol=1e-4, atol=1e-4)
    same(cp.fft.fft(cp.asarray(a)), np.fft.fft(a).astype(np.complex64), rtol=1e-4, atol=1e-4)


def test_a_captured_graph_can_be_drawn() -> None:
    stream = cp.cuda.Stream(non_blocking=True)
    a = cp.asarray(A)
    cp.sin(a)
    with stream:
        stream.begin_capture()
        cp.sin(a)
        graph = stream.end_capture()
    drawn = graph.debug_dot_str()
    assert drawn.startswith("digraph")
    assert "cupy_sin" in drawn
    assert graph.debug_dot_str(cp.cuda.runtime.cudaGraphDebugDotFlagsVerbose) != drawn


def test_device_facts() -> None:
    device = cp.cuda.Device()
    assert int(device.compute_capability) >= 70
    free, total = device.mem_info
    assert 0 < free <= total
    assert cp.cuda.runtime.getDeviceCount() == 1
    assert cp.cuda.runtime.getDeviceProperties(0)["name"]


def test_sparse_matrices() -> None:
    import scipy.sparse
    from cupyx.scipy import sparse

    host = scipy.sparse.random(30, 40, 0.1, "csr", random_state=1)
    device = sparse.csr_matrix(host)
    same((device @ cp.ones(40)), host @ np.ones(40), rtol=1e-12)
    same((device @ device.T).toarray(), (host @ host.T).toarray(), rtol=1e-12)


def test_sparse_conversions_keep_their_order_with_kernels() -> None:
    import scipy.sparse
    from cupyx.scipy import sparse

    parts = np.array([1.0, 4, 3, 0, 2, 5]), np.array([1, 1, 2, 0, 0, 2], np.int32), np.array([0, 3, 3, 5, 6], np.int32)
    expected = scipy.sparse.csc_matrix(parts, shape=(3, 4)).toarray()
    for _ in range(20):
        matrix = sparse.csc_matrix(tuple(map(cp.asarray, parts)), shape=(3, 4))
        matrix.sum_duplicates()
        same(matrix.toarray(), expected)


def test_image_filters() -> None:
    import scipy.ndimage
    from cupyx.scipy import ndimage

    same(ndimage.gaussian_filter(cp.asarray(A), 1.5), scipy.ndimage.gaussian_filter(A, 1.5), rtol=1e-10)
    same(ndimage.median_filter(cp.asarray(A), 3), scipy.ndimage.median_filter(A, 3))
