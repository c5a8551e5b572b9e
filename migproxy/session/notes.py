"""What a function's process has to say for `migproxy logs`: refusals and failures, never on the script's stderr.

Messages before the session is open wait for it. At most a few are sent each second, so that a script which provokes
thousands neither slows down nor drowns the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from migproxy.abi.control import Note
from migproxy.errors import MigproxyError

RATE = 5.0
BURST = 50.0
KEPT = 50
MAX_TEXT = 1_000
Send = Callable[[Note], None]


class NoteHandler(logging.Handler):
    """Sends warnings to the broker; what exceeds the rate is counted and told of later."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._send: Send | None = None
        self._waiting: deque[Note] = deque(maxlen=KEPT)
        self._tokens = BURST
        self._last = time.monotonic()
        self._dropped = 0
        self._guard = threading.RLock()

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit without the handler's lock: a message may come up while another is sent, in a destructor for one."""
        kept = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def attach(self, send: Send) -> None:
        """Send through `send` from now on, first what has waited."""
        with self._guard:
            self._send = send
            waiting, self._waiting = list(self._waiting), deque(maxlen=KEPT)
        for note in waiting:
            self._deliver(note)

    def detach(self) -> None:
        """The session ended."""
        with self._guard:
            self._send = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, or keep it until there is a session."""
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
        if dropped:
            text += f" ({dropped} lines before it were dropped)"
        self._deliver(Note(record.levelname.lower(), text[:MAX_TEXT]))

    def _deliver(self, note: Note) -> None:
        send = self._send
        if send is None:
            self._waiting.append(note)
            return
        try:
            send(note)
        except (MigproxyError, OSError):
            # The broker is gone: there is nobody to tell.
            self.detach()


HANDLER = NoteHandler()


def keep_quiet() -> None:
    """Keep migproxy's own messages off the script's standard error and out of its logging set-up."""
    log = logging.getLogger("migproxy")
    if HANDLER not in log.handlers:
        log.addHandler(HANDLER)
    log.propagate = False
