"""Library calls while a stream is captured: refused where CuPy refuses them, else recorded into the graph."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from migproxy_plugins.cupy import standin

from migproxy.errors import CudaError
from migproxy.session.api import streams

__all__ = ["loopback"]


class Driver:
    """A driver whose one stream is captured; `launch` runs what was recorded."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, int]] = []

    def call(self, name: str, *arguments: int) -> None:
        if name == "cuStreamIsCapturing":
            ctypes.c_int.from_address(arguments[1]).value = 1
        else:
            assert name == "cuLaunchHostFunc"
            self.recorded.append((arguments[1], arguments[2]))

    def launch(self) -> None:
        for function, data in self.recorded:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(data)


@pytest.fixture
def captured(loopback: Loopback):
    loopback.context.driver = Driver()
    loopback.context.stream = 7
    return loopback


def sort(loopback: Loopback, data: np.ndarray) -> None:
    arguments = [data.dtype.str, data.ctypes.data, 0, list(data.shape)]
    loopback.server.serve(loopback.context, "cupy.cuda.thrust", "sort", arguments)


def test_a_call_runs_when_the_graph_runs(captured):
    data = np.array([3.0, 1.0, 2.0])
    sort(captured, data)
    assert data.tolist() == [3.0, 1.0, 2.0]
    for order in ([2.0, 3.0, 1.0], [9.0, 8.0, 7.0]):
        data[:] = order
        captured.context.driver.launch()
        assert data.tolist() == sorted(order)


def test_a_captured_stream_is_not_synchronised(captured):
    sort(captured, np.array([2.0, 1.0]))
    assert captured.context.synchronised == 0


def test_plans_can_be_made_during_a_capture(captured):
    captured.server.serve(captured.context, "cupy.cuda.cufft", "Plan1d", [0x10, 8, 41, 1])
    assert captured.context.driver.recorded == []
    assert 0x10 in captured.server.objects


def test_what_cannot_be_recorded_is_refused(captured):
    with pytest.raises(CudaError) as caught:
        captured.server.serve(captured.context, "cupy_backends.cuda.libs.cublas", "sasum", [1, 0, 0, 1, 0])
    assert caught.value.status == 900


@pytest.mark.parametrize("short", ["cublas", "cusolver", "cusparse"])
def test_libraries_refuse_captured_streams_as_cupy_does(loopback, monkeypatch, short):
    module = standin.make(f"cupy_backends.cuda.libs.{short}")
    handle = module.create()
    monkeypatch.setattr(streams, "_capturing", {7: 1})
    message = {"cublas": "cuBLAS", "cusolver": "cuSOLVER", "cusparse": "cuSPARSE"}[short]
    with pytest.raises(NotImplementedError, match=f"calling {message} API during stream capture"):
        module.setStream(handle, 7)
    module.setStream(handle, 0)
