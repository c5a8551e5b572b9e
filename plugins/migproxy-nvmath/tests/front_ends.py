"""nvmath's front ends and bindings on CuPy's arrays; prints one line a case. Knows nothing of migproxy."""

import sys
import time

import cupy as cp
import numpy as np
import nvmath
from nvmath.bindings import cublas, cusolverDn
from nvmath.linalg.advanced import Matmul, MatmulEpilog

rng = np.random.default_rng(0)


def array(*shape, dtype=np.float64):
    values = rng.random(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.random(shape)
    return cp.asarray(values.astype(dtype))


def near(found, expected, tolerance=1e-4):
    return np.allclose(cp.asnumpy(found), expected, atol=tolerance, rtol=tolerance)


def fft_complex():
    x = array(3, 16, dtype=np.complex64)
    return near(nvmath.fft.fft(x, axes=[1]), np.fft.fft(x.get(), axis=1))


def fft_two_dimensions():
    x = array(4, 12, 10, dtype=np.complex128)
    found = nvmath.fft.fft(x, axes=[1, 2])
    return near(found, np.fft.fft2(x.get())) and near(nvmath.fft.ifft(found, axes=[1, 2]) / 120, x.get())


def fft_real():
    x = array(6, 10)
    found = nvmath.fft.rfft(x, axes=[0, 1])
    back = nvmath.fft.irfft(found, axes=[0, 1])
    return near(found, np.fft.rfft2(x.get())) and near(back / 60, x.get())


def fft_object():
    x = array(64, dtype=np.complex128)
    with nvmath.fft.FFT(x) as plan:
        plan.plan()
        return all(near(plan.execute(), np.fft.fft(x.get())) for _ in range(5))


def fft_stream():
    with cp.cuda.Stream(non_blocking=True) as stream:
        x = array(128, dtype=np.complex64)
        found = nvmath.fft.fft(x, stream=stream)
        stream.synchronize()
    return near(found, np.fft.fft(x.get()), 1e-3)


def product_generic():
    a, b = array(5, 7), array(7, 4)
    return near(nvmath.linalg.matmul(a, b), a.get() @ b.get())


def product_generic_alpha_beta():
    a, b, c = (array(*shape, dtype=np.float32) for shape in ((6, 6), (6, 6), (6, 6)))
    return near(nvmath.linalg.matmul(a, b, c, alpha=2.0, beta=0.5), 2 * a.get() @ b.get() + 0.5 * c.get())


def product_advanced():
    a, b = array(33, 17, dtype=np.float32), array(17, 9, dtype=np.float32)
    return near(nvmath.linalg.advanced.matmul(a, b, alpha=3.0), 3 * a.get() @ b.get())


def product_advanced_batch():
    a, b = array(3, 5, 7), array(3, 7, 4)
    return near(nvmath.linalg.advanced.matmul(a, b), a.get() @ b.get())


def product_advanced_half():
    a, b = array(16, 32, dtype=np.float16), array(32, 8, dtype=np.float16)
    return near(nvmath.linalg.advanced.matmul(a, b), a.get().astype(np.float32) @ b.get().astype(np.float32), 2e-2)


def product_advanced_epilogue():
    a, b, bias = array(5, 7), array(7, 4), array(5, 1)
    found = nvmath.linalg.advanced.matmul(a - 0.5, b, epilog=MatmulEpilog.RELU_BIAS, epilog_inputs={"bias": bias - 0.5})
    return near(found, np.maximum((a.get() - 0.5) @ b.get() + bias.get() - 0.5, 0))


def product_advanced_object():
    a, b = array(64, 64), array(64, 64)
    with Matmul(a, b) as product:
        product.plan()
        return all(near(product.execute(), a.get() @ b.get()) for _ in range(5))


def solver():
    a = cp.asarray(np.asfortranarray(rng.random((6, 6)) + 6 * np.eye(6)))
    b = cp.asarray(np.asfortranarray(rng.random((6, 2))))
    return near(nvmath.linalg.direct_solver(a, b), np.linalg.solve(a.get(), b.get()))


def bindings_cublas():
    handle = cublas.create()
    x, found, alpha = cp.ones(8, np.float32), np.zeros(1, np.float32), np.array([2], np.float32)
    cublas.sscal(handle, 8, alpha.ctypes.data, x.data.ptr, 1)
    cublas.snrm2(handle, 8, x.data.ptr, 1, found.ctypes.data)
    cublas.destroy(handle)
    return near(found, [32**0.5])


def bindings_error():
    handle = cublas.create()
    x = cp.ones(8, np.float32)
    one = np.ones(1, np.float32)
    try:
        cublas.sgemm(
            handle, 0, 0, 2, 2, 2, one.ctypes.data, x.data.ptr, 1, x.data.ptr, 2, one.ctypes.data, x.data.ptr, 2
        )
        cublas.snrm2(handle, 8, x.data.ptr, 1, np.zeros(1, np.float32).ctypes.data)
    except cublas.cuBLASError as error:
        return "INVALID_VALUE" in str(error)
    except RuntimeError:
        return True
    return False


def bindings_cusolver():
    handle = cusolverDn.create()
    a = np.asfortranarray(rng.random((4, 4)) + 4 * np.eye(4)).astype(np.float32)
    matrix, info = cp.asarray(a, order="F"), cp.zeros(1, np.int32)
    pivots = cp.zeros(4, np.int32)
    size = cusolverDn.sgetrf_buffer_size(handle, 4, 4, matrix.data.ptr, 4)
    work = cp.empty(max(1, size), np.float32)
    cusolverDn.sgetrf(handle, 4, 4, matrix.data.ptr, 4, work.data.ptr, pivots.data.ptr, info.data.ptr)
    right = cp.asarray(np.ones(4, np.float32))
    cusolverDn.sgetrs(handle, 0, 4, 1, matrix.data.ptr, 4, pivots.data.ptr, right.data.ptr, 4, info.data.ptr)
    cusolverDn.destroy(handle)
    return near(right, np.linalg.solve(a, np.ones(4)))


CASES = [
    fft_complex, fft_two_dimensions, fft_real, fft_object, fft_stream, product_generic, product_generic_alpha_beta,
    product_advanced, product_advanced_batch, product_advanced_half, product_advanced_epilogue,
    product_advanced_object, solver, bindings_cublas, bindings_error, bindings_cusolver,
]  # fmt: skip


def main():
    good = 0
    for case in CASES:
        try:
            fine = case()
            start = time.perf_counter()
            case()
            cp.cuda.Device().synchronize()
            note = f"{1e3 * (time.perf_counter() - start):.2f} ms"
        except Exception as error:
            fine, note = False, f"{type(error).__name__}: {error}".splitlines()[0][:200]
        good += bool(fine)
        print(case.__name__, "ok" if fine else "FAILED", note, flush=True)
    print(f"{good} of {len(CASES)} passed")
    return good != len(CASES)


if __name__ == "__main__":
    sys.exit(main())
