"""The broker's event loop: readable descriptors and timers, one thread, no callbacks that wait."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable


class Timer:
    """A pending call; `cancel` it at will."""

    __slots__ = ("action", "cancelled", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call."""
        self.cancelled = True


class Loop:
    """Calls back when a descriptor can be read or a timer is due.

    Parameters
    ----------
    on_error : callable
        Gets what a callback raised. One broken connection must not end every other tenant's session, so the loop goes
        on.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._selector = selectors.EpollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, fd: int, action: Callable[[], None]) -> None:
        """Call `action` whenever `fd` can be read or its peer is gone."""
        self._selector.register(fd, selectors.EVENT_READ, action)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`; call it before closing."""
        self._selector.unregister(fd)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call `action` once after `seconds`."""
        timer = Timer(time.monotonic() + seconds, action)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Leave `run` after the current callback."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        while self._running:
            self.step(None)

    def step(self, longest: float | None) -> None:
        """Wait for the next events, at most `longest` seconds, and serve them."""
        timeout = longest
        if len(self._timers) > 64 and sum(each[2].cancelled for each in self._timers) > len(self._timers) // 2:
            # Cancelled ones hold on to what they would have called.
            self._timers = [each for each in self._timers if not each[2].cancelled]
            heapq.heapify(self._timers)
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._timers:
            due = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = due if timeout is None else min(due, timeout)
        for key, _ in self._selector.select(timeout):
            # A callback served before may have unwatched this one, and a new descriptor may have its number.
            if self._selector.get_map().get(key.fd) is key:
                self._call(key.data)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                self._call(timer.action)

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._on_error(error)

    def close(self) -> None:
        """Free the selector."""
        self._selector.close()
