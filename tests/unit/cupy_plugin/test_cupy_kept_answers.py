"""Queries whose answers are kept: asked once, and only where the arguments that matter are the same."""

from __future__ import annotations

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from migproxy_plugins.cupy import standin

__all__ = ["loopback"]


@pytest.fixture
def cusolver(loopback: Loopback):
    return standin.make("cupy_backends.cuda.libs.cusolver")


def asked(loopback: Loopback, name: str) -> int:
    return sum(function == name for function, _, _ in loopback.calls)


def test_a_workspace_size_is_asked_once_for_the_same_sizes(cusolver, loopback):
    handle = cusolver.create()
    first = cusolver.sgetrf_bufferSize(handle, 4, 4, 0x1000, 4)
    assert cusolver.sgetrf_bufferSize(handle, 4, 4, 0x2000, 4) == first
    assert asked(loopback, "sgetrf_bufferSize") == 1
    cusolver.sgetrf_bufferSize(handle, 8, 4, 0x1000, 8)
    assert asked(loopback, "sgetrf_bufferSize") == 2


def test_versions_are_asked_once(cusolver, loopback):
    assert cusolver._getVersion() == cusolver._getVersion()
    assert isinstance(cusolver._getVersion(), tuple)
    assert asked(loopback, "_getVersion") == 1


def test_properties_are_kept_by_their_number(cusolver, loopback):
    assert [cusolver.getProperty(number) for number in (0, 1, 0, 1)][:2] == [
        cusolver.getProperty(number) for number in (0, 1)
    ]
    assert asked(loopback, "getProperty") == 2


def test_an_unknown_handle_is_still_an_error(cusolver):
    with pytest.raises(cusolver.CUSOLVERError, match="NOT_INITIALIZED"):
        cusolver.dgetrf_bufferSize(0x1234, 3, 3, 0x1000, 3)


@pytest.fixture
def cusparse(loopback: Loopback):
    return standin.make("cupy_backends.cuda.libs.cusparse")


def test_a_sparse_products_workspace_is_asked_once_for_matrices_of_the_same_facts(cusparse, loopback):
    """Other addresses and other numbers of objects change nothing; other sizes and attributes do."""
    handle = cusparse.create()
    values = np.ones(4, np.float32)
    places = np.arange(5, dtype=np.int32)
    one = np.ones(1, np.float32)

    def ask(rows: int, *, lower: bool = False) -> None:
        matrix = cusparse.createCsr(
            rows, 4, rows, places.ctypes.data, places.ctypes.data, values.ctypes.data, 2, 2, 0, 0
        )
        if lower:
            cusparse.spMatSetAttribute(matrix, 0, 1)
        x, y = cusparse.createDnVec(4, values.ctypes.data, 0), cusparse.createDnVec(rows, values.ctypes.data, 0)
        scalar = one.ctypes.data
        cusparse.spMV_bufferSize(handle, 0, scalar, matrix, x, scalar, y, 0, 0)
        for each, end in ((matrix, cusparse.destroySpMat), (x, cusparse.destroyDnVec), (y, cusparse.destroyDnVec)):
            end(each)

    ask(4)
    ask(4)
    assert asked(loopback, "spMV_bufferSize") == 1
    ask(3)
    assert asked(loopback, "spMV_bufferSize") == 2
    ask(4, lower=True)
    assert asked(loopback, "spMV_bufferSize") == 3
    ask(4)
    ask(4, lower=True)
    assert asked(loopback, "spMV_bufferSize") == 3
    assert not cusparse._migproxy_library.objects
