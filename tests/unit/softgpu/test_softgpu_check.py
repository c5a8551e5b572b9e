"""Check mode through the driver: exact bounds of allocations, memory that was never written."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from softgpu_session import Session

from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.libcuda import SoftCuda

#: out[i] = in[i + at], one thread an item
PTX = b"""
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .b32 zeros[16];
.visible .entry move(.param .u64 to, .param .u64 from, .param .u32 at)
{ .reg .b64 %a; .reg .b64 %b; .reg .b32 %t; .reg .b32 %n;
  ld.param.u64 %a, [to]; ld.param.u64 %b, [from]; ld.param.u32 %n, [at];
  mov.u32 %t, %tid.x; mad.wide.u32 %a, %t, 4, %a; add.u32 %t, %t, %n; mad.wide.s32 %b, %t, 4, %b;
  ld.global.u32 %n, [%b];
  st.global.u32 [%a], %n; ret; }
.visible .entry count(.param .u64 to)
{ .reg .b64 %a; .reg .b32 %n; ld.param.u64 %a, [to]; atom.global.add.u32 %n, [%a], 1;
  ld.global.u32 %n, [zeros+8]; ret; }
"""


class Checked:
    """A driver in check mode; a finding ends its context, so each test has its own."""

    def __init__(self) -> None:
        self.session = session = Session()
        session.cuda = SoftCuda(CardSpec(memory=64 * MIB))
        session.ok("cuInit", 0)
        session.ok("cuCtxSetCurrent", session.u64("cuDevicePrimaryCtxRetain", 0))
        self.module = session.u64("cuModuleLoadData", session.data(PTX + b"\0"))
        self.alloc, self.ok, self.write = session.alloc, session.ok, session.write

    def launch(self, name: str, threads: int, *args: int) -> str:
        """Run a kernel; the finding's text, or nothing."""
        session = self.session
        function = session.u64("cuModuleGetFunction", self.module, session.data(name.encode() + b"\0"))
        cells = [ctypes.c_uint64(arg & (1 << 64) - 1) for arg in args]
        params = (ctypes.c_uint64 * len(cells))(*[ctypes.addressof(cell) for cell in cells])
        self.ok("cuLaunchKernel", function, 1, 1, 1, threads, 1, 1, 0, 0, ctypes.addressof(params), 0)
        status = session.cuda.cuCtxSynchronize()
        return f"{status}: {session.cuda.last_error_detail}" if status else ""


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    monkeypatch.setenv("MIGPROXY_SOFTGPU", "check")
    made = Checked()
    yield made
    made.session.cuda.cuDevicePrimaryCtxReset(0)
    assert not written._records


def test_an_access_just_behind_an_allocation_is_found(checked: Checked) -> None:
    source, target = checked.alloc(40), checked.alloc(40)
    checked.write(source, bytes(40))
    assert checked.launch("move", 10, target, source, 0) == ""
    found = checked.launch("move", 10, target, source, 1)
    assert found.startswith("700: access outside every allocation")
    assert "kernel move" in found
    assert "thread (9, 0, 0)" in found
    assert "ld.global.u32" in found


def test_an_access_before_the_first_allocation_is_found(checked: Checked) -> None:
    source, target = checked.alloc(40), checked.alloc(40)
    assert checked.launch("move", 1, target, source, -(1 << 30)).startswith("700: access outside")


def test_memory_that_nobody_wrote_is_found(checked: Checked) -> None:
    source, target = checked.alloc(64), checked.alloc(64)
    checked.write(source, bytes(32))
    assert checked.launch("move", 8, target, source, 0) == ""
    assert checked.launch("move", 8, source, target, 0) == "", "what a kernel wrote was written"
    found = checked.launch("move", 9, target, source, 0)
    assert found.startswith("719: read of memory that was never written")
    assert f"{source + 32:#x}" in found
    assert "thread (8, 0, 0)" in found


def test_updates_read_and_variables_have_values(checked: Checked) -> None:
    fresh, filled = checked.alloc(64), checked.alloc(64)
    checked.ok("cuMemsetD32", filled, 5, 1)
    assert checked.launch("count", 1, filled) == ""
    assert "never written" in checked.launch("count", 1, fresh)


def test_copies_within_the_device_carry_what_was_written(checked: Checked) -> None:
    first, second, target = checked.alloc(64), checked.alloc(64), checked.alloc(64)
    checked.ok("cuMemsetD2D8", first, 16, 1, 8, 4)  # the first half of each row of 16 bytes
    checked.ok("cuMemcpyDtoD", second, first, 64)
    assert checked.launch("move", 2, target, second, 4) == ""
    assert f"{second + 24:#x}" in checked.launch("move", 2, target, second, 5)


def test_results_of_libraries_were_written(checked: Checked) -> None:
    from migproxy.softgpu.libraries import views_unsafe

    source, target = checked.alloc(64), checked.alloc(64)
    views_unsafe.array(source, 16, np.float32)[...] = 1
    assert checked.launch("move", 16, target, source, 0) == ""
    views_unsafe.array(source + 60, 9, np.float32)  # beyond the allocation: marks what is there
    pinned = checked.session.u64("cuMemHostAlloc", 64, 0)
    assert checked.launch("move", 16, target, pinned, 0) == "", "host memory is the application's business"
    managed = checked.session.u64("cuMemAllocManaged", 64, 1)
    assert checked.launch("move", 16, target, managed, 0) == ""


def test_nothing_is_recorded_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIGPROXY_SOFTGPU", raising=False)
    made = Checked()
    source, target = made.alloc(40), made.alloc(40)
    assert not written._records
    assert made.launch("move", 10, target, source, 0) == ""
    made.session.cuda.cuDevicePrimaryCtxReset(0)
