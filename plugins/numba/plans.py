"""Plans of launches: what a launch of one kernel, in one configuration, with arguments of certain kinds comes to.

A plan is learned from a launch that Numba has carried out: which kernel it took, and what parameters it made of
the arguments. Where our own bytes are not the same ones, or anything about the kernel asks for more than launching it,
there is no plan, and Numba goes on as it is.
"""

from __future__ import annotations

import logging
import struct
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from migproxy_plugins.numba import arguments
from migproxy_plugins.numba.arguments import Convert, Layouts

from migproxy.errors import CudaError
from migproxy.jit import submit
from migproxy.session.api import modules

_HEADER = struct.Struct(submit.PACKED_FORMAT)
_MOST_PLANS = 64  # of one configuration
_LOGGER = logging.getLogger("numba.cuda.cudadrv.driver")


class Plan:
    """How to launch a kernel.

    Attributes
    ----------
    kernel : weakref
        Numba's kernel; the plan does not keep it.
    handle : int
        The driver's handle of it.
    header : bytes
        The packet's header for the default stream.
    scalars : sequence of tuple
        Positions of scalars among the arguments, and what makes them bytes.
    """

    __slots__ = ("handle", "header", "kernel", "scalars")

    def __init__(self, kernel: Any, handle: int, header: bytes, scalars: Sequence[tuple[int, Convert]]) -> None:
        self.kernel = weakref.ref(kernel)
        self.handle = handle
        self.header = header
        self.scalars = tuple(scalars)


class Configured:
    """The plans of one launch configuration, as long as it and its dispatcher stay what they were.

    It lies in the configuration's own attributes, and is nothing when that is pickled.
    """

    __slots__ = (
        "blockdim",
        "can_compile",
        "dispatcher",
        "generation",
        "griddim",
        "is_default",
        "misses",
        "plans",
        "sharedmem",
        "stream",
        "version",
    )

    def __init__(self, configuration: Any, generation: int = 0) -> None:
        self.generation = generation
        dispatcher = configuration.dispatcher
        self.dispatcher = dispatcher  # the configuration holds it too
        self.version = dispatcher._migproxy_version
        self.can_compile = dispatcher._can_compile
        self.griddim, self.blockdim = configuration.griddim, configuration.blockdim
        self.sharedmem, self.stream = configuration.sharedmem, configuration.stream
        self.is_default = False
        self.plans: dict[tuple[Any, ...], Plan | None] = {}
        self.misses = 0

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def header(self, handle: int, stream: int) -> bytes:
        """Return a packet's header."""
        return _HEADER.pack(handle, stream, *self.griddim, *self.blockdim, self.sharedmem)

    def keep(self, key: tuple[Any, ...], plan: Plan | None) -> None:
        """Note a plan, or that there is none. Numba has launched in this configuration."""
        self.is_default = stream_number(self.stream) == 0
        if len(self.plans) >= _MOST_PLANS:
            self.plans.clear()
        self.plans[key] = plan


def stream_number(stream: Any) -> int:
    """Return the handle of the stream of a configuration."""
    return int(stream.handle) if stream else 0


def learn(
    module: ModuleType, configured: Configured, dispatcher: Any, values: Sequence[Any], layouts: Layouts
) -> Plan | None:
    """Return the plan for a launch that has just succeeded, None if such launches are left to Numba.

    Parameters
    ----------
    module : ModuleType
        ``numba.cuda.dispatcher``.
    configured : Configured
    dispatcher : CUDADispatcher
    values : sequence
        The arguments.
    layouts : Layouts
        What CuPy's arrays come to is added to them.
    """
    if dispatcher.specialized:
        kernel = next(iter(dispatcher.overloads.values()))
    else:
        kernel = module._dispatcher.Dispatcher._cuda_call(dispatcher, *values)
    if type(kernel) is not module._Kernel or not is_plain(kernel, dispatcher):
        return None
    if _LOGGER.isEnabledFor(logging.DEBUG):
        return None  # the driver calls around a launch are logged
    wanted = kernel.argument_types
    if len(wanted) != len(values):
        return None
    handle = int(kernel._codelibrary.get_cufunc().kernel.handle)
    try:
        facts = modules.function_facts(handle)
        header = configured.header(handle, 0)
    except (CudaError, struct.error):
        return None
    made = [_native_parts(kernel, kind, value, configured.stream) for kind, value in zip(wanted, values, strict=True)]
    scalars = _fit(module, dispatcher, values, wanted, made, facts.parameters, facts.parameter_bytes, layouts)
    return None if scalars is None else Plan(kernel, handle, header, scalars)


