"""Replies that are msgpack structs."""

from __future__ import annotations

import msgspec


class FunctionReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a function learns of a kernel with its handle: name, (offset, size) of each parameter, attributes by
    number."""

    handle: int
    name: bytes
    parameters: list[tuple[int, int]]
    attributes: dict[int, int]
