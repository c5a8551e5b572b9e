"""The CuPy plugin against the installed CuPy: every function has a handler or a reason, and no module reaches CUDA
past a seam.
"""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from migproxy_plugins.cupy import PLUGIN, device_arguments, driver, roles, runtime, signatures, tables

pytest.importorskip("cupy", reason="CuPy is not installed")

#: Modules that touch CUDA's libraries and stay as they are, and why that is safe.
STAYS = {
    "cupy_backends.cuda.libs.nvtx": "annotations; without a profiler they do nothing",
    "cupy.cuda.jitify": "preprocesses source for nvrtc; carries a runtime that it never calls",
}
#: What a module that can reach CUDA shows in its dynamic section or in its strings.
_CUDA_LIBRARY = re.compile(
    rb"^lib(?:cuda|cublas|cublasLt|cudart|cufft|cufftw|curand|cusolver|cusparse|cusparseLt|cutensor|cutensorMg|nccl|"
    rb"nvrtc|nvJitLink|cudnn|nvidia-ml)\b"
)
_CUDA_SYMBOL = re.compile(
    rb"^(?:cu[A-Z]|cuda[A-Z]|cublas|cusolver|cusparse|curand[A-Z]|cufft|cutensor|nccl[A-Z]|nvml[A-Z]|nvrtc[A-Z])"
)
#: A docstring that Cython made from a signature: a C string of its own.
_DOCSTRING = re.compile(rb"(?<=\0)([A-Za-z_]\w{2,}\([\w ,=*:.\[\]'\"()+-]*\)(?: -> [^\0\n]+)?)(?=[\0\n])")
#: What looks like one and is none: C++ names, Cython's own helpers, wrappers of C functions inside the module.
_NO_FUNCTION = re.compile(r"operator\(\)|decltype\(|__pyx_unpickle_|wrap\(")
_MARKS = (b"libcuda.so", b"__cudaRegisterFatBinary")


class Elf:
    """The dynamic section and symbols of a 64-bit little-endian shared object."""

    def __init__(self, path: Path) -> None:
        self.data = data = path.read_bytes()
        assert data[:6] == b"\x7fELF\x02\x01"
        (offset,) = struct.unpack_from("<Q", data, 0x28)
        entry_size, count = struct.unpack_from("<HH", data, 0x3A)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * entry_size) for i in range(count)]

    def _string(self, table: int, at: int) -> bytes:
        start = self.sections[table][4] + at
        return self.data[start : self.data.index(b"\0", start)]

    def needed(self) -> list[bytes]:
        """Return the libraries that the loader brings in."""
        names = []
        for section in self.sections:
            if section[1] == 6:  # SHT_DYNAMIC
                for at in range(section[4], section[4] + section[5], 16):
                    tag, value = struct.unpack_from("<qQ", self.data, at)
                    if tag == 1:  # DT_NEEDED
                        names.append(self._string(section[6], value))
        return names

    def undefined(self) -> list[bytes]:
        """Return the symbols that others must provide."""
        names = []
        for section in self.sections:
            if section[1] == 11:  # SHT_DYNSYM
                for at in range(section[4], section[4] + section[5], 24):
                    name, _, _, index = struct.unpack_from("<IBBH", self.data, at)
                    if index == 0 and name:
                        names.append(self._string(section[6], name))
        return names


def reaches_cuda(path: Path) -> bool:
    """Whether a shared object links, carries or opens a CUDA library."""
    elf = Elf(path)
    return (
        any(_CUDA_LIBRARY.match(name) for name in elf.needed())
        or any(_CUDA_SYMBOL.match(name) for name in elf.undefined())
        or any(mark in elf.data for mark in _MARKS)
    )


