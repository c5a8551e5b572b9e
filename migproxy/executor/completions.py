"""Completion records: what must happen when an event of the device is done. The executor polls them and never blocks.

Records of one queue complete in order, so polling looks at the oldest of each queue only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from migproxy.executor.driver import CUDA_ERROR_NOT_READY, AnyDriver

Action = Callable[[int], None]


class Completions:
    """Events to wait for, and what to do with the status when they are done.

    Parameters
    ----------
    driver : AnyDriver
    """

    def __init__(self, driver: AnyDriver) -> None:
        self._driver = driver
        self._queues: dict[Hashable, deque[tuple[int, bool, Action]]] = {}
        self._spare: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._queues)

    def event(self) -> int:
        """Return an event without timing; it comes from a pool and goes back there by itself."""
        if self._spare:
            return self._spare.pop()
        # CU_EVENT_DISABLE_TIMING: cheaper to record, and nothing here asks for times.
        return self._driver.out("cuEventCreate", 2)

    def after_stream(self, stream: int, action: Action) -> None:
        """Run ``action(status)`` once the work submitted so far to the real stream is done."""
        event = self.event()
        status = self._driver.status("cuEventRecord", event, stream)
        if status:
            self._spare.append(event)
            action(status)
            return
        self._queues.setdefault(("stream", stream), deque()).append((event, True, action))

    def after_event(self, event: int, action: Action) -> None:
        """Run ``action(status)`` once a real event of the session is done."""
        self._queues.setdefault(("event", event), deque()).append((event, False, action))

    def poll(self) -> int:
        """Run what is due; returns how many records completed."""
        done = 0
        for key in list(self._queues):
            queue = self._queues[key]
            while queue:
                event, ours, action = queue[0]
                status = self._driver.status("cuEventQuery", event)
                if status == CUDA_ERROR_NOT_READY:
                    break
                queue.popleft()
                if ours:
                    self._spare.append(event)
                done += 1
                action(status)
            if not queue:
                del self._queues[key]
        return done

    def fail_all(self, status: int) -> None:
        """Complete everything with an error: the context is dead, no event will ever be done."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for _, _, action in queue:
                action(status)
