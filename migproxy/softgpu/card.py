"""The stated virtual card: what the software GPU says it is.

It says compute capability 8.0, because NVRTC 12 and 13, NVVM and CuPy all know it, and because it is the highest one
whose PTX, without tensor cores, has no cluster or bulk-copy instructions. Sizes that only tune a real card (caches,
clocks) have an A100's flavour; sizes that programs compute with (threads, shared memory, grid) are the ones that the
driver enforces.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from migproxy.errors import CudaError, UsageError

NAME = "migproxy software GPU"
MIB = 1 << 20
GIB = 1 << 30
GRANULARITY = 2 * MIB
WARP = 32
MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
SHARED_PER_BLOCK = 48 * 1024
SHARED_OPTIN = 163 * 1024
SHARED_PER_MULTIPROCESSOR = 164 * 1024
SHARED_RESERVED = 1024
THREADS_PER_MULTIPROCESSOR = 2048
BLOCKS_PER_MULTIPROCESSOR = 32
REGISTERS = 65536
MULTIPROCESSORS = 16
CONST_MEMORY = 65536
PITCH_ALIGNMENT = 512
MAX_PITCH = 2**31 - 1
DRIVER_VERSIONS = (12090, 13000)

_SIZE = re.compile(r"(?i)\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$")


def parse_size(text: str, what: str) -> int:
    """Read a size such as ``4GiB``, ``512M`` or ``1073741824``."""
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f"{what}={text!r} is not a size; write for example 4GiB or 512MiB")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def _count(text: str, what: str, low: int, high: int) -> int:
    if not text.strip().isdigit() or not low <= int(text) <= high:
        raise UsageError(f"{what}={text!r} is not a number from {low} to {high}")
    return int(text)


@dataclass(frozen=True)
class CardSpec:
    """How many software devices there are, and of what kind.

    Attributes
    ----------
    devices : int
        Number of devices.
    memory : int
        Bytes of memory of each, a multiple of 2 MiB.
    capability : tuple of int
        Compute capability (major, minor).
    driver_version : int
        What ``cuDriverGetVersion`` says.
    """

    devices: int = 1
    memory: int = field(default_factory=lambda: default_memory())
    capability: tuple[int, int] = (8, 0)
    driver_version: int = DRIVER_VERSIONS[-1]
    multiprocessors: int = MULTIPROCESSORS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> CardSpec:
        """Read MIGPROXY_SOFTGPU_MEMORY, _DEVICES, _CAPABILITY and _DRIVER_VERSION."""
        values = os.environ if environment is None else environment
        spec: dict[str, int | tuple[int, int]] = {}
        if text := values.get("MIGPROXY_SOFTGPU_MEMORY"):
            memory = parse_size(text, "MIGPROXY_SOFTGPU_MEMORY") // GRANULARITY * GRANULARITY
            if memory < 16 * MIB:
                raise UsageError(f"MIGPROXY_SOFTGPU_MEMORY={text!r} is below the least card, 16MiB")
            spec["memory"] = memory
        if text := values.get("MIGPROXY_SOFTGPU_DEVICES"):
            spec["devices"] = _count(text, "MIGPROXY_SOFTGPU_DEVICES", 1, 64)
        if text := values.get("MIGPROXY_SOFTGPU_CAPABILITY"):
            match = re.fullmatch(r"(\d+)\.(\d)", text.strip())
            if match is None:
                raise UsageError(f"MIGPROXY_SOFTGPU_CAPABILITY={text!r} is not of the form 8.0")
            spec["capability"] = (int(match[1]), int(match[2]))
        if text := values.get("MIGPROXY_SOFTGPU_DRIVER_VERSION"):
            spec["driver_version"] = _count(text, "MIGPROXY_SOFTGPU_DRIVER_VERSION", 12000, 13999)
        return cls(**spec)  # type: ignore[arg-type]


def default_memory() -> int:
    """Memory of a card that nobody chose a size for: half of this machine's, at most 16 GiB.

    The same as the broker's default capacity of a software slice, so that its quotas fit on the card.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(min(physical // 2, 16 * GIB) // GRANULARITY * GRANULARITY, 16 * MIB)