@cache
def modules_that_reach_cuda() -> frozenset[str]:
    found = set()
    for package in ("cupy", "cupyx", "cupy_backends"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in root.rglob("*.so"):
            if reaches_cuda(path):
                parts = path.relative_to(root.parent).with_suffix("").parts
                found.add(".".join((*parts[:-1], parts[-1].split(".")[0])))
    return frozenset(found)


def test_no_module_reaches_cuda_past_a_seam():
    covered = {*PLUGIN.after_import, *PLUGIN.replace, *STAYS}
    assert modules_that_reach_cuda() - covered == set()


def test_the_scan_sees_what_it_must_see():
    # `cub` carries CUDA statically, `cublas` links it, `driver` opens it by name at run time.
    assert {"cupy.cuda.cub", "cupy_backends.cuda.libs.cublas", "cupy_backends.cuda.api.runtime"} <= (
        modules_that_reach_cuda()
    )


def test_every_replaced_or_patched_module_is_recorded_for_the_installed_version():
    for name in PLUGIN.replace:
        assert tables.recorded(name), name


@pytest.mark.parametrize(
    ("module", "handlers", "stays", "made"),
    [
        ("cupy_backends.cuda.api.runtime", runtime.HANDLERS, runtime.STAYS, runtime.MODULE_HANDLERS),
        ("cupy_backends.cuda.api.driver", driver.HANDLERS, driver.STAYS, ("check_status",)),
    ],
)
@pytest.mark.parametrize("version", tables.recorded_versions())
def test_every_function_has_a_handler_or_a_reason(module, handlers, stays, made, version):
    facts = tables.table(module, version)
    names = {*facts["functions"], *facts["capsules"]}
    decided = {*handlers, *stays, *made}
    assert names - decided == set()
    assert not set(handlers) & set(stays)


def test_no_handler_is_for_a_name_that_no_version_has():
    for module, handlers in (
        ("cupy_backends.cuda.api.runtime", runtime.HANDLERS),
        ("cupy_backends.cuda.api.driver", driver.HANDLERS),
    ):
        known: set[str] = set()
        for version in tables.recorded_versions():
            facts = tables.table(module, version)
            known |= {*facts["functions"], *facts["capsules"]}
        assert set(handlers) - known == set()


BY_ROLES = ("cublas", "cusolver", "cusparse", "curand")


@pytest.mark.parametrize("version", tables.recorded_versions())
def test_every_argument_of_every_library_function_has_a_role(version):
    """Nothing that is as wide as an address goes through unless somebody has said what it is."""
    for module, short in tables.SHORT_NAMES.items():
        if short not in BY_ROLES:
            continue
        for name, doc in tables.table(module, version)["functions"].items():
            signature = signatures.parse(doc)
            undecided = [
                argument.name
                for argument, role in zip(signature.arguments, roles.roles(short, signature), strict=True)
                if role.kind is roles.Kind.UNDECIDED
            ]
            assert not undecided, (short, name, undecided)


def test_device_arguments_are_those_of_some_version():
    known: dict[str, set[str]] = {short: set() for short in BY_ROLES}
    for version in tables.recorded_versions():
        for module, short in tables.SHORT_NAMES.items():
            if short in BY_ROLES:
                for doc in tables.table(module, version)["functions"].values():
                    known[short] |= {argument.name for argument in signatures.parse(doc).arguments}
    assert set(device_arguments.DEVICE) == set(known)
    for short, names in device_arguments.DEVICE.items():
        assert names - known[short] == set()


def test_hand_written_stand_ins_refuse_what_is_listed_and_nothing_else():
    """The names of `publish`'s tables without a handler, for the installed version."""
    refused = {}
    for name, factory in PLUGIN.replace.items():
        try:
            module = factory(name)
        except ImportError:
            refused[tables.SHORT_NAMES[name]] = {"*"}
            continue
        names = module._migproxy_library.refused_names
        if names:
            refused[tables.SHORT_NAMES[name]] = names
    assert refused == {
        "cufft": {"multi_gpu_execC2C", "multi_gpu_execZ2Z"},
        "cutensor": {name for name in tables.table("cupy_backends.cuda.libs.cutensor")["functions"] if "Mg" in name},
        "nccl": {"*"},
    }


def test_tables_are_those_of_the_installed_modules():
    """The modules that import without CUDA's libraries, compared as the tool records them; the others by their
    signatures.
    """
    tool = Path(__file__).parents[2] / "tools" / "make_cupy_tables.py"
    code = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('tool', {str(tool)!r})\n"
        "tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool)\n"
        "import importlib\n"
        "print(json.dumps({name: tool.describe(importlib.import_module(name)) for name in tool.STAY_REAL}))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name, facts in json.loads(done.stdout).items():
        recorded = tables.table(name)
        for kind in ("functions", "capsules", "constants"):
            assert facts[kind] == recorded[kind], (name, kind)


@pytest.mark.parametrize("name", PLUGIN.replace)
def test_signatures_of_stand_ins_are_those_of_the_real_modules(name):
    """Cython keeps docstrings as plain text in the module's data, so both sets can be compared without importing it."""
    package, _, base = name.rpartition(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(next(iter(spec.submodule_search_locations))).glob(f"{base}.*.so")
    data = path.read_bytes()
    facts = tables.table(name)
    recorded = {line for function, line in facts["functions"].items() if line.startswith(f"{function}(")}
    recorded -= {f"{function}(*args)" for function in facts["functions"]}
    for line in recorded:
        assert line.encode() in data, line
    methods = {line for entry in facts["classes"].values() for line in entry.get("signatures", {}).values()}
    classes = {entry["doc"] for entry in facts["classes"].values()}
    found = {match.decode().strip() for match in _DOCSTRING.findall(data)}
    assert {line for line in found - recorded - methods - classes if not _NO_FUNCTION.match(line)} == set()
