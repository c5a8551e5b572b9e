"""What is put off or kept so that a script starts sooner, and is the same when it is needed."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from migproxy_plugins.cupy import cache, signatures

from migproxy.jit import compiler

LINE = "some(intptr_t first, int second=LIMIT, *, name=None)"


def lazily(handler: Any, line: str = LINE) -> Any:
    namespace = {"__name__": "some.module", "LIMIT": 7}
    return signatures.function_of_line(line, handler, namespace, doc=f"{line}\n\nTells.", name="some")


def test_a_function_made_when_it_is_called_is_the_one_made_at_once() -> None:
    function = lazily(lambda *arguments: arguments)
    now = signatures.python_function(signatures.parse(LINE), print, {"LIMIT": 7}, doc="", module="some.module")
    for _ in range(2):
        assert function(1) == (1, 7, None)
        assert function(first=1, second=2, name="x") == (1, 2, "x")
        for wrong in ((), (1, 2, 3)):
            with pytest.raises(TypeError) as raised:
                function(*wrong)
            with pytest.raises(TypeError) as expected:
                now(*wrong)
            assert str(raised.value) == str(expected.value)
    assert (function.__name__, function.__qualname__, function.__module__) == ("some", "some", "some.module")
    assert function.__doc__ == f"{LINE}\n\nTells."
    assert function.__code__.co_varnames == now.__code__.co_varnames


def test_a_wrong_first_call_makes_it_too() -> None:
    function = lazily(lambda *arguments: arguments)
    with pytest.raises(TypeError, match=r"some.. missing 1 required positional argument: 'first'"):
        function()
    assert function(3) == (3, 7, None)


def test_many_threads_may_call_it_first() -> None:
    found: list[Any] = []
    begin = threading.Barrier(8)
    function = lazily(lambda *arguments: arguments)

    def call() -> None:
        begin.wait(30)
        found.append(function(1, second=2))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [(1, 2, None)] * 8


@pytest.fixture
def nvrtc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``cupy.cuda.compiler`` with a counter of what nvrtc compiles, and a libnvrtc that can be exchanged."""
    monkeypatch.setattr(compiler, "_cache_directory", tmp_path)
    library = tmp_path / "libnvrtc.so"
    library.write_bytes(b"one")
    pathfinder: Any = ModuleType("cuda.pathfinder")
    pathfinder.DynamicLibNotFoundError = RuntimeError
    loaded = type("LoadedDL", (), {"abs_path": str(library)})
    pathfinder.load_nvidia_dynamic_lib = lambda name: loaded if name == "nvrtc" else None
    monkeypatch.setitem(cache.sys.modules, "cuda.pathfinder", pathfinder)
    module: Any = ModuleType("cupy.cuda.compiler")
    module.compiled = []
    module.library = library
    module._get_cupy_cache_key = lambda: "key"
    module._get_nvrtc_version = lambda: (12, 9)

    def preprocess(source: str, options: tuple[str, ...], arch: str, backend: str) -> str:
        module.compiled.append((source, options, arch, backend))
        return f"// made by {library.read_bytes().decode()} for {arch}"

    module._preprocess = preprocess
    cache.install(module)
    return module


def test_the_compilers_version_text_is_kept_by_library_options_and_architecture(nvrtc: Any) -> None:
    for _ in range(2):
        assert nvrtc._preprocess("", ("-a",), "90", "nvrtc") == "// made by one for 90"
        assert nvrtc._preprocess("", ("-a",), "80", "nvrtc") == "// made by one for 80"
        assert nvrtc._preprocess("", ("-b",), "80", "nvrtc") == "// made by one for 80"
    assert len(nvrtc.compiled) == 3
    nvrtc.library.write_bytes(b"another")
    assert nvrtc._preprocess("", ("-a",), "90", "nvrtc") == "// made by another for 90"
    assert len(nvrtc.compiled) == 4


def test_what_is_no_question_for_the_version_is_compiled_each_time(nvrtc: Any) -> None:
    for _ in range(2):
        nvrtc._preprocess("int x;", (), "90", "nvrtc")
        nvrtc._preprocess("", (), "90", "nvcc")
    assert len(nvrtc.compiled) == 4


def test_a_failure_is_not_kept(nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("cupy.cuda.compiler")
    module._get_cupy_cache_key, module._get_nvrtc_version = nvrtc._get_cupy_cache_key, nvrtc._get_nvrtc_version
    module._preprocess = lambda *_: 1 / 0
    cache.install(module)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module._preprocess("", (), "90", "nvrtc")


def test_a_library_that_cannot_be_told_is_asked_each_time(nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(cache.sys.modules, "cuda.pathfinder")
    for _ in range(2):
        nvrtc._preprocess("", (), "90", "nvrtc")
    assert len(nvrtc.compiled) == 2


def test_functions_that_are_imported_when_they_are_called_are_there() -> None:
    from migproxy_plugins.cuda.runtime import arrays
    from migproxy_plugins.cupy import runtime

    names = [each.__name__ for each in runtime.HANDLERS.values() if each.__qualname__.startswith("_arrays.")]
    assert len(names) == 13
    assert all(callable(getattr(arrays, name)) for name in names)
    with pytest.raises(TypeError, match="free_array"):
        runtime.HANDLERS["freeArray"](1, 2, 3)
