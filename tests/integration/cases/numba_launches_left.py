"""Launches of Numba's kernels that ask for more than launching: Numba carries each of them out. Run by
test_numba_launches.py in a function.
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import cupy as cp
import numpy as np
import pytest
from numba import cuda
from numba.cuda import dispatcher
from numba_launches import N, add, always_native, count_up, fast_after_first, natively


def test_host_arrays_and_wrapped_ones() -> None:
    x, y, out = (np.ones(N, np.float32) for _ in range(3))
    always_native(lambda: add[2, 128](x, y, out))
    assert (out == 2).all()
    device = cuda.to_device(out)
    always_native(lambda: add[2, 128](cuda.In(x), cuda.In(y), cuda.InOut(device)))
    assert (device.copy_to_host() == 2).all()


def test_tuples_records_and_empty_arrays() -> None:
    @cuda.jit
    def of_tuple(out, pair):
        out[0] = pair[0] + pair[1]

    @cuda.jit
    def of_record(out, record):
        out[0] = record.a

    Pair = collections.namedtuple("Pair", "a b")
    out = cuda.to_device(np.zeros(4))
    for pair in ((1.0, 2.0), Pair(3.0, 4.0)):
        always_native(lambda pair=pair: of_tuple[1, 1](out, pair))
        assert out.copy_to_host()[0] == sum(pair)
    record = np.array((7.0, 1), [("a", np.float64), ("b", np.int32)])[()]
    always_native(lambda: of_record[1, 1](out, record))
    assert out.copy_to_host()[0] == 7
    empty = cuda.device_array(0)
    always_native(lambda: count_up[1, 32](empty))


def test_mapped_and_managed_arrays_and_subclasses() -> None:
    mapped = cuda.mapped_array(N, np.int64)
    mapped[:] = 0
    always_native(lambda: count_up[2, 128](mapped))
    cuda.synchronize()
    assert (mapped == 3).all()

    class Mine(cp.ndarray):  # type: ignore[misc]
        pass

    mine = cp.zeros(N, np.int64).view(Mine)
    always_native(lambda: count_up[2, 128](mine))
    assert (cp.asnumpy(mine) == 3).all()


def test_other_objects_with_the_interface_say_it_each_time() -> None:
    class Other:
        asked = 0

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        @property
        def __cuda_array_interface__(self) -> Any:
            self.asked += 1
            return self.inner.__cuda_array_interface__

    inner = cuda.to_device(np.zeros(N, np.int64))
    other = Other(inner)
    always_native(lambda: count_up[2, 128](other))
    assert other.asked >= 3
    assert (inner.copy_to_host() == 3).all()


def test_debug_kernels_report_exceptions() -> None:
    @cuda.jit(debug=True, opt=False)
    def divide(out, divisor):
        out[0] = 10 // divisor

    out = cuda.to_device(np.zeros(1, np.int64))
    always_native(lambda: divide[1, 1](out, 2))
    assert out.copy_to_host()[0] == 5
    with pytest.raises(ZeroDivisionError):
        divide[1, 1](out, 0)


def test_cooperative_kernels_and_extensions() -> None:
    @cuda.jit
    def together(x):
        cuda.cg.this_grid().sync()
        x[cuda.grid(1)] += 1

    x = cuda.to_device(np.zeros(32, np.int64))
    always_native(lambda: together[1, 32](x))
    assert (x.copy_to_host() == 3).all()

    class Extension:
        seen = 0

        def prepare_args(self, ty: Any, val: Any, **_: Any) -> tuple[Any, Any]:
            self.seen += 1
            return ty, val

    extension = Extension()

    @cuda.jit(extensions=[extension])
    def extended(x):
        x[cuda.grid(1)] += 1

    always_native(lambda: extended[1, 32](x))
    assert extension.seen == 3
    late: list[Any] = []

    @cuda.jit(extensions=late)
    def plain(x):
        x[cuda.grid(1)] += 1

    configured = plain[1, 32]
    fast_after_first(lambda: configured(x))
    next(iter(plain.overloads.values())).extensions.append(extension)
    always_native(lambda: configured(x))
    assert extension.seen == 6


@pytest.mark.skipif(not hasattr(add[1, 1], "pre_launch_callbacks"), reason="not in this release of numba-cuda")
def test_callbacks_before_the_launch() -> None:
    x, seen = cuda.to_device(np.zeros(N, np.int64)), []
    configured = count_up[3, 96]
    fast_after_first(lambda: configured(x))
    configured.pre_launch_callbacks.append(lambda kernel, launch: seen.append(launch))
    always_native(lambda: configured(x))
    assert seen == [configured] * 3
    configured.pre_launch_callbacks.clear()
    assert natively(lambda: configured(x)) == 0
    assert (x.copy_to_host() == 7).all()


@contextlib.contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """Give one object a method of its own for a while; pytest before 9.2 leaves the class's on it afterwards."""
    setattr(target, name, value)
    try:
        yield
    finally:
        delattr(target, name)


def test_methods_that_somebody_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = cuda.to_device(np.zeros(N, np.int64)), []
    configured = count_up[4, 96]
    fast_after_first(lambda: configured(x))
    launch = dispatcher._Kernel.launch
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher._Kernel, "launch", lambda self, *a: (seen.append(1), launch(self, *a))[1])
        always_native(lambda: configured(x))
    kernel = next(iter(count_up.overloads.values()))
    with replaced(kernel, "launch", lambda *a: seen.append(2)):
        configured(x)
    with replaced(count_up, "call", lambda *a: seen.append(3)):
        configured(x)
    assert seen == [1, 1, 1, 2, 3]
    assert natively(lambda: configured(x)) == 0
    assert (x.copy_to_host() == 7).all()


def test_subclasses_keep_their_own_ways() -> None:
    class Mine(dispatcher.CUDADispatcher):  # type: ignore[misc]
        calls = 0

        def call(self, *arguments: Any) -> Any:
            self.calls += 1
            return super().call(*arguments)

    mine = Mine(count_up.py_func, targetoptions=count_up.targetoptions)
    x = cuda.to_device(np.zeros(N, np.int64))
    for _ in range(3):
        mine[2, 128](x)
    assert mine.calls == 3
    assert (x.copy_to_host() == 3).all()


def test_launches_are_logged_where_somebody_reads_the_log(caplog: pytest.LogCaptureFixture) -> None:
    x = cuda.to_device(np.zeros(N, np.int64))
    with caplog.at_level(logging.DEBUG, "numba.cuda.cudadrv.driver"):
        always_native(lambda: count_up[5, 96](x))
