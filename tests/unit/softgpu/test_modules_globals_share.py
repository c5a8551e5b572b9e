"""Modules with thousands of globals, as C++ headers make them, take few mappings of the process."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

from migproxy.softgpu.libcuda import SoftCuda

COUNT = 1500


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_small_globals_share_allocations() -> None:
    names = [f"g{i}" for i in range(COUNT)]
    lines = [f".global .align {1 << i % 5} .b8 {name}[{1 + i % 40}];" for i, name in enumerate(names)]
    body = "\n".join([*lines, ".visible .entry k() { ret; }"])
    text = f".version 8.0\n.target sm_80\n.address_size 64\n{body.replace('.global', '.visible .global')}\n\0".encode()
    driver = SoftCuda()
    assert driver.cuInit(0) == 0
    out, size = ctypes.c_uint64(), ctypes.c_uint64()
    place = ctypes.addressof(out)
    assert driver.cuDevicePrimaryCtxRetain(place, 0) == 0
    assert driver.cuCtxSetCurrent(out.value) == 0
    held = ctypes.create_string_buffer(text)
    before = _mappings()
    assert driver.cuModuleLoadData(place, ctypes.addressof(held)) == 0
    module = out.value
    assert _mappings() - before < 100
    ends = []
    for i, name in enumerate(names):
        label = ctypes.create_string_buffer(name.encode())
        assert driver.cuModuleGetGlobal(place, ctypes.addressof(size), module, ctypes.addressof(label)) == 0
        assert out.value % (1 << i % 5) == 0
        assert size.value == 1 + i % 40
        ends.append((out.value, out.value + size.value))
    ends.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    assert driver.cuModuleUnload(module) == 0
