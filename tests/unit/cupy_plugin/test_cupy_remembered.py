"""Calls that leave as the bytes of an earlier one: they say the same, and only where nothing is different."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from migproxy_plugins.cupy import remembered, roles, signatures, standin, tables
from migproxy_plugins.cupy.libraries import cub as cub_standin

from migproxy.session.api import streams

__all__ = ["loopback"]  # a fixture
CUBLAS = "cupy_backends.cuda.libs.cublas"


class Blas:
    """A stand-in, a handle, and a product that can be asked for again."""

    def __init__(self, loopback: Loopback) -> None:
        self.loopback = loopback
        self.module: Any = standin.make(CUBLAS)
        self.handle = self.module.create()
        self.a, self.b = np.asfortranarray(np.eye(3) * 2), np.asfortranarray(np.arange(9.0).reshape(3, 3))
        self.c = np.zeros((3, 3), order="F")
        self.alpha, self.beta = np.array(1.0), np.array(0.0)

    def product(self, **changed: Any) -> None:
        arguments = {"transa": 0, "transb": 0, "m": 3, "n": 3, "k": 3, "alpha": self.alpha.ctypes.data}
        arguments |= {"A": self.a.ctypes.data, "lda": 3, "B": self.b.ctypes.data, "ldb": 3}
        arguments |= {"beta": self.beta.ctypes.data, "C": self.c.ctypes.data, "ldc": 3}
        self.module.dgemm(self.handle, *(arguments | changed).values())

    def taught(self) -> None:
        for _ in range(3):
            self.product()
        assert self.loopback.posted == ["dgemm"]
        self.loopback.posted.clear()
        self.c[:] = 0


@pytest.fixture
def blas(loopback: Loopback) -> Blas:
    return Blas(loopback)


def test_the_third_call_leaves_as_the_second_did(blas: Blas) -> None:
    blas.taught()
    blas.product()
    np.testing.assert_array_equal(blas.c, 2 * blas.b)
    assert blas.loopback.posted == ["dgemm"]
    assert blas.loopback.calls[-1] == blas.loopback.calls[-2]


def test_what_alpha_holds_counts_not_where_it_lies(blas: Blas) -> None:
    blas.taught()
    elsewhere = np.array(1.0)
    blas.product(alpha=elsewhere.ctypes.data)
    assert blas.loopback.posted == ["dgemm"]
    blas.alpha[()] = 3.0
    blas.product()
    np.testing.assert_array_equal(blas.c, 6 * blas.b)
    assert blas.loopback.posted == ["dgemm"], "another alpha is another call"


@pytest.mark.parametrize("changed", [{"m": 2}, {"transa": 1}, {"lda": 4}, {"A": "b"}])
def test_another_argument_is_another_call(blas: Blas, changed: dict[str, Any]) -> None:
    blas.taught()
    blas.product(**{name: blas.b.ctypes.data if value == "b" else value for name, value in changed.items()})
    assert blas.loopback.posted == []


def test_numbers_of_other_types_are_the_same_call(blas: Blas) -> None:
    blas.taught()
    blas.product(m=np.int64(3), transa=False)
    assert blas.loopback.posted == ["dgemm"]
    np.testing.assert_array_equal(blas.c, 2 * blas.b)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"m": "3"}, TypeError),
        ({"m": 3.0}, TypeError),
        ({"m": 1 << 40}, OverflowError),
        ({"A": -1}, OverflowError),
    ],
)
def test_what_cannot_be_converted_raises_as_it_does_the_first_time(
    blas: Blas, changed: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as first:
        blas.product(**changed)
    blas.taught()
    with pytest.raises(error) as later:
        blas.product(**changed)
    assert str(first.value) == str(later.value)


def test_an_invalid_call_is_refused_each_time(blas: Blas) -> None:
    for _ in range(4):
        with pytest.raises(blas.module.CUBLASError):
            blas.product(lda=1)
    assert blas.loopback.posted == []


def test_the_pointer_mode_counts(blas: Blas) -> None:
    blas.taught()
    blas.module.setPointerMode(blas.handle, blas.module.CUBLAS_POINTER_MODE_DEVICE)
    blas.product()
    assert blas.loopback.posted == []
    assert blas.loopback.calls[-1][1][6] == blas.alpha.ctypes.data, "in device mode the address itself travels"
    for _ in range(2):
        blas.product()
    assert blas.loopback.posted == ["dgemm"]


def test_a_result_in_host_memory_is_waited_for_each_time(blas: Blas) -> None:
    x, result = np.arange(3.0), np.zeros(())
    for _ in range(4):
        result[()] = 0
        blas.module.ddot(blas.handle, 3, x.ctypes.data, 1, x.ctypes.data, 1, result.ctypes.data)
        assert result == 5
    assert blas.loopback.posted == []


def test_during_a_capture_it_is_refused_as_the_first_time(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    blas.taught()
    monkeypatch.setattr(streams, "_capturing", {1: 1})
    before = len(blas.loopback.calls)
    monkeypatch.setattr(streams, "stream_capture_status", lambda stream: 1)
    monkeypatch.setattr(standin.raw, "current_stream", lambda: 5)
    with pytest.raises(NotImplementedError, match="capture"):
        blas.product()
    assert len(blas.loopback.calls) == before


def test_keywords_and_the_text_of_the_function_stay(blas: Blas) -> None:
    function = blas.module.dgemm
    signature = signatures.parse(tables.table(CUBLAS)["functions"]["dgemm"])
    assert function.__name__ == "dgemm"
    assert function.__module__ == CUBLAS
    assert function.__doc__
    names = [argument.name for argument in signature.arguments]
    assert list(function.__code__.co_varnames[: function.__code__.co_argcount]) == names


def test_only_calls_without_a_result_that_work_on_a_stream_are_remembered() -> None:
    remembered_ones, others = set(), set()
    for name, short in tables.SHORT_NAMES.items():
        if short not in ("cublas", "cusolver", "cusparse", "curand"):
            continue
        for function, doc in tables.table(name)["functions"].items():
            signature = signatures.parse(doc)
            (remembered_ones if remembered.fits(short, signature) else others).add(f"{short}.{function}")
    assert {"cublas.sgemm", "cublas.gemmEx", "cublas.ddot", "curand.generateUniform"} <= remembered_ones
    assert {"cublas.create", "cublas.destroy", "cublas.setPointerMode", "cusolver.sgesvd_bufferSize"} <= others
    names = {each.partition(".")[2] for each in remembered_ones}
    odd = {name for name in names if re.match("(sp)?([cC]reate|[dD]estroy|get|set)", name)}
    assert odd == {"createIdentityPermutation"}, "this one makes no object: it fills an array"


def test_the_memory_is_bounded(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_CALLS", 4)
    monkeypatch.setattr(remembered, "MOST_CONTENTS", 4)
    signature = signatures.parse(tables.table(CUBLAS)["functions"]["dgemm"])
    library = blas.module._migproxy_library
    memory = remembered.Memory(library, signature, roles.roles("cublas", signature))
    for number in range(20):
        blas.alpha[()] = number
        for n in range(3):
            arguments = [blas.handle, 0, 0, 3, n, 3, blas.alpha.ctypes.data, 8, 3, 16, 3, blas.beta.ctypes.data, 24, 3]
            for _ in range(2):
                memory.note(tuple(arguments))
    assert 0 < len(memory.known) <= 4
    assert all(0 < len(payloads) <= 4 for _, payloads in memory.known.values())


def test_commands_of_hand_written_stand_ins(loopback: Loopback) -> None:
    library = cub_standin.make("cupy.cuda.cub")._migproxy_library
    commands = remembered.Commands(library)
    asked = []

    def arguments() -> list[Any]:
        asked.append(1)
        return [{"__array__": [x.ctypes.data, [4], [8], "<f8"]}, int(cub_standin.CUMSUM)]

    x = np.arange(4.0)
    for _ in range(2):
        commands.post(("device_scan", x.ctypes.data), arguments)
    np.testing.assert_array_equal(x, [0, 1, 4, 10])
    assert asked == [1]
