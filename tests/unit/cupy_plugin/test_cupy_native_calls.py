"""What a library call is said to come down to in C is what CuPy's real modules call: recorded by libraries that only
write down how they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import recorded_c_calls
from migproxy_plugins.cupy import native_unsafe

#: CuPy's own function forgets to give the handle its stream.
WITHOUT_STREAM = {"cublas.zdotc"}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make the recording libraries with")
    folder = tmp_path_factory.mktemp("recording")
    recorded_c_calls.build(folder)
    command = [sys.executable, str(Path(recorded_c_calls.__file__)), str(folder)]
    search = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]))
    done = subprocess.run(
        command, env={**os.environ, "LD_LIBRARY_PATH": search}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(made: Any, claimed: Any) -> bool:
    """Compare names and the arguments that are claimed; those that C takes as int have no upper half."""
    name, words, numbers = claimed
    pairs = zip([*made[1], *made[2]], [*words, *([0] * (len(made[1]) - len(words))), *numbers], strict=False)
    halves = [
        (one & 0xFFFFFFFF, other & 0xFFFFFFFF) if other >> 32 == 0xFFFFFFFF else (one, other) for one, other in pairs
    ]
    told = [*range(len(words)), *range(len(made[1]), len(made[1]) + len(numbers))]
    return made[0] == name and all(halves[index][0] == halves[index][1] for index in told)


def test_the_calls_are_those_that_cupy_makes(calls: list[dict[str, Any]]) -> None:
    wrong = []
    for call in calls:
        claimed = call["claimed"][1:] if call["function"] in WITHOUT_STREAM else call["claimed"]
        right = len(call["made"]) == len(claimed) and all(map(same, call["made"], claimed))
        if not right:
            wrong.append((call["function"], call["made"], claimed))
    assert not wrong


def test_every_function_on_a_stream_is_known(calls: list[dict[str, Any]]) -> None:
    unknown = [call["function"] for call in calls if not call["claimed"]]
    assert not unknown
    assert len(calls) > 100
    assert {call["function"] for call in calls} >= {
        "cublas.gemmEx",
        "cublas.dgemm",
        "curand.generateNormal",
        "cufft.41",
    }


def test_older_compute_types_are_pythons() -> None:
    from migproxy_plugins.cupy import signatures, tables

    doc = tables.table("cupy_backends.cuda.libs.cublas")["functions"]["gemmEx"]
    signature = signatures.parse(doc)
    values = [0 if argument.name == "computeType" else 1 for argument in signature.arguments]
    assert native_unsafe.library_calls("cublas", sys, signature, values, 0) == ()


def test_the_module_exports_cubs_functions() -> None:
    file = recorded_c_calls.origin("cupy.cuda.cub")
    for symbol, _ in native_unsafe.CUB_SYMBOLS.values():
        assert native_unsafe.address(file, symbol)
        assert native_unsafe.address(file, native_unsafe.size_symbol(symbol))
    assert native_unsafe.address(file, "no_such_function") == 0


def test_calls_on_a_stream_share_scratch_memory() -> None:
    made: list[int] = []

    def allocate(size: int) -> tuple[int, int]:
        made.append(size)
        return len(made), size

    spaces = native_unsafe.Workspaces(allocate)
    assert spaces.of(1, 100) is spaces.of(1, 50)
    assert spaces.of(1, 200) == (2, 200)
    assert spaces.of(1, 100) == (2, 200)
    assert spaces.of(2, 10) == (3, 10)
    assert made == [100, 200, 10]
