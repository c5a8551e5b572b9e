"""The driver under test, once for each transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from transports import TRANSPORTS, Host, compile_ptx, opened


def _parameter(transport: str) -> Any:
    marks = (pytest.mark.gpu,) if transport.startswith("gpu") else ()
    # One worker of xdist gets all tests of a transport: its driver is opened once.
    return pytest.param(transport, marks=(*marks, pytest.mark.xdist_group(f"conformance-{transport}")))


@pytest.fixture(scope="session", params=[_parameter(transport) for transport in TRANSPORTS])
def cuda(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A driver with a current context."""
    with opened(request.param) as driver:
        yield driver


@pytest.fixture(scope="session")
def ptx() -> bytes:
    """The kernels of `transports.SOURCE`."""
    return compile_ptx()


@pytest.fixture(scope="session")
def kernel(cuda: Any, ptx: bytes) -> Callable[[str], int]:
    """Return the handle of one of the kernels of `transports.SOURCE`."""
    module = cuda.module_load(ptx)
    return lambda name: int(cuda.module_function(module, name.encode()))


@pytest.fixture
def device(cuda: Any) -> Iterator[Callable[[bytes | int], int]]:
    """Allocate device memory, of a size or with content; freed after the test."""
    made = []

    def allocate(content: bytes | int) -> int:
        size = content if isinstance(content, int) else len(content)
        pointer = cuda.mem_alloc(size)
        made.append(pointer)
        if isinstance(content, bytes):
            host = Host(content)
            cuda.memcpy_htod(pointer, host.address, size)
            # Natively a copy from pageable memory may reach the device after it has returned, and a stream that does
            # not synchronise with the legacy one does not wait for it.
            cuda.context_synchronize()
        return int(pointer)

    yield allocate
    cuda.context_synchronize()
    for pointer in made:
        cuda.mem_free(pointer)


@pytest.fixture
def read(cuda: Any) -> Callable[[int, int], bytes]:
    """Copy device memory to the host."""

    def copy(pointer: int, size: int) -> bytes:
        host = Host(size)
        cuda.memcpy_dtoh(host.address, pointer, size)
        return host.data

    return copy
