"""The driver object: what Triton asks of a device, answered by the session.

Triton's own driver compiles a C module against libcuda, which a function does not have. It is never made here: the
driver that Triton uses is `SessionDriver`.
"""

from __future__ import annotations

import ctypes
import statistics
import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar

from migproxy.errors import CudaError, MigproxyError
from migproxy.session import api

# CUdevice_attribute
_MAX_SHARED_PER_BLOCK = 8
_WARP_SIZE = 10
_MAX_REGISTERS = 12
_CLOCK_RATE = 13
_MULTIPROCESSORS = 16
_MEMORY_CLOCK_RATE = 36
_MEMORY_BUS_WIDTH = 37
_SHARED_OPTIN = 97
# CUfunction_attribute
_MAX_THREADS = 0
_STATIC_SHARED = 1
_LOCAL_BYTES = 3
_REGISTERS = 4
_MAX_DYNAMIC_SHARED = 8

_SHARED_WITHOUT_ASKING = 48 << 10
#: Bytes written between two runs that are timed, so that none finds its data in the L2 cache.
_FLUSHED = 256 << 20

#: Triton's names of types → struct's; pointers are ``*…``.
_FORMATS = {
    "i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q",
    "u1": "B", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "fp16": "e", "fp32": "f", "f32": "f", "fp64": "d",
}  # fmt: skip
Value = Any


class TritonError(RuntimeError):
    """What Triton raises for a CUDA error; its own driver's message has this form."""


def _failure(error: Exception) -> TritonError:
    status = error.status if isinstance(error, CudaError) else None
    made = TritonError(f"Triton Error [CUDA]: {_MESSAGES.get(status, str(error))}")
    made.__cause__ = error
    return made


_MESSAGES = {
    1: "invalid argument",
    2: "out of memory",
    209: "no kernel image is available for execution on the device",
    218: "a PTX JIT compilation failed",
    500: "named symbol not found",
    700: "an illegal memory access was encountered",
    701: "too many resources requested for launch",
    719: "unspecified launch failure",
    801: "operation not supported",
}


def _pack_bfloat16(buffer: bytearray, offset: int, value: float) -> None:
    """Write the upper half of a float, rounded to the nearest, ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    rounded = bits if value != value else bits + 0x7FFF + ((bits >> 16) & 1)
    struct.pack_into("<H", buffer, offset, (rounded >> 16) & 0xFFFF)


def address_of(value: Value) -> int:
    """Return the address that a pointer argument means.

    Raises
    ------
    TypeError
        As Triton's own driver for what is none.
    """
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    pointer = getattr(value, "data_ptr", None)
    if pointer is None:
        raise TypeError("Pointer argument must be either uint64 or have data_ptr method")
    return int(pointer())


class Utilities:
    """What Triton calls its driver's ``utils``."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Return what decides whether a kernel fits."""
        attribute = api.device_attribute
        shared = attribute(_SHARED_OPTIN, device) or attribute(_MAX_SHARED_PER_BLOCK, device)
        return {
            "max_shared_mem": shared,
            "max_num_regs": attribute(_MAX_REGISTERS, device),
            "multiprocessor_count": attribute(_MULTIPROCESSORS, device),
            "warpSize": attribute(_WARP_SIZE, device),
            "sm_clock_rate": attribute(_CLOCK_RATE, device),
            "mem_clock_rate": attribute(_MEMORY_CLOCK_RATE, device),
            "mem_bus_width": attribute(_MEMORY_BUS_WIDTH, device),
        }

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Load a kernel; return module, function, registers, spilled words, and threads that a block may have."""
        try:
            api.ensure_context()
            module = api.module_load(kernel)
            function = api.module_function(module, name.encode())
            optin = api.device_attribute(_SHARED_OPTIN, device)
            if shared > _SHARED_WITHOUT_ASKING and optin > _SHARED_WITHOUT_ASKING:
                static = api.function_attribute(function, _STATIC_SHARED)
                api.function_set_attribute(function, _MAX_DYNAMIC_SHARED, optin - static)
            registers = api.function_attribute(function, _REGISTERS)
            spilled = api.function_attribute(function, _LOCAL_BYTES) // 4
            return module, function, registers, spilled, api.function_attribute(function, _MAX_THREADS)
        except MigproxyError as error:
            raise _failure(error) from error

    def unload_module(self, module: int) -> None:
        """Unload a module; once the session ended there is none."""
        try:
            api.module_unload(module)
        except MigproxyError:
            return

    def get_current_device(self) -> int:
        """A session has one device."""
        return 0

    def set_current_device(self, device: int) -> None:
        """Make the device current."""
        if device:
            raise TritonError("Triton Error [CUDA]: invalid device ordinal")
        api.ensure_context()

    def get_device_capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability."""
        return api.compute_capability(device)

    def get_default_stream(self, device: int) -> int:
        """The legacy default stream."""
        return 0

    def is_stream_capturing(self, stream: int) -> bool:
        """Tell whether a stream is being captured."""
        return api.stream_capture_status(stream) == 1

    def __getattr__(self, name: str) -> Any:
        # Tensor maps, clusters and the like: the driver API refuses them by name, too.
        raise NotImplementedError(f"triton's {name} is refused by name: migproxy does not carry it")


