"""Queries whose answers are kept: asked once, and only where the arguments that matter are the same."""

from __future__ import annotations

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
