"""Executors started before a function asks for one. Each serves one session and ends: none ever serves a second
tenant."""

from __future__ import annotations

from collections.abc import Callable

from migproxy.broker.config import BrokerConfig
from migproxy.broker.log import Log
from migproxy.broker.loop import Loop, Timer
from migproxy.broker.supervisor import Executor, default_command, ignore_message
from migproxy.device.inventory import Slice

#: The next one is started this long after one was taken, so that it does not compete with the session that just begins.
REFILL_SECONDS = 0.3
#: More than any context takes.
CONTEXT = 1 << 30
#: After so many that died unused, none is started in advance any more: something is wrong that a restart does not mend.
GIVE_UP = 3


class WarmPool:
    """Executors that wait for a session, by slice.

    Parameters
    ----------
    loop : Loop
    log : Log
    config : BrokerConfig
        ``config.warm`` is how many wait for each slice. A private broker starts one for its one function, which has
        much to import meanwhile, and none after it.
    slices : list of Slice
    free : callable
        Returns the bytes of a slice, by name, that no quota has. What waits has a context that no quota has either.
    """

    def __init__(
        self, loop: Loop, log: Log, config: BrokerConfig, slices: list[Slice], free: Callable[[str], int]
    ) -> None:
        self._free = free
        self._loop = loop
        self._log = log
        self._config = config
        self._slices = slices
        self._ready: dict[str, list[Executor]] = {each.name: [] for each in slices}
        self._died = 0
        self._timer: Timer | None = None
        self._closed = False
        self._refilled = False
        if any(self._wanted(each) for each in slices):
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
        while len(ready) > self._wanted(chosen):
            ready.pop().kill("the memory of its context is promised to others")
        if self._timer is None and self._wanted(chosen):
            self._timer = self._loop.call_later(REFILL_SECONDS, self._refill)
        return executor

    def _wanted(self, chosen: Slice) -> int:
        """Return how many should wait for a slice."""
        if self._config.private:
            return 0 if self._refilled else 1
        on_gpu = chosen.kind != "software"
        wanted = self._config.warm if self._config.warm >= 0 else int(on_gpu)
        return min(wanted, self._free(chosen.name) // CONTEXT) if on_gpu else wanted

    def look_later(self) -> None:
        """Memory came free: perhaps there is room for one that waits again."""
        if self._timer is None and not self._closed and any(self._wanted(each) for each in self._slices):
            self._timer = self._loop.call_later(REFILL_SECONDS, self._refill)

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
        config = self._config
        return Executor(
            self._loop,
            command,
            chosen,
            config.executor_uid,
            config.plugins,
            open_first=not config.cache_dir,
            several_owners=config.allow_all or bool(config.allow_uids),
        )

    def _refill(self) -> None:
        self._timer = None
        for chosen in self._slices:
            while len(self._ready[chosen.name]) < self._wanted(chosen) and self._died < GIVE_UP and not self._closed:
                try:
                    executor = self._start(chosen)
                except OSError as error:
                    self._died += 1
                    self._log.write("error", f"no warm executor for {chosen.name}: {error}")
                    continue
                self._ready[chosen.name].append(executor)
                self._watch(chosen.name, executor)
        self._refilled = True

    def _watch(self, name: str, executor: Executor) -> None:
        def ended(how: str) -> None:
            if executor not in self._ready[name]:
                return  # the pool has ended it
            self._ready[name].remove(executor)
            if not self._closed:
                self._died += 1
                self._log.write("error", f"a warm executor for {name} ended unused: {how}")
                self._timer = self._timer or self._loop.call_later(REFILL_SECONDS, self._refill)

        executor.adopt(ignore_message, ended)