def device_uuid(ordinal: int) -> bytes:
    """The 16 bytes of a device's UUID: always the same for an ordinal, so that a test can name a device."""
    return hashlib.blake2b(f"{NAME} {ordinal}".encode(), digest_size=16).digest()


def pci_bus_id(ordinal: int) -> str:
    """A PCI id that no real machine uses: domain 0xFFFF's neighbour, one bus per device."""
    return f"FFFE:{ordinal + 1:02X}:00.0"


@dataclass
class Device:
    """One device: its place among the others, and the memory it has given out."""

    ordinal: int
    spec: CardSpec
    used: int = 0
    #: The first fault of any context: as on a GPU, this process gets no new context on the device after it.
    fault: CudaError | None = None
    attributes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attributes = _attributes(self.spec, self.ordinal)

    @property
    def total(self) -> int:
        return self.spec.memory

    @property
    def name(self) -> str:
        return NAME


def _attributes(spec: CardSpec, ordinal: int) -> dict[int, int]:
    """Every ``CUdevice_attribute`` by number; the comment is the end of its name in cuda.h."""
    major, minor = spec.capability
    return {
        1: MAX_THREADS,  # MAX_THREADS_PER_BLOCK
        2: MAX_BLOCK[0],  # MAX_BLOCK_DIM_X
        3: MAX_BLOCK[1],  # MAX_BLOCK_DIM_Y
        4: MAX_BLOCK[2],  # MAX_BLOCK_DIM_Z
        5: MAX_GRID[0],  # MAX_GRID_DIM_X
        6: MAX_GRID[1],  # MAX_GRID_DIM_Y
        7: MAX_GRID[2],  # MAX_GRID_DIM_Z
        8: SHARED_PER_BLOCK,  # MAX_SHARED_MEMORY_PER_BLOCK
        9: CONST_MEMORY,  # TOTAL_CONSTANT_MEMORY
        10: WARP,  # WARP_SIZE
        11: MAX_PITCH,  # MAX_PITCH
        12: REGISTERS,  # MAX_REGISTERS_PER_BLOCK
        13: 1_000_000,  # CLOCK_RATE, kHz
        14: 512,  # TEXTURE_ALIGNMENT
        15: 1,  # GPU_OVERLAP
        16: spec.multiprocessors,  # MULTIPROCESSOR_COUNT
        17: 0,  # KERNEL_EXEC_TIMEOUT
        18: 0,  # INTEGRATED
        19: 1,  # CAN_MAP_HOST_MEMORY
        20: 0,  # COMPUTE_MODE
        21: 131072,  # MAXIMUM_TEXTURE1D_WIDTH
        22: 131072,  # MAXIMUM_TEXTURE2D_WIDTH
        23: 65536,  # MAXIMUM_TEXTURE2D_HEIGHT
        24: 16384,  # MAXIMUM_TEXTURE3D_WIDTH
        25: 16384,  # MAXIMUM_TEXTURE3D_HEIGHT
        26: 16384,  # MAXIMUM_TEXTURE3D_DEPTH
        27: 32768,  # MAXIMUM_TEXTURE2D_LAYERED_WIDTH
        28: 32768,  # MAXIMUM_TEXTURE2D_LAYERED_HEIGHT
        29: 2048,  # MAXIMUM_TEXTURE2D_LAYERED_LAYERS
        30: 512,  # SURFACE_ALIGNMENT
        31: 1,  # CONCURRENT_KERNELS
        32: 0,  # ECC_ENABLED
        33: ordinal + 1,  # PCI_BUS_ID
        34: 0,  # PCI_DEVICE_ID
        35: 0,  # TCC_DRIVER
        36: 1_000_000,  # MEMORY_CLOCK_RATE, kHz
        37: 128,  # GLOBAL_MEMORY_BUS_WIDTH, bits
        38: 32 * MIB,  # L2_CACHE_SIZE
        39: THREADS_PER_MULTIPROCESSOR,  # MAX_THREADS_PER_MULTIPROCESSOR
        40: 2,  # ASYNC_ENGINE_COUNT
        41: 1,  # UNIFIED_ADDRESSING
        42: 32768,  # MAXIMUM_TEXTURE1D_LAYERED_WIDTH
        43: 2048,  # MAXIMUM_TEXTURE1D_LAYERED_LAYERS
        44: 1,  # CAN_TEX2D_GATHER
        45: 32768,  # MAXIMUM_TEXTURE2D_GATHER_WIDTH
        46: 32768,  # MAXIMUM_TEXTURE2D_GATHER_HEIGHT
        47: 8192,  # MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE
        48: 8192,  # MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE
        49: 32768,  # MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE
        50: 0xFFFE,  # PCI_DOMAIN_ID
        51: 32,  # TEXTURE_PITCH_ALIGNMENT
        52: 32768,  # MAXIMUM_TEXTURECUBEMAP_WIDTH
        53: 32768,  # MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH
        54: 2046,  # MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
        55: 32768,  # MAXIMUM_SURFACE1D_WIDTH
        56: 131072,  # MAXIMUM_SURFACE2D_WIDTH
        57: 65536,  # MAXIMUM_SURFACE2D_HEIGHT
        58: 16384,  # MAXIMUM_SURFACE3D_WIDTH
        59: 16384,  # MAXIMUM_SURFACE3D_HEIGHT
        60: 16384,  # MAXIMUM_SURFACE3D_DEPTH
        61: 32768,  # MAXIMUM_SURFACE1D_LAYERED_WIDTH
        62: 2048,  # MAXIMUM_SURFACE1D_LAYERED_LAYERS
        63: 32768,  # MAXIMUM_SURFACE2D_LAYERED_WIDTH
        64: 32768,  # MAXIMUM_SURFACE2D_LAYERED_HEIGHT
        65: 2048,  # MAXIMUM_SURFACE2D_LAYERED_LAYERS
        66: 32768,  # MAXIMUM_SURFACECUBEMAP_WIDTH
        67: 32768,  # MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH
        68: 2046,  # MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS
        69: 268435456,  # MAXIMUM_TEXTURE1D_LINEAR_WIDTH
        70: 131072,  # MAXIMUM_TEXTURE2D_LINEAR_WIDTH
        71: 65000,  # MAXIMUM_TEXTURE2D_LINEAR_HEIGHT
        72: 2097120,  # MAXIMUM_TEXTURE2D_LINEAR_PITCH
        73: 32768,  # MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH
        74: 32768,  # MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT
        75: major,  # COMPUTE_CAPABILITY_MAJOR
        76: minor,  # COMPUTE_CAPABILITY_MINOR
        77: 32768,  # MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
        78: 1,  # STREAM_PRIORITIES_SUPPORTED
        79: 1,  # GLOBAL_L1_CACHE_SUPPORTED
        80: 1,  # LOCAL_L1_CACHE_SUPPORTED
        81: SHARED_PER_MULTIPROCESSOR,  # MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82: REGISTERS,  # MAX_REGISTERS_PER_MULTIPROCESSOR
        83: 1,  # MANAGED_MEMORY
        84: 0,  # MULTI_GPU_BOARD
        85: ordinal,  # MULTI_GPU_BOARD_GROUP_ID
        86: 1,  # HOST_NATIVE_ATOMIC_SUPPORTED
        87: 2,  # SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        88: 0,  # PAGEABLE_MEMORY_ACCESS
        89: 1,  # CONCURRENT_MANAGED_ACCESS
        90: 0,  # COMPUTE_PREEMPTION_SUPPORTED
        91: 1,  # CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        92: 0,  # CAN_USE_STREAM_MEM_OPS_V1
        93: 0,  # CAN_USE_64_BIT_STREAM_MEM_OPS_V1
        94: 0,  # CAN_USE_STREAM_WAIT_VALUE_NOR_V1
        95: 1,  # COOPERATIVE_LAUNCH
        96: 0,  # COOPERATIVE_MULTI_DEVICE_LAUNCH
        97: SHARED_OPTIN,  # MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        98: 0,  # CAN_FLUSH_REMOTE_WRITES
        99: 1,  # HOST_REGISTER_SUPPORTED
        100: 0,  # PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
        101: 0,  # DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
        102: 1,  # VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        103: 0,  # HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
        104: 0,  # HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
        105: 0,  # HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
        106: BLOCKS_PER_MULTIPROCESSOR,  # MAX_BLOCKS_PER_MULTIPROCESSOR
        107: 0,  # GENERIC_COMPRESSION_SUPPORTED
        108: 0,  # MAX_PERSISTING_L2_CACHE_SIZE
        109: 0,  # MAX_ACCESS_POLICY_WINDOW_SIZE
        110: 0,  # GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
        111: SHARED_RESERVED,  # RESERVED_SHARED_MEMORY_PER_BLOCK
        112: 0,  # SPARSE_CUDA_ARRAY_SUPPORTED
        113: 1,  # READ_ONLY_HOST_REGISTER_SUPPORTED
        114: 0,  # TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
        115: 1,  # MEMORY_POOLS_SUPPORTED
        116: 0,  # GPU_DIRECT_RDMA_SUPPORTED
        117: 0,  # GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS
        118: 0,  # GPU_DIRECT_RDMA_WRITES_ORDERING
        119: 0,  # MEMPOOL_SUPPORTED_HANDLE_TYPES
        120: 0,  # CLUSTER_LAUNCH
        121: 0,  # DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
        122: 1,  # CAN_USE_64_BIT_STREAM_MEM_OPS
        123: 1,  # CAN_USE_STREAM_WAIT_VALUE_NOR
        124: 0,  # DMA_BUF_SUPPORTED
        125: 0,  # IPC_EVENT_SUPPORTED
        126: 1,  # MEM_SYNC_DOMAIN_COUNT
        127: 0,  # TENSOR_MAP_ACCESS_SUPPORTED
        128: 0,  # HANDLE_TYPE_FABRIC_SUPPORTED
        129: 0,  # UNIFIED_FUNCTION_POINTERS
        130: 0,  # NUMA_CONFIG
        131: -1,  # NUMA_ID
        132: 0,  # MULTICAST_SUPPORTED
        133: 0,  # MPS_ENABLED
        134: -1,  # HOST_NUMA_ID
        135: 0,  # D3D12_CIG_SUPPORTED
        136: 0,  # MEM_DECOMPRESS_ALGORITHM_MASK
        137: 0,  # MEM_DECOMPRESS_MAXIMUM_LENGTH
        138: 0,  # VULKAN_CIG_SUPPORTED
        139: 0,  # GPU_PCI_DEVICE_ID
        140: 0,  # GPU_PCI_SUBSYSTEM_ID
        141: 0,  # HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        142: 0,  # HOST_NUMA_MEMORY_POOLS_SUPPORTED
        143: 0,  # HOST_NUMA_MULTINODE_IPC_SUPPORTED
        144: 0,  # HOST_MEMORY_POOLS_SUPPORTED
        145: 0,  # HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        146: 0,  # HOST_ALLOC_DMA_BUF_SUPPORTED
        147: 0,  # ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED
        148: 0,  # ATOMIC_REDUCTION_SUPPORTED
        149: 0,
        150: 0,
        151: 0,  # D3D12_CIG_STREAMS_SUPPORTED
        152: 0,  # DMA_BUF_MMAP_SUPPORTED
        153: 0,  # LOGICAL_ENDPOINT_UNICAST_SUPPORTED
        154: 0,  # LOGICAL_ENDPOINT_MULTICAST_SUPPORTED
        155: 0,  # LOGICAL_ENDPOINT_COUNTED_OPS_SUPPORTED
        156: 0,  # LOGICAL_ENDPOINT_UNICAST_ACCESS_ON_OWNER_DEVICE_SUPPORTED
    }
