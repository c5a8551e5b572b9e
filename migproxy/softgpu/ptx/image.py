"""What loading a module needs to know about its PTX, kept in the cache so that a second load parses nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from migproxy.softgpu.ptx import cooperative, lockstep, native, polling
from migproxy.softgpu.ptx.ast import Module, Variable
from migproxy.softgpu.ptx.cache import ObjectCache
from migproxy.softgpu.ptx.linker import link_modules
from migproxy.softgpu.ptx.lower import load_all
from migproxy.softgpu.ptx.modulegen import ModuleGen, function_table, pointed_functions
from migproxy.softgpu.ptx.parser import parse
from migproxy.softgpu.ptx.specialize import Constants

Dim = tuple[int, int, int]


class KernelImage(msgspec.Struct, frozen=True):
    """A kernel: its limits, and the name and cache key of its machine code."""

    name: str
    symbol: str
    code: str
    params: list[tuple[int, int]]
    param_size: int
    static_shared: int
    local_bytes: int
    frame_bytes: int
    maxntid: Dim | None
    reqntid: Dim | None
    lockstep: bool
    #: of the LLVM IR, which decides how the cached code was made
    length: int


class Placed(msgspec.Struct, frozen=True):
    """A variable in device memory; initial values are numbers, or (symbol, offset, shift)."""

    name: str
    space: str
    size: int
    align: int
    element: int
    extern: bool
    line: int
    init: list[int | tuple[str, int, int]] | None


class ModuleImage(msgspec.Struct, frozen=True):
    """A module: kernels, variables in table order, functions whose addresses initial values hold."""

    kernels: list[KernelImage]
    variables: list[Placed]
    functions: list[str]


_decoder = msgspec.msgpack.Decoder(ModuleImage)


class Source:
    """PTX texts, parsed when that is needed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        self._ast: Module | None = None

    @property
    def ast(self) -> Module:
        """The linked modules."""
        if self._ast is None:
            load_all()
            ast = link_modules([parse(text) for text in self.texts])
            for function in ast.functions.values():
                cooperative.rewrite(function)
                lockstep.keep_volatile_order(function)
                polling.rewrite(function)
            self._ast = ast
        return self._ast

    def index(self) -> dict[str, int]:
        """Position of each variable in the module's address table."""
        return {variable.name: n for n, variable in enumerate(placed_variables(self.ast))}

    def generator(self, name: str, symbol: str, fixed: Constants | None = None, **options: bool) -> ModuleGen:
        """A generator for a kernel of this source; `options` are `ModuleGen`'s."""
        return ModuleGen(self.ast, self.ast.functions[name], self.index(), symbol, fixed, **options)

    def table_text(self, names: list[str], symbol: str) -> str:
        """LLVM IR of the module's function table."""
        return function_table(self.ast, names, self.index(), symbol)

    def image(self, cache: ObjectCache) -> tuple[ModuleImage, dict[str, str]]:
        """The module's image, and the LLVM IR of its kernels if they had to be generated."""
        key = hashlib.sha256(f"{native.fingerprint()}/image/{self.digest}".encode()).hexdigest()
        data = cache.get(key)
        if data is not None:
            return _decoder.decode(data), {}
        image, texts = self._build()
        cache.put(key, msgspec.msgpack.encode(image))
        return image, texts

    def _build(self) -> tuple[ModuleImage, dict[str, str]]:
        kernels: list[KernelImage] = []
        texts = {}
        for function in self.ast.functions.values():
            if not function.entry or function.body is None:
                continue
            symbol = f"k{self.digest[:16]}.{len(kernels)}"
            gen = self.generator(function.name, symbol)
            text = gen.generate()
            texts[function.name] = text
            kernels.append(
                KernelImage(
                    function.name, symbol, object_key(text), gen.params, gen.param_size, gen.static_shared,
                    gen.local_bytes, gen.frame_bytes, function.maxntid, function.reqntid,
                    lockstep.relies_on_lockstep(self.ast, function), len(text),
                )
            )  # fmt: skip
        variables = [
            Placed(v.name, v.space, v.size, v.align, v.element, v.extern, v.line, v.init)
            for v in placed_variables(self.ast)
        ]
        return ModuleImage(kernels, variables, pointed_functions(self.ast)), texts


def placed_variables(ast: Module) -> list[Variable]:
    """The variables that live in device memory: the module's, and those that functions declare."""
    out = [v for v in ast.variables.values() if v.space in ("global", "const")]
    for function in ast.functions.values():
        out += [v for v in function.variables.values() if v.space in ("global", "const")]
    return out


def object_key(text: str) -> str:
    """The cache key of the object code for LLVM IR."""
    return hashlib.sha256((native.fingerprint() + text).encode()).hexdigest()
