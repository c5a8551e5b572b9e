"""Modules and libraries: loading them, and finding what is in them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from migproxy.errors import CudaError, PtxError
from migproxy.softgpu import card, images
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.array_copies import ArrayCopyApi
from migproxy.softgpu.state import Context, Kernel, LoadedModule, entry, need

_OPTION_ERROR_LOG, _OPTION_ERROR_LOG_SIZE = 5, 6
#: Bytes of an allocation for small globals of one module.
_SHARED_GLOBALS = 16 << 10


@dataclass(eq=False)
class Module:
    """A loaded module, by ``cuModuleLoad*`` or behind a library."""

    context: Context
    loaded: LoadedModule
    globals: list[int] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)
    handle: int = 0
    library: Library | None = None


@dataclass(eq=False)
class Library:
    """A library: an image that becomes a module in each context that uses it."""

    texts: list[bytes]
    modules: dict[int, Module] = field(default_factory=dict)
    kernels: dict[str, LibraryKernel] = field(default_factory=dict)
    handle: int = 0


@dataclass(eq=False)
class Function:
    """A kernel in a module, with the attributes that the application set."""

    module: Module
    kernel: Kernel
    name_string: raw.CString
    handle: int = 0
    max_dynamic_shared: int = 0
    carveout: int = -1
    cluster: tuple[int, int, int] = (0, 0, 0)
    settings: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class LibraryKernel:
    """A kernel of a library, not yet bound to a context."""

    library: Library
    name: str
    handle: int = 0
    pending: dict[tuple[int, int], int] = field(default_factory=dict)  # (device, attribute) → value


def default_dynamic_shared(kernel: Kernel) -> int:
    """Dynamic shared memory that a kernel may use without opting in."""
    return max(card.SHARED_PER_BLOCK - kernel.static_shared, 0)


class ModuleApi(ArrayCopyApi):
    """``cuModule*``, ``cuLibrary*``."""

    # ---- loading ------------------------------------------------------------------------------------------------

    def load(self, context: Context, texts: list[bytes]) -> Module:
        """Compile PTX texts into a module of ``context``; its globals get device memory."""
        placed: list[int] = []
        # Small globals share allocations: C++ headers define thousands, and each allocation of its own is two mappings
        # of the 65,530 that a process may have.
        shared = 0
        shared_end = 0

        def place_global(name: str, size: int, alignment: int) -> int:
            nonlocal shared, shared_end
            need(alignment <= raw.PAGE, f"alignment {alignment} of {name}", status.NOT_SUPPORTED)
            size = max(size, 1)
            if size > _SHARED_GLOBALS // 4:
                placed.append(self._global_memory(context, size))
                return placed[-1]
            address = -(-shared // alignment) * alignment
            if address + size > shared_end:
                placed.append(self._global_memory(context, _SHARED_GLOBALS))
                address, shared_end = placed[-1], placed[-1] + _SHARED_GLOBALS
            shared = address + size
            return address

        try:
            if len(texts) == 1:
                loaded = self.engine.load_module(texts[0], place_global=place_global)
            else:
                loaded = self.engine.load_modules(texts, place_global=place_global)
        except PtxError as error:
            for address in placed:
                self.space.free(address)
            raise CudaError(status.INVALID_PTX, str(error)) from error
        except CudaError:
            for address in placed:
                self.space.free(address)
            raise
        loaded.bounds = self.space.bounds
        module = Module(context, loaded, placed)
        module.handle = self.handles.add(module)
        return module

    def _global_memory(self, context: Context, size: int) -> int:
        """Memory for variables, all of which have values: zero, where none is written."""
        base = self.space.allocate(context.device, size, context.handle).base
        written.mark(base, size)
        return base

    def _load_at(self, out: int, image: int, options: dict[int, int]) -> None:
        context = self.context()
        need(out and image)
        try:
            module = self.load(context, images.texts_at(image))
        except CudaError as error:
            _write_log(options, error.detail)
            raise
        raw.write_u64(out, module.handle)

    @entry
    def cuModuleLoadData(self, module: int, image: int) -> None:
        self._load_at(module, image, {})

    @entry
    def cuModuleLoadDataEx(self, module: int, image: int, numOptions: int, options: int, optionValues: int) -> None:
        self._load_at(module, image, read_options(numOptions, options, optionValues))

    @entry
    def cuModuleLoadFatBinary(self, module: int, fatCubin: int) -> None:
        self._load_at(module, fatCubin, {})

    @entry
    def cuModuleLoad(self, module: int, fname: int) -> None:
        context = self.context()
        need(module and fname)
        raw.write_u64(module, self.load(context, _file_texts(fname)).handle)

    @entry
    def cuModuleUnload(self, hmod: int) -> None:
        module = self.handles.get(hmod, Module)
        need(module.library is None, "the module belongs to a library", status.NOT_PERMITTED)
        self.context()
        self.unload(module)

    def unload(self, module: Module) -> None:
        """Drop a module once everything submitted has run."""
        for stream in list(module.context.streams):
            stream.queue.last().wait()
        for function in module.functions.values():
            self.handles.drop(function.handle)
        self.handles.drop(module.handle)
        if module.context.alive:
            for address in module.globals:
                self.space.free(address)

    def forget_context(self, context: Context) -> None:
        super().forget_context(context)
        for module in self.handles.of_kind(Module):
            if module.context is context:
                if module.library is not None:
                    module.library.modules.pop(context.handle, None)
                self.unload(module)

    @entry
    def cuModuleGetLoadingMode(self, mode: int) -> None:
        need(mode)
        raw.write_u32(mode, 1)  # eager

    # ---- modules ------------------------------------------------------------------------------------------------

    def module(self, handle: int) -> Module:
        module = self.handles.get(handle, Module)
        module.context.check()
        return module

    def function_named(self, module: Module, name: str) -> Function:
        if name not in module.functions:
            kernel = module.loaded.kernels.get(name)
            if kernel is None:
                raise CudaError(status.NOT_FOUND, f"the module has no kernel {name}")
            function = Function(module, kernel, raw.CString(name))
            function.max_dynamic_shared = default_dynamic_shared(kernel)
            function.handle = self.handles.add(function)
            module.functions[name] = function
        return module.functions[name]

    @entry
    def cuModuleGetFunction(self, hfunc: int, hmod: int, name: int) -> None:
        need(hfunc and name)
        raw.write_u64(hfunc, self.function_named(self.module(hmod), _name(name)).handle)

    @entry
    def cuModuleGetFunctionCount(self, count: int, mod: int) -> None:
        need(count)
        raw.write_u32(count, len(self.module(mod).loaded.kernels))

    @entry
    def cuModuleEnumerateFunctions(self, functions: int, numFunctions: int, mod: int) -> None:
        need(functions)
        module = self.module(mod)
        names = itertools.islice(module.loaded.kernels, numFunctions)
        raw.write_array_u64(functions, [self.function_named(module, name).handle for name in names])

    @entry
    def cuModuleGetGlobal(self, dptr: int, bytes: int, hmod: int, name: int) -> None:
        need(name and (dptr or bytes))
        _write_global(dptr, bytes, self.module(hmod), _name(name))

    # ---- libraries ----------------------------------------------------------------------------------------------

    @entry
    def cuLibraryLoadData(
        self,
        library: int,
        code: int,
        jitOptions: int,
        jitOptionsValues: int,
        numJitOptions: int,
        libraryOptions: int,
        libraryOptionValues: int,
        numLibraryOptions: int,
    ) -> None:
        need(library and code)
        options = read_options(numJitOptions, jitOptions, jitOptionsValues)
        try:
            made = self._new_library(images.texts_at(code))
        except CudaError as error:
            _write_log(options, error.detail)
            raise
        raw.write_u64(library, made.handle)

    @entry
    def cuLibraryLoadFromFile(
        self,
        library: int,
        fileName: int,
        jitOptions: int,
        jitOptionsValues: int,
        numJitOptions: int,
        libraryOptions: int,
        libraryOptionValues: int,
        numLibraryOptions: int,
    ) -> None:
        need(library and fileName)
        raw.write_u64(library, self._new_library(_file_texts(fileName)).handle)

    def _new_library(self, texts: list[bytes]) -> Library:
        library = Library(texts)
        context = self.current()
        if context is not None:
            context.check()
            # Compile now, so that a library with an error fails here and not at its first use.
            self.library_module(library, context)
        library.handle = self.handles.add(library)
        return library

    def library_module(self, library: Library, context: Context) -> Module:
        with self.lock:
            if context.handle not in library.modules:
                module = self.load(context, library.texts)
                module.library = library
                library.modules[context.handle] = module
            return library.modules[context.handle]

    def _library(self, handle: int) -> Library:
        return self.handles.get(handle, Library)

    @entry
    def cuLibraryUnload(self, library: int) -> None:
        found = self._library(library)
        self.handles.drop(library)
        for kernel in found.kernels.values():
            self.handles.drop(kernel.handle)
        for module in list(found.modules.values()):
            self.unload(module)

    @entry
    def cuLibraryGetModule(self, pMod: int, library: int) -> None:
        need(pMod)
        raw.write_u64(pMod, self.library_module(self._library(library), self.context()).handle)

    def _library_kernel(self, library: Library, name: str) -> LibraryKernel:
        if name not in library.kernels:
            module = self.library_module(library, self.context())
            need(name in module.loaded.kernels, f"the library has no kernel {name}", status.NOT_FOUND)
            kernel = LibraryKernel(library, name)
            kernel.handle = self.handles.add(kernel)
            library.kernels[name] = kernel
        return library.kernels[name]

    @entry
    def cuLibraryGetKernel(self, pKernel: int, library: int, name: int) -> None:
        need(pKernel and name)
        raw.write_u64(pKernel, self._library_kernel(self._library(library), _name(name)).handle)

    @entry
    def cuLibraryGetKernelCount(self, count: int, lib: int) -> None:
        need(count)
        raw.write_u32(count, len(self.library_module(self._library(lib), self.context()).loaded.kernels))

    @entry
    def cuLibraryEnumerateKernels(self, kernels: int, numKernels: int, lib: int) -> None:
        need(kernels)
        library = self._library(lib)
        names = itertools.islice(self.library_module(library, self.context()).loaded.kernels, numKernels)
        raw.write_array_u64(kernels, [self._library_kernel(library, name).handle for name in names])

    @entry
    def cuLibraryGetGlobal(self, dptr: int, bytes: int, library: int, name: int) -> None:
        need(name)
        _write_global(dptr, bytes, self.library_module(self._library(library), self.context()), _name(name))


def _write_global(pointer: int, size: int, module: Module, name: str) -> None:
    found = module.loaded.globals.get(name)
    if found is None:
        raise CudaError(status.NOT_FOUND, f"the module has no global {name}")
    if pointer:
        raw.write_u64(pointer, found[0])
    if size:
        raw.write_u64(size, found[1])


def _name(address: int) -> str:
    return raw.read_string(address).decode("utf-8", "replace")


def _file_texts(address: int) -> list[bytes]:
    path = raw.read_string(address).decode("utf-8", "surrogateescape")
    try:
        with open(path, "rb") as file:
            return images.texts_of(file.read())
    except OSError as error:
        raise CudaError(status.FILE_NOT_FOUND, str(error)) from error


def read_options(count: int, options: int, values: int) -> dict[int, int]:
    """JIT options by number; a value is the 64-bit word of its slot."""
    if not count:
        return {}
    need(options and values)
    return dict(zip(raw.read_array_u32(options, count), raw.read_array_u64(values, count), strict=True))


def _write_log(options: dict[int, int], text: str) -> None:
    """Put the compiler's message where the application asked for it."""
    buffer, size = options.get(_OPTION_ERROR_LOG, 0), options.get(_OPTION_ERROR_LOG_SIZE, 0) & 0xFFFFFFFF
    if buffer and size:
        raw.write_bytes(buffer, text.encode()[: size - 1] + b"\0")
