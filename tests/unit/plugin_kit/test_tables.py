"""Tables of operations: what contradicts itself is named; sizes; both halves over the encoding of the wire."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from migproxy.abi import tables as words
from migproxy.abi.tables import Kind, Operation, size_of, table
from migproxy.errors import CudaError, PluginError, ProtocolError
from migproxy.executor.dispatch import LibraryError, Refused
from migproxy.executor.table_server import TableServer, half
from migproxy.session import library as session_library
from migproxy.session.library import RemoteLibrary
from migproxy.session.session import LibraryCallError

HANDLE = words.handle("handle", "context")
MEMORY = range(0x10000, 0x20000)


class BlasError(RuntimeError):
    """The library's own."""

    def __init__(self, status: int | None, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class Blas:
    """The library as the executor imports it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def create(self) -> int:
        return 77

    def destroy(self, handle: int) -> None:
        self.seen.append(("destroy", handle))

    def set_stream(self, handle: int, stream: int) -> None:
        self.seen.append(("set_stream", handle, stream))

    def axpy(self, handle: int, n: int, alpha: int, x: int) -> None:
        self.seen.append(("axpy", handle, n, ctypes.c_float.from_address(alpha).value, x))

    def norm(self, handle: int, x: int, result: int) -> None:
        ctypes.c_double.from_address(result).value = 2.5

    def version(self) -> int:
        return 12

    def fail(self, handle: int) -> int:
        raise BlasError(13, "the library says no")

    def shape(self, facts: int) -> int:
        pair = (ctypes.c_int32 * 2).from_address(facts)
        return pair[0] * pair[1]


def make_table() -> words.Table:
    return table(
        "blas",
        [
            Operation("create", makes="context"),
            Operation("destroy", (words.ended("handle", "context"),)),
            Operation("set_stream", (HANDLE, words.stream()), stream_role="set"),
            Operation("get_stream", (HANDLE,), stream_role="get"),
            Operation(
                "axpy", (HANDLE, words.integer("n"), words.read("alpha", 4), words.device("x", "4 * n").otherwise(0))
            ),
            Operation("norm", (HANDLE, words.device("x"), words.written("result", 8))),
            Operation("version", result="integer", lease=False),
            Operation("fail", (HANDLE,), result="integer"),
            Operation(
                "shape", (words.struct("facts", words.integer("rows"), words.integer("cols")),), result="integer"
            ),
            Operation("sum", (words.array("x"),), result="number", by_hand=True),
            Operation("trace", refused="it needs a display"),
        ],
        error="BlasError",
        bad_handle=4,
    )


class Context:
    """What the executor gives."""

    kind = "gpu"
    stream = 0

    def check_range(self, address: int, size: int) -> None:
        if address not in MEMORY or address + size > MEMORY.stop:
            raise CudaError(1)

    def synchronize(self) -> None:
        """Nothing runs."""

    def capturing(self) -> bool:
        return False


class Wire:
    """Both halves, with the wire's encoding between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blas = Blas()
        self.context = Context()
        self.table = make_table()
        by_hand = {"sum": lambda context, x: float(x.shape[0])}
        self.server = TableServer(self.table, library=lambda: self.blas, by_hand=by_hand)
        self.half = half(self.server)
        self.waited: list[tuple[str, bool, bool]] = []
        self.late: list[Exception] = []
        front = SimpleNamespace(library_call=self.library_call, raise_deferred=self.raise_deferred)
        monkeypatch.setattr(session_library, "api", front)
        self.remote = RemoteLibrary(self.table, error=BlasError)

    def raise_deferred(self, package: str) -> None:
        assert package == "blas"
        if self.late:
            raise self.late.pop()

    def library_call(self, name: str, function: str, arguments: Any, *, stream: int, wait: bool, lease: bool) -> Any:
        self.waited.append((function, wait, lease))
        self.context.stream = stream
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(list(arguments)))
        try:
            answer = self.half.serve(self.context, name, function, sent)
        except LibraryError as error:
            raise LibraryCallError(error.facts) from None
        return msgspec.msgpack.decode(msgspec.msgpack.encode(answer)) if wait else None


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def test_calls_and_what_they_wait_for(wire: Wire) -> None:
    module = wire.remote.module("blas", BlasError=BlasError)
    handle = module.create()
    module.axpy(handle, n=3, alpha=np.float32(1.5), x=MEMORY.start)
    result = np.zeros(1)
    module.norm(handle, MEMORY.start, result)
    assert result[0] == 2.5
    address = ctypes.c_double()
    module.norm(handle, MEMORY.start, ctypes.addressof(address))
    assert address.value == 2.5
    assert module.version() == 12
    assert module.shape((3, 4)) == 12
    assert wire.blas.seen == [("axpy", 77, 3, 1.5, MEMORY.start)]
    assert wire.waited[:3] == [("create", False, True), ("axpy", False, True), ("norm", True, True)]
    assert ("version", True, False) in wire.waited
    assert wire.half.counts() == {"blas context": 1}
    module.destroy(handle)
    assert wire.half.counts() == {}
    assert "trace" in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_a_handles_stream_is_given_to_the_library(wire: Wire) -> None:
    module = wire.remote.module("blas")
    handle = module.create()
    module.set_stream(handle, 0x99)
    assert module.get_stream(handle) == 0x99
    module.axpy(handle, 1, np.float32(1), MEMORY.start)
    module.axpy(handle, 1, np.float32(1), MEMORY.start)
    assert [seen[0] for seen in wire.blas.seen] == ["set_stream", "axpy", "axpy"]
    assert wire.blas.seen[0] == ("set_stream", 77, 0x99)


