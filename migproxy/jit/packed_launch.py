"""Launching a kernel from Python in one call of machine code, for front ends that pack its parameters themselves.

`launcher` returns a built-in function: ctypes would take longer for the call than the call itself takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from migproxy.arena.machine_unsafe import U64, External, c_symbol, load64
from migproxy.jit import compiler, language
from migproxy.jit.entries import CURRENT, increase
from migproxy.jit.submit import DONE, submit_packed

TRUE, FALSE = c_symbol("_Py_TrueStruct"), c_symbol("_Py_FalseStruct")
_ONE_OBJECT = 0x0008  # METH_O

bytes_data = External("PyBytes_AsString", "U64(U64)")
bytes_size = External("PyBytes_Size", "I64(U64)")


def launch_packed(owner: U64, packet: U64) -> U64:
    """`packet` is a bytes object: a `submit.PACKED_FORMAT` header and the packed parameters. Called with the GIL.

    Returns True if the kernel was launched; False if nothing happened, and the usual way has to be taken.
    """
    data = bytes_data(packet)
    if data == 0:
        return 0
    producer = load64(CURRENT)
    if producer != 0 and submit_packed(producer, data, bytes_size(packet)) == DONE:
        increase(TRUE)
        return TRUE
    increase(FALSE)
    return FALSE


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@cache
def launcher() -> Callable[[bytes], bool]:
    """Return `launch_packed` as a built-in function."""
    compiler.use_cache()
    address = language.compile_functions(launch_packed)["launch_packed"]
    definition = _MethodDef(b"launch_packed", address, _ONE_OBJECT, b"Launch a kernel, or return False.")
    # The built-in function holds a bare pointer to its definition, and may outlive this module.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))
    make = ctypes.PyDLL(None).PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    made: Callable[[bytes], bool] = make(ctypes.addressof(definition), None, None)
    return made
