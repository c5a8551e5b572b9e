"""Compiled objects on disk, by the hash of everything that decides them.

Cached machine code is as trusted as the code that wrote it, so the directory belongs to the owner alone: a directory
that others could write, or that someone else owns, is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from functools import cache
from pathlib import Path

#: total size, and number, that make the oldest entries go
LIMIT = 512 << 20
MOST = 20_000
#: Looking at all entries takes a second where there are many: a process does it if nobody has for so long.
TRIM_SECONDS = 3600.0
_STAMP = ".trimmed"
#: each file starts with the SHA-256 of the rest
_DIGEST = 32


class ObjectCache:
    """A directory of files named by key; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = os.lstat(folder)
        except OSError:
            self.folder = None
            return
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            self.folder = None

    def get(self, key: str) -> bytes | None:
        """The bytes kept under a key; None for an entry that is damaged."""
        if self.folder is None:
            return None
        try:
            with open(self.folder / key, "rb") as file:
                kept = file.read()
        except OSError:
            return None
        data = kept[_DIGEST:]
        return data if hashlib.sha256(data).digest() == kept[:_DIGEST] else None

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes under a key; a disk that is full or read-only only costs the next compile."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                os.replace(name, self.folder / key)
            except OSError:
                os.unlink(name)
                raise

    def trim(self, limit: int = LIMIT, most: int = MOST) -> None:
        """Remove the least recently written entries beyond `limit` bytes, or beyond `most` entries."""
        if self.folder is None:
            return
        entries = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    if entry.name != _STAMP:
                        info = entry.stat(follow_symlinks=False)
                        entries.append((info.st_mtime, info.st_size, entry.path))
        total, left = sum(size for _, size, _ in entries), len(entries)
        for _, size, path in sorted(entries):
            if total <= limit and left <= most:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total, left = total - size, left - 1

    def trim_at_times(self) -> None:
        """`trim`, unless some process has lately."""
        if self.folder is None:
            return
        stamp = self.folder / _STAMP
        with contextlib.suppress(OSError):
            if stamp.exists() and time.time() - stamp.stat().st_mtime < TRIM_SECONDS:
                return
            stamp.touch()
            self.trim()


@cache
def default_cache() -> ObjectCache:
    """The cache in ``MIGPROXY_CACHE_DIR``, or the user's cache directory; empty turns it off."""
    named = os.environ.get("MIGPROXY_CACHE_DIR")
    if named == "":
        return ObjectCache(None)
    try:
        shared = os.environ.get("XDG_CACHE_HOME")
        base = Path(named) if named else (Path(shared) if shared else Path.home() / ".cache") / "migproxy"
    except RuntimeError:  # a user without a home directory
        return ObjectCache(None)
    found = ObjectCache(base / "softgpu" / str(os.geteuid()))
    found.trim_at_times()
    return found
