#!/usr/bin/env python3
"""Record what CuPy's compiled modules export, as data files for the stand-ins.

Run it with a Python that has CuPy and CUDA's math libraries (no GPU is needed)::

    python tools/make_cupy_tables.py [--output plugins/cupy/data] [--check]

It writes ``<output>/<cupy version>/<module>.json``: constants, functions with their docstring signatures, classes,
status messages, and the C signatures of ``__pyx_capi__``. ``--check`` compares instead of writing, and fails on a
difference.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    "cupy_backends.cuda.api.runtime",
    "cupy_backends.cuda.api.driver",
    "cupy_backends.cuda.libs.nvrtc",
    "cupy_backends.cuda.libs.cublas",
    "cupy_backends.cuda.libs.cusolver",
    "cupy_backends.cuda.libs.cusparse",
    "cupy_backends.cuda.libs.curand",
    "cupy_backends.cuda.libs.cutensor",
    "cupy_backends.cuda.libs.nccl",
    "cupy.cuda.cufft",
    "cupy.cuda.cub",
    "cupy.cuda.thrust",
    "cupy.random._generator_api",
    "cupyx._cusolver",
    "cupyx.cusolver",
)
#: Modules that no stand-in replaces.
STAY_REAL = ("cupy_backends.cuda.api.runtime", "cupy_backends.cuda.api.driver", "cupy_backends.cuda.libs.nvrtc")
#: Status values tried on error classes: every library's codes lie in this range.
STATUS_RANGE = range(-1, 1001)


def capsule_name(capsule: object) -> str:
    """Return a capsule's name, which Cython sets to the C signature."""
    get = ctypes.pythonapi.PyCapsule_GetName
    get.restype, get.argtypes = ctypes.c_char_p, [ctypes.py_object]
    name: bytes = get(capsule)
    return name.decode()


def status_messages(error: type[BaseException]) -> dict[str, str]:
    """Return what an error class says for each status it knows."""
    messages = {}
    for status in STATUS_RANGE:
        try:
            messages[str(status)] = str(error(status))
        except Exception:  # an unknown status is a KeyError here and a ValueError there
            continue
    return messages


def class_facts(value: type) -> dict[str, Any]:
    """Return a class's public face: bases, docstring signature, members."""
    facts: dict[str, Any] = {
        "bases": [base.__name__ for base in value.__mro__[1:-1]],
        "doc": (value.__doc__ or "").split("\n")[0],
        "members": sorted(name for name in vars(value) if not name.startswith("__")),
    }
    if issubclass(value, BaseException):
        if value.__module__ in STAY_REAL:
            return facts  # it makes its own messages in the function
        facts["messages"] = status_messages(value)
        known = next(iter(facts["messages"]), None)
        facts["attributes"] = sorted(vars(value(int(known)))) if known is not None else []
    elif issubclass(value, enum.Enum):
        del facts["members"]
        facts["values"] = {member.name: member.value for member in value}
    else:
        facts["signatures"] = {
            name: (getattr(vars(value)[name], "__doc__", None) or "").split("\n")[0]
            for name in facts["members"]
            if callable(vars(value)[name])
        }
    return facts


def describe(module: ModuleType) -> dict[str, Any]:
    """Return everything a stand-in of the module must have."""
    facts: dict[str, Any] = {
        "module": module.__name__,
        "constants": {},
        "functions": {},
        "classes": {},
        "modules": {},
        "objects": {},
        "tables": {},
        "values": {},
        "capsules": {
            name: capsule_name(capsule) for name, capsule in sorted(getattr(module, "__pyx_capi__", {}).items())
        },
    }
    for name in sorted(dir(module)):
        if name.startswith("__"):
            continue
        value = getattr(module, name)
        if isinstance(value, enum.Enum):
            facts["objects"][name] = f"{type(value).__name__}.{value.name}"
        elif isinstance(value, bool | int | float | str | None.__class__):
            facts["constants"][name] = value
        elif isinstance(value, ModuleType):
            facts["modules"][name] = value.__name__
        elif isinstance(value, type):
            facts["classes"][name] = class_facts(value)
        elif callable(value):
            if name.endswith("_build_version"):
                facts["values"][name] = value()
            facts["functions"][name] = (getattr(value, "__doc__", None) or f"{name}(*args)").strip().split("\n")[0]
        elif (
            isinstance(value, dict)
            and value
            and all(isinstance(item, int | str) for pair in value.items() for item in pair)
        ):
            facts["tables"][name] = sorted([key, item] for key, item in value.items())
        else:
            facts["objects"][name] = type(value).__name__
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "plugins" / "cupy" / "data")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    options = parser.parse_args()
    with contextlib.suppress(ImportError):
        # A helper of some environments, which loads CUDA's libraries from the wheels.
        importlib.import_module("preload_cuda_libs")
    version = importlib.import_module("cupy").__version__
    folder = options.output / version
    different = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: not here ({error})", file=sys.stderr)
            continue
        if not getattr(module, "__file__", "").endswith(".so"):
            continue  # this version has it as Python code over another module
        text = json.dumps(describe(module), indent=1, sort_keys=True) + "\n"
        path = folder / f"{name}.json"
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                different.append(name)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in different:
        print(f"{name}: the table differs from the installed module", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
