"""Driver API: launches and occupancy."""

from __future__ import annotations

import struct

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.marshal import wire_function
from migproxy_plugins.cuda.memory_unsafe import (
    call_size_function,
    get_bytes,
    get_u32,
    put_i32,
    put_u64,
)
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api.launch import Cluster
from migproxy.session.api.streams import resolve

# CUlaunchConfig: gridDim x, y, z, blockDim x, y, z, sharedMemBytes, hStream, attrs, numAttrs
_CONFIG = struct.Struct("<7I4xQQI")
_ATTRIBUTE_SIZE = 72  # CUlaunchAttribute: id, pad to 8, value of 64 bytes
_ATTRIBUTE_VALUE = 8
_CLUSTER_LAUNCH = 120  # CUdevice_attribute

# CUlaunchAttributeID
_IGNORE = 0
_ACCESS_POLICY_WINDOW = 1
_COOPERATIVE = 2
_SYNCHRONIZATION_POLICY = 3
_CLUSTER_DIMENSION = 4
_CLUSTER_SCHEDULING_POLICY = 5
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_PROGRAMMATIC_EVENT = 7
_PRIORITY = 8
_MEM_SYNC_DOMAIN_MAP = 9
_MEM_SYNC_DOMAIN = 10
_PREFERRED_CLUSTER_DIMENSION = 11
_LAUNCH_COMPLETION_EVENT = 12
_DEVICE_UPDATABLE_KERNEL_NODE = 13
_PREFERRED_SHARED_MEMORY_CARVEOUT = 14
_NVLINK_UTIL_CENTRIC_SCHEDULING = 16

#: Hints: a launch is right without them. (Without programmatic serialization a kernel starts when the one before has
#: ended.)
_HINTS = frozenset(
    {
        _IGNORE,
        _ACCESS_POLICY_WINDOW,
        _SYNCHRONIZATION_POLICY,
        _PROGRAMMATIC_STREAM_SERIALIZATION,
        _PRIORITY,
        _MEM_SYNC_DOMAIN_MAP,
        _MEM_SYNC_DOMAIN,
        _PREFERRED_CLUSTER_DIMENSION,
        _PREFERRED_SHARED_MEMORY_CARVEOUT,
        _NVLINK_UTIL_CENTRIC_SCHEDULING,
    }
)


@serves()
def cuLaunchKernel(
    function: int,
    grid_x: int,
    grid_y: int,
    grid_z: int,
    block_x: int,
    block_y: int,
    block_z: int,
    shared: int,
    stream: int,
    parameters: int,
    extra: int,
) -> None:
    api.launch(function, (grid_x, grid_y, grid_z), (block_x, block_y, block_z), shared, stream, parameters, extra)


@serves()
def cuLaunchCooperativeKernel(
    function: int,
    grid_x: int,
    grid_y: int,
    grid_z: int,
    block_x: int,
    block_y: int,
    block_z: int,
    shared: int,
    stream: int,
    parameters: int,
) -> None:
    grid, block = (grid_x, grid_y, grid_z), (block_x, block_y, block_z)
    api.launch(function, grid, block, shared, stream, parameters, 0, cooperative=True)


def _attributes(address: int, count: int) -> tuple[bool, Cluster | None]:
    """Return whether the launch is cooperative, and its clusters; refuses what would change its meaning."""
    cooperative, size, policy = False, (1, 1, 1), 0
    for entry in range(address, address + _ATTRIBUTE_SIZE * count, _ATTRIBUTE_SIZE):
        kind, value = get_u32(entry), entry + _ATTRIBUTE_VALUE
        if kind == _COOPERATIVE:
            cooperative = bool(get_u32(value))
        elif kind == _CLUSTER_DIMENSION:
            size = get_u32(value), get_u32(value + 4), get_u32(value + 8)
        elif kind == _CLUSTER_SCHEDULING_POLICY:
            policy = get_u32(value)
        elif kind in (_PROGRAMMATIC_EVENT, _LAUNCH_COMPLETION_EVENT, _DEVICE_UPDATABLE_KERNEL_NODE):
            raise refuse("cuLaunchKernelEx", f"launch attribute {kind} is not supported")
        elif kind not in _HINTS:
            raise CudaError(st.INVALID_VALUE, f"launch attribute {kind}")
    if size == (1, 1, 1):
        return cooperative, None
    if not api.device_attribute(_CLUSTER_LAUNCH, 0):
        raise refuse("cuLaunchKernelEx", "the device has no thread block clusters")
    return cooperative, (*size, policy)


