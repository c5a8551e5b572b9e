"""Compile LLVM assembly to machine code that lives as long as the process.

llvmlite is imported on first use, which costs about 40 ms; compiling costs some hundred milliseconds for all hot paths
together. So a function process keeps the object code in the user's cache directory (`use_cache`) and the next one only
loads it, without llvmlite. Executors never do: their code must not come from a file that somebody else could write.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import stat
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from migproxy import ending
from migproxy.arena.machine_unsafe import SYMBOLS
from migproxy.jit import objects_unsafe

_LOCK = threading.Lock()
#: Engines and their contexts are never freed: addresses of their code are stored in capsules, tables and other machine
#: code.
_ENGINES: list[Any] = []
_cache_directory: Path | None = None

#: Files that the cache directory keeps, of each kind.
MAX_FILES = 64
#: Packages whose source decides what the machine code is.
_SOURCES = ("abi", "arena", "jit")


@cache
def _llvm() -> Any:
    """Import llvmlite and initialise LLVM for this machine; returns ``llvmlite.binding``."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _target() -> Any:
    # No features of the machine's CPU: the code is small and bound by latency, and vector units left dirty cost the
    # caller.
    return _llvm().Target.from_default_triple().create_target_machine(opt=2, jit=True)


def object_code(assembly: str) -> bytes:
    """Compile a module of LLVM assembly (opaque pointers, as LLVM 15 to 20 read it) to an object file's bytes."""
    with _LOCK:
        llvm = _llvm()
        target = _target()
        module = llvm.parse_assembly(assembly, llvm.create_context())
        module.verify()
        builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
        builder.getModulePassManager().run(module, builder)
        code: bytes = target.emit_object(module)
        return code


def load_object(code: bytes, names: Iterable[str]) -> dict[str, int]:
    """Link an object file into the process; returns the addresses of the functions `names`, valid until the process
    ends."""
    wanted = list(names)
    with _LOCK:
        found = objects_unsafe.load(code, wanted, _find)
        if found is not None:
            return found
        llvm = _llvm()
        for name, address in SYMBOLS.items():
            llvm.add_symbol(name, address)
        context = llvm.create_context()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly("", context), _target())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _ENGINES.extend((engine, context))
        ending.at_end(_leave_engines)
        return {name: engine.get_function_address(name) for name in wanted}


def _leave_engines() -> None:
    """Keep the interpreter's end from freeing them: destructors that run later still call their code."""
    for each in _ENGINES:
        each.detach()


def _find(name: str) -> int | None:
    """Return the address of a symbol that object code refers to."""
    if name in SYMBOLS:
        return SYMBOLS[name]
    try:
        return symbol(name)
    except AttributeError:
        return None


def compile_ir(assembly: str, names: Iterable[str]) -> dict[str, int]:
    """Compile LLVM assembly and link it; returns the addresses of the functions `names`."""
    return load_object(object_code(assembly), names)


def symbol(name: str) -> int:
    """Return the address of a C function of this process, such as ``"PyLong_FromLongLong"`` or ``"malloc"``."""
    address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    assert address is not None
    return address


# -- object code kept in files ----------------------------------------------------------------------------------------
def use_cache(directory: Path | None = None) -> None:
    """Keep object code in `directory` (the default is the user's cache directory, ``MIGPROXY_JIT_CACHE=0`` turns it
    off).

    The directory must belong to this user and be closed to others: what lies there is executed.
    """
    global _cache_directory
    if os.environ.get("MIGPROXY_JIT_CACHE") == "0" or _cache_directory is not None:
        return
    if directory is None:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = Path(root) / "migproxy" / "code"
    with contextlib.suppress(OSError):  # no home, or a read-only one: compile each time
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(directory.stat()):
            _cache_directory = directory


def _is_private(facts: os.stat_result) -> bool:
    return facts.st_uid == os.getuid() and not stat.S_IMODE(facts.st_mode) & 0o022


@cache
def _source_digest() -> bytes:
    """A digest of everything that decides what the machine code is, other than the functions' own files."""
    digest = hashlib.sha256(f"{sys.version} {os.uname().machine}".encode())
    llvmlite = importlib.util.find_spec("llvmlite")  # not imported: that is what the cache is to save
    for place in llvmlite.submodule_search_locations or () if llvmlite is not None else ():
        digest.update((Path(place) / "_version.py").read_bytes())
    package = Path(__file__).parent.parent
    for folder in _SOURCES:
        inside = os.path.join(package, folder)
        for name in sorted(os.listdir(inside)):
            if name.endswith(".py"):
                with open(os.path.join(inside, name), "rb", buffering=0) as file:
                    digest.update(name.encode() + file.read())
    return digest.digest()


def cache_key(names: Iterable[str], files: Iterable[str]) -> str:
    """Return the name under which the code of functions from these source files is kept; empty without a cache."""
    if _cache_directory is None:
        return ""
    digest = hashlib.sha256(_source_digest() + repr(sorted(names)).encode())
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def cached_object(key: str) -> bytes | None:
    """Return kept object code, or None. A file that is not this user's, or is damaged, does not count."""
    if not key or _cache_directory is None:
        return None
    try:
        fd = os.open(_cache_directory / f"{key}.o", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not _is_private(os.fstat(fd)):
            return None
        data = file.read()
    digest, code = data[:32], data[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def keep_object(key: str, code: bytes) -> None:
    """Keep object code for later processes; a full or read-only disk is no error."""
    if not key or _cache_directory is None:
        return
    path = _cache_directory / f"{key}.o"
    fresh = path.with_suffix(f".{os.getpid()}.{threading.get_native_id()}")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        fresh.replace(path)
        _forget_oldest(path.parent, _kind(path))
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()


def _kind(file: Path) -> str:
    """Return what a key begins with, up to a hyphen: kinds do not crowd each other out."""
    return file.stem.rpartition("-")[0]


def _forget_oldest(directory: Path, kind: str = "") -> None:
    """Keep the cache small: every change of this project's code leaves files behind."""
    files = [file for file in directory.glob("*.o") if _kind(file) == kind]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MAX_FILES:]:
        file.unlink(missing_ok=True)
