"""Trampolines: every kind of argument and result, exceptions both ways, and the end of Python."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.arena import machine_unsafe as machine
from migproxy.jit import trampoline
from migproxy.jit.prototypes import Kind, UnsupportedPrototype, parse_prototype
from migproxy.jit.trampoline import make_constant, make_guard, make_trampoline

I8, I16, I32, I64 = ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64
U8, U16, U32, U64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64


class Handle64(ctypes.Structure):
    _fields_ = (("data", ctypes.c_ubyte * 64),)


class Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class Sixteen(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@pytest.fixture
def reports() -> Iterator[list[tuple[str, BaseException]]]:
    seen: list[tuple[str, BaseException]] = []
    trampoline.on_report(lambda name, exception: seen.append((name, exception)))
    yield seen
    trampoline.on_report(trampoline._report_nowhere)


def caller(address: int, result: Any, *parameters: Any, gil: bool = False) -> Any:
    make = ctypes.PYFUNCTYPE if gil else ctypes.CFUNCTYPE
    return make(result, *parameters)(address)


def fail(*_: Any) -> Any:
    raise LookupError("provoked")


def first() -> int:
    raise AssertionError("replaced before it is compiled")


then = first


def call_both() -> I32:
    first()
    return then()


SCALARS = [
    ("signed char", I8, [-128, 127, 0]),
    ("unsigned char", U8, [0, 255]),
    ("short", I16, [-32768, 32767]),
    ("unsigned short", U16, [65535]),
    ("int", I32, [-(2**31), 2**31 - 1]),
    ("unsigned int", U32, [2**32 - 1]),
    ("long", I64, [-(2**63), 2**63 - 1]),
    ("size_t", U64, [2**64 - 1]),
    ("intptr_t", I64, [-1]),
    ("CUdeviceptr", U64, [2**63]),
    ("CUresult", I32, [999]),
    ("enum cudaMemcpyKind", I32, [4]),
    ("unsigned PY_LONG_LONG", U64, [2**64 - 1]),
    ("float", ctypes.c_float, [1.5, -0.25]),
    ("double", ctypes.c_double, [1e300, -2.0]),
]


@pytest.mark.parametrize(("text", "kind", "values"), SCALARS, ids=[s[0] for s in SCALARS])
def test_scalars_go_in_and_out(text: str, kind: Any, values: list[float]) -> None:
    address = make_trampoline(f"{text} ({text})", lambda value: value, holds_gil=True, on_error=None)
    function = caller(address, kind, kind, gil=True)
    assert [function(value) for value in values] == values


def test_mixed_arguments_beyond_the_registers() -> None:
    seen: list[tuple[Any, ...]] = []
    prototype = (
        "CUresult (CUdeviceptr *, CUipcMemHandle, unsigned int, float, CUmemLocation, int, int, double, unsigned char, "
        "int, double, double, double, double, double, double, double, float)"
    )
    address = make_trampoline(prototype, lambda *a: seen.append(a) or 7, holds_gil=False, on_error=1)
    parameters = [ctypes.c_void_p, Handle64, U32, ctypes.c_float, Location, I32, I32, ctypes.c_double, U8, I32]
    function = caller(address, I32, *parameters, *[ctypes.c_double] * 7, ctypes.c_float)
    data = bytes(range(64))
    rest = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert (
        function(1 << 63, Handle64.from_buffer_copy(data), 5, 1.5, Location(1, -2), -3, -4, 0.5, 255, -9, *rest, 9.5)
        == 7
    )
    assert seen == [(1 << 63, data, 5, 1.5, bytes(Location(1, -2)), -3, -4, 0.5, 255, -9, *rest, 9.5)]


def test_a_struct_that_no_longer_fits_the_registers_goes_to_the_stack_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from migproxy.jit import prototypes

    monkeypatch.setitem(prototypes._STRUCTS, "Sixteen", 16)
    address = make_trampoline(
        "int (int, int, int, int, int, Sixteen, int)", lambda *a: len(seen.append(a) or a), holds_gil=False, on_error=0
    )
    seen: list[tuple[Any, ...]] = []
    pair = Sixteen(2**64 - 1, 3)
    assert caller(address, I32, *[I32] * 5, Sixteen, I32)(1, 2, 3, 4, 5, pair, 6) == 7
    assert seen == [(1, 2, 3, 4, 5, bytes(pair), 6)]


def test_objects_keep_their_reference_counts() -> None:
    thing = object()
    address = make_trampoline(
        "PyObject *(PyObject *, int __pyx_skip_dispatch)", lambda x: x, holds_gil=True, on_error=None
    )
    function = caller(address, ctypes.py_object, ctypes.py_object, I32, gil=True)
    before = sys.getrefcount(thing)
    for _ in range(100):
        assert function(thing, 0) is thing
    assert sys.getrefcount(thing) == before


def test_none_for_void_and_object() -> None:
    nothing = make_trampoline("void (int)", lambda _: None, holds_gil=True, on_error=None)
    assert caller(nothing, None, I32, gil=True)(1) is None
    none = make_trampoline("PyObject *(void)", lambda: None, holds_gil=True, on_error=None)
    function = caller(none, ctypes.py_object, gil=True)
    changes = []
    for _ in range(3):  # collections of garbage and other threads change the count as well, but not each time
        gc.collect()
        before = sys.getrefcount(None)
        assert all(function() is None for _ in range(2000))
        changes.append(abs(sys.getrefcount(None) - before))
    assert min(changes) < 1000


@pytest.mark.parametrize(
    ("text", "kind", "value", "on_error"),
    [
        ("int", I32, None, -1),
        ("int", I32, 2**31, -1),
        ("int", I32, -(2**31) - 1, -1),
        ("unsigned char", U8, 256, 255),
        ("unsigned int", U32, -1, 7),
        ("size_t", U64, 2**64, 0),
        ("size_t", U64, -1, 0),
        ("intptr_t", I64, 2**63, 0),
        ("float", ctypes.c_float, "x", -1.5),
        ("double", ctypes.c_double, None, -2.5),
        ("int", I32, 1.5, -1),
    ],
)
def test_results_that_do_not_fit_are_errors(
    text: str, kind: Any, value: Any, on_error: float, reports: list[Any]
) -> None:
    address = make_trampoline(f"{text} (void)", lambda: value, holds_gil=False, on_error=on_error)
    assert caller(address, kind)() == on_error
    assert [type(exception) for _, exception in reports] in ([TypeError], [OverflowError])
    raising = make_trampoline(f"{text} (void)", lambda: value, holds_gil=True, on_error=on_error)
    with pytest.raises((TypeError, OverflowError)):
        caller(raising, kind, gil=True)()


def test_an_exception_propagates_with_the_declared_value() -> None:
    address = make_trampoline("intptr_t (size_t)", fail, holds_gil=True, on_error=0)
    with pytest.raises(LookupError, match="provoked"):
        caller(address, I64, U64, gil=True)(3)
    objects = make_trampoline("PyObject *(size_t)", fail, holds_gil=True, on_error=None)
    with pytest.raises(LookupError, match="provoked"):
        caller(objects, ctypes.py_object, U64, gil=True)(3)


def test_an_exception_is_reported_and_cleared(reports: list[tuple[str, BaseException]]) -> None:
    address = make_trampoline("CUresult (void)", fail, holds_gil=False, on_error=999, name="cuCtxSynchronize")
    assert caller(address, I32)() == 999
    [(name, exception)] = reports
    assert (name, str(exception)) == ("cuCtxSynchronize", "provoked")
    assert exception.__traceback__ is not None


def test_a_reporter_that_fails_is_unraisable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    trampoline.on_report(trampoline._report_nowhere)
    address = make_trampoline("CUresult (void)", fail, holds_gil=False, on_error=999)
    assert caller(address, I32)() == 999
    assert [type(arguments.exc_value) for arguments in seen] == [LookupError]


def test_ctrl_c_in_a_reporting_handler_reaches_the_main_thread(reports: list[Any]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    address = make_trampoline("CUresult (void)", interrupt, holds_gil=False, on_error=999)
    function = caller(address, I32)
    thread = threading.Thread(target=function)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        thread.start()
        while True:
            thread.join(10)
    thread.join(10)
    assert reports == []


def test_a_pending_exception_survives_a_destructor_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleared by the trampoline while its handler runs, and there again afterwards."""
    ran: list[int] = []
    address = make_trampoline("int (void)", lambda: len(ran.append(1) or ran), holds_gil=True, on_error=999)
    raising = make_trampoline("int (void)", fail, holds_gil=True, on_error=999)

    # Machine code calls one trampoline that raises, and goes on with another one.
    from migproxy.jit import language

    raise_first, run_then = machine.External("raising", "I32()", raising), machine.External("ran", "I32()", address)
    monkeypatch.setitem(globals(), "first", raise_first)
    monkeypatch.setitem(globals(), "then", run_then)
    both = language.compile_functions(call_both)["call_both"]
    with pytest.raises(LookupError, match="provoked"):
        caller(both, I32, gil=True)()
    assert ran == [1]


