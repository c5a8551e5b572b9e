"""Errors of library calls that nobody waits for, and messages that are longer than a reply's line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import CudaError
from migproxy.executor.dispatch import LibraryError, Refused

from .executor_rig import Rig

LONG = "because " * 50
encode = msgspec.msgpack.encode


class Library:
    """What a plugin host serves here: each function fails in its own way."""

    def serve(self, library: str, function: str, arguments: list[Any], stream: int) -> Any:
        raise {
            "wrong": LibraryError({"type": "BlasError", "status": 7, "message": "INVALID"}),
            "refused": Refused(LONG),
            "defect": ValueError("a defect"),
            "bad_address": CudaError(1, LONG),
            "fault": CudaError(700),
        }[function]

    def prepare(self, *arguments: Any) -> None:
        return None

    def needs_lease(self, library: str, function: str) -> bool:
        return False


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    made = Rig()
    made.state.plugins = Library()  # type: ignore[assignment]
    made.state.process_memory = SimpleNamespace(used=lambda: 0)  # type: ignore[assignment]
    yield made
    made.close()


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.producer.take_deferred_status()
    shared.state.late_error = {}
    return shared


def post(rig: Rig, function: str, op: Op = Op.LIBRARY_CALL) -> None:
    rig.producer.submit(op, encode(("blas", function, [])))
    rig.step()


def call(rig: Rig, function: str) -> tuple[int, bytes]:
    return rig.call(Op.LIBRARY_CALL, encode(("blas", function, [])))


def late(rig: Rig) -> dict[str, Any]:
    assert rig.producer.take_deferred_status() == layout.DEFERRED_LIBRARY
    status, data = rig.call(Op.LATE_ERROR, b"")
    if status == layout.STATUS_TOO_LONG:
        data = kept(rig, rig.state.consumer.tail - 1)
    return msgspec.msgpack.decode(data, type=dict[str, Any])


def kept(rig: Rig, number: int) -> bytes:
    data = rig.state.take_kept(number)
    assert data is not None
    return data


@pytest.mark.parametrize("op", [Op.LIBRARY_CALL, Op.LIBRARY_QUERY])
def test_the_librarys_error_is_kept_with_the_function_it_is_of(
    rig: Rig, op: Op, caplog: pytest.LogCaptureFixture
) -> None:
    post(rig, "wrong", op)
    found = late(rig)
    assert found == {"library": "blas", "function": "wrong", "type": "BlasError", "status": 7, "message": "INVALID"}
    assert "blas.wrong failed after it had returned: INVALID" in caplog.text


def test_only_the_first_is_kept(rig: Rig) -> None:
    post(rig, "wrong")
    post(rig, "defect")
    assert late(rig)["function"] == "wrong"
    assert rig.producer.take_deferred_status() == 0


def test_a_refusal_and_a_defect_keep_their_reasons(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    post(rig, "refused")
    found = late(rig)
    assert (found["cuda"], found["message"], found["function"]) == (layout.STATUS_REFUSED, LONG, "refused")
    post(rig, "defect")
    found = late(rig)
    assert (found["cuda"], found["message"]) == (999, "ValueError: a defect")


def test_what_is_cudas_own_stays_a_cuda_status(rig: Rig) -> None:
    post(rig, "bad_address")
    assert rig.producer.take_deferred_status() == 1
    rig.producer.submit(Op.COPY_DTOD, layout.COPY.pack(rig.device, rig.device + 4096, 100))
    rig.step()
    assert rig.producer.take_deferred_status() == 1


@pytest.mark.parametrize(("function", "status"), [("refused", layout.STATUS_REFUSED), ("bad_address", 1)])
def test_a_long_message_of_a_call_that_waits_is_fetched(rig: Rig, function: str, status: int) -> None:
    answer, _ = call(rig, function)
    assert answer == layout.STATUS_LIBRARY_LONG
    facts = msgspec.msgpack.decode(kept(rig, rig.state.consumer.tail - 1))
    assert (facts["cuda"], facts["message"][:8]) == (status, "because ")
    assert len(facts["message"]) >= 400


def test_the_end_names_what_nobody_asked_for(rig: Rig) -> None:
    post(rig, "wrong")
    assert rig.call(Op.CLOSE, b"") == (0, b"blas.wrong")
    rig.state.closing = False
    rig.state.late_error = {}
    assert rig.call(Op.CLOSE, b"") == (0, b"")
    rig.state.closing = False


def test_a_real_fault_is_sticky(rig: Rig) -> None:
    """The last test here: the context is dead then."""
    post(rig, "fault")
    assert rig.state.sticky == 700
    assert rig.producer.sticky_status() == 700
    assert call(rig, "wrong")[0] == 700
