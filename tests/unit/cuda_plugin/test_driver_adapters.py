"""Adapters of the driver API: what they write, what they refuse, what CUDA's own status is."""

from __future__ import annotations

import ctypes
import struct

import pytest
from c_values import Bytes, Out, pointers, string
from conftest import FakeSession
from migproxy_plugins.cuda import registry
from migproxy_plugins.cuda.driver_entry import ENTRIES

from migproxy.abi import layout
from migproxy.errors import CudaError, SessionLost

FUNCTION = layout.make_handle(layout.KIND_FUNCTION, 7)
D = registry.load()


def call(name: str, *arguments: int) -> int:
    """Call an adapter as its capsule does; the CUresult."""
    return registry.status_of(D[name])(*arguments)


def test_allocation_and_free(session: FakeSession) -> None:
    out = Out()
    assert call("cuMemAlloc", out.at, 64) == 0
    assert out.value in session.blocks
    assert call("cuMemAlloc", out.at, 0) == 1
    assert call("cuMemAlloc", out.at, 1 << 40) == 2
    assert call("cuMemFree", out.value) == 0
    assert call("cuMemFree", out.value) == 1
    session.stack.clear()
    assert call("cuMemAlloc", out.at, 64) == 201


def test_a_lost_session_is_a_status_and_a_bug_is_not(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from migproxy.session import api

    def lost(size: int) -> int:
        raise SessionLost("the executor is gone")

    monkeypatch.setattr(api, "mem_alloc", lost)
    assert call("cuMemAlloc", Out().at, 64) == 46
    monkeypatch.setattr(api, "mem_alloc", lambda size: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        call("cuMemAlloc", Out().at, 64)


def test_error_texts(session: FakeSession) -> None:
    out = Out()
    assert call("cuGetErrorName", 2, out.at) == 0
    assert ctypes.string_at(out.value) == b"CUDA_ERROR_OUT_OF_MEMORY"
    assert call("cuGetErrorString", 2, out.at) == 0
    assert ctypes.string_at(out.value) == b"out of memory"
    assert call("cuGetErrorName", 12345, out.at) == 1
    assert out.value == 0


def test_device_queries(session: FakeSession) -> None:
    number, name = Out(ctypes.c_int), Bytes(bytes(4))
    assert call("cuDeviceGet", number.at, 1) == 101
    assert call("cuDeviceGetAttribute", number.at, 16, 0) == 0
    assert number.value == 4
    assert call("cuDeviceGetAttribute", number.at, 9999, 0) == 1
    assert call("cuDeviceGetName", name.at, 4, 0) == 0
    assert name.data == b"Fak\0"
    assert call("cuDeviceGetByPCIBusId", number.at, string(b"3b:00.0").at) == 0
    assert call("cuDeviceGetByPCIBusId", number.at, string(b"99:00.0").at) == 101


def test_pointer_queries(session: FakeSession) -> None:
    device, host = session.allocate(64), session.host_alloc(64)
    foreign = Bytes(bytes(8))
    small, wide = Out(ctypes.c_int), Out()
    assert call("cuPointerGetAttribute", small.at, 2, device + 8) == 0
    assert small.value == 2
    assert call("cuPointerGetAttribute", wide.at, 11, device + 8) == 0
    assert wide.value == device
    assert call("cuPointerGetAttribute", wide.at, 4, device) == 1
    assert call("cuPointerGetAttribute", wide.at, 4, host) == 0
    assert wide.value == host
    assert call("cuPointerGetAttribute", small.at, 2, foreign.at) == 1
    kinds = Bytes(struct.pack("<3i", 2, 9, 3))
    results = [Out(ctypes.c_int, 77), Out(ctypes.c_int, 77), Out(value=77)]
    assert call("cuPointerGetAttributes", 3, kinds.at, pointers(*(r.at for r in results)).at, foreign.at) == 0
    assert [r.value for r in results] == [0, -2, 0]
    assert call("cuMemGetAddressRange", wide.at, 0, host + 4) == 0
    assert wide.value == host


def test_mapped_host_memory_is_a_device_address(session: FakeSession) -> None:
    host, target = session.host_alloc(8), Bytes(bytes(8))
    assert call("cuMemsetD8", host, 5, 8) == 0
    assert call("cuMemcpyDtoH", target.at, host, 8) == 0
    assert target.data == b"\5" * 8
    assert call("cuMemcpyDtoH", target.at, Bytes(bytes(8)).at, 8) == 1
    assert call("cuMemsetD32", host + 1, 5, 1) == 1


def test_advice_on_managed_memory_is_remembered(session: FakeSession) -> None:
    out, small = Out(), Out(ctypes.c_int)
    assert call("cuMemAllocManaged", out.at, 64, 1) == 0
    managed = out.value
    assert call("cuPointerGetAttribute", small.at, 8, managed) == 0
    assert small.value == 1
    assert call("cuMemRangeGetAttribute", small.at, 4, 2, managed, 64) == 0
    assert small.value == -2
    assert call("cuMemAdvise", managed, 64, 3, 0) == 0
    assert call("cuMemAdvise", managed, 64, 1, struct.pack("<ii", 1, 0)) == 0
    assert call("cuMemPrefetchAsync", managed, 64, struct.pack("<ii", 2, 0), 0, 0) == 0
    found = []
    for attribute in (1, 2, 4):
        assert call("cuMemRangeGetAttribute", small.at, 4, attribute, managed, 64) == 0
        found.append(small.value)
    assert found == [1, 0, -1]
    assert call("cuMemAdvise", session.allocate(8), 8, 1, 0) == 1
    assert call("cuMemFree", managed) == 0


def test_what_is_refused_is_not_advertised(session: FakeSession) -> None:
    small = Out(ctypes.c_int)
    session.attributes |= {103: 1, 120: 1, 132: 1, 115: 0}
    for attribute, value in ((103, 0), (120, 1), (132, 0), (115, 1)):
        assert call("cuDeviceGetAttribute", small.at, attribute, 0) == 0
        assert small.value == value


def test_rows_and_slices(session: FakeSession) -> None:
    source = bytes(range(60))
    device, back = session.allocate(256), Bytes(bytes(24))
    origin = Bytes(source)
    # from the host at x=2, y=1 with pitch 10: 3 rows of 4 bytes
    copy = struct.pack("<QQi4xQQQQ QQi4xQQQQ QQ", 2, 1, 1, origin.at, 0, 0, 10, 0, 0, 2, 0, device, 0, 16, 4, 3)
    assert call("cuMemcpy2D", Bytes(copy).at) == 0
    block = session.blocks[device].raw
    assert [block[16 * r : 16 * r + 4] for r in range(3)] == [source[10 * r + 12 : 10 * r + 16] for r in range(3)]
    # two slices of two rows of three bytes, source slices of 5 rows
    side = (0, 1, 0, 0, 1, origin.at, 0, 0, 0, 6, 5)
    other = (0, 0, 0, 0, 2, 0, device, 0, 0, 3, 2)
    copy = struct.pack("<QQQQi4xQQQQQQ QQQQi4xQQQQQQ QQQ", *side, *other, 3, 2, 2)
    assert call("cuMemcpy3D", Bytes(copy).at) == 0
    assert call("cuMemcpyDtoH", back.at, device, 12) == 0
    assert back.data[:12] == source[6:9] + source[12:15] + source[36:39] + source[42:45]
    array = struct.pack("<QQi4xQQQQ QQi4xQQQQ QQ", 0, 0, 3, 0, 0, 5, 0, 0, 0, 2, 0, device, 0, 16, 4, 3)
    assert call("cuMemcpy2D", Bytes(array).at) == 400


def test_module_load_fills_the_jit_logs(session: FakeSession) -> None:
    error = Bytes(b"x" * 16)
    image = string(b".version 8.0")
    keys = Bytes(struct.pack("<3i", 5, 6, 0))
    values = pointers(error.at, 16, 40)
    module = Out()
    assert call("cuModuleLoadDataEx", module.at, image.at, 3, keys.at, values.at) == 0
    assert session.calls[-1] == ("module_load", b".version 8.0", [(0, 40)])
    assert error.data[:1] == b"\0"
    session.module_error = CudaError(218, "line 3: a syntax error in the PTX")
    values = pointers(error.at, 16, 40)
    assert call("cuModuleLoadDataEx", module.at, image.at, 3, keys.at, values.at) == 218
    assert error.data == b"line 3: a synta\0"
    assert struct.unpack("<3Q", values.data[:24])[1] == 16
    assert call("cuModuleLoad", module.at, string(b"/no/such/file").at) == 301


def launch_config(attributes: bytes = b"") -> tuple[Bytes, Bytes]:
    array = Bytes(attributes)
    config = struct.pack("<7I4xQQI4x", 2, 1, 1, 64, 1, 1, 256, 9, array.at, len(attributes) // 72)
    return Bytes(config), array


def attribute(kind: int, *values: int) -> bytes:
    return struct.pack("<I4x", kind) + struct.pack(f"<{len(values)}I", *values).ljust(64, b"\0")


def test_launch_attributes(session: FakeSession) -> None:
    config, _ = launch_config()
    assert call("cuLaunchKernelEx", config.at, FUNCTION, 0, 0) == 0
    assert session.calls[-1] == ("launch", FUNCTION, (2, 1, 1), (64, 1, 1), 256, 9, 0, 0, False, None)
    config, _keep = launch_config(attribute(2, 1) + attribute(6, 1) + attribute(4, 1, 1, 1))
    assert call("cuLaunchKernelEx", config.at, FUNCTION, 0, 0) == 0
    assert session.calls[-1][-2:] == (True, None)
    session.attributes[120] = 0
    config, _keep = launch_config(attribute(4, 2, 1, 1) + attribute(5, 1))
    assert call("cuLaunchKernelEx", config.at, FUNCTION, 0, 0) == 801
    session.attributes[120] = 1
    assert call("cuLaunchKernelEx", config.at, FUNCTION, 0, 0) == 0
    assert session.calls[-1][-2:] == (False, (2, 1, 1, 1))
    config, _keep = launch_config(attribute(99, 0))
    assert call("cuLaunchKernelEx", config.at, FUNCTION, 0, 0) == 1


def test_block_size_search_asks_the_callback(session: FakeSession) -> None:
    asked: list[int] = []

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)
    def shared(block: int) -> int:
        asked.append(block)
        return block * 4

    session.driver_replies["cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"] = (0, (2,))
    grid, block = Out(ctypes.c_int), Out(ctypes.c_int)
    address = ctypes.cast(shared, ctypes.c_void_p).value or 0
    assert call("cuOccupancyMaxPotentialBlockSize", grid.at, block.at, FUNCTION, address, 0, 512) == 0
    assert (grid.value, block.value) == (8, 512)
    assert asked[0] == 512
    assert session.calls[0][1:] == (FUNCTION + 100, 512, 2048, 0)


def test_user_objects_die_with_the_last_graph(session: FakeSession) -> None:
    died: list[int] = []
    destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(died.append)
    address = ctypes.cast(destroy, ctypes.c_void_p).value or 0
    item, executable = Out(), Out()
    graph = layout.make_handle(layout.KIND_GRAPH, 5)
    assert call("cuUserObjectCreate", item.at, 4242, address, 1, 0) == 1
    assert call("cuUserObjectCreate", item.at, 4242, address, 1, 1) == 0
    assert call("cuGraphRetainUserObject", graph, item.value, 1, 1) == 0
    assert call("cuGraphInstantiate", executable.at, graph, 0) == 0
    assert call("cuGraphDestroy", graph) == 0
    assert died == []
    assert call("cuGraphExecDestroy", executable.value) == 0
    assert died == [4242]
    assert call("cuUserObjectRelease", item.value, 1) == 1


def conditional_node(session: FakeSession, graph: int, node: int, bodies: list[int]) -> None:
    """Add a conditional node (of type if) whose bodies the executor names so."""
    session.driver_replies["cuGraphAddConditionalNode"] = (0, (node, bodies))
    out, parameters = Out(), ctypes.create_string_buffer(256)
    struct.pack_into("<ii8xQii", parameters, 0, 13, 0, 99, 0, len(bodies))
    assert call("cuGraphAddNode", out.at, graph, 0, 0, ctypes.addressof(parameters)) == 0
    assert out.value == node


def test_what_conditional_bodies_hold_ends_with_their_node(session: FakeSession) -> None:
    died: list[int] = []
    destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(died.append)
    address = ctypes.cast(destroy, ctypes.c_void_p).value or 0
    graph, first, second = (layout.make_handle(layout.KIND_GRAPH, each) for each in (50, 51, 52))
    node = layout.make_handle(layout.KIND_GRAPH_NODE, 53)
    conditional_node(session, graph, node, [first, second])
    for data, body in ((1, first), (2, second)):
        item = Out()
        assert call("cuUserObjectCreate", item.at, data, address, 1, 1) == 0
        assert call("cuGraphRetainUserObject", body, item.value, 1, 1) == 0
    executable = Out()
    assert call("cuGraphInstantiate", executable.at, graph, 0) == 0
    assert call("cuGraphDestroyNode", node) == 0
    assert died == [], "what was instantiated holds them still"
    assert call("cuGraphExecDestroy", executable.value) == 0
    assert sorted(died) == [1, 2]


def test_a_graph_that_a_kernel_launches_is_refused(session: FakeSession, caplog: pytest.LogCaptureFixture) -> None:
    executable = Out()
    assert call("cuGraphInstantiate", executable.at, layout.make_handle(layout.KIND_GRAPH, 5), 4) == 801
    assert "needs its handle on the device" in caplog.text


def test_lto_ir_from_memory_is_the_drivers_to_judge_and_noted(
    session: FakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    library, image = Out(), string(bytes.fromhex("ed434e7f0140025d") + bytes(32))
    assert call("cuModuleLoadData", library.at, image.at) == 0
    assert "does not tell its length" in caplog.text


def test_entry_points(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENTRIES, "cuMemAlloc", 1234)
    pointer, status = Out(), Out(ctypes.c_int, 9)
    assert call("cuGetProcAddress", string(b"cuMemAlloc_v2").at, pointer.at, 12000, 0, status.at) == 0
    assert (pointer.value, status.value) == (1234, 0)
    assert call("cuGetProcAddress", string(b"cuNoSuchThing").at, pointer.at, 12000, 0, status.at) == 0
    assert (pointer.value, status.value) == (0, 1)
    assert call("cuGetExportTable", pointer.at, 0) == 500


@pytest.mark.parametrize("name", ["cuMemImportFromShareableHandle", "cuMemExportToShareableHandle", "cuCtxRecordEvent"])
def test_refused_by_name(session: FakeSession, name: str, caplog: pytest.LogCaptureFixture) -> None:
    arguments = (FakeSession.CONTEXT, 0) if name == "cuCtxRecordEvent" else (0,) * 5
    with caplog.at_level("WARNING", logger="migproxy.cuda"):
        assert call(name, *arguments) == 801
    assert name in caplog.text
