"""Write the public names of CuPy's compiled library modules: run it where CUDA's libraries and CuPy are installed.

No GPU is needed, only the libraries that the modules link to. The files it writes are facts (names, signatures,
enumeration values) which `migproxy.softgpu.libraries` and its tests compare themselves with::

    python tests/gpu_data/record_library_names.py migproxy/softgpu/libraries/data
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

MODULES = {
    "cublas": "cupy_backends.cuda.libs.cublas",
    "curand": "cupy_backends.cuda.libs.curand",
    "cusolver": "cupy_backends.cuda.libs.cusolver",
    "cusparse": "cupy_backends.cuda.libs.cusparse",
    "cutensor": "cupy_backends.cuda.libs.cutensor",
    "cufft": "cupy.cuda.cufft",
    "cub": "cupy.cuda.cub",
    "thrust": "cupy.cuda.thrust",
    "generator_api": "cupy.random._generator_api",
    "cupyx_cusolver": "cupyx._cusolver",
}


def describe(name: str) -> dict[str, object]:
    """Return the public names of one module, sorted into constants, functions and classes."""
    module = importlib.import_module(name)
    constants: dict[str, int] = {}
    functions: dict[str, str] = {}
    classes: dict[str, str] = {}
    for key in sorted(dir(module)):
        value = getattr(module, key)
        if key.startswith("__"):
            continue
        if isinstance(value, int):
            constants[key] = int(value)
        elif isinstance(value, type):
            if value.__module__ == name:
                classes[key] = (value.__doc__ or "").strip().split("\n")[0]
        elif type(value).__name__ in ("builtin_function_or_method", "cython_function_or_method"):
            functions[key] = (value.__doc__ or "").strip().split("\n")[0]
    cupy = importlib.import_module("cupy")
    return {
        "module": name,
        "cupy": cupy.__version__,
        "constants": constants,
        "functions": functions,
        "classes": classes,
    }


def main() -> None:
    """Write one file per module into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for short, name in MODULES.items():
        text = json.dumps(describe(name), indent=1, sort_keys=True)
        (folder / f"{short}.json").write_text(text + "\n")
        print(short, len(text))


if __name__ == "__main__":
    main()
