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

from .cases import HEAD, kernel_text

__all__ = ["HEAD", "apply", "cuda", "includes", "launch", "load", "operation", "pack", "place"]

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


@cache
def operation(text: str, dest: str, sources: tuple[str, ...]) -> Kernel:
    """A kernel that applies one instruction (``{d}``, ``{0}``, ``{1}``… are registers) to arrays, one item a thread.

    Types are register types (``b32``, ``f32`` …, ``pred`` as a result is stored as 0 or 1).
    """
    return load(kernel_text(text, dest, sources)).kernels["k"]


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
                       "cupy/_core/include", "nvidia/cu13/include",
            "nvidia/cu13/include/cccl", "cupy/_core/include/cupy/_cccl/libcudacxx", "cupy/_core/include/cupy/_cccl/cub",
            "cupy/_core/include/cupy/_cccl/thrust"):  # fmt: skip
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
