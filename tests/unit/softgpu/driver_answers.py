"""What a driver answers to right and wrong calls: asked of the real one and of the software one.

Run on a machine with a GPU, ``python tests/unit/softgpu/driver_answers.py gpu FILE`` records the real driver's answers;
``test_softgpu_answers.py`` holds the software driver against that record. Every scenario runs in a process of its own,
for some leave the context broken.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from driver_asked import ACCESS, GRANULE, PROP, PTX, RELAXED, Answers, Driver


def before_init(d: Driver) -> Answers:
    return {
        "count": d("cuDeviceGetCount", d.at),
        "version": d("cuDriverGetVersion", d.at),
        "name of error": d("cuGetErrorName", 2, d.at),
        "name of no error": d("cuGetErrorName", 12345, d.at),
        "alloc": d("cuMemAlloc", d.at, 4),
        "init with flags": d("cuInit", 1),
    }


def without_context(d: Driver) -> Answers:
    assert d("cuInit", 0) == 0
    return {
        "alloc": d("cuMemAlloc", d.at, 4),
        "synchronize": d("cuCtxSynchronize"),
        "stream query": d("cuStreamQuery", 0),
        "current": (d("cuCtxGetCurrent", d.at), d.word()),
        "device": d("cuCtxGetDevice", d.at),
        "pop": d("cuCtxPopCurrent", d.at),
        "set null": d("cuCtxSetCurrent", 0),
        "device out of range": d("cuDeviceGet", d.at, 99),
        "negative device": d("cuDeviceGet", d.at, 0xFFFFFFFF),
        "attribute of no device": d("cuDeviceGetAttribute", d.at, 1, 99),
        "unknown attribute": d("cuDeviceGetAttribute", d.at, 9999, 0),
        "null out": d("cuDeviceGetCount", 0),
        "name": d("cuDeviceGetName", d.at, 4, 0),
        "release what is not retained": d("cuDevicePrimaryCtxRelease", 0),
        "reserve": d("cuMemAddressReserve", d.at, GRANULE, 0, 0, 0),
        "create": d("cuMemCreate", d.at, GRANULE, d.data(PROP), 0),
        "granularity": (d("cuMemGetAllocationGranularity", d.at, d.data(PROP), 0), d.word()),
    }


def contexts(d: Driver) -> Answers:
    first = d.connect()
    answers: Answers = {}
    second = d.get("cuCtxCreate", 0, 0)
    answers["created is current"] = d.get("cuCtxGetCurrent") == second
    answers["destroy"] = d("cuCtxDestroy", second)
    answers["after destroy"] = d.get("cuCtxGetCurrent") == first
    answers["destroy primary"] = d("cuCtxDestroy", first)
    answers["set limit"] = d("cuCtxSetLimit", 2, 32 << 20)
    answers["limit"] = d.get("cuCtxGetLimit", 2)
    answers["unknown limit"] = d("cuCtxSetLimit", 77, 1)
    answers["get unknown limit"] = d("cuCtxGetLimit", d.at, 77)
    answers["cache"] = (d("cuCtxSetCacheConfig", 2), d("cuCtxSetCacheConfig", 9))
    answers["shared"] = d("cuCtxSetSharedMemConfig", 2)
    answers["priorities"] = (d("cuCtxGetStreamPriorityRange", d.at, d.at + 4), *struct.unpack("<ii", d.out.raw[:8]))
    answers["api version"] = (d("cuCtxGetApiVersion", first, d.at), d.word() & 0xFFFFFFFF)
    answers["state"] = (d("cuDevicePrimaryCtxGetState", 0, d.at, d.at + 4), d.word())
    answers["push null"] = d("cuCtxPushCurrent", 0)
    answers["unload again"] = d("cuDevicePrimaryCtxRelease", 0)
    answers["state after"] = (d("cuDevicePrimaryCtxGetState", 0, d.at, d.at + 4), d.word())
    answers["alloc after"] = d("cuMemAlloc", d.at, 4)
    answers["retain again"] = d("cuDevicePrimaryCtxRetain", d.at, 0)
    answers["alloc with the old current"] = d("cuMemAlloc", d.at, 4)
    return answers


def allocation(d: Driver) -> Answers:
    d.connect()
    memory = d.get("cuMemAlloc", 1000)
    info = d("cuMemGetInfo", d.at, d.at + 8)
    total = d.word(8)
    return {
        "info": info,
        "zero": d("cuMemAlloc", d.at, 0),
        "null out": d("cuMemAlloc", 0, 4),
        "too much": d("cuMemAlloc", d.at, total + 1),
        "far too much": d("cuMemAlloc", d.at, 1 << 60),
        "free null": d("cuMemFree", 0),
        "free inside": d("cuMemFree", memory + 256),
        "free nothing": d("cuMemFree", 12345),
        "free": d("cuMemFree", memory),
        "free again": d("cuMemFree", memory),
        "pitch": (d("cuMemAllocPitch", d.at, d.at + 8, 100, 5, 4), d.word(8)),
        "pitch element": d("cuMemAllocPitch", d.at, d.at + 8, 100, 5, 3),
        "managed": d("cuMemAllocManaged", d.at, 100, 1),
        "managed flags": d("cuMemAllocManaged", d.at, 100, 0),
        "managed zero": d("cuMemAllocManaged", d.at, 0, 1),
        "host zero": d("cuMemHostAlloc", d.at, 0, 0),
        "host flags": d("cuMemHostAlloc", d.at, 10, 64),
        "free host null": d("cuMemFreeHost", 0),
        "free host nothing": d("cuMemFreeHost", d.at),
    }


def copies(d: Driver) -> Answers:
    d.connect()
    memory, host, stream = d.get("cuMemAlloc", 4096), d.data(bytes(8192)), d.get("cuStreamCreate", 1)
    pinned = d.get("cuMemHostAlloc", 4096, 0)
    managed = d.get("cuMemAllocManaged", 4096, 1)
    big = d.get("cuMemAlloc", 4 * GRANULE)
    return {
        "zero": d("cuMemcpyHtoD", memory, host, 0),
        "zero from null": d("cuMemcpyHtoD", memory, 0, 0),
        "zero to null": d("cuMemcpyHtoD", 0, host, 0),
        "to null": d("cuMemcpyHtoD", 0, host, 4),
        "from null": d("cuMemcpyHtoD", memory, 0, 4),
        "to host address": d("cuMemcpyHtoD", host, host + 100, 4),
        "too long": d("cuMemcpyHtoD", big, d.data(bytes(5 * GRANULE)), 4 * GRANULE + 1),
        "device to host, null": d("cuMemcpyDtoH", 0, memory, 4),
        "device to host, host source": d("cuMemcpyDtoH", host, host + 100, 4),
        "device to device, host": d("cuMemcpyDtoD", memory, host, 4),
        "unified host to host": d("cuMemcpy", host, host + 100, 4),
        "unified host to device": d("cuMemcpy", memory, host, 4),
        "unified pinned": d("cuMemcpy", memory, pinned, 4),
        "pinned as device": d("cuMemcpyHtoD", pinned, host, 4),
        "device as host": d("cuMemcpyHtoD", memory, memory + 100, 4),
        "managed as device": d("cuMemcpyDtoH", host, managed, 4),
        "async pageable": d("cuMemcpyHtoDAsync", memory, host, 4096, stream),
        "set": d("cuMemsetD8", memory, 1, 4096),
        "set zero": d("cuMemsetD32", memory, 1, 0),
        "set zero at null": d("cuMemsetD32", 0, 1, 0),
        "set misaligned": d("cuMemsetD32", memory + 2, 1, 4),
        "set 16 misaligned": d("cuMemsetD16", memory + 1, 1, 4),
        "set null": d("cuMemsetD8", 0, 1, 4),
        "set host": d("cuMemsetD8", host, 1, 4),
        "set pinned": d("cuMemsetD8", pinned, 1, 4),
        "set too long": d("cuMemsetD8", big, 1, 4 * GRANULE + 1),
        "set 2d": d("cuMemsetD2D8", memory, 64, 1, 32, 4),
        "set 2d pitch": d("cuMemsetD2D8", memory, 16, 1, 32, 4),
        "set 2d zero": d("cuMemsetD2D8", memory, 64, 1, 0, 4),
        "all done": d("cuCtxSynchronize"),
    }


def boxes(d: Driver) -> Answers:
    d.connect()
    memory, host = d.get("cuMemAlloc", 4096), d.data(bytes(4096))

    def two(source: tuple[int, ...], destination: tuple[int, ...], width: int, height: int) -> int:
        return d("cuMemcpy2D", d.data(struct.pack("<QQI4xQQQQ QQI4xQQQQ QQ", *source, *destination, width, height)))

    return {
        "plain": two((0, 0, 1, host, 0, 0, 64), (0, 0, 2, 0, memory, 0, 64), 32, 4),
        "no pitch": two((0, 0, 1, host, 0, 0, 0), (0, 0, 2, 0, memory, 0, 0), 32, 4),
        "small pitch": two((0, 0, 1, host, 0, 0, 16), (0, 0, 2, 0, memory, 0, 64), 32, 4),
        "offset beyond pitch": two((40, 0, 1, host, 0, 0, 64), (0, 0, 2, 0, memory, 0, 64), 32, 4),
        "zero width": two((0, 0, 1, host, 0, 0, 64), (0, 0, 2, 0, memory, 0, 64), 0, 4),
        "kind": two((0, 0, 7, host, 0, 0, 64), (0, 0, 2, 0, memory, 0, 64), 32, 4),
        "null": two((0, 0, 1, 0, 0, 0, 64), (0, 0, 2, 0, memory, 0, 64), 32, 4),
        "unified": two((0, 0, 4, 0, host, 0, 64), (0, 0, 4, 0, memory, 0, 64), 32, 4),
        "null struct": d("cuMemcpy2D", 0),
    }


def pointers(d: Driver) -> Answers:
    context = d.connect()
    memory, pinned = d.get("cuMemAlloc", 5000), d.get("cuMemHostAlloc", 5000, 0)
    managed, (mapped, _) = d.get("cuMemAllocManaged", 5000, 1), d.mapped()
    registered = (d.data(bytes(16384)) + 4095) // 4096 * 4096
    assert d("cuMemHostRegister", registered, 4096, 0) == 0
    ordered = d.get("cuMemAllocAsync", 5000, 0)
    assert d("cuCtxSynchronize") == 0
    places = {
        "device": memory, "pinned": pinned, "managed": managed, "mapped": mapped, "registered": registered,
        "ordered": ordered, "host": d.data(bytes(4096)), "reserved": mapped + GRANULE,
    }  # fmt: skip
    answers: Answers = {}
    for name, address in places.items():
        for attribute in (1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19):
            ctypes.memset(d.at, 0, 16)
            status = d("cuPointerGetAttribute", d.at, attribute, address + 8)
            value = d.word()
            # Addresses and handles differ from run to run: say what they are, not how much.
            if attribute in (3, 4, 11, 19) and value:
                value = value - address
            elif attribute == 1 and value:
                value = int(value == context)
            elif attribute == 17:
                value = int(value != 0)
            answers[f"{name} {attribute}"] = (status, value if status == 0 else 0)
        answers[f"{name} range"] = (
            status := d("cuMemGetAddressRange", d.at, d.at + 8, address + 8),
            (d.word() - address, d.word(8)) if status == 0 else 0,
        )
        kinds = d.data(struct.pack("<4I", 2, 9, 8, 12))
        values = d.data(struct.pack("<4Q", 77, 77, 77, 77))
        slots = d.data(struct.pack("<4Q", *[values + 8 * index for index in range(4)]))
        status = d("cuPointerGetAttributes", 4, kinds, slots, address)
        answers[f"{name} several"] = (status, *struct.unpack("<4Q", ctypes.string_at(values, 32)))
    return answers


def virtual_memory(d: Driver) -> Answers:
    d.connect()
    base, handle = d.mapped()
    answers: Answers = {
        "reserve odd size": d("cuMemAddressReserve", d.at, 4096, 0, 0, 0),
        "reserve zero": d("cuMemAddressReserve", d.at, 0, 0, 0, 0),
        "create odd size": d("cuMemCreate", d.at, 4096, d.data(PROP), 0),
        "create no device": d("cuMemCreate", d.at, GRANULE, d.data(struct.pack("<IIIiQQ", 1, 0, 1, 99, 0, 0)), 0),
        "create kind": d("cuMemCreate", d.at, GRANULE, d.data(struct.pack("<IIIiQQ", 0, 0, 1, 0, 0, 0)), 0),
        "create huge": d("cuMemCreate", d.at, 1 << 45, d.data(PROP), 0),
        "map mapped": d("cuMemMap", base, GRANULE, 0, handle, 0),
        "map unaligned": d("cuMemMap", base + GRANULE + 4096, GRANULE, 0, handle, 0),
        "map outside": d("cuMemMap", base + 64 * GRANULE, GRANULE, 0, handle, 0),
        "map more": d("cuMemMap", base + GRANULE, 2 * GRANULE, 0, handle, 0),
        "map no handle": d("cuMemMap", base + GRANULE, GRANULE, 0, 0, 0),
        "access unmapped": d("cuMemSetAccess", base + GRANULE, GRANULE, d.data(ACCESS), 1),
        "access too much": d("cuMemSetAccess", base, 2 * GRANULE, d.data(ACCESS), 1),
        "access flags": d("cuMemSetAccess", base, GRANULE, d.data(struct.pack("<IiI", 1, 0, 2)), 1),
        "copy to reserved": d("cuMemcpyHtoD", base + GRANULE, d.at, 4),
        "set to reserved": d("cuMemsetD8", base + GRANULE, 1, 4),
        "free mapped memory": d("cuMemFree", base),
        "get access": (d("cuMemGetAccess", d.at, d.data(struct.pack("<Ii", 1, 0)), base), d.word()),
        "unreserve mapped": d("cuMemAddressFree", base, 4 * GRANULE),
        "unreserve part": d("cuMemAddressFree", base, GRANULE),
        "unmap nothing": d("cuMemUnmap", base + GRANULE, GRANULE),
        "unmap part": d("cuMemUnmap", base, 4096),
        "release": d("cuMemRelease", handle),
        "still there": (d("cuMemsetD8", base, 1, 4), d("cuCtxSynchronize"))[0],
        "unmap": d("cuMemUnmap", base, GRANULE),
        "gone": d("cuMemsetD8", base, 1, 4),
        "unreserve": d("cuMemAddressFree", base, 4 * GRANULE),
        "unreserve again": d("cuMemAddressFree", base, 4 * GRANULE),
    }
    return answers


def registration(d: Driver) -> Answers:
    d.connect()
    host = (d.data(bytes(65536)) + 4095) // 4096 * 4096
    return {
        "register": d("cuMemHostRegister", host, 16384, 1),
        "again": d("cuMemHostRegister", host, 16384, 1),
        "inside": d("cuMemHostRegister", host + 4096, 4096, 1),
        "flags": d("cuMemHostRegister", host + 32768, 4096, 64),
        "zero": d("cuMemHostRegister", host + 32768, 0, 0),
        "device pointer": d("cuMemHostGetDevicePointer", d.at, host + 8, 0),
        "device pointer of other memory": d("cuMemHostGetDevicePointer", d.at, host + 49152, 0),
        "flags of": d("cuMemHostGetFlags", d.at, host),
        "flags of other memory": d("cuMemHostGetFlags", d.at, host + 49152),
        "unregister inside": d("cuMemHostUnregister", host + 4096),
        "unregister": d("cuMemHostUnregister", host),
        "unregister again": d("cuMemHostUnregister", host),
        "free host of registered": (d("cuMemHostRegister", host, 4096, 0), d("cuMemFreeHost", host)),
    }


def streams(d: Driver) -> Answers:
    d.connect()
    stream = d.get("cuStreamCreate", 1)
    low = d.get("cuStreamCreateWithPriority", 1, 100)
    high = d.get("cuStreamCreateWithPriority", 0, (-100) & 0xFFFFFFFF)
    priorities = []
    for handle in (stream, low, high):
        status = d("cuStreamGetPriority", handle, d.at)
        priorities.append((status, ctypes.c_int32.from_address(d.at).value))
    flags = []
    for handle in (stream, high, 0, 1, 2):
        flags.append((d("cuStreamGetFlags", handle, d.at), d.word() & 0xFFFFFFFF))
    return {
        "priorities": priorities,
        "flags": flags,
        "unknown flags": d("cuStreamCreate", d.at, 4),
        "null out": d("cuStreamCreate", 0, 0),
        "query": d("cuStreamQuery", stream),
        "query default": d("cuStreamQuery", 0),
        "query legacy": d("cuStreamQuery", 1),
        "query per thread": d("cuStreamQuery", 2),
        "synchronize per thread": d("cuStreamSynchronize", 2),
        "destroy default": d("cuStreamDestroy", 0),
        "destroy legacy": d("cuStreamDestroy", 1),
        "destroy per thread": d("cuStreamDestroy", 2),
        "context": d("cuStreamGetCtx", stream, d.at),
        "host function, null": d("cuLaunchHostFunc", stream, 0, 0),
        "destroy": d("cuStreamDestroy", stream),
    }


def events(d: Driver) -> Answers:
    d.connect()
    stream = d.get("cuStreamCreate", 1)
    timed, untimed, never = d.get("cuEventCreate", 0), d.get("cuEventCreate", 2), d.get("cuEventCreate", 0)
    answers: Answers = {
        "unknown flags": d("cuEventCreate", d.at, 64),
        "interprocess with timing": d("cuEventCreate", d.at, 4),
        "query unrecorded": d("cuEventQuery", never),
        "synchronize unrecorded": d("cuEventSynchronize", never),
        "wait unrecorded": d("cuStreamWaitEvent", stream, never, 0),
        "wait flags": d("cuStreamWaitEvent", stream, never, 7),
        "record flags": d("cuEventRecordWithFlags", timed, stream, 9),
        "record": d("cuEventRecord", timed, stream),
        "record untimed": d("cuEventRecord", untimed, stream),
        "synchronize": d("cuCtxSynchronize"),
        "elapsed with unrecorded": d("cuEventElapsedTime", d.at, timed, never),
        "elapsed with untimed": d("cuEventElapsedTime", d.at, timed, untimed),
        "elapsed": d("cuEventElapsedTime", d.at, timed, timed),
        "elapsed null": d("cuEventElapsedTime", 0, timed, timed),
        "null event": d("cuEventRecord", 0, stream),
    }
    flag = d.flag()
    spin = d.function(d.module(), "spin")
    answers["spin"] = d.launch(spin, struct.pack("<Q", flag), stream=stream)
    answers["record behind"] = d("cuEventRecord", timed, stream)
    answers["busy event"] = d("cuEventQuery", timed)
    answers["busy stream"] = d("cuStreamQuery", stream)
    answers["default beside non-blocking"] = d("cuStreamQuery", 0)
    answers["elapsed busy"] = d("cuEventElapsedTime", d.at, never, timed)
    ctypes.c_uint32.from_address(flag).value = 1
    answers["then"] = d("cuEventSynchronize", timed)
    return answers


def modules(d: Driver) -> Answers:
    d.connect()
    module = d.module()
    bad = PTX.replace(b"st.global.u32", b"st.gloval.u32")
    undefined = PTX.replace(b"[%rd2], %r1", b"[%rd2], %r77")
    answers: Answers = {
        "rubbish": d("cuModuleLoadData", d.at, d.data(b"hello\0")),
        "empty": d("cuModuleLoadData", d.at, d.data(b"\0")),
        "elf rubbish": d("cuModuleLoadData", d.at, d.data(b"\x7fELF\x02\x01\x01" + bytes(200))),
        "null": d("cuModuleLoadData", d.at, 0),
        "bad instruction": d("cuModuleLoadData", d.at, d.data(bad + b"\0")),
        "undeclared register": d("cuModuleLoadData", d.at, d.data(undefined + b"\0")),
        "no such file": d("cuModuleLoad", d.at, d.data(b"/nowhere/at/all\0")),
        "no such function": d("cuModuleGetFunction", d.at, module, d.data(b"nothing\0")),
        "no such global": d("cuModuleGetGlobal", d.at, d.at + 8, module, d.data(b"nothing\0")),
        "global": (d("cuModuleGetGlobal", d.at, d.at + 8, module, d.data(b"table\0")), d.word(8)),
        "global without out": d("cuModuleGetGlobal", 0, 0, module, d.data(b"table\0")),
        "function count": (d("cuModuleGetFunctionCount", d.at, module), d.word() & 0xFFFFFFFF),
    }
    log = d.data(bytes(400))
    keys, values = d.data(struct.pack("<II", 5, 6)), d.data(struct.pack("<QQ", log, 400))
    answers["bad with log"] = d("cuModuleLoadDataEx", d.at, d.data(bad + b"\0"), 2, keys, values)
    answers["log is written"] = ctypes.string_at(log) != b""
    library = d.get("cuLibraryLoadData", d.data(PTX + b"\0"), 0, 0, 0, 0, 0, 0)
    answers["no such kernel"] = d("cuLibraryGetKernel", d.at, library, d.data(b"nothing\0"))
    answers["kernel count"] = (d("cuLibraryGetKernelCount", d.at, library), d.word() & 0xFFFFFFFF)
    owned = d.get("cuLibraryGetModule", library)
    answers["unload a library's module"] = d("cuModuleUnload", owned)
    answers["unload library"] = d("cuLibraryUnload", library)
    answers["library rubbish"] = d("cuLibraryLoadData", d.at, d.data(b"hello\0"), 0, 0, 0, 0, 0, 0)
    answers["unload"] = d("cuModuleUnload", module)
    return answers


def functions(d: Driver) -> Answers:
    d.connect()
    module = d.module()
    store, shared, limited = d.function(module, "store"), d.function(module, "shared"), d.function(module, "limited")
    required = d.function(module, "required")
    answers: Answers = {}
    for index in range(3):
        status = d("cuFuncGetParamInfo", store, index, d.at, d.at + 8)
        answers[f"param {index}"] = (status, (d.word(), d.word(8)) if status == 0 else 0)
    for name, function in (("store", store), ("shared", shared), ("limited", limited), ("required", required)):
        for attribute in (0, 1, 7, 8, 9, 10):
            status = d("cuFuncGetAttribute", d.at, attribute, function)
            answers[f"{name} attribute {attribute}"] = (status, ctypes.c_int32.from_address(d.at).value)
    answers["unknown attribute"] = d("cuFuncGetAttribute", d.at, 99, store)
    answers["opt in"] = d("cuFuncSetAttribute", store, 8, 96 * 1024)
    answers["opted in"] = (d("cuFuncGetAttribute", d.at, 8, store), ctypes.c_int32.from_address(d.at).value)
    answers["opt in for less"] = (
        d("cuFuncSetAttribute", store, 8, 1024),
        d("cuFuncGetAttribute", d.at, 8, store),
        ctypes.c_int32.from_address(d.at).value,
    )
    answers["opt in too much"] = d("cuFuncSetAttribute", store, 8, 1 << 20)
    answers["opt in negative"] = d("cuFuncSetAttribute", store, 8, (-5) & 0xFFFFFFFF)
    answers["carveout"] = [d("cuFuncSetAttribute", store, 9, value & 0xFFFFFFFF) for value in (-1, 0, 100, 101, -2)]
    answers["read only attribute"] = d("cuFuncSetAttribute", store, 0, 32)
    answers["cache"] = (d("cuFuncSetCacheConfig", store, 1), d("cuFuncSetCacheConfig", store, 9))
    answers["name"] = (d("cuFuncGetName", d.at, store), ctypes.string_at(d.word()).decode())
    for size, dynamic in ((0, 0), (32, 0), (1024, 0), (1025, 0), (2048, 0)):
        status = d("cuOccupancyMaxActiveBlocksPerMultiprocessor", d.at, store, size, dynamic)
        answers[f"occupancy {size}"] = (status, ctypes.c_int32.from_address(d.at).value if status == 0 else 0)
    return answers


def launches(d: Driver) -> Answers:
    d.connect()
    module = d.module()
    names = ("store", "limited", "shared", "required")
    store, limited, shared, required = (d.function(module, name) for name in names)
    memory = d.get("cuMemAlloc", 64)
    good = struct.pack("<Q", memory), struct.pack("<I", 5)
    packed = d.data(struct.pack("<QIxxxx", memory, 6))

    def extra(size: int) -> int:
        return d.data(struct.pack("<QQQQQ", 1, packed, 2, d.data(struct.pack("<Q", size)), 0))

    def by_buffer(size: int) -> int:
        return d("cuLaunchKernel", store, 1, 1, 1, 1, 1, 1, 0, 0, 0, extra(size))

    answers: Answers = {
        "good": d.launch(store, *good),
        "grid 0": d.launch(store, *good, grid=(0, 1, 1)),
        "grid y too large": d.launch(store, *good, grid=(1, 65536, 1)),
        "block 0": d.launch(store, *good, block=(0, 1, 1)),
        "block 1024": d.launch(store, *good, block=(1024, 1, 1)),
        "block 1025": d.launch(store, *good, block=(1025, 1, 1)),
        "block z 65": d.launch(store, *good, block=(1, 1, 65)),
        "block of 2048": d.launch(store, *good, block=(32, 32, 2)),
        "limited 64": d.launch(limited, block=(64, 1, 1)),
        "limited 65": d.launch(limited, block=(65, 1, 1)),
        "limited 8 by 8": d.launch(limited, block=(8, 8, 1)),
        "required": d.launch(required, block=(32, 2, 1)),
        "required, another shape": d.launch(required, block=(64, 1, 1)),
        "required, smaller": d.launch(required, block=(32, 1, 1)),
        "dynamic 48K": d.launch(store, *good, shared=48 << 10),
        "dynamic 48K+1": d.launch(store, *good, shared=(48 << 10) + 1),
        "static and dynamic in 48K": d.launch(shared, shared=9000),
        "static and dynamic over 48K": d.launch(shared, shared=9200),
        "dynamic far too much": d.launch(store, *good, shared=1 << 20),
        "no parameters": d.launch(store),
        "buffer": by_buffer(16),
        "buffer exact": by_buffer(12),
        "buffer short": by_buffer(8),
        "buffer long": by_buffer(64),
        "both forms": d("cuLaunchKernel", store, 1, 1, 1, 1, 1, 1, 0, 0, packed, extra(16)),
        "null function": d("cuLaunchKernel", 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
        "cooperative": d("cuLaunchCooperativeKernel", limited, 1, 1, 1, 32, 1, 1, 0, 0, 0),
        "cooperative too large": d("cuLaunchCooperativeKernel", limited, 1 << 20, 1, 1, 32, 1, 1, 0, 0, 0),
        "done": d("cuCtxSynchronize"),
        "read": (d("cuMemcpyDtoH", d.at, memory, 4), d.word() & 0xFFFFFFFF),
    }
    return answers


def captures(d: Driver) -> Answers:
    d.connect()
    blocking, other = d.get("cuStreamCreate", 0), d.get("cuStreamCreate", 1)
    event, old = d.get("cuEventCreate", 2), d.get("cuEventCreate", 2)
    memory = d.get("cuMemAlloc", 64)
    answers: Answers = {
        "end without begin": d("cuStreamEndCapture", blocking, d.at),
        "begin default": d("cuStreamBeginCapture", 0, RELAXED),
        "begin mode": d("cuStreamBeginCapture", blocking, 7),
        "old": d("cuEventRecord", old, other),
        "begin": d("cuStreamBeginCapture", blocking, RELAXED),
        "begin again": d("cuStreamBeginCapture", blocking, RELAXED),
        "status": (d("cuStreamIsCapturing", blocking, d.at), d.word() & 0xFFFFFFFF),
        "default stream": d("cuMemsetD8Async", memory, 1, 4, 0),
        "alloc": d("cuMemAlloc", d.at, 64),
        "wait for old": d("cuStreamWaitEvent", blocking, old, 0),
        "record": d("cuEventRecord", event, blocking),
        "query captured event": d("cuEventQuery", event),
        "synchronize captured event": d("cuEventSynchronize", event),
    }
    answers["status after"] = (d("cuStreamIsCapturing", blocking, d.at), d.word() & 0xFFFFFFFF)
    answers["end"] = d("cuStreamEndCapture", blocking, d.at)
    answers["begin 2"] = d("cuStreamBeginCapture", blocking, RELAXED)
    answers["record 2"] = d("cuEventRecord", event, blocking)
    answers["fork"] = d("cuStreamWaitEvent", other, event, 0)
    answers["other captures"] = (d("cuStreamIsCapturing", other, d.at), d.word() & 0xFFFFFFFF)
    answers["end on other"] = d("cuStreamEndCapture", other, d.at)
    answers["work on other"] = d("cuMemsetD8Async", memory, 1, 4, other)
    answers["unjoined"] = d("cuStreamEndCapture", blocking, d.at)
    answers["other after"] = (d("cuStreamIsCapturing", other, d.at), d.word() & 0xFFFFFFFF)
    answers["begin 3"] = d("cuStreamBeginCapture", blocking, RELAXED)
    answers["synchronize"] = d("cuStreamSynchronize", blocking)
    answers["status 3"] = (d("cuStreamIsCapturing", blocking, d.at), d.word() & 0xFFFFFFFF)
    answers["work 3"] = d("cuMemsetD8Async", memory, 1, 4, blocking)
    answers["end 3"] = d("cuStreamEndCapture", blocking, d.at)
    answers["begin 4"] = d("cuStreamBeginCapture", blocking, RELAXED)
    answers["query"] = d("cuStreamQuery", blocking)
    answers["end 4"] = d("cuStreamEndCapture", blocking, d.at)
    answers["begin 5"] = d("cuStreamBeginCapture", blocking, RELAXED)
    answers["context"] = d("cuCtxSynchronize")
    answers["end 5"] = d("cuStreamEndCapture", blocking, d.at)
    answers["begin 6"] = d("cuStreamBeginCapture", other, RELAXED)
    answers["blocking copy beside non-blocking capture"] = d("cuMemcpyHtoD", memory, d.data(bytes(8)), 4)
    answers["context 6"] = d("cuCtxSynchronize")
    answers["end 6"] = d("cuStreamEndCapture", other, d.at)
    answers["all well"] = d("cuStreamSynchronize", blocking)
    return answers


def captures_joined(d: Driver) -> Answers:
    d.connect()
    first, other, event = d.get("cuStreamCreate", 1), d.get("cuStreamCreate", 1), d.get("cuEventCreate", 2)
    old, memory = d.get("cuEventCreate", 2), d.get("cuMemAlloc", 64)
    answers: Answers = {
        "old": d("cuEventRecord", old, other),
        "begin": d("cuStreamBeginCapture", first, RELAXED),
        "wait for old": d("cuStreamWaitEvent", first, old, 0),
        "status": (d("cuStreamIsCapturing", first, d.at), d.word() & 0xFFFFFFFF),
        "end": d("cuStreamEndCapture", first, d.at),
        "begin 2": d("cuStreamBeginCapture", first, RELAXED),
        "record": d("cuEventRecord", event, first),
        "query captured event": d("cuEventQuery", event),
        "status 2": (d("cuStreamIsCapturing", first, d.at), d.word() & 0xFFFFFFFF),
        "synchronize captured event": d("cuEventSynchronize", event),
        "status 2 again": (d("cuStreamIsCapturing", first, d.at), d.word() & 0xFFFFFFFF),
        "end 2": d("cuStreamEndCapture", first, d.at),
        "query after": d("cuEventQuery", event),
        "wait after": d("cuStreamWaitEvent", other, event, 0),
        "begin 3": d("cuStreamBeginCapture", first, RELAXED),
        "record 3": d("cuEventRecord", event, first),
        "fork": d("cuStreamWaitEvent", other, event, 0),
        "work": d("cuMemsetD8Async", memory, 1, 4, other),
        "unjoined": d("cuStreamEndCapture", first, d.at),
        "begin 4": d("cuStreamBeginCapture", first, RELAXED),
        "record 4": d("cuEventRecord", event, first),
        "fork 4": d("cuStreamWaitEvent", other, event, 0),
        "work 4": d("cuMemsetD8Async", memory, 1, 4, other),
        "record on other": d("cuEventRecord", old, other),
        "join": d("cuStreamWaitEvent", first, old, 0),
        "joined": d("cuStreamEndCapture", first, d.at),
    }
    graph = d.word()
    answers["nodes"] = (d("cuGraphGetNodes", graph, 0, d.at), d.word())
    answers["begin 5"] = d("cuStreamBeginCapture", first, RELAXED)
    answers["destroy while capturing"] = d("cuStreamDestroy", first)
    answers["launch with the graph"] = (
        d("cuEventQuery", event),
        d("cuStreamWaitEvent", other, event, 0),
        d("cuStreamQuery", other),
    )
    answers["host function"] = (
        d("cuStreamBeginCapture", other, RELAXED),
        d("cuStreamAddCallback", other, d.at, 0, 0),
        d("cuStreamEndCapture", other, d.at),
    )
    answers["free in a capture"] = (
        d("cuStreamBeginCapture", other, RELAXED),
        d("cuMemFree", memory),
        d("cuStreamEndCapture", other, d.at),
    )
    answers["pageable copy in a capture"] = (
        d("cuStreamBeginCapture", other, RELAXED),
        d("cuMemcpyDtoHAsync", d.at, d.get("cuMemAlloc", 4), 4, other),
        d("cuStreamEndCapture", other, d.at),
    )
    return answers


def graphs(d: Driver) -> Answers:
    d.connect()
    stream, memory = d.get("cuStreamCreate", 1), d.get("cuMemAlloc", 64)
    store = d.function(d.module(), "store")
    assert d("cuStreamBeginCapture", stream, RELAXED) == 0
    answers: Answers = {
        "memset": d("cuMemsetD32Async", memory, 1, 1, stream),
        "kernel": d.launch(store, struct.pack("<Q", memory + 4), struct.pack("<I", 7), stream=stream),
        "copy": d("cuMemcpyDtoDAsync", memory + 8, memory, 8, stream),
        "end": d("cuStreamEndCapture", stream, d.at),
    }
    graph = d.word()
    nodes = d.data(struct.pack("<8Q", *[9] * 8))
    count = d.data(struct.pack("<Q", 8))
    answers["nodes"] = (d("cuGraphGetNodes", graph, 0, d.at), d.word())
    answers["into room"] = (d("cuGraphGetNodes", graph, nodes, count), ctypes.c_uint64.from_address(count).value)
    handles = struct.unpack("<8Q", ctypes.string_at(nodes, 64))
    answers["rest of the room"] = handles[3:]
    answers["kinds"] = [(d("cuGraphNodeGetType", node, d.at), d.word() & 0xFFFFFFFF) for node in handles[:3]]
    answers["roots"] = (d("cuGraphGetRootNodes", graph, 0, d.at), d.word())
    answers["edges"] = (d("cuGraphGetEdges", graph, 0, 0, 0, d.at), d.word())
    executable = d.get("cuGraphInstantiateWithFlags", graph, 0)
    answers["launch"] = d("cuGraphLaunch", executable, stream)
    answers["synchronize"] = d("cuStreamSynchronize", stream)
    answers["read"] = (d("cuMemcpyDtoH", d.at, memory, 16), struct.unpack("<4I", d.out.raw[:16]))
    empty = d.get("cuGraphCreate", 0)
    first = d.get("cuGraphAddEmptyNode", empty, 0, 0)
    second = d.get("cuGraphAddEmptyNode", empty, d.data(struct.pack("<Q", first)), 1)
    pair = d.data(struct.pack("<QQ", second, first))
    answers["cycle"] = d("cuGraphAddDependencies", empty, pair, pair + 8, 0, 1)
    answers["instantiate cycle"] = d("cuGraphInstantiateWithFlags", d.at, empty, 0)
    answers["duplicate edge"] = d(
        "cuGraphAddDependencies",
        graph,
        d.data(struct.pack("<Q", handles[0])),
        d.data(struct.pack("<Q", handles[1])),
        0,
        1,
    )
    answers["update"] = d("cuGraphExecUpdate", executable, empty, d.data(bytes(64)))
    answers["destroy"] = (d("cuGraphExecDestroy", executable), d("cuGraphDestroy", graph))
    answers["create flags"] = d("cuGraphCreate", d.at, 3)
    return answers


def graph_nodes(d: Driver) -> Answers:
    d.connect()
    stream, memory = d.get("cuStreamCreate", 1), d.get("cuMemAlloc", 64)
    store, event = d.function(d.module(), "store"), d.get("cuEventCreate", 2)
    context = d.get("cuCtxGetCurrent")
    assert d("cuStreamBeginCapture", stream, RELAXED) == 0
    assert d("cuMemsetD32Async", memory, 5, 2, stream) == 0
    assert d.launch(store, struct.pack("<Q", memory), struct.pack("<I", 7), stream=stream) == 0
    assert d("cuMemcpyDtoDAsync", memory + 8, memory, 8, stream) == 0
    assert d("cuStreamEndCapture", stream, d.at) == 0
    graph = d.word()
    out, count = d.data(bytes(24)), d.data(struct.pack("<Q", 3))
    assert d("cuGraphGetNodes", graph, out, count) == 0
    kinds = {}
    for node in struct.unpack("<3Q", ctypes.string_at(out, 24)):
        assert d("cuGraphNodeGetType", node, d.at) == 0
        kinds[d.word() & 0xFFFFFFFF] = node
    kernel, copy, fill = kinds[0], kinds[1], kinds[2]
    into = d.data(bytes(256))
    answers: Answers = {}
    status = d("cuGraphMemsetNodeGetParams", fill, into)
    address, _, *numbers = struct.unpack("<QQIIQQ", ctypes.string_at(into, 40))
    answers["fill"] = (status, address - memory, numbers)
    status = d("cuGraphMemcpyNodeGetParams", copy, into)
    fields = struct.unpack("<QQQQI4xQQQQQQ QQQQI4xQQQQQQ QQQ", ctypes.string_at(into, 200))
    answers["copy"] = (status, fields[6] - memory, fields[17] - memory, fields[22:])
    status = d("cuGraphKernelNodeGetParams", kernel, into)
    function, *numbers, table = struct.unpack("<Q7I4xQ", ctypes.string_at(into, 48))
    pointers = struct.unpack("<QQ", ctypes.string_at(table, 16))
    answers["kernel"] = (status, function == store, numbers, ctypes.c_uint32.from_address(pointers[1]).value)
    answers["wrong kind"] = d("cuGraphMemsetNodeGetParams", copy, into)
    executable = d.get("cuGraphInstantiateWithFlags", graph, 0)
    fresh = d.data(struct.pack("<QQIIQQ", memory, 0, 6, 4, 2, 1))
    answers["set in graph"] = d("cuGraphMemsetNodeSetParams", fill, fresh)
    answers["set in executable"] = d("cuGraphExecMemsetNodeSetParams", executable, fill, fresh, context)
    narrow = d.data(struct.pack("<QQIIQQ", memory, 0, 6, 3, 2, 1))
    answers["set element size"] = d("cuGraphMemsetNodeSetParams", fill, narrow)
    answers["launch"] = (d("cuGraphLaunch", executable, stream), d("cuStreamSynchronize", stream))
    answers["read"] = (d("cuMemcpyDtoH", d.at, memory, 16), struct.unpack("<4I", d.out.raw[:16]))
    child, parent = d.get("cuGraphCreate", 0), d.get("cuGraphCreate", 0)
    inner = d.get("cuGraphAddMemsetNode", child, 0, 0, fresh, context)
    node = d.get("cuGraphAddChildGraphNode", parent, 0, 0, child)
    answers["own child"] = d("cuGraphAddChildGraphNode", d.at, parent, 0, 0, parent)
    status = d("cuGraphChildGraphNodeGetGraph", node, d.at)
    answers["child"] = (status, d.word() == child)
    clone = d.get("cuGraphClone", child)
    answers["twin"] = (d("cuGraphNodeFindInClone", d.at, inner, clone), d.word() == inner)
    answers["no twin"] = d("cuGraphNodeFindInClone", d.at, node, clone)
    recorder = d.get("cuGraphAddEventRecordNode", parent, 0, 0, event)
    answers["event"] = (d("cuGraphEventRecordNodeGetEvent", recorder, d.at), d.word() == event)
    answers["event of another kind"] = d("cuGraphEventWaitNodeGetEvent", recorder, d.at)
    whole = d.get("cuGraphInstantiateWithFlags", parent, 0)
    ctypes.memset(d.at, 0, 8)
    answers["enabled"] = d("cuGraphNodeGetEnabled", whole, node, d.at)
    answers["disable kernel"] = d("cuGraphNodeSetEnabled", executable, kernel, 0)
    answers["node of another graph"] = d("cuGraphNodeSetEnabled", whole, kernel, 0)
    answers["run"] = (d("cuGraphLaunch", whole, stream), d("cuStreamSynchronize", stream), d("cuEventQuery", event))
    answers["destroy node"] = (d("cuGraphDestroyNode", inner), d("cuGraphGetNodes", child, 0, d.at), d.word())
    return answers


def pools(d: Driver) -> Answers:
    d.connect()
    stream = d.get("cuStreamCreate", 1)
    default, current = d.get("cuDeviceGetDefaultMemPool", 0), d.get("cuDeviceGetMemPool", 0)
    properties = struct.pack("<IIIiQQ56x", 1, 0, 1, 0, 0, 0)
    answers: Answers = {
        "default is current": default == current,
        "attributes": [
            (d("cuMemPoolGetAttribute", default, attribute, d.at), d.word() & 0xFFFFFFFF if attribute < 4 else 0)
            for attribute in range(1, 9)
        ],
        "threshold": d("cuMemPoolSetAttribute", default, 4, d.data(struct.pack("<Q", 1 << 20))),
        "unknown attribute": d("cuMemPoolGetAttribute", default, 77, d.at),
        "set used": d("cuMemPoolSetAttribute", default, 7, d.data(bytes(8))),
        "reset high": d("cuMemPoolSetAttribute", default, 8, d.data(bytes(8))),
        "set high": d("cuMemPoolSetAttribute", default, 8, d.data(struct.pack("<Q", 5))),
        "zero": d("cuMemAllocAsync", d.at, 0, stream),
        "null": d("cuMemAllocAsync", 0, 4, stream),
        "too much": d("cuMemAllocAsync", d.at, 1 << 45, stream),
        "free null": d("cuMemFreeAsync", 0, stream),
        "destroy default": d("cuMemPoolDestroy", default),
        "trim": d("cuMemPoolTrimTo", default, 0),
    }
    pool = d.get("cuMemPoolCreate", d.data(properties))
    memory = d.get("cuMemAllocFromPoolAsync", 1000, pool, stream)
    answers["use"] = d("cuMemsetD8Async", memory, 1, 1000, stream)
    answers["free"] = d("cuMemFreeAsync", memory, stream)
    answers["free by cuMemFree"] = d("cuMemFree", d.get("cuMemAllocAsync", 1000, stream))
    plain = d.get("cuMemAlloc", 1000)
    answers["free plain memory in a stream"] = d("cuMemFreeAsync", plain, stream)
    answers["synchronize"] = d("cuCtxSynchronize")
    answers["destroy"] = d("cuMemPoolDestroy", pool)
    return answers


def _after_fault(d: Driver, context: int, name: str) -> Answers:
    memory, stream, event = d.get("cuMemAlloc", 64), d.get("cuStreamCreate", 1), d.get("cuEventCreate", 0)
    module = d.module()
    function = d.function(module, name)
    params = (struct.pack("<Q", 16), struct.pack("<I", 1)) if name == "store" else ()
    d.launch(function, *params, stream=stream)
    answers: Answers = {"synchronize stream": d("cuStreamSynchronize", stream)}
    answers |= {
        "synchronize": d("cuCtxSynchronize"),
        "again": d("cuCtxSynchronize"),
        "query": d("cuStreamQuery", stream),
        "query default": d("cuStreamQuery", 0),
        "query event": d("cuEventQuery", event),
        "record": d("cuEventRecord", event, stream),
        "launch": d.launch(function, *params),
        "alloc": d("cuMemAlloc", d.at, 4),
        "free": d("cuMemFree", memory),
        "copy": d("cuMemcpyDtoH", d.at, memory, 4),
        "info": d("cuMemGetInfo", d.at, d.at + 8),
        "pointer": d("cuPointerGetAttribute", d.at, 2, memory),
        "current": d("cuCtxGetCurrent", d.at),
        "set current": d("cuCtxSetCurrent", context),
        "context device": d("cuCtxGetDevice", d.at),
        "limit": d("cuCtxGetLimit", d.at, 2),
        "device attribute": d("cuDeviceGetAttribute", d.at, 1, 0),
        "event create": d("cuEventCreate", d.at, 0),
        "event destroy": d("cuEventDestroy", event),
        "stream create": d("cuStreamCreate", d.at, 1),
        "stream destroy": d("cuStreamDestroy", stream),
        "load": d("cuModuleLoadData", d.at, d.data(PTX + b"\0")),
        "function": d("cuModuleGetFunction", d.at, module, d.data(b"store\0")),
        "function attribute": d("cuFuncGetAttribute", d.at, 0, function),
        "unload": d("cuModuleUnload", module),
        "host alloc": d("cuMemHostAlloc", d.at, 64, 0),
        "release": d("cuDevicePrimaryCtxRelease", 0),
        "state": (d("cuDevicePrimaryCtxGetState", 0, d.at, d.at + 4), d.word(4) & 0xFFFFFFFF),
        "retain": d("cuDevicePrimaryCtxRetain", d.at, 0),
        "alloc in the new one": (d("cuCtxSetCurrent", d.word()), d("cuMemAlloc", d.at, 4)),
    }
    return answers


def after_reset(d: Driver) -> Answers:
    d.connect()
    d.launch(d.function(d.module(), "trap"))
    return {
        "synchronize": d("cuCtxSynchronize"),
        "reset": d("cuDevicePrimaryCtxReset", 0),
        "state": (d("cuDevicePrimaryCtxGetState", 0, d.at, d.at + 4), d.word(4) & 0xFFFFFFFF),
        "synchronize after": d("cuCtxSynchronize"),
        "retain": (status := d("cuDevicePrimaryCtxRetain", d.at, 0)),
        "alloc": (d("cuCtxSetCurrent", d.word()), d("cuMemAlloc", d.at, 4)) if status == 0 else (),
        "create": (status := d("cuCtxCreate", d.at, 0, 0)),
        "alloc in it": d("cuMemAlloc", d.at, 4) if status == 0 else 0,
    }


def after_reset_in_health(d: Driver) -> Answers:
    context = d.connect()
    memory, stream = d.get("cuMemAlloc", 64), d.get("cuStreamCreate", 1)
    return {
        "reset": d("cuDevicePrimaryCtxReset", 0),
        "state": (d("cuDevicePrimaryCtxGetState", 0, d.at, d.at + 4), d.word(4) & 0xFFFFFFFF),
        "current": (d("cuCtxGetCurrent", d.at), int(d.word() == context)),
        "synchronize": d("cuCtxSynchronize"),
        "alloc": d("cuMemAlloc", d.at, 4),
        "old memory": d("cuMemsetD8", memory, 1, 4),
        "retain": (d("cuDevicePrimaryCtxRetain", d.at, 0), int(d.word() == context)),
        "alloc again": d("cuMemAlloc", d.at, 4),
        "old stream": d("cuStreamQuery", stream),
    }


def more_of_memory(d: Driver) -> Answers:
    d.connect()
    memory, stream = d.get("cuMemAlloc", 5000), d.get("cuStreamCreate", 1)
    base, handle = d.mapped()
    managed = d.get("cuMemAllocManaged", 5000, 1)
    big, host = d.get("cuMemAlloc", 4 << 20), d.data(bytes(64))
    return {
        "host zero": (d("cuMemHostAlloc", d.at, 0, 0), d.word()),
        "unmap twice": (d("cuMemUnmap", base, GRANULE), d("cuMemUnmap", base, GRANULE)),
        "unmap whole reservation": d("cuMemUnmap", base, 4 * GRANULE),
        "unmap beyond": d("cuMemUnmap", base, 8 * GRANULE),
        "map again": d("cuMemMap", base + GRANULE, GRANULE, 0, handle, 0),
        "map at two places": d("cuMemMap", base + 2 * GRANULE, GRANULE, 0, handle, 0),
        "retain handle": d("cuMemRetainAllocationHandle", d.at, base + GRANULE),
        "retain handle of plain memory": d("cuMemRetainAllocationHandle", d.at, memory),
        # The location by value: type 1 (device) in the low half of the register, its number in the high one.
        "advise": d("cuMemAdvise", managed, 4096, 1, 1),
        "advise plain": d("cuMemAdvise", memory, 4096, 1, 1),
        "free inside big": d("cuMemFree", big + GRANULE),
        "copy from inside": d("cuMemcpyDtoH", host, big + (4 << 20) - 4, 4),
        "copy over the end": d("cuMemcpyDtoH", host, big + (4 << 20) - 4, 8),
        "set over the end": d("cuMemsetD8Async", big + (4 << 20) - 4, 0, 8, stream),
        "address range at the end": d("cuMemGetAddressRange", d.at, 0, big + (4 << 20)),
        "sync": d("cuCtxSynchronize"),
    }


def after_illegal_address(d: Driver) -> Answers:
    return _after_fault(d, d.connect(), "store")


def after_trap(d: Driver) -> Answers:
    return _after_fault(d, d.connect(), "trap")


SCENARIOS: dict[str, Callable[[Driver], Answers]] = {
    function.__name__: function
    for function in (
        before_init, without_context, contexts, allocation, copies, boxes, pointers, virtual_memory, registration,
        streams, events, modules, functions, launches, captures, captures_joined,
        graphs, graph_nodes, pools, more_of_memory, after_illegal_address, after_trap, after_reset,
        after_reset_in_health,
    )
}  # fmt: skip


def ask(kind: str, scenario: str) -> Answers:
    """Run one scenario in its own process; calls that kill it are left out."""
    skip: list[str] = []
    while len(skip) < 12:
        environment = os.environ | {"ANSWERS_SKIP": ",".join(skip)}
        command = [sys.executable, __file__, kind, "-", scenario]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
            output, errors, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            output, errors, code = "", (late.stderr or b"").decode(), -14
        if code == 0:
            answers: Answers = json.loads(output)
            return answers
        if code > 0:
            return {"failed": errors.strip()[-400:]}
        skip.append(errors.strip().splitlines()[-1].split()[0])
    return {"failed": f"too many calls kill it: {skip}"}


def ask_software() -> dict[str, Answers]:
    """Ask the software driver everything: one process imports it, and forks for each scenario."""
    command = [sys.executable, __file__, "software", "fork"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    answers: dict[str, Answers] = {name: {"failed": done.stderr[-400:]} for name in SCENARIOS}
    for line in done.stdout.splitlines():
        answers |= json.loads(line)
    return answers


def _fork_for_each() -> None:
    import migproxy.softgpu.libcuda
    import migproxy.softgpu.ptx  # noqa: F401

    for name, scenario in SCENARIOS.items():
        child = os.fork()
        if not child:
            print(json.dumps({name: scenario(Driver("software"))}), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


def main() -> None:
    kind, place, *names = sys.argv[1:]
    if place == "fork":
        _fork_for_each()
        return
    if place == "-":
        print(json.dumps(SCENARIOS[names[0]](Driver(kind))))
        return
    record: Answers = {name: ask(kind, name) for name in names or SCENARIOS}
    driver = Driver(kind)
    driver("cuInit", 0)
    driver("cuDriverGetVersion", driver.at)
    record["driver"] = ctypes.c_int32.from_address(driver.at).value
    driver("cuDeviceGetName", driver.at, 100, 0)
    record["card"] = driver.out.value.decode()
    Path(place).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
