"""What does each call of the driver API cost its caller? ``cuda.bindings.driver``, by function.

A round makes many calls and waits for nothing; the device is idle again before the next round begins. Names are the
identifiers of cuda-python's own benchmarks (``bindings.MODULE.WHAT``) for the same calls with the same arguments, so
that figures can be laid side by side; those that touch no driver (enumerations, tensor maps) are left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

cuda = pytest.importorskip("cuda.bindings.driver")
nvrtc = pytest.importorskip("cuda.bindings.nvrtc")

_POINTERS = ", ".join(f"int* p{index}" for index in range(16))
SOURCE = f"""
extern "C" __global__ void nothing() {{}}
extern "C" __global__ void one(float* p) {{ *p = 1; }}
extern "C" __global__ void sixteen({_POINTERS}) {{ *p0 = 1; }}
""".encode()


def value(answer: tuple[Any, ...]) -> Any:
    """Return a call's result.

    Raises
    ------
    RuntimeError
        The call failed.
    """
    status, *results = answer
    if int(status) != 0:
        raise RuntimeError(str(status))
    return results[0] if results else None


def compiled(arch: bytes) -> bytes:
    """Return the kernels, compiled for the device."""
    program = value(nvrtc.nvrtcCreateProgram(SOURCE, b"bench.cu", 0, [], []))
    value(nvrtc.nvrtcCompileProgram(program, 1, [arch]))
    image = bytes(value(nvrtc.nvrtcGetCUBINSize(program)))
    value(nvrtc.nvrtcGetCUBIN(program, image))
    value(nvrtc.nvrtcDestroyProgram(program))
    return image


class Prepared:
    """What the calls are made on."""

    def __init__(self) -> None:
        value(cuda.cuInit(0))
        self.device = value(cuda.cuDeviceGet(0))
        self.context = value(cuda.cuDevicePrimaryCtxRetain(self.device))
        value(cuda.cuCtxSetCurrent(self.context))
        attribute = cuda.CUdevice_attribute
        self.attribute = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        major, minor = (
            value(cuda.cuDeviceGetAttribute(each, self.device))
            for each in (self.attribute, attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        )
        self.arch = f"--gpu-architecture=sm_{major}{minor}".encode()
        self.image = compiled(self.arch)
        self.module = value(cuda.cuModuleLoadData(self.image))
        self.nothing, self.one, self.sixteen = (
            value(cuda.cuModuleGetFunction(self.module, name)) for name in (b"nothing", b"one", b"sixteen")
        )
        self.stream = value(cuda.cuStreamCreate(1))
        self.event = value(cuda.cuEventCreate(2))
        value(cuda.cuEventRecord(self.event, self.stream))
        self.memory = [value(cuda.cuMemAlloc(1 << 18)) for _ in range(16)]
        self.host = [np.zeros(8, np.uint8) for _ in range(2)]
        self.addresses = [ctypes.c_void_p(int(each)) for each in self.memory]
        self.packed = (ctypes.c_void_p * 16)(*(ctypes.addressof(each) for each in self.addresses))

    def settle(self) -> None:
        """Wait until the device is idle."""
        value(cuda.cuCtxSynchronize())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return Prepared()


def _pairs(make: Callable[..., Any], end: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    def call() -> None:
        end(make(*arguments)[1])

    return call


def _program(p: Prepared, compile_it: bool) -> Callable[[], None]:
    def call() -> None:
        program = nvrtc.nvrtcCreateProgram(SOURCE, b"bench.cu", 0, [], [])[1]
        if compile_it:
            nvrtc.nvrtcCompileProgram(program, 1, [p.arch])
        nvrtc.nvrtcDestroyProgram(program)

    return call


def _launch(p: Prepared, function: Any, parameters: Any) -> Callable[[], None]:
    launch, stream = cuda.cuLaunchKernel, p.stream

    def call() -> None:
        launch(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, 0)

    return call


def _async_memory(p: Prepared) -> Callable[[], None]:
    def call() -> None:
        cuda.cuMemFreeAsync(cuda.cuMemAllocAsync(1024, p.stream)[1], p.stream)

    return call


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    def call() -> None:
        function(*arguments)

    return call


_POINTER = cuda.CUpointer_attribute
_FOUR = (
    _POINTER.CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
    _POINTER.CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
    _POINTER.CU_POINTER_ATTRIBUTE_HOST_POINTER,
    _POINTER.CU_POINTER_ATTRIBUTE_BUFFER_ID,
)
_THREADS = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
CALLS: dict[str, Callable[[Prepared], Callable[[], None]]] = {
    "ctx_device.ctx_get_current": lambda p: _bound(cuda.cuCtxGetCurrent),
    "ctx_device.ctx_set_current": lambda p: _bound(cuda.cuCtxSetCurrent, p.context),
    "ctx_device.ctx_get_device": lambda p: _bound(cuda.cuCtxGetDevice),
    "ctx_device.device_get": lambda p: _bound(cuda.cuDeviceGet, 0),
    "ctx_device.device_get_attribute": lambda p: _bound(cuda.cuDeviceGetAttribute, p.attribute, p.device),
    "event.event_create_destroy": lambda p: _pairs(cuda.cuEventCreate, cuda.cuEventDestroy, 2),
    "event.event_record": lambda p: _bound(cuda.cuEventRecord, p.event, p.stream),
    "event.event_query": lambda p: _bound(cuda.cuEventQuery, p.event),
    "event.event_synchronize": lambda p: _bound(cuda.cuEventSynchronize, p.event),
    "launch.launch_empty_kernel": lambda p: _launch(p, p.nothing, 0),
    "launch.launch_small_kernel": lambda p: _launch(p, p.one, ((p.memory[0],), (None,))),
    "launch.launch_16_args": lambda p: _launch(p, p.sixteen, (tuple(p.memory), (None,) * 16)),
    "launch.launch_16_args_pre_packed": lambda p: _launch(p, p.sixteen, p.packed),
    "memory.mem_alloc_free": lambda p: _pairs(cuda.cuMemAlloc, cuda.cuMemFree, 1024),
    "memory.mem_alloc_async_free_async": _async_memory,
    "memory.memcpy_htod": lambda p: _bound(cuda.cuMemcpyHtoD, p.memory[0], p.host[0], 8),
    "memory.memcpy_dtoh": lambda p: _bound(cuda.cuMemcpyDtoH, p.host[1], p.memory[1], 8),
    "memory.memcpy_dtod": lambda p: _bound(cuda.cuMemcpyDtoD, p.memory[0], p.memory[1], 8),
    "module.module_load_unload": lambda p: _pairs(cuda.cuModuleLoadData, cuda.cuModuleUnload, p.image),
    "module.module_get_function": lambda p: _bound(cuda.cuModuleGetFunction, p.module, b"nothing"),
    "module.func_get_attribute": lambda p: _bound(cuda.cuFuncGetAttribute, _THREADS, p.nothing),
    "nvrtc.nvrtc_create_program": lambda p: _program(p, False),
    "nvrtc.nvrtc_compile_program": lambda p: _program(p, True),
    "pointer_attributes.pointer_get_attribute": lambda p: _bound(cuda.cuPointerGetAttribute, _FOUR[0], p.memory[0]),
    "pointer_attributes.pointer_get_attributes": lambda p: _bound(cuda.cuPointerGetAttributes, 4, _FOUR, p.memory[0]),
    "stream.stream_create_destroy": lambda p: _pairs(cuda.cuStreamCreate, cuda.cuStreamDestroy, 1),
    "stream.stream_query": lambda p: _bound(cuda.cuStreamQuery, p.stream),
    "stream.stream_synchronize": lambda p: _bound(cuda.cuStreamSynchronize, p.stream),
}
#: Calls that take so long that a round makes few of them.
SLOW = ("module.module_load_unload", "nvrtc.nvrtc_compile_program")


@pytest.mark.parametrize("identifier", CALLS)
def test_call(benchmark: Any, smoke: bool, prepared: Prepared, identifier: str) -> None:
    call = CALLS[identifier](prepared)
    count = (1 if smoke else 5) if identifier in SLOW else (5 if smoke else 500)

    def loop() -> None:
        for _ in range(count):
            call()

    loop()
    benchmark.extra_info.update(calls=count, id=f"bindings.{identifier}")
    rounds = 2 if smoke else (5 if identifier in SLOW else 15)
    benchmark.pedantic(loop, setup=prepared.settle, rounds=rounds, iterations=1, warmup_rounds=1)
    prepared.settle()