def test_optional_arguments_are_passed_as_given() -> None:
    class Given(ctypes.Structure):
        _fields_ = (("n", ctypes.c_int), ("flags", ctypes.c_uint), ("size", ctypes.c_size_t))

    prototype = "PyObject *(intptr_t, int __pyx_skip_dispatch, struct __pyx_opt_args_4cupy_wait *__pyx_optional_args)"
    address = make_trampoline(
        prototype, lambda *a: a, holds_gil=True, on_error=None, optional=("unsigned int", "size_t")
    )
    function = caller(address, ctypes.py_object, I64, I32, ctypes.c_void_p, gil=True)
    assert function(5, 0, None) == (5,)
    for count, expected in ((0, (5,)), (1, (5, 4000000000)), (2, (5, 4000000000, 2**40))):
        given = Given(count, 4000000000, 2**40)
        assert function(5, 0, ctypes.addressof(given)) == expected
    with pytest.raises(UnsupportedPrototype, match="optional"):
        make_trampoline(prototype, lambda: None, holds_gil=True, on_error=None)


def test_threads_without_python_state_can_call() -> None:
    """A thread made by C has no Python thread state; the trampoline makes one."""
    seen: list[int] = []
    address = make_trampoline("void *(void *)", lambda value: seen.append(value) or 0, holds_gil=False, on_error=0)
    libc = ctypes.CDLL(None)
    handle = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(handle), None, ctypes.c_void_p(address), ctypes.c_void_p(77)) == 0
    assert libc.pthread_join(handle, None) == 0
    assert seen == [77]


