"""Launches and occupancy: the limits of the card, enforced with the driver's errors."""

from __future__ import annotations

import struct
from collections.abc import Callable

from migproxy.errors import CudaError
from migproxy.softgpu import card
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import NodeKind
from migproxy.softgpu.functions import FunctionApi, required_block
from migproxy.softgpu.host_calls_unsafe import call_block_size
from migproxy.softgpu.modules import Function
from migproxy.softgpu.state import entry, need

_CONFIG = struct.Struct("<IIIIIIIxxxxQQIxxxx")  # grid, block, shared bytes, stream, attributes, their number
_ATTRIBUTE_SIZE = 72
_PARAM_BUFFER, _PARAM_SIZE = 1, 2
_GRID_X, _GRID_Y, _GRID_Z = card.MAX_GRID
_BLOCK_X, _BLOCK_Y, _BLOCK_Z = card.MAX_BLOCK
#: Buffer pointer, size pointer, end: what nearly every `extra` looks like.
_USUAL_EXTRA = struct.Struct("<QQQQQ")
_ATTRIBUTE_COOPERATIVE, _ATTRIBUTE_CLUSTER = 2, 4
#: Attributes that only tune a real card: access policy, synchronisation policy, cluster preferences, programmatic
#: serialisation (without it a later kernel merely starts later), priority, memory domains, carveout.
_TUNING_ATTRIBUTES = {0, 1, 3, 5, 6, 8, 9, 10, 14}

Dim = tuple[int, int, int]


class Launch:
    """A launch, checked and ready: calling it runs the kernel."""

    __slots__ = ("_launch", "block", "function", "grid", "params", "shared")

    def __init__(
        self,
        launch: Callable[[Dim, Dim, int, int], None],
        function: Function,
        grid: Dim,
        block: Dim,
        shared: int,
        params: raw.Buffer,
    ) -> None:
        self._launch = launch
        self.function = function
        self.grid = grid
        self.block = block
        self.shared = shared
        self.params = params

    def __call__(self) -> None:
        self._launch(self.grid, self.block, self.shared, self.params.address)


