"""The function's half of the rules: packs a C call's arguments, and writes what came back to their addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import LentArrays, get_u64, get_u64_array, put_u32, put_u64, put_u64_array
from migproxy_plugins.cuda.rules import RULES

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api.modules import function_facts
from migproxy.session.api.streams import resolve


def wire_function(function: int) -> int:
    """Return the executor's handle of a function: this process's own number is another one."""
    return function_facts(function).handle


#: Kinds of handles that the executor knows under another number than the function.
_ON_THE_WIRE: dict[str, Callable[[int], int]] = {
    "h:STREAM": lambda stream: resolve(stream),
    "h:FUNCTION": lambda function: wire_function(function),
}
#: Arrays whose address a function returned; callers read them at once, and the driver too reuses its own.
_lent = LentArrays()
_WIDE = frozenset({"oi:u64", "oi:i64"})


def rule_adapter(name: str) -> Callable[..., None]:
    """Return the adapter of a function in `RULES`."""
    rule = RULES[name]

    def adapter(*arguments: int) -> None:
        status, outs = api.driver_call(name, pack(rule, arguments))
        if status:
            raise CudaError(status, name)
        unpack(rule, arguments, outs)

    adapter.__name__ = adapter.__qualname__ = name
    return adapter


def pack(rule: tuple[str, ...], arguments: tuple[int, ...]) -> list[Any]:
    """Return the inputs of a call in order: integers, and lists of handles.

    Edge data that newer versions pass beside the dependencies must be NULL.

    Raises
    ------
    CudaError
        801 for edge data, 1 for an array of NULL with a count.
    """
    if len(arguments) == len(rule) + 1 and "count" in rule:
        position = len(rule) - 1 - rule[::-1].index("count")
        if arguments[position]:
            raise CudaError(st.NOT_SUPPORTED, "graph edge data is not supported")
        arguments = arguments[:position] + arguments[position + 1 :]
    packed: list[Any] = []
    for index, (kind, value) in enumerate(zip(rule, arguments, strict=True)):
        if kind.startswith("hs:"):
            count = arguments[index + rule[index:].index("count")]
            if count and not value:
                raise CudaError(st.INVALID_VALUE, "an array is NULL")
            packed.append(get_u64_array(value, count))
        elif kind in _ON_THE_WIRE:
            packed.append(_ON_THE_WIRE[kind](value))
        elif kind == "capacity":
            packed.append(get_u64(value) if arguments[index - 1] else 0)
        elif kind[0] != "o" and kind != "count":
            packed.append(value)
    return packed


def unpack(rule: tuple[str, ...], arguments: tuple[int, ...], outs: tuple[Any, ...]) -> None:
    """Write the outputs to the addresses in `arguments`."""
    values = iter(outs)
    for kind, address in zip(rule, arguments, strict=False):
        if kind.startswith("ohs:"):
            put_u64_array(address, next(values))
        elif kind.startswith("oa:"):
            put_u64(address, _lent.address(next(values)))
        elif kind.startswith("oh") or kind in _WIDE or kind == "capacity":
            put_u64(address, next(values))
        elif kind[0] == "o":
            put_u32(address, next(values) & 0xFFFFFFFF)
