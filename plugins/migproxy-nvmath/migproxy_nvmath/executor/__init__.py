"""In the executor: nvmath's own bindings on a GPU, the software GPU's libraries elsewhere."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

from migproxy.errors import ProtocolError
from migproxy.executor.table_server import TableServer, half
from migproxy_nvmath import tables

_MOST_DIMENSIONS = 64


def _library(context: Any, name: str) -> Any:
    """Return what has a binding's functions on the context's device."""
    if context.kind == "software":
        from migproxy_nvmath.executor import software

        return software.source(name)
    return importlib.import_module(tables.BINDINGS + name)


def _sequence(given: Any, what: str) -> Any:
    if given in (None, 0):
        return 0
    if not isinstance(given, list) or len(given) > _MOST_DIMENSIONS or not all(type(each) is int for each in given):
        raise ProtocolError(f"{what} must be a list of integers")
    return given


def _planner(name: str, positions: list[int]) -> Callable[..., Any]:
    """Return what calls a function of cuFFT that takes sequences."""

    def call(context: Any, *arguments: Any) -> Any:
        values = [_sequence(each, name) if at in positions else each for at, each in enumerate(arguments)]
        return getattr(_library(context, "cufft"), name)(*values)

    return call


def _scalar(given: Any) -> tuple[Any, int]:
    """Return memory that holds a scalar, and its address; NULL for none."""
    if not isinstance(given, bytes) or len(given) not in (0, 2, 4, 8, 16):
        raise ProtocolError("a scalar of 2 to 16 bytes was expected")
    memory = ctypes.create_string_buffer(given, 16)
    return memory, ctypes.addressof(memory) if given else 0


def _matmul(context: Any, handle: Any, desc: Any, alpha: Any, *rest: Any) -> None:
    """``cublasLt.matmul`` with its two scalars in memory of the executor."""
    kept, first = _scalar(alpha)
    also, second = _scalar(rest[4])
    if context.kind == "software":
        _library(context, "cublasLt").matmul(handle, desc, alpha, *rest)
    else:
        _library(context, "cublasLt").matmul(handle, desc, first, *rest[:4], second, *rest[5:])
    del kept, also


def _server(name: str) -> TableServer:
    table = tables.library_table(name)
    by_hand: dict[str, Callable[..., Any]] = {}
    for operation in table.operations.values():
        if not operation.by_hand:
            continue
        if operation.name == "matmul":
            by_hand["matmul"] = _matmul
            continue
        positions = [at for at, each in enumerate(operation.arguments) if each.name in ("n", "inembed", "onembed")]
        by_hand[operation.name] = _planner(operation.name, positions)

    def software() -> Any:
        from migproxy_nvmath.executor import software as module

        return module.source(name)

    return TableServer(table, software=software, by_hand=by_hand)


HALF = half(*(_server(name) for name in ("cublas", "cublasLt", "cufft", "cusolver", "cusolverDn")))
