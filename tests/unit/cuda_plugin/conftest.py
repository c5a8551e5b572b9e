"""A session that lives in this process: the driver API of the session on ctypes buffers, without broker or executor."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from migproxy_plugins.cuda import marshal

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api import PointerFacts
from migproxy.session.session import close_current, opened

#: On an H100 a context alone takes half a GiB.
QUOTAS = {"software": 256 << 20, "0": 2 << 30}


class FakeSession:
    """Device memory is host memory; every call is recorded."""

    CONTEXT = layout.make_handle(layout.KIND_CONTEXT, 1)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.blocks: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.managed: set[int] = set()
        self.stack: list[int] = [self.CONTEXT]
        self.attributes: dict[int, int] = {1: 1024, 10: 32, 16: 4, 39: 2048, 75: 8, 76: 0}
        self.function_attributes: dict[int, int] = {0: 1024, 1: 16, 8: 0}
        self.driver_replies: dict[str, tuple[int, tuple[Any, ...]]] = {}
        self.numbers = iter(range(1, 1 << 20))
        self.module_error: CudaError | None = None

    def allocate(self, size: int, *_: Any) -> int:
        if size > 1 << 24:
            raise CudaError(2)
        block = (ctypes.c_char * size)()
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, pointer: int, *_: Any) -> None:
        if pointer in self.managed:
            self.managed.discard(pointer)
            self.host_free(pointer)
            return
        if self.blocks.pop(pointer, None) is None:
            raise CudaError(1)

    def host_alloc(self, size: int, flags: int = 0) -> int:
        block = (ctypes.c_char * size)()
        self.host[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def managed_alloc(self, size: int, flags: int) -> int:
        pointer = self.host_alloc(size)
        self.managed.add(pointer)
        return pointer

    def host_free(self, pointer: int) -> None:
        if self.host.pop(pointer, None) is None:
            raise CudaError(1)

    def facts(self, pointer: int) -> PointerFacts:
        for kind, blocks in ((2, self.blocks), (1, self.host)):
            for base, block in blocks.items():
                if base <= pointer < base + len(block):
                    return PointerFacts(
                        kind, 0, pointer, pointer if kind == 1 else 0, base, len(block), base in self.managed
                    )
        return PointerFacts(0, 0, 0, 0, 0, 0)

    def device_copy(self, destination: int, source: int, size: int, stream: int | None = None) -> None:
        ctypes.memmove(destination, source, size)

    def to_device(self, destination: int, source: int, size: int, stream: int | None = None) -> None:
        if self.facts(destination).memory_type != 2:
            raise CudaError(1)
        ctypes.memmove(destination, source, size)

    def to_host(self, destination: int, source: int, size: int, stream: int | None = None) -> None:
        if self.facts(source).memory_type != 2:
            raise CudaError(1)
        ctypes.memmove(destination, source, size)

    def memset(self, pointer: int, value: int, width: int, count: int, stream: int | None = None) -> None:
        if self.facts(pointer).memory_type != 2:
            raise CudaError(1)
        ctypes.memmove(pointer, value.to_bytes(width, "little") * count, width * count)

    def copy_2d(self, dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, _: Any = None) -> None:
        for row in range(height):
            ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

    def copy_box(self, destination: api.Box, source: api.Box, extent: tuple[int, int, int], _: Any = None) -> None:
        # Arrays are tested on the software GPU.
        assert not destination.array
        assert not source.array
        width, height, depth = extent
        for k in range(depth):
            for row in range(height):
                to, fro = (side.at + (k * side.rows + row) * side.pitch for side in (destination, source))
                ctypes.memmove(to, fro, width)

    def attribute(self, number: int, device: int = 0) -> int:
        if number not in self.attributes:
            raise CudaError(1)
        return self.attributes[number]

    def function_attribute(self, function: int, number: int) -> int:
        if function >> layout.HANDLE_KIND_SHIFT != layout.KIND_FUNCTION:
            raise CudaError(400)
        return self.function_attributes[number]

    def function_name(self, function: int) -> bytes:
        if function >> layout.HANDLE_KIND_SHIFT != layout.KIND_FUNCTION:
            raise CudaError(400)
        return b"kernel"

    def function_facts(self, function: int) -> SimpleNamespace:
        self.function_name(function)
        return SimpleNamespace(handle=function + 100)

    def module_load(self, image: bytes, options: Any = ()) -> int:
        self.calls.append(("module_load", image, list(options)))
        if self.module_error:
            raise self.module_error
        return layout.make_handle(layout.KIND_MODULE, next(self.numbers))

    def driver_call(self, name: str, arguments: Any) -> tuple[int, tuple[Any, ...]]:
        self.calls.append((name, *arguments))
        return self.driver_replies.get(name, (0, ()))

    def new(self, kind: int) -> Callable[..., int]:
        return lambda *_: layout.make_handle(kind, next(self.numbers))

    def record(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            self.calls.append((name, *arguments, *named.values()))

        return call


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """The session's API on a `FakeSession`."""
    fake = FakeSession()
    replaced: dict[str, Callable[..., Any]] = {
        "device_count": lambda: 1,
        "device_name": lambda d=0: "Fake",
        "device_uuid": lambda d=0: bytes(range(16)),
        "device_pci_bus_id": lambda d=0: "0000:3B:00.0",
        "device_total_memory": lambda d=0: 1 << 30,
        "device_attribute": fake.attribute,
        "primary_context_retain": lambda d=0: fake.CONTEXT,
        "primary_context_release": lambda d=0: None,
        "context_get_current": lambda: fake.stack[-1] if fake.stack else 0,
        "context_push": fake.stack.append,
        "context_pop": fake.stack.pop,
        "context_device": lambda: 0,
        "context_synchronize": fake.record("context_synchronize"),
        "ensure_context": lambda: None,
        "mem_alloc": fake.allocate,
        "mem_alloc_async": fake.allocate,
        "mem_alloc_managed": fake.managed_alloc,
        "mem_free": fake.free,
        "mem_free_async": fake.free,
        "host_alloc": fake.host_alloc,
        "host_free": fake.host_free,
        "pointer_facts": fake.facts,
        "memcpy": fake.device_copy,
        "memcpy_htod": fake.to_device,
        "memcpy_dtoh": fake.to_host,
        "memcpy_dtod": fake.device_copy,
        "memcpy_2d": fake.copy_2d,
        "copy_box": fake.copy_box,
        "memset": fake.memset,
        "stream_synchronize": fake.record("stream_synchronize"),
        "stream_create": fake.new(layout.KIND_STREAM),
        "event_create": fake.new(layout.KIND_EVENT),
        "module_load": fake.module_load,
        "module_function": fake.new(layout.KIND_FUNCTION),
        "function_attribute": fake.function_attribute,
        "function_name": fake.function_name,
        "image_size": lambda address: len(ctypes.string_at(address)),
        "launch": fake.record("launch"),
        "graph_instantiate": fake.new(layout.KIND_GRAPH_EXEC),
        "graph_destroy": fake.record("graph_destroy"),
        "graph_exec_destroy": fake.record("graph_exec_destroy"),
        "driver_call": fake.driver_call,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(api, name, function)
    monkeypatch.setattr(marshal, "function_facts", fake.function_facts)
    return fake


@pytest.fixture(scope="package", params=["software", pytest.param("0", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A session of this process with a context, on the software GPU and on a real one."""
    # Another folder's tests may have left theirs open for those to come in this process: then it serves here too.
    found = opened()
    before = dict(os.environ)
    os.environ["MIGPROXY_DEVICE"] = request.param
    os.environ["MIGPROXY_MEMORY"] = str(QUOTAS[request.param])
    try:
        api.ensure_context()
    finally:
        os.environ.clear()
        os.environ.update(before)
    yield request.param
    if found is None:
        close_current()
