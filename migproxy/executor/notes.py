"""The executor's log goes to the broker, for `migproxy logs`: its stderr is the function's."""

from __future__ import annotations

import logging
import socket
import threading
import time

from migproxy.abi.control import Note
from migproxy.arena import packets
from migproxy.errors import MigproxyError

#: Lines a second, on average and at once: a tenant can provoke as many as it likes.
RATE = 20.0
BURST = 200.0
MAX_TEXT = 2_000


class NoteHandler(logging.Handler):
    """Sends records to the broker; what exceeds the rate is counted and told of later.

    Parameters
    ----------
    sock : socket.socket
        The control socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self._tokens = BURST
        self._last = time.monotonic()
        self._dropped = 0
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        with self._guard:
            now = time.monotonic()
            self._tokens = min(BURST, self._tokens + (now - self._last) * RATE)
            self._last = now
            if self._tokens < 1:
                self._dropped += 1
                return
            self._tokens -= 1
            dropped, self._dropped = self._dropped, 0
        text = record.getMessage()
        if record.exc_info:
            text += " | " + (self.formatter or logging.Formatter()).formatException(record.exc_info)
        if dropped:
            text += f" ({dropped} lines before it were dropped)"
        try:
            packets.send(self._socket, Note(record.levelname.lower(), text[-MAX_TEXT:]))
        except (MigproxyError, OSError):
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop it: the broker is gone, and the only stream left is the function's."""


def log_to_broker(sock: socket.socket) -> None:
    """Send the log of this process to the broker from now on, warnings of `warnings` included."""
    root = logging.getLogger()
    root.handlers[:] = [NoteHandler(sock)]
    root.setLevel(logging.WARNING)  # each line is a message, and some answers are logged at INFO by the million
    logging.captureWarnings(True)
