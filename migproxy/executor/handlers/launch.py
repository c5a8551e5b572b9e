"""Kernel launches."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.executor.dispatch import Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_INVALID_HANDLE = 400
# CU_LAUNCH_PARAM_BUFFER_POINTER, its value, CU_LAUNCH_PARAM_BUFFER_SIZE, address of the size, CU_LAUNCH_PARAM_END
_EXTRA = struct.Struct("<QQQQQ")


# CUlaunchConfig: grid and block x, y, z, shared bytes, stream, attributes, their number
_CONFIG = struct.Struct("<7I4xQQI4x")
# CUlaunchAttribute: id, padding, a value of 64 bytes
_ATTRIBUTE = struct.Struct("<I4x16s48x")
_COOPERATIVE, _CLUSTER_DIMENSION, _CLUSTER_POLICY = 2, 4, 5


@dataclass(slots=True)
class LaunchTarget:
    """What a launch needs of a kernel: the driver's function, and where its parameters lie."""

    function: int
    parameters: list[tuple[int, int]]
    parameter_bytes: int


@handles(Op.LAUNCH)
def launch(state: SessionState, command: Command) -> Result:
    payload = command.payload
    handle, gx, gy, gz, bx, by, bz, shared, flags, length, _ = layout.LAUNCH.unpack_from(payload)
    target: LaunchTarget | None = state.functions.get(handle)
    if target is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"function {handle:#x}")
    parameters = payload[layout.LAUNCH.size : layout.LAUNCH.size + length]
    if len(parameters) < target.parameter_bytes:
        raise CudaError(CUDA_ERROR_INVALID_VALUE, "too few parameter bytes")
    stream = state.stream(command.stream)
    buffer = ctypes.create_string_buffer(parameters, max(1, len(parameters)))
    base = ctypes.addressof(buffer)
    if flags & layout.LAUNCH_COOPERATIVE:
        pointers = (ctypes.c_uint64 * max(1, len(target.parameters)))(
            *[base + offset for offset, _ in target.parameters]
        )
        state.driver.call(
            "cuLaunchCooperativeKernel",
            *(target.function, gx, gy, gz, bx, by, bz, shared, stream, ctypes.addressof(pointers)),
        )
        return None
    size = ctypes.c_uint64(len(parameters))
    extra = ctypes.create_string_buffer(_EXTRA.pack(1, base, 2, ctypes.addressof(size), 0))
    state.driver.call(
        "cuLaunchKernel",
        *(target.function, gx, gy, gz, bx, by, bz, shared, stream, 0, ctypes.addressof(extra) if parameters else 0),
    )
    return None


class LaunchConfig:
    """A ``CUlaunchConfig`` with clusters, in memory of ours.

    Parameters
    ----------
    sizes : sequence of int
        Grid and block x, y, z, and shared bytes.
    stream : int
        The real stream.
    cluster : sequence of int
        Blocks of a cluster x, y, z, and the scheduling policy.
    cooperative : bool
    """

    def __init__(self, sizes: Sequence[int], stream: int, cluster: Sequence[int], *, cooperative: bool = False) -> None:
        x, y, z, policy = cluster
        attributes = [(_CLUSTER_DIMENSION, struct.pack("<3I", x, y, z))]
        if policy:
            attributes.append((_CLUSTER_POLICY, struct.pack("<I", policy)))
        if cooperative:
            attributes.append((_COOPERATIVE, struct.pack("<I", 1)))
        packed = b"".join(_ATTRIBUTE.pack(number, value) for number, value in attributes)
        self._attributes = ctypes.create_string_buffer(packed, len(packed))
        where = ctypes.addressof(self._attributes)
        self._config = ctypes.create_string_buffer(_CONFIG.pack(*sizes, stream, where, len(attributes)), _CONFIG.size)
        self.address = ctypes.addressof(self._config)


@handles(Op.LAUNCH_EX)
def launch_ex(state: SessionState, command: Command) -> Result:
    payload = command.payload
    handle, *sizes, flags, length, _ = layout.LAUNCH.unpack_from(payload)
    cluster = layout.CLUSTER.unpack_from(payload, layout.LAUNCH.size)
    target: LaunchTarget | None = state.functions.get(handle)
    if target is None:
        raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"function {handle:#x}")
    start = layout.LAUNCH.size + layout.CLUSTER.size
    parameters = payload[start : start + length]
    if len(parameters) < target.parameter_bytes:
        raise CudaError(CUDA_ERROR_INVALID_VALUE, "too few parameter bytes")
    buffer = ctypes.create_string_buffer(parameters, max(1, len(parameters)))
    base = ctypes.addressof(buffer)
    pointers = (ctypes.c_uint64 * max(1, len(target.parameters)))(*[base + offset for offset, _ in target.parameters])
    cooperative = bool(flags & layout.LAUNCH_COOPERATIVE)
    config = LaunchConfig(sizes, state.stream(command.stream), cluster, cooperative=cooperative)
    state.driver.call("cuLaunchKernelEx", config.address, target.function, ctypes.addressof(pointers), 0)
    return None