class Launcher:
    """Launches one compiled kernel.

    Parameters
    ----------
    src : object
        Triton's source: the arguments' types, and which are constants.
    metadata : object
        Triton's facts of the compiled kernel.
    """

    def __init__(self, src: Any, metadata: Any) -> None:
        for refused, what in (
            (metadata.num_ctas != 1, "clusters (num_ctas > 1)"),
            (getattr(metadata, "tensordesc_meta", None), "tensor descriptors (TMA)"),
            (any("tensordesc" in str(kind) for kind in src.signature.values()), "tensor descriptors"),
        ):
            if refused:
                raise NotImplementedError(f"{what} are refused by name: migproxy does not carry them")
        self._kinds = list(src.signature.values())
        self._threads = metadata.num_warps * metadata.warp_size
        self._shared = metadata.shared
        self._cooperative = bool(metadata.launch_cooperative_grid)
        self._scratch = metadata.global_scratch_size, metadata.global_scratch_align
        self._profile = getattr(metadata, "profile_scratch_size", 0)
        self._layouts: dict[int, list[tuple[int, int]]] = {}

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: int,
        kernel_metadata: Any,
        launch_metadata: Any,
        enter_hook: Callable[[Any], None] | None,
        exit_hook: Callable[[Any], None] | None,
        *arguments: Value,
    ) -> None:
        if enter_hook is not None:
            enter_hook(launch_metadata)
        if grid_x * grid_y * grid_z > 0:
            blocks = grid_x * grid_y * grid_z
            kept = self._allocate(blocks, stream)
            values = [*_flatten(self._kinds, arguments), ("*i8", kept), ("*i8", None)]
            try:
                self._launch((grid_x, grid_y, grid_z), stream, function, values)
            except MigproxyError as error:
                raise _failure(error) from error
        if exit_hook is not None:
            exit_hook(launch_metadata)

    def _allocate(self, blocks: int, stream: int) -> Any:
        """Return the kernel's scratch memory from the allocator that the program gave Triton."""
        size, align = self._scratch
        if self._profile:
            raise NotImplementedError("kernels that are instrumented are refused by name: migproxy does not carry them")
        if not size:
            return None
        from triton.runtime import _allocation

        return _allocation._allocator.get()(blocks * size, align, stream)

    def _launch(self, grid: tuple[int, int, int], stream: int, function: int, values: list[tuple[str, Value]]) -> None:
        layout = self._layouts.get(function)
        if layout is None:
            layout = self._layouts[function] = list(api.function_parameters(function))
        size = layout[-1][0] + layout[-1][1] if layout else 0
        packed = bytearray(size)
        # Older releases pass less scratch than newer ones: what the kernel has no parameter for is left out.
        for (offset, _), (kind, value) in zip(layout, values, strict=False):
            _pack(packed, offset, kind, value)
        buffer = (ctypes.c_char * max(size, 1)).from_buffer(packed or bytearray(1))
        length = ctypes.c_size_t(size)
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(length), 0)
        api.launch(
            function,
            grid,
            (self._threads, 1, 1),
            self._shared,
            stream,
            0,
            ctypes.addressof(extra),
            cooperative=self._cooperative,
        )


def _flatten(kinds: Sequence[Any], values: Sequence[Value]) -> list[tuple[str, Value]]:
    """Return the parameters with their types: tuples laid flat, constants left out."""
    found: list[tuple[str, Value]] = []
    for kind, value in zip(kinds, values, strict=True):
        if isinstance(kind, tuple):
            found += _flatten(kind, value)
        elif kind != "constexpr":
            found.append((kind, value))
    return found


def _pack(buffer: bytearray, offset: int, kind: str, value: Value) -> None:
    if kind[0] == "*":
        struct.pack_into("<Q", buffer, offset, address_of(value))
    elif kind == "bf16":
        _pack_bfloat16(buffer, offset, value)
    else:
        form = _FORMATS.get(kind)
        if form is None:
            raise NotImplementedError(f"arguments of type {kind} are refused by name: migproxy does not carry them")
        try:
            struct.pack_into("<" + form, buffer, offset, value)
        except struct.error as error:
            raise OverflowError(f"{value!r} does not fit {kind}") from error


