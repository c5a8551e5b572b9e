"""Keeping a function off the GPU's device nodes, whatever it sets and loads: Landlock, which needs no privileges.

A process that has restricted itself opens nothing under ``/dev/nvidia*`` any more, nor do its children, and it can
make no device nodes of its own. Everything else stays as it was. Landlock knows only what is allowed, so every other
entry of ``/`` and ``/dev`` is allowed by name; a directory that appears directly under ``/`` later is out of reach.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

from migproxy.errors import UsageError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_QUERY_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
_MAKE_CHAR = 1 << 6
#: Renaming and linking across directories: denied to every restricted process unless it is allowed by name (from ABI
#: 2 on).
_REFER = 1 << 13
#: Runs of names that a GPU's nodes begin with.
_HIDDEN = ("nvidia",)

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none."""
    version = _call(_CREATE_RULESET, None, 0, _QUERY_VERSION)
    return max(0, version)


def _call(number: int, *arguments: object) -> int:
    words = [each if each is None or not isinstance(each, int) else ctypes.c_long(each) for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return result


def gpu_nodes() -> list[str]:
    """Return the GPU's device nodes that are here."""
    return sorted(name for name in os.listdir("/dev") if name.startswith(_HIDDEN))


def is_possible() -> bool:
    """Tell whether functions can be kept off the GPU here, or there is no GPU to keep them off."""
    return landlock_version() > 0 or not gpu_nodes()


def isolate(hidden: Callable[[str], bool] = lambda name: name.startswith(_HIDDEN)) -> None:
    """Deny this process and its children the device nodes for whose names under ``/dev`` `hidden` is true.

    Raises
    ------
    UsageError
        The kernel does not allow it.
    """
    version = landlock_version()
    if not version:
        raise UsageError("functions cannot be kept off the GPU here: this kernel has no Landlock")
    files = _READ_FILE | _WRITE_FILE
    directories = files | (_REFER if version >= 2 else 0)
    attributes = struct.pack("<Q", directories | _MAKE_CHAR)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise _failed("landlock_create_ruleset")
    try:
        for parent, skip in (("/", lambda name: name == "dev"), ("/dev", hidden)):
            for name in os.listdir(parent):
                if not skip(name):
                    _allow(ruleset, os.path.join(parent, name), files, directories)
        zero = ctypes.c_ulong(0)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
            raise _failed("no_new_privs")
        if _call(_RESTRICT_SELF, ruleset, 0):
            raise _failed("landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, files: int, directories: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # gone, or not this user's to see: then it cannot open it either
    try:
        kind = os.fstat(fd).st_mode & 0o170000
        rule = struct.pack("<Qi", directories if kind == 0o040000 else files, fd)
        if _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
            number = ctypes.get_errno()
            if number != errno.EBADFD:  # a node of the kernel's own, such as a pipe: rules do not apply to it
                raise _failed(f"landlock_add_rule for {path}")
    finally:
        os.close(fd)


def _failed(what: str) -> UsageError:
    return UsageError(f"functions cannot be kept off the GPU here: {what}: {os.strerror(ctypes.get_errno())}")
