"""Ask the broker for further segments of the arena, one at a time.

The broker tells the executor first, which maps the segment behind its last one; so an answer must be taken even if
whoever asked no longer waits (Ctrl-C): function and executor would map the segments after it at different places.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from migproxy.abi import control


class Growth:
    """The question that is open, and its answer. Made anew for each session: a fork may happen while it is locked.

    Parameters
    ----------
    send : callable
        Sends a message to the broker; raises SessionLost if it is gone.
    add : callable
        Maps a further segment, given by descriptor and size in bytes, and gives its room to the heap.
    """

    def __init__(self, send: Callable[[control.Message], None], add: Callable[[int, int], None]) -> None:
        self._send = send
        self._add = add
        self._lock = threading.Lock()
        self._asked = False
        self._answered = threading.Event()
        self._answer: tuple[control.Grown, list[int]] | None = None
        self._over = False

    def by(self, size: int) -> bool:
        """Ask for a segment of at least `size` bytes and wait for it; returns whether there is one now.

        Raises
        ------
        SessionLost
            The broker is gone. If only the executor is, the answer is that there is no segment.
        """
        with self._lock:
            if self._asked:
                self._take()  # the answer that an interrupted wait left
            self._answered.clear()
            if self._over:
                return False
            self._asked = True
            try:
                self._send(control.GrowArena(size=size))
            except BaseException:
                self.end()  # nobody knows whether it was sent
                raise
            return self._take()

    def _take(self) -> bool:
        """Wait for the answer and map what came."""
        self._answered.wait()
        answer = self._answer
        added = answer is not None and bool(answer[0].size and answer[1])
        if answer is not None and added:
            try:
                self._add(answer[1][0], answer[0].size)
            except BaseException:
                self.end()  # the executor has mapped it: those after it would lie elsewhere here
                raise
            finally:
                self._answer = None
                os.close(answer[1][0])
        self._asked, self._answer = False, None
        return added

    def answer(self, message: control.Grown, fds: list[int]) -> None:
        """Take the broker's answer; called by the thread that reads what it says."""
        self._answer = (message, fds)
        self._answered.set()

    def end(self) -> None:
        """There is no more to be had: the session is lost, or closed, or both sides may disagree."""
        self._over = True
        self._answered.set()