class SessionDriver:
    """Triton's driver for the session's device."""

    launcher_cls: ClassVar[type[Launcher]] = Launcher

    def __init__(self) -> None:
        self.utils = Utilities()

    @staticmethod
    def is_active() -> bool:
        """A function's device is the session's."""
        return True

    def get_current_target(self) -> Any:
        """Return what to compile for."""
        from triton.backends.compiler import GPUTarget

        major, minor = api.compute_capability(0)
        return GPUTarget("cuda", major * 10 + minor, 32)

    def get_device_capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability."""
        return api.compute_capability(device)

    def get_current_device(self) -> int:
        """A session has one device."""
        return 0

    def set_current_device(self, device: int) -> None:
        """Make the device current."""
        self.utils.set_current_device(device)

    def get_current_stream(self, device: int) -> int:
        """Return CuPy's current stream, if the program uses CuPy; the legacy default stream otherwise."""
        import sys

        cupy = sys.modules.get("cupy")
        return int(cupy.cuda.get_current_stream().ptr) if cupy is not None else 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Return the C type of an argument."""
        if ty[0] == "*":
            return "CUdeviceptr"
        return {"fp16": "double", "bf16": "double", "fp32": "double", "f32": "double", "fp64": "double"}.get(
            ty, f"{'u' * (ty[0] == 'u')}int{8 if ty[1:] == '1' else ty[1:]}_t"
        )

    def get_active_torch_device(self) -> Any:
        """There is no PyTorch here."""
        raise NotImplementedError("PyTorch is refused by name: migproxy does not carry it")

    def get_device_interface(self) -> Any:
        """There is no PyTorch here."""
        raise NotImplementedError("PyTorch is refused by name: migproxy does not carry it")

    def get_benchmarker(self) -> Callable[..., Any]:
        """Return what times a kernel for the tuner."""
        return do_bench

    def allocate_default_profile_scratch(self, size: int, alignment: int, stream: Any) -> Any:
        """Instrumented kernels are not carried."""
        raise NotImplementedError("kernels that are instrumented are refused by name: migproxy does not carry them")

    def get_empty_cache_for_benchmark(self) -> Any:
        """Return memory that `clear_cache` writes."""
        return _flush_buffer()

    def clear_cache(self, cache: Any) -> None:
        """Push everything else out of the L2 cache."""
        api.memset(*cache, stream=self.get_current_stream(0))


def _flush_buffer() -> tuple[int, int, int, int]:
    free, _ = api.mem_get_info()
    size = min(_FLUSHED, free // 4) & ~0xFFFFF
    if api.device_facts().kind == "software":
        size = 1 << 20  # no cache to push anything out of
    return api.mem_alloc(size), 0, 4, size // 4


def do_bench(
    call: Callable[[], Any],
    warmup: float = 25,
    rep: float = 100,
    grad_to_none: Any = None,
    quantiles: Sequence[float] | None = None,
    return_mode: str = "mean",
) -> Any:
    """Time a call as ``triton.testing.do_bench`` does, with the session's events in place of PyTorch's."""
    driver = SessionDriver()
    stream = driver.get_current_stream(0)
    call()
    api.stream_synchronize(stream)
    cache = driver.get_empty_cache_for_benchmark()
    try:
        estimate = max(1e-3, _run(driver, call, cache, stream, 3)[1])
        for _ in range(max(1, int(warmup / estimate))):
            call()
        times = _run(driver, call, cache, stream, max(1, int(rep / estimate)))
    finally:
        api.mem_free(cache[0])
    if quantiles is not None:
        found = [_quantile(sorted(times), each) for each in quantiles]
        return found[0] if len(found) == 1 else found
    summaries: dict[str, Callable[[list[float]], Any]] = {
        "mean": statistics.fmean, "median": statistics.median, "min": min, "max": max, "all": list
    }  # fmt: skip
    return summaries[return_mode](times)


def _run(driver: SessionDriver, call: Callable[[], Any], cache: Any, stream: int, count: int) -> list[float]:
    """Return the milliseconds of each of `count` calls."""
    pairs = [(api.event_create(), api.event_create()) for _ in range(count)]
    for start, end in pairs:
        driver.clear_cache(cache)
        api.event_record(start, stream)
        call()
        api.event_record(end, stream)
    api.stream_synchronize(stream)
    times = [api.event_elapsed_time(start, end) for start, end in pairs]
    for start, end in pairs:
        api.event_destroy(start)
        api.event_destroy(end)
    return sorted(times) if count == 3 else times


def _quantile(times: list[float], at: float) -> float:
    """Return a quantile by linear interpolation."""
    position = at * (len(times) - 1)
    low = int(position)
    high = min(low + 1, len(times) - 1)
    return times[low] + (times[high] - times[low]) * (position - low)


def install(module: ModuleType) -> None:
    """Make Triton's CUDA driver be ours wherever it is asked for by its own name."""
    module.CudaDriver.is_active = staticmethod(lambda: True)
    module.CudaUtils = Utilities
    module.CudaLauncher = Launcher


def choose(module: ModuleType) -> None:
    """Make the driver that Triton finds the session's."""
    module._create_driver = SessionDriver
