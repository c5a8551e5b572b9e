"""Runs small PTX kernels on NumPy arrays, and compiles CUDA C++ to PTX where nvrtc is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migproxy.softgpu.ptx import Kernel, LoadedModule, load_modules

_owned: list[np.ndarray] = []


def place(name: str, size: int, align: int) -> int:
    """A place for a module's variable, kept for the whole run."""
    memory = np.zeros(size + align, np.uint8)
    _owned.append(memory)
    return -(-memory.ctypes.data // align) * align


def load(*texts: str | bytes) -> LoadedModule:
    """Load PTX."""
    images = [text.encode() if isinstance(text, str) else text for text in texts]
    return load_modules(images, place_global=place)


def pack(kernel: Kernel, args: Sequence[Any]) -> np.ndarray:
    """Packed parameters: arrays as their address, everything else by its bytes."""
    out = np.zeros(kernel.param_size + 16, np.uint8)
    assert len(args) == len(kernel.params)
    for (offset, size), arg in zip(kernel.params, args, strict=True):
        data = np.uint64(arg.ctypes.data).tobytes() if isinstance(arg, np.ndarray) and arg.ndim else arg.tobytes()
        assert len(data) == size
        out[offset : offset + size] = np.frombuffer(data, np.uint8)
    return out


def launch(kernel: Kernel, grid: int | tuple[int, int, int], block: int | tuple[int, int, int], *args: Any,
           shared: int = 0) -> None:  # fmt: skip
    """Launch with NumPy arguments."""
    packed = pack(kernel, args)
    dims = [(d, 1, 1) if isinstance(d, int) else d for d in (grid, block)]
    kernel.launch(dims[0], dims[1], shared, packed.ctypes.data)


HEAD = ".version 8.3\n.target sm_80\n.address_size 64\n"
_SIZE = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}


@cache
def operation(text: str, dest: str, sources: tuple[str, ...]) -> Kernel:
    """A kernel that applies one instruction (``{d}``, ``{0}``, ``{1}``… are registers) to arrays, one item a thread.

    Types are register types (``b32``, ``f32`` …, ``pred`` as a result is stored as 0 or 1).
    """
    params = [f".param .u64 p{n}" for n in range(len(sources) + 1)]
    lines = [".reg .b64 %a<20>;", ".reg .b32 %i;", ".reg .pred %q<8>;", ".reg .b32 %w<8>;", ".reg .b64 %x<8>;"]
    lines += [f".reg .{kind} %s{n};" for n, kind in enumerate(sources)]
    lines += [f".reg .{dest} %d;", "mov.u32 %i, %tid.x;"]
    for n, kind in enumerate(sources):
        size = _width(kind) // 8
        lines += [f"ld.param.u64 %a{n}, [p{n}];", f"mad.wide.u32 %a{n}, %i, {size}, %a{n};"]
        lines += [f"ld.global.{_plain(kind)} %s{n}, [%a{n}];"]
    last = len(sources)
    names = {str(n): f"%s{n}" for n in range(last)}
    lines.append(text.format(*names.values(), d="%d") + ";")
    stored, kind = "%d", _plain(dest)
    if dest == "pred":
        lines.append("selp.u32 %w7, 1, 0, %d;")
        stored, kind = "%w7", "b32"
    lines += [f"ld.param.u64 %a{last}, [p{last}];", f"mad.wide.u32 %a{last}, %i, {_width(kind) // 8}, %a{last};"]
    lines.append(f"st.global.{kind} [%a{last}], {stored};")
    body = "\n".join(lines)
    source = f"{HEAD}.visible .entry k({', '.join(params)}) {{\n{body}\nret;\n}}\n"
    return load(source).kernels["k"]


def _width(kind: str) -> int:
    return 32 if kind == "pred" else int("".join(c for c in kind.split("x")[0] if c.isdigit()) or 32)


def _plain(kind: str) -> str:
    return kind if kind in ("f32", "f64") else f"b{_width(kind)}"


def apply(text: str, dest: str, dtype: Any, sources: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Run `operation` on arrays of at most 1024 items."""
    kernel = operation(text, dest, tuple(kind for kind, _ in sources))
    arrays = [np.ascontiguousarray(array) for _, array in sources]
    out = np.zeros(len(arrays[0]), dtype)
    launch(kernel, 1, len(out), *arrays, out)
    return out


@cache
def includes() -> list[str]:
    """Include directories of the CUDA headers that are installed as Python packages."""
    import site

    found = []
    for base in site.getsitepackages():
        for folder in ("nvidia/cuda_cccl/include", "nvidia/cuda_runtime/include", "nvidia/curand/include",
                       "cupy/_core/include", "nvidia/cu13/include"):  # fmt: skip
            if (Path(base) / folder).is_dir():
                found.append(os.path.join(base, folder))
    return found


@cache
def cuda(source: str, arch: str = "compute_80", *options: str) -> bytes:
    """CUDA C++ to PTX."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"k.cu", 0, [], [])
    flags = [f"--gpu-architecture={arch}", "-std=c++17", *options, *[f"-I{path}" for path in includes()]]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    if status != 0:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    return text