@serves()
def cuLaunchKernelEx(config: int, function: int, parameters: int, extra: int) -> None:
    gx, gy, gz, bx, by, bz, shared, stream, attributes, count = _CONFIG.unpack(get_bytes(config, _CONFIG.size))
    cooperative, cluster = _attributes(attributes, count) if count else (False, None)
    api.launch(function, (gx, gy, gz), (bx, by, bz), shared, stream, parameters, extra, cooperative, cluster)


@serves()
def cuLaunchCooperativeKernelMultiDevice(launches: int, count: int, flags: int) -> None:
    raise refuse("cuLaunchCooperativeKernelMultiDevice", "a session has one device")


def _active_blocks(function: int, block: int, shared: int, flags: int) -> int:
    arguments = (wire_function(function), block, shared, flags)
    status, outs = api.driver_call("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", arguments)
    if status:
        raise CudaError(status)
    return int(outs[0])


@serves()
def cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: int, function: int, block: int, shared: int) -> None:
    put_i32(blocks, _active_blocks(function, block, shared, 0))


@serves()
def cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: int, function: int, block: int, shared: int, flags: int
) -> None:
    put_i32(blocks, _active_blocks(function, block, shared, flags))


@serves()
def cuOccupancyMaxPotentialBlockSize(
    grid: int, block: int, function: int, shared_of_block: int, shared: int, limit: int
) -> None:
    cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared_of_block, shared, limit, 0)


@serves()
def cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: int, block: int, function: int, shared_of_block: int, shared: int, limit: int, flags: int
) -> None:
    # The callback that tells shared memory by block size lives in this process, so the search does too.
    warp = api.device_attribute(10, 0)
    greatest = min(api.function_attribute(function, 0), limit or 1 << 30, api.device_attribute(1, 0))
    best = (0, 0, 0)
    for size in range(greatest // warp * warp or greatest, 0, -warp):
        dynamic = call_size_function(shared_of_block, size) if shared_of_block else shared
        blocks = _active_blocks(function, size, dynamic, flags)
        if blocks * size > best[0]:
            best = (blocks * size, size, blocks)
        if best[0] >= api.device_attribute(39, 0):
            break
    if not best[0]:
        raise CudaError(st.INVALID_VALUE, "no block size fits")
    put_i32(block, best[1])
    put_i32(grid, best[2] * api.device_attribute(16, 0))


@serves()
def cuOccupancyAvailableDynamicSMemPerBlock(size: int, function: int, blocks: int, block: int) -> None:
    arguments = (wire_function(function), blocks, block)
    status, outs = api.driver_call("cuOccupancyAvailableDynamicSMemPerBlock", arguments)
    if status:
        raise CudaError(status)
    put_u64(size, int(outs[0]))


def _of_clusters(name: str, function: int, config: int) -> int:
    gx, gy, gz, bx, by, bz, shared, stream, attributes, count = _CONFIG.unpack(get_bytes(config, _CONFIG.size))
    cooperative, cluster = _attributes(attributes, count) if count else (False, None)
    sizes = [gx, gy, gz, bx, by, bz, shared]
    arguments = (wire_function(function), resolve(stream), sizes, list(cluster or (1, 1, 1, 0)), int(cooperative))
    status, outs = api.driver_call(name, arguments)
    if status:
        raise CudaError(status, name)
    return int(outs[0])


@serves()
def cuOccupancyMaxActiveClusters(clusters: int, function: int, config: int) -> None:
    put_i32(clusters, _of_clusters("cuOccupancyMaxActiveClusters", function, config))


@serves()
def cuOccupancyMaxPotentialClusterSize(size: int, function: int, config: int) -> None:
    put_i32(size, _of_clusters("cuOccupancyMaxPotentialClusterSize", function, config))
