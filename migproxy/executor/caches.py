"""Caches of compiled code in files: each owner's executors have their own, and none can write into another's.

What lies in such a cache is executed by whoever loads it, and an executor is as hostile as its tenant. Where function
and executor run as the same user, the tenant could write that user's files anyway, and the usual places serve.
Otherwise the places are folders of the owner under the broker's ``cache_dir``, and Landlock denies the executor to
write anywhere else; without ``cache_dir``, or without Landlock, nothing is kept in files at all.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
import tempfile
from collections.abc import Iterable, MutableMapping
from pathlib import Path

log = logging.getLogger("migproxy.executor")

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_QUERY_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _TRUNCATE, _REFER = 1 << 1, 1 << 14, 1 << 13
#: Removing and making entries of each kind.
_ENTRIES = sum(1 << bit for bit in range(4, 13))
_libc = ctypes.CDLL(None, use_errno=True)


def separate(owner_uid: int, cache_dir: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Give this process the caches of its tenant's owner; called before the driver or a library starts.

    Parameters
    ----------
    owner_uid : int
        The user whose function this executor serves.
    cache_dir : str
        The broker's setting; empty for none.
    env : mutable mapping
        Where libraries look up their caches' places.
    """
    own = owner_uid == os.geteuid()
    folder = _folder(cache_dir, owner_uid) if cache_dir else None
    if folder is not None:
        use(folder, env)
    if own:
        return
    if not only_write_below([folder] if folder else []):
        log.warning("no Landlock here, so an executor for uid %d keeps no compiled code in files", owner_uid)
        folder = None
    if folder is None:
        use_none(env)


def _folder(cache_dir: str, owner_uid: int) -> Path | None:
    """Return an owner's folder, made if it is not there; None if it is not this process's alone."""
    folder = Path(cache_dir) / f"uid-{owner_uid}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(folder)
    except OSError as error:
        log.warning("no cache in %s: %s", folder, error)
        return None
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        log.warning("no cache in %s: others can write there", folder)
        return None
    return folder


def use(folder: Path, env: MutableMapping[str, str]) -> None:
    """Let the software GPU, CUDA's driver and the executor's CuPy keep compiled code under `folder`."""
    env["MIGPROXY_CACHE_DIR"] = str(folder)
    env["CUDA_CACHE_PATH"] = str(folder / "driver")
    env["CUPY_CACHE_DIR"] = str(folder / "cupy")


def use_none(env: MutableMapping[str, str]) -> None:
    """Let none of them keep compiled code in files."""
    env["MIGPROXY_CACHE_DIR"] = ""
    env["CUDA_CACHE_DISABLE"] = "1"
    env["CUPY_CACHE_IN_MEMORY"] = "1"


def only_write_below(folders: Iterable[Path]) -> bool:
    """Deny this process and its children to open files for writing, or make and remove any, except below `folders`,
    in the temporary directory and among devices.

    Returns
    -------
    bool
        Whether that is so now.
    """
    version = _call(_CREATE_RULESET, None, 0, _QUERY_VERSION)
    if version <= 0:
        return False
    known = _WRITE_FILE | _ENTRIES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("<Q", known)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for place in (*folders, Path(tempfile.gettempdir()), Path("/dev"), Path("/proc/self")):
            if not _allow(ruleset, place, known):
                return False
        zero = ctypes.c_ulong(0)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
            return False
        return _call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True  # not there: nothing to allow
    try:
        rule = struct.pack("<Qi", rights, fd)
        return _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0 or ctypes.get_errno() == errno.EBADFD
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    words = [each if each is None or not isinstance(each, int) else ctypes.c_long(each) for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return result
