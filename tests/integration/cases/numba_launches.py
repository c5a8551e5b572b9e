"""Launches of Numba's kernels, the common ones and those that ask for more than launching. Run by
test_numba_launches.py in a function.

`natively` counts how often Numba's own code carried a launch out; everything is compared with NumPy.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import cupy as cp
import numba
import numpy as np
import pytest
from cuda.bindings import driver
from numba import cuda
from numba.cuda import dispatcher

numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
numba.config.CUDA_WARN_ON_IMPLICIT_COPY = 0
N = 200
NATIVE = dispatcher.CUDADispatcher.call.__code__


def natively(function: Callable[[], object]) -> int:
    """How many launches of `function` Numba carried out itself."""
    count = 0

    def look(frame: Any, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is NATIVE

    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def fast_after_first(function: Callable[[], object]) -> None:
    assert natively(function) == 1
    assert natively(function) == 0
    assert natively(function) == 0


def always_native(function: Callable[[], object], times: int = 3) -> None:
    assert [natively(function) for _ in range(times)] == [1] * times


@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]


@cuda.jit
def add_2d(x, y, out):
    i, j = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = x[i, j] + y[i, j]


@cuda.jit
def fill(out, value):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = value


@cuda.jit
def count_up(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1


def make(dtype: Any = np.float32) -> list[Any]:
    return [cuda.to_device(np.arange(start, start + N).astype(dtype)) for start in (0, 5, 0)]


def check(out: Any, dtype: Any = np.float32) -> None:
    np.testing.assert_array_equal(out.copy_to_host(), (2 * np.arange(N) + 5).astype(dtype))


# -- what is taken over ------------------------------------------------------------------------------------------------
def test_device_arrays_and_new_ones_of_their_kind() -> None:
    configured = add[2, 128]
    x, y, out = make()
    fast_after_first(lambda: configured(x, y, out))
    check(out)
    for _ in range(5):
        fresh = make()
        assert natively(lambda fresh=fresh: configured(*fresh)) == 0
        check(fresh[2])
    doubles = make(np.float64)  # another specialisation
    fast_after_first(lambda: configured(*doubles))
    check(doubles[2], np.float64)
    fast_after_first(lambda: configured(x, y, out))  # there is one more kernel to choose from


def test_layouts_are_told_apart() -> None:
    host = np.arange(48.0).reshape(6, 8)
    out = cuda.device_array((6, 8))
    c, f = cuda.to_device(host), cuda.to_device(np.asfortranarray(host))
    wide = cuda.to_device(np.arange(192.0).reshape(12, 16))
    a = wide[::2, ::2]
    configured = add_2d[(1, 1), (8, 8)]
    for x in (c, f, a):
        for y in (c, f, a):
            fast_after_first(lambda x=x, y=y: configured(x, y, out))
            np.testing.assert_array_equal(out.copy_to_host(), x.copy_to_host() + y.copy_to_host())


SCALARS: list[tuple[Any, Any]] = [
    *((5, 7), (-1, 2**62), (1.5, -2.25), (True, False), (1 + 2j, 3j)),
    *((kind(3), kind(100)) for kind in (np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64)),
    *((kind(1.5), kind(-0.25)) for kind in (np.float16, np.float32, np.float64, np.complex64, np.complex128)),
    *((np.bool_(True), np.bool_(False)), (np.datetime64(3, "s"), np.datetime64(9, "s"))),
    (np.timedelta64(3, "ms"), np.timedelta64(-9, "ms")),
]


@pytest.mark.parametrize("values", SCALARS, ids=lambda pair: type(pair[0]).__name__)
def test_scalars(values: tuple[Any, Any]) -> None:
    out = cuda.to_device(np.zeros(N, np.array(values[0]).dtype))
    configured = cuda.jit(fill.py_func)[2, 128]
    fast_after_first(lambda: configured(out, values[0]))
    assert (out.copy_to_host() == values[0]).all()
    assert natively(lambda: configured(out, values[1])) == 0
    assert (out.copy_to_host() == values[1]).all()


def test_streams_and_shared_memory() -> None:
    stream, x, y, out = cuda.stream(), *make()
    for configured in (add[2, 128, stream], add[2, 128, stream, 1024], add[2, 128, 0, 64]):
        fast_after_first(lambda configured=configured: configured(x, y, out))
    stream.synchronize()
    check(out)


def test_work_on_a_stream_keeps_its_order() -> None:
    stream = cuda.stream()
    x = cuda.to_device(np.zeros(N, np.int64), stream=stream)
    configured = count_up[2, 128, stream]
    for _ in range(100):
        configured(x)
    assert (x.copy_to_host(stream=stream) == 100).all()


def test_cupys_arrays() -> None:
    x, y = cp.arange(N, dtype=np.float32), cp.arange(5, N + 5, dtype=np.float32)
    out = cp.zeros(N, np.float32)
    configured = add[2, 128]
    configured(x, y, out)
    for _ in range(3):
        out = cp.zeros(N, np.float32)
        assert natively(lambda out=out: configured(x, y, out)) == 0
        np.testing.assert_array_equal(out.get(), 2 * np.arange(N) + 5)
    mixed = cuda.to_device(np.zeros(N, np.float32))
    configured(x, y, mixed)
    assert natively(lambda: configured(x, y, mixed)) == 0
    check(mixed)
    matrix = cp.arange(48.0).reshape(6, 8)
    for view in (matrix, matrix.T, matrix[:, ::2]):
        into = cp.zeros_like(view, order="C")
        for _ in range(3):
            add_2d[(1, 1), (8, 8)](view, view, into)
        assert natively(lambda view=view, into=into: add_2d[(1, 1), (8, 8)](view, view, into)) == 0
        np.testing.assert_array_equal(into.get(), 2 * view.get())


def test_arrays_of_another_stream_are_waited_for() -> None:
    out, one = cp.zeros(N), cp.ones(N)
    configured = add[2, 128]
    configured(one, one, out)
    configured(one, one, out)
    assert natively(lambda: configured(one, one, out)) == 0
    with cp.cuda.Stream(non_blocking=True):
        assert natively(lambda: configured(one, one, out)) == 1
    assert natively(lambda: configured(one, one, out)) == 0


# -- errors are Numba's own --------------------------------------------------------------------------------------------
def test_wrong_calls_raise_in_their_call() -> None:
    x, y, out = make()
    configured = add[3, 96]
    fast_after_first(lambda: configured(x, y, out))
    for wrong in ((x, y), ()):
        with pytest.raises(TypeError, match="Signature mismatch"):
            configured(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword"):
        configured(x, y, out=out)
    with pytest.raises(ValueError, match="Cannot determine"):
        configured(x, y, object())
    with pytest.raises(Exception, match="INVALID_VALUE"):
        add[2, 4096](x, y, out)
    for _ in range(2):
        with pytest.raises(Exception, match="INVALID_VALUE"):
            add[2, 128, 0, 1 << 30](x, y, out)
    assert natively(lambda: configured(x, y, out)) == 0
    check(out)


# -- what changes meanwhile --------------------------------------------------------------------------------------------
def test_recompiling_and_signatures() -> None:
    factor = [1.0]
    scope: dict[str, Any] = {"cuda": cuda, "FACTOR": 1.0}
    exec("def scaled(x):\n    x[0] = FACTOR\n", scope)  # a global is a constant to a kernel
    kernel = cuda.jit(scope["scaled"])
    x = cuda.to_device(np.zeros(1))
    configured = kernel[1, 1]
    fast_after_first(lambda: configured(x))
    held = list(kernel.overloads.values())
    assert x.copy_to_host()[0] == factor[0]
    scope["FACTOR"] = 2.0
    kernel.recompile()
    fast_after_first(lambda: configured(x))
    assert x.copy_to_host()[0] == 2.0
    assert held[0] is not next(iter(kernel.overloads.values()))

    @cuda.jit("void(int32[:], int32)")
    def narrow(out, value):
        out[0] = value

    out = cuda.to_device(np.zeros(1, np.int32))
    fast_after_first(lambda: narrow[1, 1](out, 7))
    assert out.copy_to_host()[0] == 7
    narrow[1, 1](out, 2**31 + 5)
    assert out.copy_to_host()[0] == 5 - 2**31


def test_forall_and_configurations_that_change() -> None:
    x = cuda.to_device(np.zeros(N, np.int64))
    for _ in range(4):
        count_up.forall(N)(x)
    assert (x.copy_to_host() == 4).all()
    configured = count_up[2, 128]
    configured(x)
    configured(x)
    configured.griddim = (1, 1, 1)
    assert natively(lambda: configured(x)) == 1
    assert natively(lambda: configured(x)) == 0
    configured.griddim = (2, 1, 1)
    configured(x)
    host = x.copy_to_host()
    assert (host[:128] == 9).all()
    assert (host[128:] == 7).all()


def test_configurations_are_pickled() -> None:
    x = cuda.to_device(np.zeros(N, np.int64))
    configured = count_up[2, 128]
    configured(x)
    configured(x)
    copied = pickle.loads(pickle.dumps(configured))
    copied(x)
    copied(x)
    assert (x.copy_to_host() == 4).all()


def test_nothing_is_kept_alive() -> None:
    @cuda.jit
    def short(x):
        x[0] = 1

    x = cuda.to_device(np.zeros(1))
    for _ in range(3):
        short[1, 1](x)
    kernel, array = weakref.ref(next(iter(short.overloads.values()))), weakref.ref(x.gpu_data)
    short.recompile()
    del x
    gc.collect()
    assert kernel() is None
    assert array() is None


def test_threads_and_contexts() -> None:
    results: list[int] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            x = cuda.to_device(np.zeros(N, np.int64))
            for _ in range(200):
                count_up[2, 128](x)
            results.append(int(x.copy_to_host().sum()) // N)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (results, failures) == ([200] * 4, [])


def test_another_context_is_refused_as_ever() -> None:
    x = cuda.to_device(np.zeros(N, np.int64))
    configured = count_up[2, 128]
    configured(x)
    assert natively(lambda: configured(x)) == 0
    create = getattr(driver, "cuCtxCreate")  # noqa: B009 - its arguments differ between releases
    try:
        status, context = create(None, 0, 0)
    except TypeError:
        status, context = create(0, 0)
    assert status == driver.CUresult.CUDA_SUCCESS
    try:
        with pytest.raises(RuntimeError, match="non-primary"):
            configured(x)
    finally:
        driver.cuCtxPopCurrent()
        driver.cuCtxDestroy(context)
    assert natively(lambda: configured(x)) == 0
    assert (x.copy_to_host() == 3).all()


def test_a_forked_child_learns_that_it_has_no_device() -> None:
    x = cuda.to_device(np.zeros(N, np.int64))
    configured = count_up[2, 128]
    configured(x)
    configured(x)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        said = b"launched"
        try:
            configured(x)
            x.copy_to_host()
        except Exception as failure:
            said = str(failure).encode()
        finally:
            os.write(writer, said)
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert b"before forking" in said, said
    configured(x)
    assert (x.copy_to_host() == 3).all()