class LaunchApi(FunctionApi):
    """``cuLaunchKernel*`` and ``cuOccupancy*``."""

    @entry
    def cuLaunchKernel(
        self,
        f: int,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: int,
        extra: int,
    ) -> None:
        stream = self.stream(hStream)
        function = self.function(f)
        run = launch_operation(
            function,
            (gridDimX, gridDimY, gridDimZ),
            (blockDimX, blockDimY, blockDimZ),
            sharedMemBytes,
            gather_params(function, kernelParams, extra),
        )
        stream.submit(NodeKind.KERNEL, run, params=run)

    @entry
    def cuLaunchCooperativeKernel(
        self,
        f: int,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: int,
    ) -> None:
        stream = self.stream(hStream)
        function = self.function(f)
        run = launch_operation(
            function,
            (gridDimX, gridDimY, gridDimZ),
            (blockDimX, blockDimY, blockDimZ),
            sharedMemBytes,
            gather_params(function, kernelParams, 0),
            cooperative=True,
        )
        stream.submit(NodeKind.KERNEL, run, params=run)

    @entry
    def cuLaunchKernelEx(self, config: int, f: int, kernelParams: int, extra: int) -> None:
        need(config)
        gx, gy, gz, bx, by, bz, shared, stream_handle, attributes, count = raw.unpack(_CONFIG, config)
        stream = self.stream(stream_handle)
        function = self.function(f)
        cooperative = _launch_attributes(attributes, count)
        run = launch_operation(
            function,
            (gx, gy, gz),
            (bx, by, bz),
            shared,
            gather_params(function, kernelParams, extra),
            cooperative=cooperative,
        )
        stream.submit(NodeKind.KERNEL, run, params=run)

    # ---- occupancy ----------------------------------------------------------------------------------------------

    @entry
    def cuOccupancyMaxActiveBlocksPerMultiprocessor(
        self, numBlocks: int, func: int, blockSize: int, dynamicSMemSize: int
    ) -> None:
        need(numBlocks)
        raw.write_i32(numBlocks, active_blocks(self.function(func), blockSize, dynamicSMemSize))

    @entry
    def cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        self, numBlocks: int, func: int, blockSize: int, dynamicSMemSize: int, flags: int
    ) -> None:
        need(numBlocks and flags in (0, 1))
        raw.write_i32(numBlocks, active_blocks(self.function(func), blockSize, dynamicSMemSize))

    @entry
    def cuOccupancyMaxPotentialBlockSize(
        self,
        minGridSize: int,
        blockSize: int,
        func: int,
        blockSizeToDynamicSMemSize: int,
        dynamicSMemSize: int,
        blockSizeLimit: int,
    ) -> None:
        self._potential(minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)

    @entry
    def cuOccupancyMaxPotentialBlockSizeWithFlags(
        self,
        minGridSize: int,
        blockSize: int,
        func: int,
        blockSizeToDynamicSMemSize: int,
        dynamicSMemSize: int,
        blockSizeLimit: int,
        flags: int,
    ) -> None:
        need(flags in (0, 1))
        self._potential(minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)

    def _potential(self, grid_out: int, block_out: int, func: int, shared_of: int, shared: int, limit: int) -> None:
        need(grid_out and block_out and limit >= 0)
        function = self.function(func)
        most = function.kernel.max_threads or card.MAX_THREADS
        if limit:
            most = min(most, limit)
        best, best_threads = 0, 0
        for size in range(max(most // card.WARP * card.WARP, 1), 0, -card.WARP):
            bytes_ = call_block_size(shared_of, size) if shared_of else shared
            threads = active_blocks(function, size, bytes_) * size
            if threads > best_threads:
                best, best_threads = size, threads
        raw.write_i32(block_out, best)
        raw.write_i32(grid_out, best_threads // best * self.spec.multiprocessors if best else 0)

    @entry
    def cuOccupancyAvailableDynamicSMemPerBlock(
        self, dynamicSmemSize: int, func: int, numBlocks: int, blockSize: int
    ) -> None:
        need(dynamicSmemSize and numBlocks > 0 and blockSize > 0)
        function = self.function(func)
        kernel = function.kernel
        need(numBlocks * blockSize <= card.THREADS_PER_MULTIPROCESSOR, "so many blocks do not fit")
        each = card.SHARED_PER_MULTIPROCESSOR // numBlocks - card.SHARED_RESERVED - kernel.static_shared
        raw.write_u64(dynamicSmemSize, max(min(each, function.max_dynamic_shared), 0))


def active_blocks(function: Function, block_size: int, dynamic_shared: int) -> int:
    """How many blocks of this size the stated card holds per multiprocessor."""
    need(block_size > 0 and dynamic_shared >= 0, f"block size {block_size}")
    kernel = function.kernel
    if block_size > (kernel.max_threads or card.MAX_THREADS):
        return 0
    threads = -(-block_size // card.WARP) * card.WARP
    by_threads = card.THREADS_PER_MULTIPROCESSOR // threads
    by_registers = card.REGISTERS // (threads * 32)
    shared = kernel.static_shared + dynamic_shared
    if shared > card.SHARED_OPTIN:
        return 0
    by_shared = card.SHARED_PER_MULTIPROCESSOR // (shared + card.SHARED_RESERVED)
    return int(min(by_threads, by_registers, by_shared, card.BLOCKS_PER_MULTIPROCESSOR))


def gather_params(function: Function, kernel_params: int, extra: int) -> raw.Buffer:
    """Copy a launch's parameters, from an array of pointers or from one buffer, into memory of their own."""
    kernel = function.kernel
    buffer = raw.Buffer(kernel.param_size)
    if not kernel.params:
        return buffer
    if extra:
        need(not kernel_params, "both kernelParams and extra")
        source, size = _extra_buffer(extra)
        offset, last = kernel.params[-1]
        if size > offset + last:
            raise CudaError(
                status.LAUNCH_OUT_OF_RESOURCES,
                f"{size} bytes of parameters; {kernel.name} takes {offset + last}",
            )
        # Fewer bytes are accepted, as by the driver; the rest is zero.
        raw.memmove(buffer.address, source, size)
        return buffer
    if not kernel_params:
        raise CudaError(status.INVALID_VALUE, f"{kernel.name} takes {len(kernel.params)} parameters")
    pointers = raw.read_array_u64(kernel_params, len(kernel.params))
    for pointer, (offset, size) in zip(pointers, kernel.params, strict=True):
        need(pointer, "a null parameter")
        raw.memmove(buffer.address + offset, pointer, size)
    return buffer


def _extra_buffer(extra: int) -> tuple[int, int]:
    """Read the ``extra`` list: (buffer, size)."""
    source = size = 0
    if raw.read_u64(extra) == _PARAM_BUFFER and raw.read_u64(extra + 16) == _PARAM_SIZE:
        _, source, _, size_at, end = raw.unpack(_USUAL_EXTRA, extra)
        if source and end == 0:
            return source, raw.read_u64(size_at)
        source = 0
    while key := raw.read_u64(extra):
        value = raw.read_u64(extra + 8)
        if key == _PARAM_BUFFER:
            source = value
        elif key == _PARAM_SIZE:
            size = raw.read_u64(value)
        else:
            raise CudaError(status.INVALID_VALUE, f"unknown entry {key} in extra")
        extra += 16
    need(source, "extra without a buffer")
    return source, size


def _launch_attributes(address: int, count: int) -> bool:
    """Read launch attributes; whether the launch is cooperative. What changes nothing here is accepted."""
    cooperative = False
    need(count == 0 or address)
    for index in range(count):
        at = address + index * _ATTRIBUTE_SIZE
        kind = raw.read_u32(at)
        if kind == _ATTRIBUTE_COOPERATIVE:
            cooperative = raw.read_i32(at + 8) != 0
        elif kind == _ATTRIBUTE_CLUSTER:
            need(
                raw.read_array_u32(at + 8, 3) == [1, 1, 1],
                "thread block clusters need compute capability 9.0",
                status.NOT_SUPPORTED,
            )
        else:
            need(kind in _TUNING_ATTRIBUTES, f"launch attribute {kind} is not supported", status.NOT_SUPPORTED)
    return cooperative


def launch_operation(
    function: Function, grid: Dim, block: Dim, shared: int, params: raw.Buffer, *, cooperative: bool = False
) -> Launch:
    """Check a launch against the card's and the kernel's limits and make its operation.

    Raises
    ------
    CudaError
        ``INVALID_VALUE`` beyond the card's limits or the kernel's.
    """
    kernel = function.kernel
    gx, gy, gz = grid
    bx, by, bz = block
    threads = bx * by * bz
    # On every launch: nothing is formatted unless something is wrong.
    if not (0 < gx <= _GRID_X and 0 < gy <= _GRID_Y and 0 < gz <= _GRID_Z):
        raise CudaError(status.INVALID_VALUE, f"grid {grid} of {kernel.name}")
    if not (0 < bx <= _BLOCK_X and 0 < by <= _BLOCK_Y and 0 < bz <= _BLOCK_Z and threads <= card.MAX_THREADS):
        raise CudaError(status.INVALID_VALUE, f"block {block} of {kernel.name}: {threads} threads")
    if threads > (kernel.max_threads or card.MAX_THREADS):
        raise CudaError(
            status.INVALID_VALUE, f"{kernel.name} allows blocks of {kernel.max_threads} threads, not {threads}"
        )
    required = required_block(kernel)
    if required is not None and block != required:
        raise CudaError(status.INVALID_VALUE, f"{kernel.name} requires blocks of {required}, not {block}")
    if not 0 <= shared <= function.max_dynamic_shared:
        raise CudaError(
            status.INVALID_VALUE,
            f"{shared} bytes of dynamic shared memory; {kernel.name} may use {function.max_dynamic_shared}",
        )
    launch = kernel.launch
    if cooperative:
        blocks = grid[0] * grid[1] * grid[2]
        most = active_blocks(function, threads, shared) * card.MULTIPROCESSORS
        need(blocks <= most, f"{blocks} blocks; {most} fit", status.COOPERATIVE_LAUNCH_TOO_LARGE)
        together = getattr(kernel, "launch_cooperative", None)
        if together is not None:
            launch = together
        elif blocks > 1:
            # A compiler that runs blocks one after another: a grid-wide barrier would wait for ever.
            raise CudaError(status.NOT_SUPPORTED, "cooperative launches of more than one block are not supported")
    return Launch(launch, function, grid, block, shared, params)
