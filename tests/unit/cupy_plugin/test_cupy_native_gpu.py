"""The executor half on a real GPU: each library's calls through a stand-in against the real module's own.

Stand-in and server run in one process over the real encoding; the server carries out what it gets with the CuPy
installed here.
"""

from __future__ import annotations

import numpy as np
import pytest
from cupy_loopback import Loopback
from migproxy_plugins.cupy import calls, standin
from migproxy_plugins.cupy import objects_unsafe as raw
from migproxy_plugins.cupy.libraries import cub as cub_standin
from migproxy_plugins.cupy.libraries import cufft as cufft_standin
from migproxy_plugins.cupy.libraries import cusolver_routines
from migproxy_plugins.cupy.libraries import generator_api as generator_standin
from migproxy_plugins.cupy.libraries import thrust as thrust_standin

pytestmark = pytest.mark.gpu
LETTERS = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}


@pytest.fixture
def cp():
    return pytest.importorskip("cupy")


@pytest.fixture
def gpu(cp, monkeypatch):
    """A loopback whose server uses the real modules on the current stream."""

    made = Loopback(kind="gpu")
    monkeypatch.setattr(calls, "api", made.api())
    monkeypatch.setattr(raw, "current_stream", lambda: cp.cuda.get_current_stream().ptr)
    return made


def values(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    made = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        made = made + 1j * rng.standard_normal(shape)
    return made.astype(dtype)


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("device_mode", [False, True])
def test_cublas(cp, gpu, letter, device_mode):
    dtype = LETTERS[letter]
    cublas = standin.make("cupy_backends.cuda.libs.cublas")
    handle = cublas.create()
    a, b = cp.asfortranarray(cp.asarray(values((3, 4), dtype))), cp.asfortranarray(cp.asarray(values((4, 5), dtype, 1)))
    c = cp.zeros((3, 5), dtype, order="F")
    place = (lambda value: cp.array(value, dtype)) if device_mode else (lambda value: np.array(value, dtype))
    alpha, beta = place(2), place(0)
    address = (lambda x: x.data.ptr) if device_mode else (lambda x: x.ctypes.data)
    if device_mode:
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_DEVICE)
    getattr(cublas, f"{letter}gemm")(
        handle, 0, 0, 3, 5, 4, address(alpha), a.data.ptr, 3, b.data.ptr, 4, address(beta), c.data.ptr, 3
    )
    cp.testing.assert_allclose(c, 2 * a @ b, rtol=1e-4)
    x = cp.asarray(values(9, dtype))
    result = place(0)
    name = {"s": "sdot", "d": "ddot", "c": "cdotu", "z": "zdotu"}[letter]
    getattr(cublas, name)(handle, 9, x.data.ptr, 1, x.data.ptr, 1, address(result))
    cp.testing.assert_allclose(cp.asarray(result), (x * x).sum(), rtol=1e-4)
    cublas.destroy(handle)


def test_cublas_errors(gpu, cp):
    cublas = standin.make("cupy_backends.cuda.libs.cublas")
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        cublas.getVersion(0x1234)
    handle, result = cublas.create(), np.zeros(1)
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_INVALID_VALUE"):
        cublas.dasum(handle, 3, 0, 1, 0)
    del result


@pytest.mark.filterwarnings("ignore:gels reached maximum:UserWarning")  # CuPy's own, natively too
def test_cusolver_and_its_routines(cp, gpu, monkeypatch):
    cusolver = standin.make("cupy_backends.cuda.libs.cusolver")
    handle = cusolver.create()
    monkeypatch.setattr(cusolver_routines, "_solver", lambda: cusolver)
    monkeypatch.setattr(cusolver_routines, "_handle", lambda: handle)
    routines = cusolver_routines.Routines(cusolver_routines.AVAILABLE, {})
    for dtype in LETTERS.values():
        a = cp.asarray(values((5, 4), dtype))
        u, s, v = routines.gesvdj(a, full_matrices=False)
        cp.testing.assert_allclose(u * s @ v.conj().T, a, atol=1e-4)
        batch = cp.asarray(values((3, 4, 6), dtype))
        for full in (False, True):
            for each in (batch, batch.swapaxes(-2, -1)):
                u, s, v = routines.gesvd_batched(each, np.dtype(dtype).char, full, True, False)
                k = s.shape[-1]
                again = (u[..., :k] * s[:, None, :]) @ v[..., :k].conj().swapaxes(-2, -1)
                cp.testing.assert_allclose(again, each, atol=1e-4)
        u, s, v = routines.gesvda(batch.swapaxes(-2, -1))
        cp.testing.assert_allclose((u * s[:, None, :]) @ v.conj().swapaxes(-2, -1), batch.swapaxes(-2, -1), atol=1e-3)
        hermitian = a @ a.conj().T
        w, vectors = routines.syevj(hermitian)
        cp.testing.assert_allclose(vectors * w @ vectors.conj().T, hermitian, atol=1e-3)
        many = cp.stack([hermitian, 2 * hermitian])
        w, vectors = routines.syevj(many)
        cp.testing.assert_allclose((vectors * w[:, None, :]) @ vectors.conj().swapaxes(-2, -1), many, atol=1e-3)
        square, right = cp.asarray(values((5, 5), dtype, 3)), cp.asarray(values((5, 2), dtype, 4))
        cp.testing.assert_allclose(square @ routines.gesv(square, right), right, atol=1e-2)
        tall = routines.gels(a, right)
        cp.testing.assert_allclose(a.conj().T @ (a @ tall), a.conj().T @ right, atol=1e-2)
        for mode in ("reduced", "complete"):
            q, r = routines.geqrf_orgqr_batched(batch.swapaxes(-2, -1), mode)
            cp.testing.assert_allclose(q @ r, batch.swapaxes(-2, -1), atol=1e-4)


