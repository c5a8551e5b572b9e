"""The runtime API's semantics: implicit context, last error, kinds of copies, properties."""

from __future__ import annotations

import ctypes
import threading

import pytest
from c_values import Bytes, Out
from conftest import FakeSession
from migproxy_plugins.cuda import runtime_api, runtime_entries
from migproxy_plugins.cuda.runtime_api import CudaRuntimeStatus

from migproxy.errors import SessionLost
from migproxy.session import api


def test_last_error_is_the_threads_own(session: FakeSession) -> None:
    runtime_api.get_last_error()
    with pytest.raises(CudaRuntimeStatus) as caught:
        runtime_api.malloc(1 << 40)
    assert caught.value.status == 2
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(runtime_api.peek_at_last_error()))
    thread.start()
    thread.join(10)
    assert seen == [0]
    assert runtime_api.peek_at_last_error() == 2
    assert runtime_api.get_last_error() == 2
    assert runtime_api.get_last_error() == 0


def test_a_lost_session_is_the_cause(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(size: int) -> int:
        raise SessionLost("the executor is gone")

    monkeypatch.setattr(api, "mem_alloc", lost)
    with pytest.raises(CudaRuntimeStatus) as caught:
        runtime_api.malloc(8)
    assert caught.value.status == 46
    assert isinstance(caught.value.__cause__, SessionLost)
    runtime_api.get_last_error()


def test_sizes_of_zero(session: FakeSession) -> None:
    assert runtime_api.malloc(0) == 0
    runtime_api.free(0)
    runtime_api.memcpy(1, 2, 0, 1)
    runtime_api.memset(1, 0, 0)


def test_copies(session: FakeSession) -> None:
    device, host = runtime_api.malloc(16), Bytes(b"0123456789abcdef")
    back = Bytes(bytes(16))
    runtime_api.memcpy(device, host.at, 16, 1)
    runtime_api.memcpy(back.at, device, 16, 2)
    assert back.data == host.data
    for kind, status in ((7, 21), (2, 1)):
        with pytest.raises(CudaRuntimeStatus) as caught:
            runtime_api.memcpy(back.at, host.at, 16, kind)
        assert caught.value.status == status
    with pytest.raises(CudaRuntimeStatus) as caught:
        runtime_api.memcpy_2d(back.at, 4, device, 4, 8, 2, 2)
    assert caught.value.status == 12


def test_pointer_attributes(session: FakeSession) -> None:
    device, host, foreign = runtime_api.malloc(8), runtime_api.host_alloc(8), Bytes(bytes(8))
    assert runtime_api.pointer_get_attributes(device) == runtime_api.RuntimePointer(2, 0, device, 0)
    assert runtime_api.pointer_get_attributes(host) == runtime_api.RuntimePointer(1, 0, host, host)
    assert runtime_api.pointer_get_attributes(foreign.at) == runtime_api.RuntimePointer(0, -2, 0, foreign.at)


def test_properties_struct(session: FakeSession) -> None:
    found = runtime_api.get_device_properties(0)
    assert found["name"] == b"Fake"
    assert found["maxThreadsPerBlock"] == 1024
    assert found["maxGridSize"] == (0, 0, 0)
    handler = runtime_entries.runtime_handler("cudaGetDeviceProperties")
    assert handler is not None
    layout = runtime_entries_layout()
    struct = Bytes(b"\xff" * layout["size"])
    assert handler(struct.at, 0) == 0
    fields = {name: (offset, size) for name, offset, size, _ in layout["fields"]}
    assert struct.data[:5] == b"Fake\0"
    offset, size = fields["multiProcessorCount"]
    assert int.from_bytes(struct.data[offset : offset + size], "little") == 4
    assert handler(struct.at, 5) == 101


def runtime_entries_layout() -> dict[str, object]:
    from migproxy_plugins.cuda.runtime_adapters import _major
    from migproxy_plugins.cuda.treatment import table

    return table("runtime", _major())["structs"]["cudaDeviceProp"]  # type: ignore[no-any-return]


def test_entries(session: FakeSession, caplog: pytest.LogCaptureFixture) -> None:
    assert runtime_entries.runtime_handler("cudaGetErrorName") is None
    out = Out()
    create = runtime_entries.runtime_handler("cudaStreamCreateWithFlags")
    assert create is not None
    assert create(out.at, 1) == 0
    assert out.value
    refused = runtime_entries.runtime_handler("cudaMemPoolExportToShareableHandle")
    assert refused is not None
    with caplog.at_level("WARNING", logger="migproxy.cuda"):
        assert refused(0, 0, 0, 0) == 801
    assert "cudaMemPoolExportToShareableHandle" in caplog.text
    assert runtime_api.get_last_error() == 801
    number = Out(ctypes.c_int)
    count = runtime_entries.runtime_handler("cudaGetDeviceCount")
    assert count is not None
    assert count(number.at) == 0
    assert number.value == 1
