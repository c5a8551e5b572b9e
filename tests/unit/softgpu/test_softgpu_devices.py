"""Devices, contexts, errors, and that every function has libcuda's arguments."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import re
import struct
import threading
from pathlib import Path

import pytest
from softgpu_session import Session, connected

from migproxy.errors import UsageError
from migproxy.softgpu import errors_table
from migproxy.softgpu.card import GIB, MIB, CardSpec, parse_size
from migproxy.softgpu.libcuda import SoftCuda

driver = pytest.importorskip("cuda.bindings.driver", reason="the enumerations come from cuda-bindings")


def test_nothing_works_before_init(bare: Session) -> None:
    assert bare.cuda.cuDeviceGetCount(bare.at) == 3
    bare.ok("cuDriverGetVersion", bare.at)
    assert bare.cuda.cuInit(1) == 1
    bare.ok("cuInit", 0)
    assert bare.i32("cuDeviceGetCount") == 1
    assert bare.cuda.cuMemAlloc(bare.at, 4) == 201


def test_every_attribute_has_a_value(session: Session) -> None:
    for attribute in driver.CUdevice_attribute:
        if not attribute.name.endswith("_MAX"):
            session.ok("cuDeviceGetAttribute", session.at, int(attribute), 0)
    assert session.cuda.cuDeviceGetAttribute(session.at, 9999, 0) == 1
    assert session.i32("cuDeviceGetAttribute", 75, 0) == 8
    assert session.i32("cuDeviceGetAttribute", 10, 0) == 32


def test_what_the_card_is_called(session: Session) -> None:
    session.ok("cuDeviceGetName", session.at, 100, 0)
    assert session.out.value == b"migproxy software GPU"
    session.ok("cuDeviceGetName", session.at, 9, 0)
    assert session.out.value == b"migproxy"
    session.ok("cuDeviceGetPCIBusId", session.at, 100, 0)
    bus = session.out.value
    assert session.i32("cuDeviceGetByPCIBusId", session.data(bus + b"\0")) == 0
    assert session.cuda.cuDeviceGetByPCIBusId(session.at, session.data(b"0000:01:00.0\0")) == 101


def test_several_devices_have_their_own_memory() -> None:
    session = connected(CardSpec(devices=3, memory=64 * MIB))
    assert session.i32("cuDeviceGetCount") == 3
    assert session.cuda.cuDeviceGet(session.at, 3) == 101
    uuids = set()
    for ordinal in range(3):
        session.ok("cuDeviceGetUuid", session.at, ordinal)
        uuids.add(session.out.raw[:16])
        session.ok("cuCtxSetCurrent", session.u64("cuDevicePrimaryCtxRetain", ordinal))
        memory = session.alloc(60 * MIB)
        session.ok("cuPointerGetAttribute", session.at, 9, memory)
        assert ctypes.c_int32.from_address(session.at).value == ordinal
        assert session.cuda.cuMemAlloc(session.at, 10 * MIB) == 2
    assert len(uuids) == 3
    assert session.i32("cuDeviceCanAccessPeer", 0, 1) == 1


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MEMORY", "1GiB", CardSpec(memory=GIB)),
        ("MEMORY", "100m", CardSpec(memory=100 * MIB)),
        ("DEVICES", "4", CardSpec(devices=4)),
        ("CAPABILITY", "9.0", CardSpec(capability=(9, 0))),
        ("DRIVER_VERSION", "12090", CardSpec(driver_version=12090)),
        ("MEMORY", "", CardSpec()),
    ],
)
def test_the_environment_chooses_the_card(variable: str, value: str, expected: CardSpec) -> None:
    assert CardSpec.from_environment({f"MIGPROXY_SOFTGPU_{variable}": value}) == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MEMORY", "lots"), ("MEMORY", "1k"), ("DEVICES", "0"), ("DEVICES", "x"), ("CAPABILITY", "8")],
)
def test_a_bad_card_is_one_clear_line(variable: str, value: str) -> None:
    with pytest.raises(UsageError, match=variable):
        CardSpec.from_environment({f"MIGPROXY_SOFTGPU_{variable}": value})


def test_sizes() -> None:
    assert [parse_size(text, "x") for text in ("5", "2 KiB", "1.5g", "3MB")] == [5, 2048, 3 * GIB // 2, 3 * MIB]


def test_the_context_stack_is_the_threads_own(session: Session) -> None:
    primary = session.u64("cuCtxGetCurrent")
    other = session.u64("cuCtxCreate", 0, 0)
    assert session.u64("cuCtxGetCurrent") == other
    assert session.u64("cuCtxPopCurrent") == other
    assert session.u64("cuCtxGetCurrent") == primary
    seen: list[int] = []
    cell = ctypes.c_uint64(5)

    def look() -> None:
        session.ok("cuCtxGetCurrent", ctypes.addressof(cell))
        seen.append(cell.value)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert seen == [0]
    session.ok("cuCtxPushCurrent", other)
    session.ok("cuCtxDestroy", other)
    assert session.u64("cuCtxGetCurrent") == primary
    assert session.cuda.cuCtxSetCurrent(other) == 201


def test_the_primary_context_lives_while_it_is_retained(session: Session) -> None:
    session.u64("cuDevicePrimaryCtxRetain", 0)
    session.ok("cuDevicePrimaryCtxRelease", 0)
    stream, memory = session.stream(), session.alloc(4)
    session.ok("cuDevicePrimaryCtxRelease", 0)
    session.ok("cuDevicePrimaryCtxGetState", 0, session.at, session.at + 4)
    assert struct.unpack("<Ii", session.out.raw[:8]) == (0, 0)
    assert session.cuda.cuStreamQuery(stream) == 400
    assert session.cuda.cuMemAlloc(session.at, 4) == 709
    assert memory
    assert session.cuda.cuDevicePrimaryCtxRelease(0) == 201


def test_limits(session: Session) -> None:
    session.ok("cuCtxSetLimit", 2, 32 * MIB)
    assert session.u64("cuCtxGetLimit", 2) == 32 * MIB
    assert session.cuda.cuCtxSetLimit(77, 1) == 1
    session.ok("cuCtxGetStreamPriorityRange", session.at, session.at + 4)
    assert struct.unpack("<ii", session.out.raw[:8]) == (0, -5)
    session.ok("cuStreamCreateWithPriority", session.at, 1, (-3) & 0xFFFFFFFF)
    stream = ctypes.c_uint64.from_address(session.at).value
    session.ok("cuStreamGetPriority", stream, session.at)
    assert ctypes.c_int32.from_address(session.at).value == -3


def test_the_error_table_is_complete(bare: Session) -> None:
    for error in driver.CUresult:
        bare.ok("cuGetErrorName", int(error), bare.at)
        assert ctypes.string_at(ctypes.c_uint64.from_address(bare.at).value).decode() == error.name
    bare.ok("cuGetErrorString", 2, bare.at)
    assert ctypes.string_at(ctypes.c_uint64.from_address(bare.at).value) == b"out of memory"
    assert bare.cuda.cuGetErrorName(12345, bare.at) == 1
    assert ctypes.c_uint64.from_address(bare.at).value == 0
    for name, value in vars(errors_table).items():
        if name.isupper() and isinstance(value, int):
            assert errors_table.ERRORS[value][0] == f"CUDA_ERROR_{name}"


NEW_IN_CUDA_13 = {
    "cuFuncGetParamCount",
    "cuKernelGetParamCount",
    "cuMemGetDefaultMemPool",
    "cuMemGetMemPool",
    "cuMemSetMemPool",
}


def _prototypes() -> dict[str, list[int]]:
    """Function → the numbers of arguments that cuda.h gives any of its versions."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    headers = [header for place in places for header in place.glob("**/include/cuda.h")]
    if not headers:
        pytest.skip("cuda.h is not installed (nvidia-cuda-runtime)")
    found: dict[str, list[int]] = {}
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", headers[0].read_text(errors="replace"), flags=re.S)
    for name, arguments in re.findall(r"CUresult\s+CUDAAPI\s+(\w+)\s*\(([^;{]*?)\)\s*;", text):
        count = 0 if arguments.strip() in ("", "void") else arguments.count(",") + 1
        found.setdefault(re.sub(r"(_v\d|_ptsz|_ptds)+$", "", name), []).append(count)
    return found


def test_every_function_has_the_arguments_of_cuda_h() -> None:
    prototypes = _prototypes()
    checked = 0
    for name, method in inspect.getmembers(SoftCuda, inspect.isfunction):
        if not re.match(r"cu[A-Z]", name) or name in {
            "cuGraphInstantiateWithFlags",
            "cuProfilerStart",
            "cuProfilerStop",
        }:
            continue
        plain = re.sub(r"_v\d$", "", name)
        if plain in NEW_IN_CUDA_13 and plain not in prototypes:
            continue
        assert plain in prototypes, f"{name} is no driver function"
        parameters = list(inspect.signature(method).parameters.values())[1:]
        least = sum(
            parameter.default is parameter.empty and parameter.kind.name != "VAR_POSITIONAL" for parameter in parameters
        )
        most = 99 if any(parameter.kind.name == "VAR_POSITIONAL" for parameter in parameters) else len(parameters)
        assert any(least <= count <= most for count in prototypes[plain]), f"{name}: {prototypes[plain]} arguments"
        checked += 1
    assert checked > 230
