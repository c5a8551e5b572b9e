"""Driver API: tensor maps. What a map holds is the driver's secret, so the executor encodes it."""

from __future__ import annotations

import struct

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_nodes import ask
from migproxy_plugins.cuda.memory_unsafe import get_bytes, get_u64_array, put_bytes
from migproxy_plugins.cuda.registry import serves

from migproxy.errors import CudaError

_SIZE = 128  # CUtensorMap
_MOST_DIMENSIONS = 5


def _words(address: int, count: int, form: str) -> list[int]:
    return list(struct.unpack(f"<{count}{form}", get_bytes(address, 4 * count)))


def _checked(rank: int) -> int:
    if not 1 <= rank <= _MOST_DIMENSIONS:
        raise CudaError(st.INVALID_VALUE, f"a tensor of {rank} dimensions")
    return rank


@serves()
def cuTensorMapEncodeTiled(
    out: int,
    kind: int,
    rank: int,
    address: int,
    extents: int,
    strides: int,
    box: int,
    element_strides: int,
    interleave: int,
    swizzle: int,
    promotion: int,
    fill: int,
) -> None:
    _checked(rank)
    (encoded,) = ask(
        "cuTensorMapEncodeTiled",
        [kind, rank, address],
        get_u64_array(extents, rank),
        get_u64_array(strides, rank - 1),
        [],
        [],
        _words(box, rank, "I"),
        [],
        _words(element_strides, rank, "I"),
        [interleave, swizzle, promotion, fill],
    )
    put_bytes(out, encoded)


@serves()
def cuTensorMapEncodeIm2col(
    out: int,
    kind: int,
    rank: int,
    address: int,
    extents: int,
    strides: int,
    lower: int,
    upper: int,
    channels: int,
    pixels: int,
    element_strides: int,
    interleave: int,
    swizzle: int,
    promotion: int,
    fill: int,
) -> None:
    corners = max(_checked(rank) - 2, 0)
    (encoded,) = ask(
        "cuTensorMapEncodeIm2col",
        [kind, rank, address],
        get_u64_array(extents, rank),
        get_u64_array(strides, rank - 1),
        _words(lower, corners, "i"),
        _words(upper, corners, "i"),
        [],
        [channels, pixels],
        _words(element_strides, rank, "I"),
        [interleave, swizzle, promotion, fill],
    )
    put_bytes(out, encoded)


@serves()
def cuTensorMapEncodeIm2colWide(
    out: int,
    kind: int,
    rank: int,
    address: int,
    extents: int,
    strides: int,
    lower: int,
    upper: int,
    channels: int,
    pixels: int,
    element_strides: int,
    interleave: int,
    mode: int,
    swizzle: int,
    promotion: int,
    fill: int,
) -> None:
    (encoded,) = ask(
        "cuTensorMapEncodeIm2colWide",
        [kind, _checked(rank), address],
        get_u64_array(extents, rank),
        get_u64_array(strides, rank - 1),
        [],
        [],
        [],
        [lower, upper, channels, pixels],
        _words(element_strides, rank, "I"),
        [interleave, mode, swizzle, promotion, fill],
    )
    put_bytes(out, encoded)


@serves()
def cuTensorMapReplaceAddress(tensor_map: int, address: int) -> None:
    put_bytes(tensor_map, ask("cuTensorMapReplaceAddress", get_bytes(tensor_map, _SIZE), address)[0])