def test_an_array_is_checked_in_full(wire: Wire) -> None:
    def array(start: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> Any:
        facts = {"data": (start, False), "shape": shape, "strides": strides, "typestr": "<f4", "version": 3}
        return SimpleNamespace(__cuda_array_interface__=facts)

    module = wire.remote.module("blas")
    assert module.sum(array(MEMORY.start, (5,))) == 5
    assert module.sum(array(MEMORY.start + 16, (5,), (-4,))) == 5
    for bad in (array(MEMORY.start + 8, (5,), (-4,)), array(MEMORY.stop - 16, (5,)), array(0, (1,))):
        with pytest.raises(BlasError):
            module.sum(bad)


def test_errors_are_the_librarys(wire: Wire) -> None:
    module = wire.remote.module("blas")
    with pytest.raises(BlasError, match="says no") as caught:
        module.fail(module.create())
    assert caught.value.status == 13
    with pytest.raises(BlasError) as caught:
        module.fail(123)
    assert caught.value.status == 4
    with pytest.raises(BlasError, match="trace is refused: it needs a display") as caught:
        module.trace()
    assert caught.value.status == 801
    with pytest.raises(OverflowError, match="does not fit int32"):
        module.axpy(module.create(), 1 << 40, np.float32(1), MEMORY.start)


def test_an_earlier_calls_error_is_told_by_the_next_and_says_whose_it_is(wire: Wire) -> None:
    module = wire.remote.module("blas")
    facts = {"library": "blas", "function": "axpy", "type": "BlasError", "status": 13, "message": "says no"}
    wire.late.append(LibraryCallError(facts))
    with pytest.raises(BlasError, match=r"^blas\.axpy, called before: says no$") as caught:
        module.version()
    assert caught.value.status == 13
    assert not wire.waited
    wire.late.append(LibraryCallError({**facts, "library": "blas.sparse"}))
    with pytest.raises(BlasError, match=r"^blas.sparse.axpy, called before") as caught:
        module.version()
    assert caught.value.status is None
    assert module.version() == 12


def test_what_cannot_be_imported_is_refused_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    by_hand = {"sum": lambda context, x: 0.0}
    server = TableServer(make_table(), library="no_such_library_here", by_hand=by_hand)
    with pytest.raises(Refused, match="blas cannot be loaded in the executor: ModuleNotFoundError: No module named"):
        server.serve(Context(), "version", [])
    assert "cannot be loaded in the executor" in caplog.text


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("nothing", [], ProtocolError),
        ("set_stream", [1, 2], ProtocolError),
        ("trace", [], Refused),
        ("version", [1], ProtocolError),
        ("create", [], ProtocolError),
        ("create", ["x"], ProtocolError),
        ("axpy", [5, 3, b"1234", MEMORY.start], LibraryError),
        ("axpy", [16, "3", b"1234", MEMORY.start], ProtocolError),
        ("axpy", [16, True, b"1234", MEMORY.start], ProtocolError),
        ("axpy", [16, 1 << 31, b"1234", MEMORY.start], ProtocolError),
        ("axpy", [16, 3, b"123", MEMORY.start], ProtocolError),
        ("axpy", [16, 3, 1234, MEMORY.start], ProtocolError),
        ("axpy", [16, 3, None, MEMORY.start], CudaError),
        ("axpy", [16, 3, b"1234", MEMORY.stop - 8], CudaError),
        ("axpy", [16, 3, b"1234", -1], CudaError),
        ("norm", [16, MEMORY.start, 4], ProtocolError),
        ("norm", [16, MEMORY.start, b"12345678"], ProtocolError),
        ("shape", [[1]], ProtocolError),
        ("shape", [5], ProtocolError),
        ("sum", [{"__array__": [MEMORY.start, [1 << 62, 1 << 62], [8, 8], "<f8"]}], CudaError),
        ("sum", [{"__array__": [MEMORY.start, [2], [8], "|O8"]}], ProtocolError),
    ],
)
def test_the_executor_believes_nothing(wire: Wire, name: str, arguments: list[Any], error: type[Exception]) -> None:
    wire.server.serve(wire.context, "create", [16])
    with pytest.raises(error):
        wire.server.serve(wire.context, name, arguments)
    assert wire.blas.seen == []


