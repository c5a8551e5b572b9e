"""Nothing leaks over many sessions, and idle ones cost nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import time
from collections import Counter
from collections.abc import Callable

from migproxy.abi import control
from migproxy.broker.loop import Loop
from migproxy.broker.sessions import Session

from .broker_tools import Running, until

Start = Callable[..., Running]


def open_fds() -> Counter[str]:
    """Count this process's descriptors by what they are; what the collector would close does not count."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[os.readlink(f"/proc/self/fd/{each}").partition("[")[0].partition(" ")[0]] += 1
    return found


def kept_sessions() -> int:
    gc.collect()
    return sum(isinstance(each, Session) for each in gc.get_objects())


def test_sessions_leave_nothing_behind(start: Start) -> None:
    running = start(warm=1)

    def one() -> None:
        peer = running.peer()
        peer.open()
        peer.close()
        running.peers.clear()

    one()
    until(lambda: not running.broker.sessions and running.broker.warm.waiting("software") == 1)
    before, kept = open_fds(), kept_sessions()  # other tests' failures may hold some
    for _ in range(25):
        one()
    until(lambda: not running.broker.sessions and running.broker.warm.waiting("software") == 1)
    until(lambda: open_fds() <= before, told=lambda: f"{open_fds() - before} more than before")
    until(lambda: kept_sessions() <= kept)  # the broker's thread may still be on its way out of the last one's end
    assert not running.broker.leases["software"]._members
    assert running.broker.ledgers["software"].reserved == 0
    assert len(running.broker._clients) == 0


def test_idle_sessions_cost_the_broker_nothing(start: Start) -> None:
    running = start(memory=8 << 30)
    for _ in range(12):
        running.peer().open()
    until(lambda: len(running.peer().ask(control.ListSessions()).rows) == 12)
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(1.0)  # the broker is to do nothing meanwhile
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.01, f"{used * 100:.1f}% of a core"


def test_cancelled_timers_are_dropped() -> None:
    loop = Loop(lambda error: None)
    for _ in range(1000):
        loop.call_later(1000.0, int).cancel()
    loop.step(0.0)
    assert len(loop._timers) < 100
    loop.close()
