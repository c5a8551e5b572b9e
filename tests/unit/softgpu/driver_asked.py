"""The driver that `driver_answers` asks, real or software, and the kernels it asks with."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

GRANULE = 2 << 20
PTX = rb"""
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .b8 table[64];
.visible .entry store(.param .u64 p0, .param .u32 p1)
{
    .reg .b64 %rd<3>; .reg .b32 %r<2>;
    ld.param.u64 %rd1, [p0]; ld.param.u32 %r1, [p1];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r1;
    ret;
}
.visible .entry limited() .maxntid 64, 1, 1
{ ret; }
.visible .entry required() .reqntid 32, 2, 1
{ ret; }
.visible .entry shared()
{
    .shared .align 4 .b8 room[40000];
    .reg .b32 %r<3>;
    mov.u32 %r1, room;
    st.shared.u32 [%r1], %r1;
    ret;
}
.visible .entry spin(.param .u64 p0)
{
    .reg .b64 %rd<3>; .reg .b32 %r<2>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p0];
    cvta.to.global.u64 %rd2, %rd1;
again:
    ld.volatile.global.u32 %r1, [%rd2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra again;
    ret;
}
.visible .entry trap()
{ trap; }
"""
PROP = struct.pack("<IIIiQQ", 1, 0, 1, 0, 0, 0)
ACCESS = struct.pack("<IiI", 1, 0, 3)
RELAXED = 2
#: The "answer" of a call that killed or hung the process.
CRASHED = -99999


class Driver:
    """Calls driver functions with integers and keeps what they point at."""

    def __init__(self, kind: str) -> None:
        if kind == "gpu":
            from migproxy.executor.driver import NativeDriver

            self.status: Callable[..., int] = NativeDriver().status
        else:
            from migproxy.softgpu.card import CardSpec
            from migproxy.softgpu.libcuda import SoftCuda

            self.soft = SoftCuda(CardSpec())
            self.status = lambda name, *arguments: int(getattr(self.soft, name)(*arguments))
        self._plain, self.status = self.status, self._counted
        self._calls = 0
        self._skip = {int(number) for number in os.environ.get("ANSWERS_SKIP", "").split(",") if number}
        self.out = ctypes.create_string_buffer(4096)
        self.at = ctypes.addressof(self.out)
        self._kept: list[Any] = []

    def data(self, content: bytes) -> int:
        self._kept.append(ctypes.create_string_buffer(content, max(len(content), 1)))
        return ctypes.addressof(self._kept[-1])

    def _counted(self, name: str, *arguments: int) -> int:
        """Say which call is next, so that a call that kills or hangs the process can be left out of the next try."""
        self._calls += 1
        print(self._calls, name, file=sys.stderr, flush=True)
        return CRASHED if self._calls in self._skip else self._plain(name, *arguments)

    def __call__(self, name: str, *arguments: int) -> int:
        return self.status(name, *arguments)

    def get(self, name: str, *arguments: int) -> int:
        """Call a function that must succeed; its first argument is the out-parameter, which is returned."""
        ctypes.memset(self.at, 0, 64)
        status = self.status(name, self.at, *arguments)
        if status:
            raise RuntimeError(f"{name}: {status}")
        return self.word()

    def word(self, offset: int = 0) -> int:
        return ctypes.c_uint64.from_address(self.at + offset).value

    def connect(self) -> int:
        assert self("cuInit", 0) == 0
        context = self.get("cuDevicePrimaryCtxRetain", 0)
        assert self("cuCtxSetCurrent", context) == 0
        return context

    def module(self) -> int:
        return self.get("cuModuleLoadData", self.data(PTX + b"\0"))

    def function(self, module: int, name: str) -> int:
        return self.get("cuModuleGetFunction", module, self.data(name.encode() + b"\0"))

    def launch(
        self, function: int, *params: bytes, grid: tuple[int, ...] = (1, 1, 1), block: tuple[int, ...] = (1, 1, 1),
        shared: int = 0, stream: int = 0,
    ) -> int:  # fmt: skip
        table = self.data(struct.pack(f"<{len(params)}Q", *[self.data(value) for value in params])) if params else 0
        return self("cuLaunchKernel", function, *grid, *block, shared, stream, table, 0)

    def flag(self) -> int:
        """Zeroed memory that the host can write while a kernel runs."""
        address = self.get("cuMemHostAlloc", 64, 2)
        ctypes.memset(address, 0, 64)
        return address

    def mapped(self) -> tuple[int, int]:
        base = self.get("cuMemAddressReserve", 4 * GRANULE, 0, 0, 0)
        handle = self.get("cuMemCreate", GRANULE, self.data(PROP), 0)
        assert self("cuMemMap", base, GRANULE, 0, handle, 0) == 0
        assert self("cuMemSetAccess", base, GRANULE, self.data(ACCESS), 1) == 0
        return base, handle


Answers = dict[str, Any]
