"""C functions that call Python handlers: what capsules point to.

A trampoline is 23 bytes of machine code that load the address of its context (a table: handler, parameters, result)
and jump to a common entry. The entry saves the registers in which the ABI passes arguments and calls
`trampoline_dispatch`, which is compiled once for all: it takes the GIL if need be, makes Python objects of the
arguments, calls the handler, and makes a C value of the result. So a thousand trampolines cost two milliseconds.

When the handler raises, a trampoline either returns its error value with the exception set (what Cython calls
``except? value``), or reports the exception and returns the error value with none set, for callers in C and C++ that
know no exceptions.

Once Python begins to finalise, every trampoline returns 0 without touching Python: C++ destructors of thread-local
objects call in after that.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from migproxy import ending
from migproxy.arena.machine_unsafe import (
    U64,
    External,
    Symbol,
    c_symbol,
    double_to_float,
    float_to_double,
    less_signed,
    load8,
    load8_signed,
    load16,
    load16_signed,
    load32,
    load32_signed,
    load64,
    stack,
    store64,
)
from migproxy.jit import language
from migproxy.jit.prototypes import Kind, Prototype, UnsupportedPrototype, parse_prototype, value_size

__all__ = ["Prototype", "UnsupportedPrototype", "make_constant", "make_trampoline", "on_report", "parse_prototype"]

# -- context of a trampoline ------------------------------------------------------------------------------------------
HANDLER = 0x00  # PyObject *
FLAGS = 0x08  # u64
COUNT = 0x10  # u64: parameters
OPTIONAL_COUNT = 0x18  # u64: fields of Cython's struct of optional arguments
RESULT = 0x20  # u64: Kind
LOWEST = 0x28  # i64: range of the result
HIGHEST = 0x30  # i64, or u64 for unsigned kinds
ON_ERROR = 0x38  # u64: bits of the error value
NAME = 0x40  # PyObject *: str for reports
DESCRIPTORS = 0x48  # COUNT + OPTIONAL_COUNT times: kind | offset << 8 | size << 32

NEEDS_GIL = 1
PROPAGATES = 2
MAX_ARGUMENTS = 48
_ARGUMENTS_OFFSET = 1 << 63  # PY_VECTORCALL_ARGUMENTS_OFFSET: the callee may use the slot before the first argument
_STACK_ARGUMENTS = 8 * (MAX_ARGUMENTS + 1)

# Plain integers, so that the small language sees constants.
_VOID, _OBJECT, _BYTES, _OPTIONAL = int(Kind.VOID), int(Kind.OBJECT), int(Kind.BYTES), int(Kind.OPTIONAL)
_I8, _I16, _I32, _I64 = int(Kind.I8), int(Kind.I16), int(Kind.I32), int(Kind.I64)
_U8, _U16, _U32, _U64 = int(Kind.U8), int(Kind.U16), int(Kind.U32), int(Kind.U64)
_F32, _F64 = int(Kind.F32), int(Kind.F64)

#: Process-wide cells that compiled code reads: set at exit; reporter of exceptions (PyObject *).
_CELLS = (ctypes.c_uint64 * 2)()
_FINISHED_CELL = Symbol("migproxy_trampoline_cells", ctypes.addressof(_CELLS))
_REPORTER_CELL = _FINISHED_CELL + 8
_NONE = c_symbol("_Py_NoneStruct")
_OVERFLOW = c_symbol("PyExc_OverflowError")  # where the pointer to the class is
_MESSAGE = ctypes.create_string_buffer(b"result of the handler does not fit its C type")
_MESSAGE_ADDRESS = Symbol("migproxy_overflow_message", ctypes.addressof(_MESSAGE))

is_finalizing = External(
    "Py_IsFinalizing" if hasattr(ctypes.pythonapi, "Py_IsFinalizing") else "_Py_IsFinalizing", "I32()"
)
gil_ensure = External("PyGILState_Ensure", "I32()")
gil_release = External("PyGILState_Release", "None(I32)")
error_occurred = External("PyErr_Occurred", "U64()")
error_fetch = External("PyErr_Fetch", "None(U64, U64, U64)")
error_restore = External("PyErr_Restore", "None(U64, U64, U64)")
error_normalise = External("PyErr_NormalizeException", "None(U64, U64, U64)")
error_set_string = External("PyErr_SetString", "None(U64, U64)")
error_unraisable = External("PyErr_WriteUnraisable", "None(U64)")
set_traceback = External("PyException_SetTraceback", "I32(U64, U64)")
increase = External("Py_IncRef", "None(U64)")
decrease = External("Py_DecRef", "None(U64)")
from_signed = External("PyLong_FromLongLong", "U64(I64)")
from_unsigned = External("PyLong_FromUnsignedLongLong", "U64(U64)")
from_double = External("PyFloat_FromDouble", "U64(F64)")
from_bytes = External("PyBytes_FromStringAndSize", "U64(U64, U64)")
to_signed = External("PyLong_AsLongLong", "I64(U64)")
to_unsigned = External("PyLong_AsUnsignedLongLong", "U64(U64)")
to_double = External("PyFloat_AsDouble", "F64(U64)")
to_index = External("PyNumber_Index", "U64(U64)")
vectorcall = External("PyObject_Vectorcall", "U64(U64, U64, U64, U64)")


def make_argument(kind: U64, address: U64, size: U64) -> U64:
    """A new Python object for the C value at `address`; 0 with an exception set if that fails."""
    if kind == _I64:
        return from_signed(load64(address))
    if kind == _U64:
        return from_unsigned(load64(address))
    if kind == _I32:
        return from_signed(load32_signed(address))
    if kind == _U32:
        return from_unsigned(load32(address))
    if kind == _OBJECT:
        value = load64(address)
        increase(value)
        return value
    if kind == _F32:
        return from_double(float_to_double(load32(address)))
    if kind == _F64:
        return from_double(load64(address))
    if kind == _BYTES:
        return from_bytes(address, size)
    if kind == _U8:
        return from_unsigned(load8(address))
    if kind == _U16:
        return from_unsigned(load16(address))
    if kind == _I8:
        return from_signed(load8_signed(address))
    return from_signed(load16_signed(address))


def take_result(context: U64, result: U64) -> U64:
    """The C value of a handler's result, which is consumed; an exception is set if it has none."""
    kind = load64(context + RESULT)
    if kind == _OBJECT:
        return result
    value = 0
    if kind in (_F32, _F64):
        value = to_double(result)
        if kind == _F32:
            value = double_to_float(value)
    elif kind != _VOID:
        index = to_index(result)
        if index != 0:
            if kind <= _I64:
                value = to_signed(index)
                if less_signed(value, load64(context + LOWEST)) or less_signed(load64(context + HIGHEST), value):
                    error_set_string(load64(_OVERFLOW), _MESSAGE_ADDRESS)
            else:
                value = to_unsigned(index)
                if value > load64(context + HIGHEST) and error_occurred() == 0:
                    error_set_string(load64(_OVERFLOW), _MESSAGE_ADDRESS)
            decrease(index)
    decrease(result)
    return value


