"""No installed module reaches CUDA past a seam.

Each compiled module that is linked to CUDA, holds a copy of its runtime or opens its libraries by name is patched or
replaced, or is entered only through a module that is.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from elf import Needs, needs

from migproxy.interpose.wake import load_plugins

PACKAGES = ("cuda", "cupy", "cupy_backends", "cupyx", "numba", "numba_cuda")
SYMBOL = re.compile(
    r"(cu[A-Z]|cuda[A-Z]|cublas|cusolver|cusparse|curand|cufft|cutensor|cudnn|nccl|nvml|nvrtc|nvJitLink|nvvm)\w*"
)
LIBRARY = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cusolver|cusolverMg|cusparse|curand|cufft|cutensor|cutensorMg|cudnn|cufile|cudla|nccl|nvrtc"
    r"|nvidia-ml|nvJitLink|nvvm)\.so[.\d]*"
)
OPENED = re.compile(rb"\0(lib(?:cuda|cudart|nvidia-ml)\.so[.\d]*)\0")
#: The modules of cuda-bindings over the driver and runtime, which others must not enter below.
BELOW_CAPSULES = re.compile(
    rb"\0(cuda\.bindings\._(?:internal|bindings)\.(?:driver|runtime|runtime_ptds|cydriver|cyruntime|cyruntime_ptds))\0"
)
#: Why these need no seam of their own.
COVERED = {
    "cuda.bindings._bindings.cyruntime": "only cyruntime enters it, whose capsules are replaced",
    "cuda.bindings._bindings.cyruntime_ptds": "only cyruntime enters it, whose capsules are replaced",
    "cuda.bindings._internal.driver": "only cydriver enters it, whose capsules are replaced",
    "cuda.bindings._internal.runtime": "only cyruntime enters it, whose capsules are replaced",
    "cuda.bindings._internal.runtime_ptds": "only cyruntime enters it, whose capsules are replaced",
    "cuda.bindings.cydriver": "its capsules are replaced",
    "cuda.bindings.cyruntime": "its capsules are replaced",
    "cupy.cuda.jitify": "compiles for nvrtc, which needs no GPU; what it links of the runtime it does not call",
}


def modules() -> dict[str, Path]:
    """Return the installed compiled modules of the GPU libraries by dotted name."""
    found = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for path in Path(place).rglob("*.so"):
                parts = [package, *path.relative_to(place).parts]
                parts[-1] = parts[-1].partition(".")[0]
                found[".".join(parts)] = path
    return found


def seams() -> set[str]:
    """Return the modules that the plugins patch or replace."""
    return {name for plugin in load_plugins() for name in (*plugin.after_import, *plugin.replace)}


def reaches(found: Needs) -> list[str]:
    """Return by what a module could reach CUDA."""
    symbols = [symbol for symbol in found.symbols if SYMBOL.fullmatch(symbol)]
    libraries = [library for library in found.libraries if LIBRARY.fullmatch(library)]
    named = [each.decode() for each in OPENED.findall(found.content)]
    below = [each.decode() for each in BELOW_CAPSULES.findall(found.content)]
    return sorted({*symbols[:3], *libraries, *named, *below})


@pytest.fixture(scope="module")
def reaching() -> dict[str, list[str]]:
    """The modules that could reach CUDA, and by what."""
    return {name: by for name, path in modules().items() if (by := reaches(needs(path)))}


def test_every_way_to_cuda_has_a_seam(reaching: dict[str, list[str]]) -> None:
    past = {name: by for name, by in reaching.items() if name not in seams() and name not in COVERED}
    assert not past, "these reach CUDA past every seam"


def test_the_scan_finds_what_is_known_to_be_there(reaching: dict[str, list[str]]) -> None:
    assert "libcublas" in "".join(reaching["cupy_backends.cuda.libs.cublas"])
    assert "libcuda.so.1" in reaching["cupy_backends.cuda.api.runtime"]
    assert reaching["cupy.cuda.cub"]
