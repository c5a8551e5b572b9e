"""Futexes: sleeping on a 32-bit word that another process changes.

Precondition of both functions: the word at `address` is mapped (shared between the processes) and 4-byte aligned.
"""

from __future__ import annotations

import ctypes
import errno

_SYS_FUTEX = 202
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]
_syscall.restype = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def wait(address: int, expected: int, timeout: float) -> bool:
    """Sleep while the word equals `expected`, at most `timeout` seconds; returns False on a time-out.

    The GIL is released. Signals end the sleep early, so that their Python handlers run.
    """
    span = _Timespec(int(timeout), int((timeout % 1.0) * 1e9))
    if _syscall(_SYS_FUTEX, address, _FUTEX_WAIT, expected, ctypes.addressof(span)) == 0:
        return True
    return ctypes.get_errno() in (errno.EAGAIN, errno.EINTR)


def wake(address: int) -> None:
    """Wake everyone who sleeps on the word."""
    _syscall(_SYS_FUTEX, address, _FUTEX_WAKE, 0x7FFFFFFF, None)
