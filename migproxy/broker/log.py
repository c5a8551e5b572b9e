"""The broker's log: the last lines in memory for `migproxy logs`, and a file of JSON lines if one is named."""

from __future__ import annotations

import os
import time
from collections import deque

import msgspec

from migproxy.abi.control import LogLine

#: Lines kept in memory.
KEEP = 10_000
#: Longer texts are cut: they may come from tenants.
MAX_TEXT = 2_000
#: Lines in one answer to `ReadLog`, so that it fits a packet.
MAX_ANSWER_BYTES = 60_000


class Log:
    """Numbered lines with session ids."""

    def __init__(self, path: str = "") -> None:
        self._lines: deque[tuple[LogLine, int]] = deque(maxlen=KEEP)
        self._next = 1
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else -1

    def write(self, level: str, text: str, session_id: str = "", *, uid: int = -1) -> None:
        """Add a line. `uid` is the owner of the session it is about; -1 is the broker itself."""
        clean = "".join(char if char.isprintable() else " " for char in text[:MAX_TEXT])
        line = LogLine(self._next, time.time(), level[:16], session_id, clean)
        self._next += 1
        self._lines.append((line, uid))
        if self._fd >= 0:
            os.write(self._fd, msgspec.json.encode(line) + b"\n")

    def read(self, after: int, session_id: str, uid: int | None) -> tuple[list[LogLine], int]:
        """Return lines numbered from `after` on and the next number; of one session and visible to one uid, if
        given."""
        found: list[LogLine] = []
        size = 0
        following = self._next
        for line, owner in self._lines:
            if line.number < after or (session_id and line.session_id != session_id):
                continue
            if uid is not None and owner not in (uid, -1):
                continue
            size += len(line.text) * 4 + 100
            if size > MAX_ANSWER_BYTES:
                following = line.number
                break
            found.append(line)
        return found, following

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