def report_exception(context: U64) -> None:
    """Hand the current exception to the reporter, and clear it."""
    exception = stack(24)
    error_fetch(exception, exception + 8, exception + 16)
    error_normalise(exception, exception + 8, exception + 16)
    if load64(exception + 16) != 0:
        set_traceback(load64(exception + 8), load64(exception + 16))
    arguments = stack(24)
    store64(arguments + 8, load64(context + NAME))
    store64(arguments + 16, load64(exception + 8))
    result = vectorcall(load64(_REPORTER_CELL), arguments + 8, 2 | _ARGUMENTS_OFFSET, 0)
    if result != 0:
        decrease(result)
    else:
        error_unraisable(load64(context + HANDLER))
    for i in range(3):
        value = load64(exception + 8 * i)
        if value != 0:
            decrease(value)


def call_handler(context: U64, frame: U64) -> U64:
    """Call the handler with the arguments saved in `frame`; the C result, an exception may be set. The GIL is held."""
    arguments = stack(_STACK_ARGUMENTS)
    count = load64(context + COUNT)
    made = 0
    complete = 1
    for i in range(count):
        descriptor = load64(context + DESCRIPTORS + 8 * i)
        kind = descriptor & 0xFF
        address = frame + ((descriptor >> 8) & 0xFFFFFF)
        if kind == _OPTIONAL:
            fields = load64(address)
            if fields != 0:
                for j in range(load32(fields)):
                    inner = load64(context + DESCRIPTORS + 8 * (count + j))
                    value = make_argument(inner & 0xFF, fields + ((inner >> 8) & 0xFFFFFF), inner >> 32)
                    if value == 0:
                        complete = 0
                        break
                    store64(arguments + 8 + 8 * made, value)
                    made += 1
        else:
            value = make_argument(kind, address, descriptor >> 32)
            if value == 0:
                complete = 0
            else:
                store64(arguments + 8 + 8 * made, value)
                made += 1
        if complete == 0:
            break
    result = 0
    if complete:
        result = vectorcall(load64(context + HANDLER), arguments + 8, made | _ARGUMENTS_OFFSET, 0)
    for i in range(made):
        decrease(load64(arguments + 8 + 8 * i))
    return take_result(context, result) if result != 0 else 0


