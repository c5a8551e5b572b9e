"""Kernel launches of Numba: where a launch is only a launch, its parameters are packed here and submitted at once.

Numba prepares every launch in Python, several times longer than the driver takes for it. `install` puts `launch` in
front of its own ``_LaunchConfiguration.__call__``: what a plan is known for goes straight into the ring
(``migproxy.jit.packed_launch``), everything else goes to Numba's own code, unchanged, and a plan is learned from it
where there can be one. docs/decisions/numba-launches.md says when not.
"""

from __future__ import annotations

import functools
import inspect
import os
import struct
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from migproxy_plugins.numba import plans
from migproxy_plugins.numba.arguments import PLAIN_SCALARS, TIMES, Layouts, device_words
from migproxy_plugins.numba.plans import Configured

from migproxy.jit import fast_path, packed_launch
from migproxy.session.api import context

#: What the methods that we stand in for do, by the names that they use. One that uses another name does something
#: that we do not know, and is left alone.
_CALLS = {"dispatcher", "call", "griddim", "blockdim", "stream", "sharedmem"}
_CALL = _CALLS | {
    *("_push_args", "_pop_args", "_select_launch_config_dispatcher", "_update_launch_config_sensitivity"),
    *("specialized", "next", "iter", "overloads", "values", "_dispatcher", "Dispatcher", "_cuda_call"),
    *("_LAUNCH_CONFIG_KW", "pre_launch_callbacks", "launch"),
}
_LAUNCH = {
    *("_codelibrary", "get_cufunc", "argument_types", "_prepare_args", "zip", "CUDA_CORE_GE_1_0", "LaunchConfig"),
    *("cooperative", "kernel", "launch", "driver", "debug", "name", "module", "get_global_symbol", "ctypes", "sizeof"),
    *("c_int", "memset", "device_to_host", "addressof", "value", "call_helper", "get_exception", "os", "path"),
    "abspath",
}
_PREPARE = ("self", "ty", "val", "stream", "retr", "kernelargs")
#: So often learning from a launch with unknown arrays may fail before a configuration is left to Numba.
_MOST_MISSES = 8


def has_known_shape(module: ModuleType, array: Any) -> bool:
    """Tell whether Numba launches kernels the way that `launch` takes over.

    Parameters
    ----------
    module : ModuleType
        ``numba.cuda.dispatcher``.
    array : type
        ``DeviceNDArray``.
    """
    try:
        call = module._LaunchConfiguration.__call__
        methods = (call, module.CUDADispatcher.call, module._Kernel.launch, module._Kernel._prepare_args)
        resolve = module._dispatcher.Dispatcher._cuda_call
        kept = [inspect.getattr_static(array, name) for name in ("_strided_memory_view_shim", "_numba_type_")]
        changes = (module.CUDADispatcher.add_overload, module.CUDADispatcher._reset_overloads)
        known = (module.types.Array, module.types.Integer, module.types.NPDatetime, module.CUDADispatcher.specialized)
    except AttributeError:
        return False
    if not all(isinstance(method, FunctionType) for method in (*methods, *changes)) or not callable(resolve):
        return False
    names = [set(method.__code__.co_names) for method in methods]
    return bool(
        names[0] <= _CALLS
        and names[1] <= _CALL
        and names[2] <= _LAUNCH
        and tuple(inspect.signature(methods[3]).parameters) == _PREPARE
        and all(isinstance(each, functools.cached_property) for each in kept)
        and all(known)
    )


def install(module: ModuleType) -> bool:
    """Put `launch` in front of Numba's launches; returns whether that was done.

    Parameters
    ----------
    module : ModuleType
        ``numba.cuda.dispatcher``, right after it was imported.
    """
    from numba.cuda.cudadrv.devicearray import DeviceNDArray

    if not fast_path.ENABLED or not has_known_shape(module, DeviceNDArray):
        return False
    module._LaunchConfiguration._migproxy_launches = None
    module.CUDADispatcher._migproxy_version = 0
    DeviceNDArray._migproxy_words = None
    for name in ("add_overload", "_reset_overloads"):
        setattr(module.CUDADispatcher, name, _noting(getattr(module.CUDADispatcher, name)))
    module._LaunchConfiguration.__call__ = make_launch(module, DeviceNDArray)
    return True