def test_a_call_is_prepared_once(wire: Wire) -> None:
    wire.server.serve(wire.context, "create", [16])
    again = wire.server.prepare(wire.context, "axpy", [16, 3, np.float32(2).tobytes(), MEMORY.start])
    assert again is not None
    again()
    again()
    assert [seen[3] for seen in wire.blas.seen] == [2.0, 2.0]
    assert wire.server.prepare(wire.context, "norm", [16, MEMORY.start, 8]) is None
    assert wire.server.prepare(wire.context, "destroy", [16]) is None


def test_what_is_by_hand_must_agree() -> None:
    with pytest.raises(PluginError, match="sum"):
        TableServer(make_table(), library=Blas)


def test_what_the_software_gpu_lacks_is_refused_by_name() -> None:
    server = TableServer(make_table(), software=SimpleNamespace, by_hand={"sum": len})
    context = Context()
    context.kind = "software"
    with pytest.raises(Refused, match=r"blas\.version"):
        server.serve(context, "version", [])


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (Operation("f", (words.handle("h", "plan"),)), "nothing makes a handle of 'plan'"),
        (Operation("f", (words.device("x", "4 * n"),)), "names n"),
        (Operation("f", (words.read("x", "__import__('os')"),)), "may hold names, integers"),
        (Operation("f", (words.read("x", "4 *"),)), "is no expression"),
        (Operation("f", (words.integer("n"), words.integer("n"))), "two arguments of one name"),
        (Operation("f", (words.integer("n", "int"),)), "no integer type 'int'"),
        (Operation("f", result="float"), "returns 'float'"),
        (Operation("f", makes="plan", result="integer"), "a handle and a value"),
        (Operation("f", result="integer", waits=False), "does not wait for what it returns"),
        (Operation("f", (words.value("x"),)), "only what is served by hand"),
        (Operation("f", (words.Argument("x", Kind.READ),)), "without a size"),
        (Operation("f", (words.struct("s", words.text("t")),)), "a field cannot be"),
    ],
)
def test_contradictions_are_named(operation: Operation, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        table("lib", [operation])


def test_two_entries_of_one_name() -> None:
    with pytest.raises(ValueError, match="two entries for f"):
        table("lib", [Operation("f"), Operation("f")])


def test_sizes() -> None:
    assert size_of(8, {}) == 8
    assert size_of("4 * max(n, 1) + lda // 2 - 1", {"n": 0, "lda": 7}) == 6
    assert size_of("4 * n", {"n": -3}) == 0
    assert size_of(lambda values: 2 * values["n"], {"n": 4}) == 8
    for rule, values in (("n // m", {"n": 1, "m": 0}), (lambda values: values["gone"], {})):
        with pytest.raises(ValueError, match=r"divides by 0|have no size"):
            size_of(rule, values)