def test_cusparse(cp, gpu):
    cusparse = standin.make("cupy_backends.cuda.libs.cusparse")
    handle = cusparse.create()
    dense = values((4, 5), np.float32)
    dense[abs(dense) < 0.7] = 0
    import scipy.sparse

    host = scipy.sparse.csr_matrix(dense)
    data, columns, rows = (cp.asarray(x) for x in (host.data, host.indices, host.indptr))
    x, y = cp.asarray(values(5, np.float32)), cp.zeros(4, np.float32)
    matrix = cusparse.createCsr(4, 5, host.nnz, rows.data.ptr, columns.data.ptr, data.data.ptr, 2, 2, 0, 0)
    source, target = cusparse.createDnVec(5, x.data.ptr, 0), cusparse.createDnVec(4, y.data.ptr, 0)
    alpha, beta = np.array(1, np.float32), np.array(0, np.float32)
    arguments = (handle, 0, alpha.ctypes.data, matrix, source, beta.ctypes.data, target, 0, 0)
    size = cusparse.spMV_bufferSize(*arguments)
    work = cp.empty(max(size, 1), np.int8)
    cusparse.spMV(*arguments, work.data.ptr)
    cp.testing.assert_allclose(y, dense @ x.get(), rtol=1e-4)
    assert cusparse.csrGet(matrix).nnz == host.nnz
    shape = np.zeros(3, np.int64)
    cusparse.spMatGetSize(matrix, *(shape[i:].ctypes.data for i in range(3)))
    assert shape.tolist() == [4, 5, host.nnz]
    cusparse.destroySpMat(matrix)
    cusparse.destroyDnVec(source)
    cusparse.destroyDnVec(target)


def test_curand(cp, gpu):
    curand = standin.make("cupy_backends.cuda.libs.curand")
    generator = curand.createGenerator(curand.CURAND_RNG_PSEUDO_DEFAULT)
    curand.setPseudoRandomGeneratorSeed(generator, 7)
    ours, theirs = cp.empty(100), cp.empty(100)
    curand.generateUniformDouble(generator, ours.data.ptr, 100)
    from cupy_backends.cuda.libs import curand as real

    native = real.createGenerator(real.CURAND_RNG_PSEUDO_DEFAULT)
    real.setPseudoRandomGeneratorSeed(native, 7)
    real.generateUniformDouble(native, theirs.data.ptr, 100)
    assert (ours == theirs).all()


def test_cufft(cp, gpu):
    cufft = cufft_standin.make("cupy.cuda.cufft")
    a = cp.asarray(values((3, 8), np.complex64))
    plan = cufft.Plan1d(8, cufft.CUFFT_C2C, 3)
    out = plan.get_output_array(a)
    plan.fft(a, out, cufft.CUFFT_FORWARD)
    cp.testing.assert_allclose(out, np.fft.fft(a.get()), rtol=1e-4, atol=1e-4)
    plan = cufft.PlanNd((3, 8), None, 1, 24, None, 1, 24, cufft.CUFFT_C2C, 1, "C", 1, None)
    plan.fft(a, out, cufft.CUFFT_INVERSE)
    cp.testing.assert_allclose(out / 24, np.fft.ifft2(a.get()), rtol=1e-4, atol=1e-4)
    plan = cufft.XtPlanNd((8,), None, 1, 8, "F", None, 1, 8, "F", 3, "F", order="C", last_axis=-1, last_size=None)
    plan.fft(a, out, cufft.CUFFT_FORWARD)
    cp.testing.assert_allclose(out, np.fft.fft(a.get()), rtol=1e-4, atol=1e-4)
    with pytest.raises(cufft.CuFFTError):
        cufft.Plan1d(8, 12345, 3)


