"""Executors started before a function asks for one. Each serves one session and ends: none ever serves a second
tenant."""

from __future__ import annotations

from migproxy.broker.config import BrokerConfig
from migproxy.broker.log import Log
from migproxy.broker.loop import Loop, Timer
from migproxy.broker.supervisor import Executor, default_command, ignore_message
from migproxy.device.inventory import Slice

#: The next one is started this long after one was taken, so that it does not compete with the session that just begins.
REFILL_SECONDS = 0.3
#: After so many that died unused, none is started in advance any more: something is wrong that a restart does not mend.
GIVE_UP = 3


class WarmPool:
    """Executors that wait for a session, by slice.

    Parameters
    ----------
    loop : Loop
    log : Log
    config : BrokerConfig
        ``config.warm`` is how many wait for each slice.
    slices : list of Slice
    """

    def __init__(self, loop: Loop, log: Log, config: BrokerConfig, slices: list[Slice]) -> None:
        self._loop = loop
        self._log = log
        self._config = config
        self._slices = slices
        self._ready: dict[str, list[Executor]] = {each.name: [] for each in slices}
        self._died = 0
        self._timer: Timer | None = None
        self._closed = False
        if config.warm:
            self._timer = loop.call_later(0.0, self._refill)

    def take(self, chosen: Slice) -> Executor:
        """Return an executor for one session on a slice: one that waits, or else a new one.

        Raises
        ------
        OSError
            None can be started.
        """
        ready = self._ready[chosen.name]
        executor = ready.pop(0) if ready else self._start(chosen)
        if self._config.warm and self._timer is None:
            self._timer = self._loop.call_later(REFILL_SECONDS, self._refill)
        return executor

    def waiting(self, name: str) -> int:
        """Return how many wait for a slice."""
        return len(self._ready[name])

    @property
    def alive(self) -> bool:
        """Some wait, or were told to end and have not yet."""
        return any(self._ready.values())

    def close(self) -> None:
        """End those that wait."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for ready in self._ready.values():
            for executor in ready:
                executor.kill("the broker stops")

    def _start(self, chosen: Slice) -> Executor:
        command = self._config.executor_command or default_command()
        return Executor(self._loop, command, chosen, self._config.executor_uid)

    def _refill(self) -> None:
        self._timer = None
        for chosen in self._slices:
            while len(self._ready[chosen.name]) < self._config.warm and self._died < GIVE_UP and not self._closed:
                try:
                    executor = self._start(chosen)
                except OSError as error:
                    self._died += 1
                    self._log.write("error", f"no warm executor for {chosen.name}: {error}")
                    continue
                self._ready[chosen.name].append(executor)
                self._watch(chosen.name, executor)

    def _watch(self, name: str, executor: Executor) -> None:
        def ended(how: str) -> None:
            if executor in self._ready[name]:
                self._ready[name].remove(executor)
            if not self._closed:
                self._died += 1
                self._log.write("error", f"a warm executor for {name} ended unused: {how}")
                self._timer = self._timer or self._loop.call_later(REFILL_SECONDS, self._refill)

        executor.adopt(ignore_message, ended)
