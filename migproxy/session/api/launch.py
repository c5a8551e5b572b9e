"""Kernel launches: parameters are gathered here, by the sizes the executor told once per function."""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena.memory_unsafe import copy_out, read_u64
from migproxy.errors import CudaError
from migproxy.session.api import modules
from migproxy.session.api.streams import resolve
from migproxy.session.session import Session, current

CUDA_ERROR_INVALID_VALUE = 1
_LAUNCH_PARAM_END = 0
_LAUNCH_PARAM_BUFFER_POINTER = 1
_LAUNCH_PARAM_BUFFER_SIZE = 2
CUDA_ERROR_INVALID_CLUSTER_SIZE = 912
Extent = tuple[int, int, int]
Cluster = tuple[int, int, int, int]

# CUdevice_attribute: the limits of block x, y, z, grid x, y, z
_BLOCK_LIMITS = (2, 3, 4)
_GRID_LIMITS = (5, 6, 7)
_REGISTERS_PER_BLOCK = 12
# CUfunction_attribute
_REGISTERS = 4


def gather(function: modules.FunctionFacts, kernel_params: int, extra: int) -> bytes:
    """Return the packed parameters of a launch.

    Parameters
    ----------
    function : FunctionFacts
    kernel_params : int
        Address of ``void *kernelParams[]`` or 0.
    extra : int
        Address of the ``extra`` array or 0.

    Raises
    ------
    CudaError
        1 when neither or a malformed form was given.
    """
    if kernel_params:
        packed = bytearray(function.parameter_bytes)
        for index, (offset, size) in enumerate(function.parameters):
            packed[offset : offset + size] = copy_out(read_u64(kernel_params + 8 * index), size)
        return bytes(packed)
    if extra:
        pointer = size = 0
        position = extra
        while (key := read_u64(position)) != _LAUNCH_PARAM_END:
            value = read_u64(position + 8)
            if key == _LAUNCH_PARAM_BUFFER_POINTER:
                pointer = value
            elif key == _LAUNCH_PARAM_BUFFER_SIZE:
                size = read_u64(value)
            else:
                raise CudaError(CUDA_ERROR_INVALID_VALUE)
            position += 16
        return copy_out(pointer, size)
    if function.parameters:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    return b""


def check_limits(session: Session, function: modules.FunctionFacts, grid: Extent, block: Extent, shared: int) -> None:
    """Raise what CUDA raises in the launch call for a configuration the device or the function cannot run."""
    attributes = session.facts.attributes
    for extent, limits in ((block, _BLOCK_LIMITS), (grid, _GRID_LIMITS)):
        for value, limit in zip(extent, limits, strict=True):
            if not 0 < value <= attributes[limit]:
                raise CudaError(CUDA_ERROR_INVALID_VALUE)
    threads = block[0] * block[1] * block[2]
    if threads > attributes[1]:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)
    if threads > function.max_threads:
        # Too many registers, or more threads than the kernel's own launch bounds allow.
        registers = threads * function.attributes.get(_REGISTERS, 0)
        raise CudaError(701 if registers > attributes.get(_REGISTERS_PER_BLOCK, 65536) else CUDA_ERROR_INVALID_VALUE)
    if shared < 0 or shared > function.max_dynamic_shared:
        raise CudaError(CUDA_ERROR_INVALID_VALUE)


def launch(
    f: int,
    grid: Extent,
    block: Extent,
    shared: int,
    stream: int,
    kernel_params: int,
    extra: int = 0,
    cooperative: bool = False,
    cluster: Cluster | None = None,
) -> None:
    """Launch a kernel; returns as soon as the command is in the ring.

    Parameters
    ----------
    f : int
        Function or kernel handle.
    grid, block : tuple of three int
    shared : int
        Dynamic shared memory in bytes.
    stream : int
    kernel_params, extra : int
        Addresses of the arrays that ``cuLaunchKernel`` takes.
    cooperative : bool
        Launch as ``cuLaunchCooperativeKernel`` does.
    cluster : tuple of four int, optional
        Blocks of a cluster x, y, z, and their ``CUclusterSchedulingPolicy``.

    Raises
    ------
    CudaError
        400 unknown function, 1 or 701 for limits, as ``cuLaunchKernel``.
    """
    session = current()
    function = modules.function_facts(f)
    wire = resolve(stream)
    check_limits(session, function, grid, block, shared)
    packed = gather(function, kernel_params, extra)
    flags = layout.LAUNCH_COOPERATIVE if cooperative else 0
    head = layout.LAUNCH.pack(function.handle, *grid, *block, shared, flags, len(packed), 0)
    if cluster is None:
        session.post(Op.LAUNCH, head + packed, stream=wire)
        return
    if any(size <= 0 or whole % size for size, whole in zip(cluster, grid, strict=False)):
        raise CudaError(CUDA_ERROR_INVALID_CLUSTER_SIZE, "the grid is not made of whole clusters")
    session.post(Op.LAUNCH_EX, head + layout.CLUSTER.pack(*cluster) + packed, stream=wire)
