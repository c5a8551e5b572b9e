"""An interpreter that was started for ``migproxy run`` becomes the script's before it has begun with anything.

While `site` runs, CPython has read its command line and made its own modules, but it has not looked yet at *what* to
run: it takes that from its configuration (``PyConfig``) afterwards. So the configuration can say ``SCRIPT`` in place of
``-m migproxy``, and everything else (``__main__``, ``sys.path[0]``, tracebacks, signals, the exit code) is CPython's
own, as if it had been started so. The other way, a second interpreter by `os.execve`, costs a whole start.

``PyConfig`` is found by ``_Py_GetConfig``; its fields are written by ``PyConfig_SetString`` and
``PyConfig_SetWideStringList``. Their places in it differ between CPython's releases, so they are looked for by what
they must hold, read in a way that cannot fault. `find` answers None unless each was found exactly once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

#: Words of the configuration that are looked at. It is longer than all fields that are wanted and lies inside the
#: interpreter's state, which is much longer.
_WORDS = 72
_WORD = 8


class _Status(ctypes.Structure):
    """``PyStatus``: `kind` is 0 for success."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("func", ctypes.c_void_p),
        ("message", ctypes.c_void_p),
        ("exit_code", ctypes.c_int),
    )


class Place:
    """Where this interpreter's configuration says what it will run.

    Parameters
    ----------
    config : int
        Address of the ``PyConfig``.
    module, filename, arguments : int
        Addresses in it of ``run_module``, ``run_filename`` and ``argv``.
    """

    def __init__(self, config: int, module: int, filename: int, arguments: int) -> None:
        self.config = config
        self.module = module
        self.filename = filename
        self.arguments = arguments

    def become(self, module: str, arguments: Sequence[str]) -> None:
        """Run `module`, or the script ``arguments[0]`` if there is none, once `site` is through.

        Preconditions: `find` returned this place during this interpreter's `site`, which still goes on.

        Parameters
        ----------
        module : str
            The module's name, or empty.
        arguments : sequence of str
            What is to be ``sys.argv``: ``-m`` or the script, then its arguments.
        """
        count = len(arguments)
        items = (ctypes.c_wchar_p * count)(*arguments)
        set_list = ctypes.pythonapi["PyConfig_SetWideStringList"]
        set_list.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p]
        set_list.restype = _Status
        _check(set_list(self.config, self.arguments, count, ctypes.addressof(items)))
        set_string = ctypes.pythonapi["PyConfig_SetString"]
        set_string.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_wchar_p]
        set_string.restype = _Status
        _check(set_string(self.config, self.module, module or None))
        _check(set_string(self.config, self.filename, None if module else _absolute(arguments[0])))


def _check(status: _Status) -> None:
    if status.kind:  # the only failure is memory
        raise MemoryError


def _absolute(path: str) -> str:
    """Return a path as CPython makes that of a script absolute: nothing is normalised."""
    if path.startswith("/"):
        return path
    return f"{os.getcwd()}/{path}"


def find(module: str = "", script: str = "") -> Place | None:
    """Return where this interpreter's configuration says that it runs `module`, or `script`; None if that cannot be
    told for certain.

    Preconditions: `site` goes on, and ``sys.argv`` is as it was set at the interpreter's start.
    """
    try:
        get_config = ctypes.pythonapi["_Py_GetConfig"]
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return None
    try:
        get_config.argtypes = ()
        get_config.restype = ctypes.c_void_p
        config = get_config()
        words = _words(memory, config, _WORDS)
        name = module or _absolute(script)
        named = [index for index, word in enumerate(words) if _is_string(memory, word, name)]
        count = len(sys.argv)
        listed = [
            index
            for index, word in enumerate(words[:-1])
            if word == count and _is_list(memory, words[index + 1], sys.argv)
        ]
        if len(named) != 1 or len(listed) != 1:
            return None
        # run_command, run_module, run_filename: neighbours, and only one of them is set.
        first = named[0] - (1 if module else 2)
        if first < 0 or [bool(word) for word in words[first : first + 3]] != [False, bool(module), not module]:
            return None
        return Place(config, *(config + index * _WORD for index in (first + 1, first + 2, listed[0])))
    except OSError:  # a pointer that is none, or no current directory
        return None
    finally:
        os.close(memory)


def _read(memory: int, address: int, size: int) -> bytes:
    """Read this process's memory; an address where nothing lies is empty, not a fault."""
    try:
        return os.pread(memory, size, address) if address < 1 << 47 else b""
    except OSError:
        return b""


def _words(memory: int, address: int, count: int) -> list[int]:
    return list(memoryview(_read(memory, address, count * _WORD)).cast("Q"))


def _is_string(memory: int, address: int, text: str) -> bool:
    """Tell whether a ``wchar_t *`` holds `text`."""
    wide = text.encode("utf-32-le", "surrogatepass") + bytes(4)
    return address > _WORDS and _read(memory, address, len(wide)) == wide


def _is_list(memory: int, address: int, texts: Sequence[str]) -> bool:
    """Tell whether a ``wchar_t **`` holds `texts`."""
    found = _words(memory, address, len(texts)) if address > _WORDS else []
    return len(found) == len(texts) and all(map(_is_string, [memory] * len(texts), found, texts))
