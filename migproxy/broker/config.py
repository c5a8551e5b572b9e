"""What a broker is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: How long a kernel may keep a slice from everybody else if nobody says so.
SHARED_KERNEL_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """Caps per function, so that one tenant cannot exhaust the host.

    Attributes
    ----------
    sessions : int
        Sessions (processes) of one function at a time.
    arena_bytes : int
        Shared memory of all its sessions' arenas, which the driver pins.
    handles, modules, kernels : int
        Objects of all kinds, modules and libraries, kernels of them: what its executors keep for it; 0: no limit.
    shared : int
        Descriptors of device memory and events that one function's sessions share with others, which the broker keeps.
    connections : int
        Control connections of one uid.
    start_seconds : float
        How long an executor may take until it is ready.
    hello_seconds : float
        How long a fresh connection may stay silent.
    end_seconds : float
        How long an executor may take to report after its function is gone, before it is killed.
    wait_seconds : float
        How long a function may wait for room on a slice until it is refused.
    waiting : int
        Functions that may wait at a time.
    """

    sessions: int = 64
    arena_bytes: int = 16 << 30
    handles: int = 1 << 20
    modules: int = 1 << 14
    kernels: int = 1 << 16
    shared: int = 4096
    connections: int = 256
    start_seconds: float = 120.0
    hello_seconds: float = 10.0
    end_seconds: float = 0.5
    wait_seconds: float = 30.0
    waiting: int = 1024


@dataclass(frozen=True)
class SliceSettings:
    """Settings of one slice that differ from the broker's; empty: as the broker's."""

    mode: str = ""
    policy: str = ""


@dataclass(frozen=True)
class Unisolated:
    """A part of a device's memory that is a slice of its own: quota and lease, but no isolation by hardware."""

    device: str
    memory: int


@dataclass(frozen=True)
class BrokerConfig:
    """Settings of one broker.

    Attributes
    ----------
    socket : str
        Path of its control socket.
    devices : tuple of str
        What to serve; empty means ``auto``.
    software_memory : int
        Capacity of the software GPU; 0: half of the machine's memory, at most 16 GiB.
    default_memory : int
        Quota of a function that names none; 0: the whole slice for a private broker, else a quarter of it.
    max_memory : int
        Largest quota of one function; 0: the whole slice.
    heap_bytes : int
        Heap of a session's first arena segment.
    allow_uids : tuple of int
        Who may connect besides the broker's own uid.
    allow_all : bool
        Every uid may connect.
    private : bool
        Started for one run; ends with process `parent_pid`.
    plugins : tuple of str
        Plugins that executors serve; ``"*"``: all that are installed.
    executor_command : tuple of str
        Start of the executor's command line; ``--control-fd N`` is appended. Empty: this interpreter's ``-m
        migproxy.executor``.
    mode : str
        How functions share a slice: one of `migproxy.abi.lease.MODES`; empty: ``full_overlap`` for a private broker,
        whose one function need not wait for itself, otherwise ``overlap_cpu_memcpy``.
    policy : str
        Who computes next: one of `migproxy.scheduler.policy.POLICIES`.
    max_priority : int
        Highest priority that a function may give itself, for the policy ``priority``; lower ones may be negative.
    kernel_seconds : float
        How long a kernel may run until it counts as hung; 0: for ever. Negative: 60 s where one function computes at a
        time, so that nobody else does meanwhile, else for ever; see `patience`.
    usage_seconds : float
        How often NVML's count of each executor's memory is held against its function's quota; 0: never.
    slices : mapping of str to SliceSettings
        By slice.
    unisolated_slices : mapping of str to Unisolated
        Slices by name that take the place of the devices they are parts of.
    warm : int
        Executors kept ready for each slice, started before a function asks for one; negative: one for each GPU or MIG
        slice, none for the software GPU.
    metrics_port : int
        Port on 127.0.0.1 for Prometheus; 0: none.
    executor_uid : int
        Run executors as this uid and gid, if the broker is root; 0: as the broker's own.
    cache_dir : str
        Where executors keep compiled kernels; empty: nowhere.
    log_file : str
        Where log lines are appended too, besides memory.
    """

    socket: str
    devices: tuple[str, ...] = ()
    software_memory: int = 0
    default_memory: int = 0
    max_memory: int = 0
    heap_bytes: int = 16 << 20
    allow_uids: tuple[int, ...] = ()
    allow_all: bool = False
    private: bool = False
    parent_pid: int = 0
    plugins: tuple[str, ...] = ("cuda", "cupy", "numba")
    executor_command: tuple[str, ...] = ()
    mode: str = ""
    policy: str = "gpu_time"
    max_priority: int = 0
    kernel_seconds: float = -1.0
    usage_seconds: float = 2.0
    slices: Mapping[str, SliceSettings] = field(default_factory=dict)
    unisolated_slices: Mapping[str, Unisolated] = field(default_factory=dict)
    warm: int = -1
    metrics_port: int = 0
    executor_uid: int = 0
    cache_dir: str = ""
    log_file: str = ""
    limits: Limits = field(default_factory=Limits)

    def patience(self, *, leased: bool) -> float:
        """Return the seconds that a kernel may run, on a slice whose functions take turns (`leased`) or compute at
        once; 0: for ever."""
        if self.kernel_seconds >= 0:
            return self.kernel_seconds
        return SHARED_KERNEL_SECONDS if leased else 0.0