def trampoline_dispatch(context: U64, frame: U64) -> U64:
    """What the common entry calls: `frame` holds the argument registers and the caller's stack. Returns the result's
    bits."""
    if load64(_FINISHED_CELL) != 0 or is_finalizing() != 0:
        if load64(context + RESULT) == _OBJECT:
            # NULL without an exception would make Cython's destructors complain; their callers hold the GIL.
            increase(_NONE)
            return _NONE
        return 0
    flags = load64(context + FLAGS)
    gil = 0
    if flags & NEEDS_GIL:
        gil = gil_ensure()
    # A destructor can run while an exception is on its way; the handler must not see that one.
    before = stack(24)
    pending = error_occurred()
    if pending != 0:
        error_fetch(before, before + 8, before + 16)
    value = call_handler(context, frame)
    failed = error_occurred()
    if failed != 0:
        value = load64(context + ON_ERROR)
        if flags & PROPAGATES == 0:
            report_exception(context)
    if pending != 0:
        if failed != 0 and flags & PROPAGATES:
            for i in range(3):
                if load64(before + 8 * i) != 0:
                    decrease(load64(before + 8 * i))
        else:
            error_restore(load64(before), load64(before + 8), load64(before + 16))
    if flags & NEEDS_GIL:
        gil_release(gil)
    return value


# -- code that is written by hand -------------------------------------------------------------------------------------
_ENTRY = (
    "55 4889E5 4881EC80000000"  # push rbp; mov rbp, rsp; sub rsp, 128
    "48897D80 48897588 48895590 48894D98 4C8945A0 4C894DA8"  # the six integer registers to [rbp-128] and up
    "660FD645B0 660FD64DB8 660FD655C0 660FD65DC8 660FD665D0 660FD66DD8 660FD675E0 660FD67DE8"  # xmm0 to xmm7, low half
    "4C89D7 488D7580 49BB"  # mov rdi, r10; lea rsi, [rbp-128]; mov r11, …
)
_LEAVE = "41FFD3 66480F6EC0 C9 C3"  # call r11; movq xmm0, rax; leave; ret
_STUB = struct.Struct("<2sQ2sQ3s")
_PAGE = 1 << 16

_lock = threading.Lock()
#: Everything that machine code points to; it lives as long as the process.
_kept: list[Any] = []
_page: mmap.mmap | None = None
_page_address = 0
_page_used = 0