def test_a_handler_can_release_and_reenter() -> None:
    inner = caller(make_trampoline("int (int)", lambda v: v + 1, holds_gil=False, on_error=0), I32, I32)
    outer = caller(make_trampoline("int (int)", lambda v: inner(v) * 2, holds_gil=False, on_error=0), I32, I32)
    assert outer(3) == 8


def test_constants_and_guards() -> None:
    assert caller(make_constant(801), I32, *[I64] * 9)(*range(9)) == 801
    assert caller(make_constant(-42), I32)() == -42
    target = make_trampoline("int (int)", lambda v: v + 1, holds_gil=False, on_error=0)
    assert caller(make_guard(target, 5), I32, I32)(1) == 2
    finished = ctypes.c_uint64.from_address(trampoline._FINISHED_CELL)
    try:
        finished.value = 1
        assert caller(make_guard(target, 5), I32, I32)(1) == 5
        assert caller(target, I32, I32)(1) == 0
    finally:
        finished.value = 0


def test_calls_after_the_end_of_python_return_zero() -> None:
    """A C library's exit handler calls a trampoline when the interpreter is gone; it must not crash."""
    code = """
import atexit, ctypes
from migproxy.jit.trampoline import make_trampoline
address = make_trampoline("void (void)", lambda: print("called"), holds_gil=False, on_error=None)
libc = ctypes.CDLL(None)
assert libc.__cxa_atexit(ctypes.c_void_p(address), None, None) == 0
ctypes.CFUNCTYPE(None)(address)()
atexit.register(lambda: ctypes.CFUNCTYPE(None)(address)())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "called\ncalled\n", "")


def test_prototypes_tell_unsupported_types_by_name() -> None:
    with pytest.raises(UnsupportedPrototype, match="CUsomethingNew"):
        parse_prototype("CUresult (CUsomethingNew)")
    with pytest.raises(UnsupportedPrototype, match="struct"):
        parse_prototype("struct cudaExtent (size_t, size_t, size_t)")
    with pytest.raises(ValueError, match="not the prototype"):
        parse_prototype("int")


def test_prototype_details() -> None:
    prototype = parse_prototype(
        "cudaError_t (__pyx_t_4cuda_8bindings_9cyruntime_EGLint, void (*)(int, void *), enum cudaLimit, char const * *)"
    )
    assert [p.kind for p in prototype.parameters] == [Kind.U32, Kind.U64, Kind.I32, Kind.U64]
    assert (prototype.result, prototype.result_text) == (Kind.I32, "cudaError_t")
    assert parse_prototype("char const *(cudaError_t)").result is Kind.U64
    assert parse_prototype("int (void)").parameters == ()
    cpdef = parse_prototype("PyObject *(intptr_t, int __pyx_skip_dispatch)")
    assert cpdef.skip_dispatch
    assert len(cpdef.parameters) == 1
