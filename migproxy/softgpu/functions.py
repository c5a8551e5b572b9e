"""Kernels of libraries, functions of modules, and what they are asked about themselves."""

from __future__ import annotations

from migproxy.errors import CudaError
from migproxy.softgpu import card
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.modules import Function, LibraryKernel, ModuleApi
from migproxy.softgpu.state import Context, Kernel, entry, need, signed32

_REGISTERS_PER_THREAD = 32


def required_block(kernel: Kernel) -> tuple[int, int, int] | None:
    """The only block that a kernel may be launched with (``.reqntid``), if it says so."""
    required: tuple[int, int, int] | None = getattr(kernel, "reqntid", None)
    return required


class FunctionApi(ModuleApi):
    """``cuKernel*``, ``cuFunc*``."""

    def _kernel(self, handle: int) -> LibraryKernel:
        return self.handles.get(handle, LibraryKernel)

    def bind(self, kernel: LibraryKernel, context: Context) -> Function:
        """The function of a library's kernel in a context, with what was set on the kernel before."""
        function = self.function_named(self.library_module(kernel.library, context), kernel.name)
        for (ordinal, attribute), value in list(kernel.pending.items()):
            if ordinal == context.device.ordinal:
                _set_attribute(function, attribute, value)
                del kernel.pending[ordinal, attribute]
        return function

    def function(self, handle: int) -> Function:
        """A function, or a library's kernel in its place, as the driver allows for launches."""
        found = self.handles.find(handle)
        if isinstance(found, Function):
            if found.module.context.fault is not None:
                found.module.context.check()
            return found
        if isinstance(found, LibraryKernel):
            return self.bind(found, self.context())
        raise CudaError(status.INVALID_HANDLE, f"{handle:#x} is neither a function nor a kernel")

    @entry
    def cuKernelGetFunction(self, pFunc: int, kernel: int) -> None:
        need(pFunc)
        raw.write_u64(pFunc, self.bind(self._kernel(kernel), self.context()).handle)

    @entry
    def cuKernelGetLibrary(self, pLib: int, kernel: int) -> None:
        need(pLib)
        raw.write_u64(pLib, self._kernel(kernel).library.handle)

    @entry
    def cuKernelGetName(self, name: int, hfunc: int) -> None:
        need(name)
        raw.write_u64(name, self.function(hfunc).name_string.address)

    @entry
    def cuKernelGetParamInfo(self, kernel: int, paramIndex: int, paramOffset: int, paramSize: int) -> None:
        _param_info(self.function(kernel), paramIndex, paramOffset, paramSize)

    @entry
    def cuKernelGetAttribute(self, pi: int, attrib: int, kernel: int, dev: int) -> None:
        need(pi)
        self.device(dev)
        raw.write_i32(pi, self._attribute(self.function(kernel), attrib))

    @entry
    def cuKernelSetAttribute(self, attrib: int, val: int, kernel: int, dev: int) -> None:
        device = self.device(dev)
        found = self._kernel(kernel)
        context = self.current()
        if context is not None and context.device is device:
            _set_attribute(self.bind(found, context), attrib, val)
        else:
            found.pending[device.ordinal, attrib] = val

    @entry
    def cuKernelSetCacheConfig(self, kernel: int, config: int, dev: int) -> None:
        self.device(dev)
        need(config in (0, 1, 2, 3), f"cache configuration {config}")
        self.function(kernel)

    @entry
    def cuFuncGetName(self, name: int, hfunc: int) -> None:
        need(name)
        raw.write_u64(name, self.function(hfunc).name_string.address)

    @entry
    def cuFuncGetModule(self, hmod: int, hfunc: int) -> None:
        need(hmod)
        raw.write_u64(hmod, self.function(hfunc).module.handle)

    @entry
    def cuFuncGetParamCount(self, func: int, paramCount: int) -> None:
        need(paramCount)
        raw.write_u64(paramCount, len(self.function(func).kernel.params))

    @entry
    def cuKernelGetParamCount(self, kernel: int, paramCount: int) -> None:
        need(paramCount)
        raw.write_u64(paramCount, len(self.function(kernel).kernel.params))

    @entry
    def cuFuncGetParamInfo(self, func: int, paramIndex: int, paramOffset: int, paramSize: int) -> None:
        _param_info(self.function(func), paramIndex, paramOffset, paramSize)

    @entry
    def cuFuncGetAttribute(self, pi: int, attrib: int, hfunc: int) -> None:
        need(pi)
        raw.write_i32(pi, self._attribute(self.function(hfunc), attrib))

    @entry
    def cuFuncSetAttribute(self, hfunc: int, attrib: int, value: int) -> None:
        _set_attribute(self.function(hfunc), attrib, value)

    @entry
    def cuFuncSetCacheConfig(self, hfunc: int, config: int) -> None:
        need(config in (0, 1, 2, 3), f"cache configuration {config}")
        self.function(hfunc)

    @entry
    def cuFuncSetSharedMemConfig(self, hfunc: int, config: int) -> None:
        need(config in (0, 1, 2), f"shared memory configuration {config}")
        self.function(hfunc)

    @entry
    def cuFuncIsLoaded(self, state: int, function: int) -> None:
        need(state)
        self.function(function)
        raw.write_u32(state, 1)

    @entry
    def cuFuncLoad(self, function: int) -> None:
        self.function(function)

    def _attribute(self, function: Function, attribute: int) -> int:
        kernel = function.kernel
        major, minor = self.spec.capability
        values = {
            0: card.MAX_THREADS if required_block(kernel) else kernel.max_threads or card.MAX_THREADS,
            1: kernel.static_shared,
            2: kernel.const_bytes,
            3: kernel.local_bytes,
            4: _REGISTERS_PER_THREAD,
            5: major * 10 + minor,
            6: major * 10 + minor,
            7: 0,
            8: function.max_dynamic_shared,
            9: function.carveout,
            10: 0,
            11: function.cluster[0],
            12: function.cluster[1],
            13: function.cluster[2],
            14: function.settings.get(14, 0),
            15: function.settings.get(15, 0),
        }
        need(attribute in values, f"function attribute {attribute}")
        return values[attribute]


def _set_attribute(function: Function, attribute: int, value: int) -> None:
    value = signed32(value)
    if attribute == 8:
        limit = card.SHARED_OPTIN - function.kernel.static_shared
        need(0 <= value <= limit, f"{value} bytes of dynamic shared memory; {limit} are possible")
        function.max_dynamic_shared = value
    elif attribute == 9:
        need(-1 <= value <= 100, f"carveout {value}")
        function.carveout = value
    elif attribute in (14, 15):
        function.settings[attribute] = value
    else:
        raise CudaError(status.INVALID_VALUE, f"function attribute {attribute} cannot be set")


def _param_info(function: Function, index: int, offset: int, size: int) -> None:
    params = function.kernel.params
    need(0 <= index < len(params), f"{function.kernel.name} has {len(params)} parameters")
    if offset:
        raw.write_u64(offset, params[index][0])
    if size:
        raw.write_u64(size, params[index][1])