def _place_code(code: bytes) -> int:
    """Copy machine code into an executable page; returns its address.

    The pages are writable too, since others may be running code of the page that grows. They are private: a forked
    child that adds trampolines changes its own copy.
    """
    global _page, _page_address, _page_used
    with _lock:
        start = -(-_page_used // 16) * 16
        if _page is None or start + len(code) > _PAGE:
            flags, protection = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            _page = mmap.mmap(-1, _PAGE, flags, protection)
            _page_address = ctypes.addressof(ctypes.c_char.from_buffer(_page))
            _keep_forever(_page)
            start = 0
        _page[start : start + len(code)] = code
        _page_used = start + len(code)
        return _page_address + start


def _keep_forever(value: object) -> None:
    """Keep an object even past the clearing of modules at exit: native code can still refer to it then."""
    _kept.append(value)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


@cache
def _entry() -> int:
    """Compile the dispatcher and return the address of the common entry."""
    ending.at_end(_finish)
    if not _CELLS[1]:
        on_report(_report_nowhere)
    dispatch = language.compile_functions(trampoline_dispatch)["trampoline_dispatch"]
    return _place_code(bytes.fromhex(_ENTRY) + struct.pack("<Q", dispatch) + bytes.fromhex(_LEAVE))


def _finish() -> None:
    """At the very end of the exit handlers: trampolines stop calling Python."""
    _CELLS[0] = 1


def _report_nowhere(name: str, exception: BaseException) -> None:
    """The reporter until `on_report` sets one: as Python does for exceptions that nobody can catch."""
    raise exception


def on_report(reporter: Callable[[str, BaseException], object]) -> None:
    """Set what is called with name and exception when a handler of a non-propagating trampoline raises.

    A `KeyboardInterrupt` is passed on to the main thread as well, so that Ctrl-C is never lost.
    """

    def report(name: str, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            import _thread

            _thread.interrupt_main()
            return
        reporter(name, exception)

    _keep_forever(report)
    _CELLS[1] = id(report)


_RANGES = {
    Kind.I8: (-(1 << 7), (1 << 7) - 1),
    Kind.I16: (-(1 << 15), (1 << 15) - 1),
    Kind.I32: (-(1 << 31), (1 << 31) - 1),
    Kind.I64: (-(1 << 63), (1 << 63) - 1),
    Kind.U8: (0, (1 << 8) - 1),
    Kind.U16: (0, (1 << 16) - 1),
    Kind.U32: (0, (1 << 32) - 1),
    Kind.U64: (0, (1 << 64) - 1),
}


def _bits(kind: Kind, value: int | float | None) -> int:
    """Return the register bits of an error value."""
    if value is None or kind in (Kind.VOID, Kind.OBJECT):
        return 0
    if kind is Kind.F32:
        return int.from_bytes(struct.pack("<f", value), "little")
    if kind is Kind.F64:
        return int.from_bytes(struct.pack("<d", value), "little")
    return int(value) & 0xFFFF_FFFF_FFFF_FFFF


def _optional_descriptors(fields: Sequence[str]) -> list[int]:
    """Return descriptors of the fields of ``struct { int __pyx_n; … }``."""
    offset, descriptors = 4, []
    for text in fields:
        kind = parse_prototype(f"void ({text})").parameters[0].kind
        size = value_size(kind)
        offset = -(-offset // size) * size
        descriptors.append(int(kind) | offset << 8 | size << 32)
        offset += size
    return descriptors


def make_trampoline(
    prototype: Prototype | str,
    handler: Callable[..., Any],
    *,
    holds_gil: bool,
    on_error: float | None,
    propagate: bool | None = None,
    optional: Sequence[str] = (),
    name: str = "",
) -> int:
    """Return the address of a C function with `prototype` that calls `handler`.

    Parameters
    ----------
    prototype : Prototype or str
    handler : callable
        Called with one positional argument for each parameter: int, float, the object itself, or bytes for a struct
        by value. Its result becomes the C result; None is fine for ``void`` and ``PyObject *``. Kept alive for ever.
    holds_gil : bool
        Whether callers hold the GIL.
    on_error : int or float, optional
        Returned when the handler raises. None: 0, and NULL for objects.
    propagate : bool, optional
        Return with the exception set; the default is `holds_gil`. Otherwise it is reported (see `on_report`) and
        cleared.
    optional : sequence of str
        Types of the fields of a ``struct __pyx_opt_args_…`` parameter; those that the caller gave are passed on at
        its place.
    name : str
        For reports.

    Raises
    ------
    UnsupportedPrototype
        A parameter cannot be passed.
    """
    if isinstance(prototype, str):
        prototype = parse_prototype(prototype)
    takes_optional = any(p.kind is Kind.OPTIONAL for p in prototype.parameters)
    if takes_optional and not optional:
        raise UnsupportedPrototype(f"the fields of the optional arguments in {prototype.text!r} are not known")
    if len(prototype.parameters) + len(optional) > MAX_ARGUMENTS:
        raise UnsupportedPrototype(f"{prototype.text!r} has more than {MAX_ARGUMENTS} parameters")
    descriptors = [
        int(parameter.kind) | place << 8 | parameter.size << 32
        for parameter, place in zip(prototype.parameters, prototype.places(), strict=True)
    ]
    fields = _optional_descriptors(optional) if takes_optional else []
    flags = (0 if holds_gil else NEEDS_GIL) | (PROPAGATES if (holds_gil if propagate is None else propagate) else 0)
    low, high = _RANGES.get(prototype.result, (0, 0))
    label = name or getattr(handler, "__name__", "handler")
    words = [
        id(handler),
        flags,
        len(descriptors),
        len(fields),
        int(prototype.result),
        low & 0xFFFF_FFFF_FFFF_FFFF,
        high,
        _bits(prototype.result, on_error),
        id(label),
        *descriptors,
        *fields,
    ]
    context = (ctypes.c_uint64 * len(words))(*words)
    for value in (handler, label, context):
        _keep_forever(value)
    stub = _STUB.pack(b"\x49\xba", ctypes.addressof(context), b"\x49\xbb", _entry(), b"\x41\xff\xe3")
    return _place_code(stub)


def make_constant(value: int) -> int:
    """Return the address of a C function that takes any parameters and returns an integer, such as a not-supported
    status."""
    return _place_code(b"\x48\xb8" + struct.pack("<Q", value & 0xFFFF_FFFF_FFFF_FFFF) + b"\xc3")


def make_guard(target: int, value: int = 0) -> int:
    """Return a C function that jumps to `target`, or returns `value` once Python has finished.

    For native code that may call trampolines or memory of this process, and is itself called by destructors after the
    end.
    """
    code = b"\x49\xbb" + struct.pack("<Q", _FINISHED_CELL)  # mov r11, cell
    code += bytes.fromhex("49833B00 750D")  # cmp qword [r11], 0; jne +13
    code += b"\x49\xbb" + struct.pack("<Q", target) + b"\x41\xff\xe3"  # mov r11, target; jmp r11
    code += b"\x48\xb8" + struct.pack("<Q", value & 0xFFFF_FFFF_FFFF_FFFF) + b"\xc3"
    return _place_code(code)
