"""Files in memory that several processes map: what shared memory and shared events of the software GPU lie in."""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(name: str, size: int) -> int:
    """Make one, of zeros, that nobody can make longer or shorter; returns its descriptor."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def size_of(fd: int) -> int:
    """Return the size of a file that `create` made; 0 for anything else, which could shrink under a mapping of it."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            return 0
        return os.fstat(fd).st_size
    except (OSError, ValueError):
        return 0
