"""Kernel launches."""

from __future__ import annotations

import ctypes
import struct
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