def _noting(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of dispatchers that changes which kernel is taken, and says so."""

    @functools.wraps(change)
    def changing(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return change(self, *arguments, **named)
        finally:
            self._migproxy_version += 1

    return changing


def no_stream() -> Any:
    """Stands for CuPy's `get_current_stream` until CuPy is there."""
    raise AssertionError("there are no arrays of CuPy without CuPy")


def make_launch(module: ModuleType, device_array: type) -> Callable[..., Any]:
    """Return what stands for ``_LaunchConfiguration.__call__``.

    Parameters
    ----------
    module : ModuleType
        ``numba.cuda.dispatcher``.
    device_array : type
        ``DeviceNDArray``.
    """
    configuration = module._LaunchConfiguration
    dispatcher_class, kernel_class = module.CUDADispatcher, module._Kernel
    native = configuration.__call__
    native_call, native_launch, native_prepare = dispatcher_class.call, kernel_class.launch, kernel_class._prepare_args
    submit, on_primary = packed_launch.launcher(), context.is_primary_current
    layouts = Layouts()
    known_layouts = layouts.known
    has_callbacks = "pre_launch_callbacks" in native_call.__code__.co_names
    generation = 0
    cupy_array: Any = None
    current_stream: Callable[[], Any] = no_stream

    def describe(values: Sequence[Any], pieces: list[bytes]) -> tuple[Any, ...] | None:
        """Add the arguments' bytes to `pieces`, empty ones for scalars; return the key of their plan.

        It begins with whether there are arrays of CuPy. None if the arguments are left to Numba; an empty one if Numba
        has yet to say what an array of CuPy comes to.
        """
        nonlocal cupy_array, current_stream
        key: list[Any] = [False]
        for value in values:
            kind = type(value)
            if kind is device_array:
                words = value._migproxy_words
                if words is None:
                    words = device_words(value)
                    if words is None:
                        return None
                    value._migproxy_words = words
                key.append(words[0])
                pieces.append(words[1])
            elif kind is cupy_array:
                layout = known_layouts.get((value.dtype, value.shape, value.strides))
                if layout is None:
                    return () if value.size else None
                key.append(layout[0])
                pieces.append(layout[1] + value.data.ptr.to_bytes(8, "little") + layout[2])
                key[0] = True
            elif kind in PLAIN_SCALARS:
                key.append(kind)
                pieces.append(b"")
            elif kind in TIMES:
                key.append(value.dtype.str)
                pieces.append(b"")
            elif cupy_array is None and kind is getattr(sys.modules.get("cupy"), "ndarray", None):
                current_stream = sys.modules["cupy"].cuda.get_current_stream
                cupy_array = kind
                return () if value.size else None
            else:
                return None
        return tuple(key)

    def first(self: Any, values: tuple[Any, ...], configured: Configured | None) -> Any:
        """Let Numba launch, and learn how it does."""
        if type(self) is not configuration or type(self.dispatcher) is not dispatcher_class:
            return native(self, *values)
        result = native(self, *values)
        if configured is None or configured.version != self.dispatcher._migproxy_version:
            configured = Configured(self, generation)  # what changes from now on, by whomever, is noticed
        if not is_untouched(self) or not on_primary() or configured.misses > _MOST_MISSES:
            return result
        key = describe(values, [])
        if key is None or (has_callbacks and self.pre_launch_callbacks):
            return result
        plan = plans.learn(module, configured, self.dispatcher, values, layouts)
        if not key:
            key = describe(values, [])
        if key:
            configured.keep(key, plan)
        else:
            configured.misses += 1
        self._migproxy_launches = configured
        return result

    def forget() -> None:
        """In a forked child Numba looks first whether it may launch at all."""
        nonlocal generation
        generation += 1

    def is_untouched(self: Any) -> bool:
        """Tell whether nobody has put something of his own in the place of Numba's methods."""
        return (
            dispatcher_class.call is native_call
            and kernel_class.launch is native_launch
            and kernel_class._prepare_args is native_prepare
            and "call" not in self.dispatcher.__dict__
        )

    @functools.wraps(native)
    def launch(self: Any, *args: Any) -> Any:
        known: Configured | None = self._migproxy_launches
        if known is None:
            return first(self, args, None)
        dispatcher = self.dispatcher
        if (
            dispatcher is not known.dispatcher
            or dispatcher._migproxy_version != known.version
            or dispatcher._can_compile is not known.can_compile
            or self.griddim is not known.griddim
            or self.blockdim is not known.blockdim
            or self.stream is not known.stream
            or self.sharedmem is not known.sharedmem
            or generation != known.generation
        ):
            self._migproxy_launches = None
            return first(self, args, None)
        if (has_callbacks and self.pre_launch_callbacks) or not is_untouched(self) or not on_primary():
            return native(self, *args)
        pieces = [b""]
        key = describe(args, pieces)
        if key is None:
            return native(self, *args)
        if not key:
            return first(self, args, known)
        try:
            plan = known.plans[key]
        except KeyError:
            return first(self, args, known)
        kernel = None if plan is None else plan.kernel()
        if kernel is None or kernel.extensions or "launch" in kernel.__dict__:
            return native(self, *args)
        stream = 0 if known.is_default else plans.stream_number(known.stream)
        if key[0] and (current_stream().ptr or 1) != (stream or 1):
            return native(self, *args)  # the arrays' stream has to be waited for
        try:
            for position, convert in plan.scalars:
                pieces[position + 1] = convert(args[position])
            pieces[0] = plan.header if stream == 0 else known.header(plan.handle, stream)
        except (OverflowError, TypeError, ValueError, struct.error):
            return native(self, *args)
        if not submit(b"".join(pieces)):
            return native(self, *args)
        return None

    os.register_at_fork(after_in_child=forget)
    return launch