def is_plain(kernel: Any, dispatcher: Any) -> bool:
    """Tell whether launching is all that a launch of this kernel consists of."""
    return not (
        kernel.debug
        or kernel.cooperative
        or kernel.extensions
        or getattr(kernel, "launch_config_sensitive", False)
        or getattr(dispatcher, "_launch_config_sensitive", False)
    )


def _native_parts(kernel: Any, kind: Any, value: Any, stream: Any) -> list[bytes] | None:
    """Return what Numba makes of an argument, parameter by parameter; None if it does more than that."""
    afterwards: list[Any] = []
    prepared: list[Any] = []
    kernel._prepare_args(kind, value, stream, afterwards, prepared)
    parts = [arguments.encode(each) for each in prepared]
    return None if afterwards or None in parts else [part for part in parts if part is not None]


def _fit(
    module: ModuleType,
    dispatcher: Any,
    values: Sequence[Any],
    wanted: Sequence[Any],
    made: Sequence[list[bytes] | None],
    parameters: Sequence[tuple[int, int]],
    size: int,
    layouts: Layouts,
) -> list[tuple[int, Convert]] | None:
    """Hold our bytes against Numba's, and both against the kernel's parameters."""
    scalars: list[tuple[int, Convert]] = []
    start = 0
    for position, (value, kind, parts) in enumerate(zip(values, wanted, made, strict=True)):
        if parts is None or start + len(parts) > len(parameters) or not parts:
            return None
        own = parameters[start : start + len(parts)]
        if any(len(part) != width for part, (_, width) in zip(parts, own, strict=True)):
            return None
        start += len(parts)
        end = parameters[start][0] if start < len(parameters) else size
        native = _lay_out(parts, own, end)
        if isinstance(kind, module.types.Array):
            if not _same_array(dispatcher, value, parts, native, layouts):
                return None
            continue
        convert = arguments.scalar_converter(module.types, type(value), kind)
        if convert is None:
            return None
        if own[-1][0] + own[-1][1] != end:
            convert = arguments.padded(convert, end - own[0][0])
        try:
            same = convert(value) == native
        except (OverflowError, ValueError, TypeError):
            same = False
        if not same:
            return None
        scalars.append((position, convert))
    return scalars if start == len(parameters) and (not parameters or parameters[0][0] == 0) else None


def _lay_out(parts: Sequence[bytes], places: Sequence[tuple[int, int]], end: int) -> bytes:
    first = places[0][0]
    whole = bytearray(end - first)
    for part, (offset, width) in zip(parts, places, strict=True):
        whole[offset - first : offset - first + width] = part
    return bytes(whole)


def _same_array(dispatcher: Any, value: Any, parts: list[bytes], native: bytes, layouts: Layouts) -> bool:
    """Tell whether our parameters of an array are Numba's; learns the layout of one of CuPy's."""
    words = getattr(value, "_migproxy_words", None)
    if words is not None:
        return bool(words.data == native)
    layouts.learn(value, dispatcher.typeof_pyval(value)._code, parts)
    layout = layouts.known.get((value.dtype, value.shape, value.strides))
    if layout is None:
        return False
    return layout.before + value.data.ptr.to_bytes(8, "little") + layout.after == native