def test_thrust(cp, gpu):
    thrust = thrust_standin.make("cupy.cuda.thrust")
    host = values((4, 50), np.float64)
    a, index = cp.asarray(host), cp.empty((4, 50), np.int64)
    keys = cp.empty((4, 50), np.uint64)
    thrust.sort(a.dtype, a.data.ptr, keys.data.ptr, a.shape)
    assert (a.get() == np.sort(host)).all()
    a = cp.asarray(host)
    thrust.argsort(a.dtype, index.data.ptr, a.data.ptr, keys.data.ptr, a.shape)
    assert (index.get() == np.argsort(host)).all()
    a, index = cp.asarray(host), cp.empty(50, np.int64)
    thrust.lexsort(a.dtype, index.data.ptr, a.data.ptr, 4, 50)
    assert (index.get() == np.lexsort(host)).all()


def test_cub(cp, gpu):
    cub = cub_standin.make("cupy.cuda.cub")
    host = values((6, 70), np.float32)
    a = cp.asarray(host)
    for operation, reference in (("SUM", np.sum), ("MIN", np.min), ("MAX", np.max), ("PROD", np.prod)):
        code = getattr(cub, f"CUPY_CUB_{operation}")
        cp.testing.assert_allclose(cub.cub_reduction(a, code), reference(host), rtol=1e-3)
        cp.testing.assert_allclose(cub.cub_reduction(a, code, axis=1), reference(host, axis=1), rtol=1e-3)
        assert cub.cub_reduction(a, code, axis=0) is None
    assert int(cub.cub_reduction(a, cub.CUPY_CUB_ARGMAX)) == host.argmax()
    assert int(cub.cub_reduction(a, cub.CUPY_CUB_ARGMIN)) == host.argmin()
    flat = cp.asarray(host.ravel())
    cp.testing.assert_allclose(cub.cub_scan(flat, cub.CUPY_CUB_CUMSUM), host.ravel().cumsum(), rtol=1e-2, atol=1e-3)
    counts = cp.zeros(4, np.int64)
    edges = np.linspace(-2, 2, 5).astype(np.float32)
    cub.cub_histogram(a, counts, cp.asarray(edges))
    assert (counts.get() == np.histogram(host, edges)[0]).all()


def test_random_generators(cp, gpu):
    ours = generator_standin.make("cupy.random._generator_api").Generator
    from cupy.random import XORWOW, MRG32k3a, Philox4x3210
    from cupy.random._generator_api import Generator as Real

    for kind in (XORWOW, MRG32k3a, Philox4x3210):
        for draw in (
            lambda g: g.random(1000),
            lambda g: g.random(100, dtype=np.float32),
            lambda g: g.integers(3, 1000, size=500),
            lambda g: g.integers(0, 1 << 40, size=500),
            lambda g: g.standard_normal(300),
            lambda g: g.standard_normal(300, dtype=np.float32),
            lambda g: g.beta(2.0, 3.0, size=100),
            lambda g: g.standard_gamma(2.5, size=100),
            lambda g: g.poisson(4.0, size=100),
            lambda g: g.binomial(20, 0.3, size=100),
            lambda g: g.geometric(0.2, size=100),
            lambda g: g.hypergeometric(10, 20, 5, size=100),
            lambda g: g.logseries(0.7, size=100),
            lambda g: g.exponential(2.0, size=100),
            lambda g: g.chisquare(3.0, size=100),
            lambda g: g.uniform(-1, 1, size=100),
        ):
            mine, theirs = draw(ours(kind(5, size=1024))), draw(Real(kind(5, size=1024)))
            assert mine.dtype == theirs.dtype
            assert (mine == theirs).all()


def test_permutations_of_the_generator_api(cp, gpu):
    module = generator_standin.make("cupy.random._generator_api")
    from cupy.random._generator_api import FeistelBijection as Real

    keys = np.random.default_rng(0).integers(0, 1 << 32, size=24, dtype=np.uint32)
    for size in (10, 300, 5000):
        mine, theirs = module.FeistelBijection(size, keys)(size), Real(size, keys)(size)
        assert (mine == theirs).all()
        assert sorted(mine.tolist()) == list(range(size))
