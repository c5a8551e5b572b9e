"""What the parts of the software driver share: handles, contexts, and the shape of a driver entry.

`DriverBase` is the state; each ``*Api`` class adds the driver functions of one area, and `SoftCuda` joins them.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu.address_space import AddressSpace
from migproxy.softgpu.card import MIB, CardSpec, Device

if TYPE_CHECKING:
    from migproxy.softgpu.streams import Stream

P = ParamSpec("P")
S = TypeVar("S", bound="DriverBase")
T = TypeVar("T")


@runtime_checkable
class Kernel(Protocol):
    """What the driver needs of a compiled kernel (see `migproxy.softgpu.ptx`)."""

    name: str
    params: list[tuple[int, int]]
    param_size: int
    static_shared: int
    max_threads: int
    local_bytes: int
    const_bytes: int

    def launch(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], dynamic_shared: int, params_address: int
    ) -> None: ...


class LoadedModule(Protocol):
    kernels: dict[str, Any]
    globals: dict[str, tuple[int, int]]
    #: What kernels may access, for check mode; the driver sets it.
    bounds: Callable[[], list[tuple[int, int, int]]] | None


class Engine(Protocol):
    """The PTX compiler; the package `migproxy.softgpu.ptx` is one."""

    def load_module(self, image: bytes, *, place_global: Callable[[str, int, int], int]) -> LoadedModule: ...

    def load_modules(self, images: list[bytes], *, place_global: Callable[[str, int, int], int]) -> LoadedModule: ...


def entry(function: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], int]:
    """Make a driver function: it returns 0, or the status of the `CudaError` that ``function`` raises."""

    @functools.wraps(function)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> int:
        try:
            if not self.initialised:
                return status.NOT_INITIALIZED
            function(self, *args, **kwargs)
        except CudaError as error:
            self.last_error_detail = error.detail
            return error.status
        return 0

    return call


def entry_before_init(function: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], int]:
    """`entry` for the few functions that work before ``cuInit``."""

    @functools.wraps(function)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> int:
        try:
            function(self, *args, **kwargs)
        except CudaError as error:
            self.last_error_detail = error.detail
            return error.status
        return 0

    return call


def need(condition: object, detail: str = "", code: int = status.INVALID_VALUE) -> None:
    """Fail the call with ``code`` unless ``condition``."""
    if not condition:
        raise CudaError(code, detail)


def signed32(value: int) -> int:
    """A C ``int`` argument that may come as the 64-bit word of its register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


class Handles:
    """Handles of all kinds: never reused, so that a stale one is an error and not another object."""

    # Above the addresses that user space can have: a handle used as a pointer faults.
    _FIRST = 0x0001_5347_0000_0000

    def __init__(self) -> None:
        self._next = itertools.count(self._FIRST, 16)
        self._objects: dict[int, object] = {}

    def add(self, item: object) -> int:
        handle = next(self._next)
        self._objects[handle] = item
        return handle

    def get(self, handle: int, kind: type[T], code: int = status.INVALID_HANDLE) -> T:
        item = self._objects.get(handle)
        if not isinstance(item, kind):
            raise CudaError(code, f"{handle:#x} is not a {kind.__name__.lower()}")
        return item

    def find(self, handle: int) -> object | None:
        return self._objects.get(handle)

    def drop(self, handle: int) -> None:
        self._objects.pop(handle, None)

    def items_of_kind(self, kind: type[T]) -> list[tuple[int, T]]:
        return [(handle, item) for handle, item in list(self._objects.items()) if isinstance(item, kind)]

    def of_kind(self, kind: type[T]) -> list[T]:
        return [item for item in list(self._objects.values()) if isinstance(item, kind)]


class Context:
    """A CUDA context: a device, its streams, its limits, and at most one fault, which stays."""

    device: Device
    flags: int

    _ids = itertools.count(1)

    def __init__(self, device: Device, flags: int, *, primary: bool) -> None:
        self.device = device
        self.primary = primary
        self.id = next(self._ids)
        self.handle = 0
        self.renew(flags)

    def renew(self, flags: int) -> None:
        """Start it, for the first time or, a primary one, again."""
        self.flags = flags
        self.alive = True
        self.fault: CudaError | None = None
        #: Held while operations are numbered, so that the default stream's order against the others is one order.
        self.lock = threading.RLock()
        self.streams: list[Stream] = []
        self.legacy: Stream | None = None
        self.per_thread: dict[int, Stream] = {}
        self.cache_config = 0
        self.shared_config = 0
        self.peers: set[int] = set()
        self.limits = {0: 1024, 1: MIB, 2: 8 * MIB, 3: 2, 4: 2048, 5: 64, 6: 0}

    def set_fault(self, fault: CudaError) -> None:
        with self.lock:
            if self.fault is None:
                self.fault = fault
            if self.device.fault is None:
                self.device.fault = fault
        if fault.status == status.ASSERT:
            print(fault.detail, file=_stderr(), flush=True)

    def check(self) -> None:
        """Fail with the context's fault, if it has one: it is sticky, as on a GPU."""
        if not self.alive:
            raise CudaError(status.CONTEXT_IS_DESTROYED)
        if self.fault is not None:
            raise CudaError(self.fault.status, self.fault.detail)


def _stderr() -> Any:
    import sys

    return sys.stderr


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.stack: list[Context] = []
        self.capture_mode = 0


class DriverBase:
    """State of one loaded software driver."""

    def __init__(self, spec: CardSpec | None = None, engine: Engine | None = None) -> None:
        self.spec = spec if spec is not None else CardSpec.from_environment()
        self.initialised = False
        self.last_error_detail = ""
        #: How often each function that the driver does not have was asked for.
        self.unsupported: Counter[str] = Counter()
        self.devices = [Device(ordinal, self.spec) for ordinal in range(self.spec.devices)]
        self.handles = Handles()
        self.space = AddressSpace()
        self.primary: dict[int, Context] = {}
        self.primary_flags: dict[int, int] = {}
        self.primary_references: dict[int, int] = {}
        self.lock = threading.RLock()
        self._engine = engine
        self._thread = _PerThread()

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            # Late: the compiler loads LLVM, which a session that only copies never needs.
            from migproxy.softgpu import ptx

            self._engine = cast("Engine", ptx)
        return self._engine

    def device(self, ordinal: int) -> Device:
        if not 0 <= ordinal < len(self.devices):
            raise CudaError(status.INVALID_DEVICE, f"there is no device {ordinal}")
        return self.devices[ordinal]

    @property
    def context_stack(self) -> list[Context]:
        """The calling thread's stack of contexts; the last one is current."""
        return self._thread.stack

    def swap_capture_mode(self, mode: int) -> int:
        """Set the calling thread's capture interaction mode; the one before."""
        before, self._thread.capture_mode = self._thread.capture_mode, mode
        return before

    def current(self) -> Context | None:
        stack = self._thread.stack
        return stack[-1] if stack else None

    def context(self) -> Context:
        """The current context, healthy; otherwise the call fails."""
        stack = self._thread.stack
        if not stack:
            raise CudaError(status.INVALID_CONTEXT, "this thread has no current context")
        context = stack[-1]
        if context.fault is not None or not context.alive:
            context.check()
        return context
