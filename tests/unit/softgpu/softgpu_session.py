"""A software driver with a context, and a PTX compiler that is a few lines of Python."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from migproxy.errors import KernelFault, PtxError
from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.libcuda import SoftCuda

DEADLINE = 20


@dataclass
class FakeKernel:
    """A kernel whose body is a Python function of (grid, block, dynamic shared bytes, parameter address)."""

    name: str
    params: list[tuple[int, int]] = field(default_factory=lambda: [(0, 8), (8, 4)])
    param_size: int = 16
    static_shared: int = 0
    max_threads: int = 1024
    local_bytes: int = 0
    const_bytes: int = 0
    body: Callable[..., None] = lambda *_: None

    def launch(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], dynamic_shared: int, params_address: int
    ) -> None:
        self.body(grid, block, dynamic_shared, params_address)


@dataclass
class FakeModule:
    kernels: dict[str, FakeKernel]
    globals: dict[str, tuple[int, int]]
    bounds: Callable[[], list[tuple[int, int, int]]] | None = None


class FakeEngine:
    """Makes a kernel for each ``.entry`` of the text; their bodies are set by the test."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.loaded: list[bytes] = []

    def load_module(self, image: bytes, *, place_global: Callable[[str, int, int], int]) -> FakeModule:
        return self.load_modules([image], place_global=place_global)

    def load_modules(self, images: list[bytes], *, place_global: Callable[[str, int, int], int]) -> FakeModule:
        self.loaded += images
        text = b"\n".join(images)
        if b"syntax error" in text:
            raise PtxError("unknown instruction", 3, "syntax error")
        bodies = {"store": self.store, "wait": self.wait, "fault": self.fault, "assertion": self.assertion}
        names = [name.decode() for name in re.findall(rb"\.entry (\w+)", text)]
        kernels = {name: FakeKernel(name, body=bodies.get(name, lambda *_: None)) for name in names}
        return FakeModule(kernels, {"table": (place_global("table", 64, 8), 64)} if b"table" in text else {})

    @staticmethod
    def store(_grid: object, _block: object, _shared: int, params: int) -> None:
        address = ctypes.c_uint64.from_address(params).value
        ctypes.c_uint32.from_address(address).value = ctypes.c_uint32.from_address(params + 8).value

    def wait(self, *_: object) -> None:
        assert self.gate.wait(DEADLINE)

    @staticmethod
    def fault(*_: object) -> None:
        raise KernelFault(700, "fault: block 0 thread 0 wrote 0x10")

    @staticmethod
    def assertion(*_: object) -> None:
        raise KernelFault(710, "kernel.cu:3: assertion: block: [0,0,0], thread: [0,0,0] Assertion `n > 0` failed.")


PTX = b".version 8.0\n.target sm_80\n" + b"".join(
    b".visible .entry %s()\n{ ret; }\n" % name for name in (b"store", b"wait", b"fault", b"assertion")
)


class Session:
    """Calls a driver and keeps an out-parameter at hand."""

    def __init__(self, spec: CardSpec | None = None) -> None:
        self.engine = FakeEngine()
        self.cuda = SoftCuda(spec or CardSpec(memory=256 * MIB), self.engine)
        self.out = ctypes.create_string_buffer(256)
        self._kept: list[ctypes.Array[ctypes.c_char]] = []
        self.at = ctypes.addressof(self.out)

    def ok(self, name: str, *args: int) -> None:
        status = getattr(self.cuda, name)(*args)
        assert status == 0, f"{name}: {status} {self.cuda.last_error_detail}"

    def data(self, content: bytes) -> int:
        """The address of a copy of ``content`` that lives as long as the session."""
        self._kept.append(ctypes.create_string_buffer(content, max(len(content), 1)))
        return ctypes.addressof(self._kept[-1])

    def u64(self, name: str, *args: int) -> int:
        """Call a function whose first argument is an out-pointer, and read the 64-bit result."""
        self.ok(name, self.at, *args)
        return ctypes.c_uint64.from_address(self.at).value

    def i32(self, name: str, *args: int) -> int:
        self.ok(name, self.at, *args)
        return ctypes.c_int32.from_address(self.at).value

    def alloc(self, size: int) -> int:
        return self.u64("cuMemAlloc", size)

    def read(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        self.ok("cuMemcpyDtoH", ctypes.addressof(data), address, size)
        return data.raw

    def write(self, address: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        self.ok("cuMemcpyHtoD", address, ctypes.addressof(buffer), len(data))

    def stream(self, flags: int = 1) -> int:
        return self.u64("cuStreamCreate", flags)

    def event(self, flags: int = 0) -> int:
        return self.u64("cuEventCreate", flags)

    def function(self, name: str, ptx: bytes = PTX) -> int:
        module = self.u64("cuModuleLoadData", self.data(ptx + b"\0"))
        return self.u64("cuModuleGetFunction", module, self.data(name.encode() + b"\0"))

    def launch(self, function: int, stream: int = 0, address: int = 0, value: int = 0, grid: int = 1) -> int:
        a, b = ctypes.c_uint64(address), ctypes.c_uint32(value)
        params = (ctypes.c_uint64 * 2)(ctypes.addressof(a), ctypes.addressof(b))
        status = self.cuda.cuLaunchKernel(function, grid, 1, 1, 32, 1, 1, 0, stream, ctypes.addressof(params), 0)
        return status


def connected(spec: CardSpec | None = None) -> Session:
    session = Session(spec)
    session.ok("cuInit", 0)
    context = session.u64("cuDevicePrimaryCtxRetain", 0)
    session.ok("cuCtxSetCurrent", context)
    return session
