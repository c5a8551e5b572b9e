"""Record `library_cases` on a real GPU through CuPy's own library modules: run it natively, where a GPU is.

::

    python tests/gpu_data/record_libraries.py tests/unit/softgpu_libraries/data/gpu_libraries.npz
"""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from typing import Any

import cupy
import numpy as np
from library_cases import CASES

MODULES = {
    "cublas": "cupy_backends.cuda.libs.cublas",
    "cusolver": "cupy_backends.cuda.libs.cusolver",
    "cusparse": "cupy_backends.cuda.libs.cusparse",
    "cufft": "cupy.cuda.cufft",
    "thrust": "cupy.cuda.thrust",
}


class Gpu:
    """A real GPU behind CuPy."""

    def __init__(self) -> None:
        self._arrays: dict[int, tuple[Any, np.ndarray[Any, Any]]] = {}
        self._kept: list[Any] = []

    def device(self, array: Any) -> int:
        """Copy an array's bytes to the GPU, in its own memory order."""
        template = np.asarray(array)
        copy = cupy.asarray(np.frombuffer(template.tobytes("A"), np.uint8).copy())
        address = int(copy.data.ptr)
        self._arrays[address] = (copy, template)
        return address

    def read(self, address: int) -> Any:
        """Copy an array back."""
        copy, template = self._arrays[address]
        order = "F" if template.flags.f_contiguous and not template.flags.c_contiguous else "C"
        return cupy.asnumpy(copy).view(template.dtype).reshape(template.shape, order=order)

    def host(self, array: Any) -> int:
        """Return a host array's address."""
        self._kept.append(array)
        return int(array.ctypes.data)

    def module(self, name: str) -> Any:
        """Return CuPy's module."""
        return importlib.import_module(MODULES[name])

    def handle(self, name: str) -> int:
        """Return CuPy's context."""
        return int(getattr(cupy.cuda.Device(), f"{name}_handle"))


def record(name: str) -> None:
    """Run one case and write its results as an archive to standard output."""
    results = CASES[name](Gpu(), np.random.default_rng(7))
    np.savez(sys.stdout.buffer, **{f"{name}/{key}": np.asarray(value) for key, value in results.items()})


def main(target: str) -> None:
    """Run all cases, each in a process of its own: one that breaks its context is reported and left out."""
    results: dict[str, Any] = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        env = {**os.environ, "CUDA_LAUNCH_BLOCKING": "1"}
        done = subprocess.run(command, capture_output=True, env=env, timeout=60, check=False)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            where = [line.strip() for line in lines if "library_cases.py" in line]
            print("failed:", name, *where[-1:], *lines[-1:], sep=" | ")
            continue
        with np.load(io.BytesIO(done.stdout)) as archive:
            results.update(archive)
    np.savez_compressed(target, **results)
    print(len(results), "results of", len(CASES), "cases;", cupy.__version__, cupy.cuda.runtime.runtimeGetVersion())


if __name__ == "__main__":
    if sys.argv[1] == "--case":
        record(sys.argv[2])
    else:
        main(sys.argv[1])
