"""Completion records: what must happen when an event of the device is done. The executor polls them and never blocks.

Records of one queue complete in order, so polling looks at the oldest of each queue only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from migproxy.executor.driver import CUDA_ERROR_NOT_READY, AnyDriver

if TYPE_CHECKING:
    from migproxy.executor.pump_tables import PumpTables

Action = Callable[[int], None]


class Completions:
    """Events to wait for, and what to do with the status when they are done.

    Parameters
    ----------
    driver : AnyDriver
    tables : PumpTables
        Owner of the spare events.
    """

    def __init__(self, driver: AnyDriver, tables: PumpTables) -> None:
        self._driver = driver
        self._tables = tables
        self._queues: dict[Hashable, deque[tuple[int, bool, Action]]] = {}
        #: Kernels may have printed. The driver writes that out when somebody waits by one of its own calls, which this
        #: executor else never does.
        self.printing = False

    def __bool__(self) -> bool:
        return bool(self._queues)

    def after_stream(self, stream: int, action: Action) -> None:
        """Run ``action(status)`` once the work submitted so far to the real stream is done."""
        event = self._tables.take_event()
        status = self._driver.status("cuEventRecord", event, stream)
        if status:
            self._tables.give_event(event)
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
                if self.printing and not status:
                    self._driver.status("cuEventSynchronize", event)
                if ours:
                    self._tables.give_event(event)
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
