"""Kept object code: found again, never trusted when it could be somebody else's, loaded as LLVM would."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from migproxy.arena.machine_unsafe import U64, External, Symbol, load64
from migproxy.jit import compiler, language, objects_unsafe

_WORD = ctypes.c_uint64(41)
WORD = Symbol("migproxy_test_word", ctypes.addressof(_WORD))
absolute = External("labs", "I64(I64)")


def one_more(n: U64) -> U64:
    return absolute(-(load64(WORD) + n))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiler, "_cache_directory", None)
    directory = tmp_path / "code"
    compiler.use_cache(directory)
    assert compiler._cache_directory == directory
    return directory


def call() -> int:
    return language.bind(one_more, language.compile_functions(one_more)["one_more"])(1)


def test_code_is_kept_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call() == 42
    [file] = cache.glob("*.o")
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(compiler, "object_code", lambda _: pytest.fail("compiled again"))
    assert call() == 42


@pytest.mark.parametrize("harm", ["damage", "cut", "writable", "link"])
def test_what_is_not_ours_or_not_whole_is_compiled_again(cache: Path, harm: str) -> None:
    call()
    [file] = cache.glob("*.o")
    data = file.read_bytes()
    if harm == "damage":
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif harm == "cut":
        file.write_bytes(data[:50])
    elif harm == "writable":
        file.chmod(0o666)
    else:
        file.rename(cache / "elsewhere")
        file.symlink_to(cache / "elsewhere")
    assert compiler.cached_object(file.stem) is None
    assert call() == 42


def test_a_directory_that_others_can_write_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache_directory", None)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    compiler.use_cache(shared)
    assert compiler._cache_directory is None
    assert call() == 42
    assert list(shared.iterdir()) == []


def test_the_cache_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache_directory", None)
    monkeypatch.setenv("MIGPROXY_JIT_CACHE", "0")
    compiler.use_cache(tmp_path / "code")
    assert compiler._cache_directory is None


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache_directory", cache / "gone")
    assert call() == 42
    assert list(cache.iterdir()) == []


def test_old_files_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MAX_FILES", 3)
    for index in range(6):
        compiler.keep_object(f"{index:064}", b"code")
        os.utime(cache / f"{index:064}.o", (index, index))
    compiler._forget_oldest(cache)
    assert sorted(int(file.stem) for file in cache.glob("*.o")) == [3, 4, 5]


def test_the_key_depends_on_names_and_sources(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("a = 1\n")
    keys = {compiler.cache_key(["a"], [str(source)]), compiler.cache_key(["b"], [str(source)])}
    source.write_text("a = 2\n")
    keys.add(compiler.cache_key(["a"], [str(source)]))
    assert len(keys) == 3


def test_llvm_loads_what_the_small_loader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache_directory", None)
    monkeypatch.setattr(objects_unsafe, "load", lambda *_: None)
    assert call() == 42


def test_the_small_loader_refuses_what_it_does_not_know() -> None:
    module = language._module([one_more])
    code = compiler.object_code(module.assembly())
    names = ["migproxy.one_more"]
    assert objects_unsafe.load(code, names, compiler._find) is not None
    assert objects_unsafe.load(code, ["missing"], compiler._find) is None
    assert objects_unsafe.load(code, names, lambda _: None) is None
    assert objects_unsafe.load(b"\x7fELF" + code[4:16] + b"\xff" * (len(code) - 16), names, compiler._find) is None


def test_a_second_process_needs_no_llvm(tmp_path: Path) -> None:
    code = (
        "import sys; from migproxy.interpose import capsules; from migproxy.jit import trampoline, heap, fast_path;"
        "trampoline._entry(); heap.addresses(); fast_path._functions(); print('llvmlite' in sys.modules)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]


def test_kinds_of_kept_files_do_not_crowd_each_other_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_cache_directory", tmp_path)
    monkeypatch.setattr(compiler, "MAX_FILES", 2)
    compiler.keep_object("code", b"machine code")
    for number in range(4):
        compiler.keep_object(f"text-{number}", b"text")
    assert compiler.cached_object("code") == b"machine code"
    assert len(list(tmp_path.glob("text-*.o"))) == 2
