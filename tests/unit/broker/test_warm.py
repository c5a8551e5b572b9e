"""Warm executors: ready before they are asked for, one session each, and no endless restarts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from migproxy.abi import control
from migproxy.broker.config import BrokerConfig
from migproxy.broker.log import Log
from migproxy.broker.warm import CONTEXT, GIVE_UP, WarmPool
from migproxy.device.inventory import Slice

from .broker_tools import Running, alive, until

Start = Callable[..., Running]


def test_a_session_takes_a_waiting_executor_and_another_one_is_started(start: Start) -> None:
    running = start(warm=1)
    until(lambda: running.broker.warm.waiting("software") == 1)
    waiting = running.broker.warm._ready["software"][0].pid
    first = running.peer()
    first.open()
    rows = running.peer().ask(control.ListSessions()).rows
    assert [row.executor_pid for row in rows] == [waiting]
    until(lambda: running.broker.warm.waiting("software") == 1)
    first.close()
    until(lambda: not alive(waiting))
    running.peer().open()
    (row,) = running.peer().ask(control.ListSessions()).rows
    assert row.executor_pid != waiting, "an executor that served one owner served another"


def test_executors_that_die_unused_are_not_started_for_ever(start: Start) -> None:
    running = start(warm=1)
    for _ in range(GIVE_UP):
        until(lambda: running.broker.warm.waiting("software") == 1)
        running.broker.warm._ready["software"][0].kill("test")
        until(lambda: running.broker.warm.waiting("software") == 0)
    lines = [line.text for line in running.broker.log.read(0, "", None)[0]]
    assert sum("ended unused" in line for line in lines) == GIVE_UP
    assert running.broker.warm._died == GIVE_UP
    running.peer().open()


def test_warm_executors_end_with_the_broker(start: Start) -> None:
    running = start(warm=2)
    until(lambda: running.broker.warm.waiting("software") == 2)
    pids = [each.pid for each in running.broker.warm._ready["software"]]
    running.stop_broker()
    assert not any(alive(pid) for pid in pids)


def test_a_private_broker_prepares_one_executor_and_no_other(start: Start) -> None:
    running = start(private=True, warm=-1)
    until(lambda: running.broker.warm.waiting("software") == 1)
    waiting = running.broker.warm._ready["software"][0].pid
    first, second = running.peer(), running.peer()
    first.open()
    second.open()
    pids = {row.executor_pid for row in running.peer().ask(control.ListSessions()).rows}
    assert waiting in pids
    assert len(pids) == 2
    assert running.broker.warm.waiting("software") == 0
    assert running.broker.warm._timer is None


GPU = Slice("gpu0", "gpu", "GPU-0", 8 << 30)


def pool(free: list[int], warm: int = -1) -> WarmPool:
    """A pool whose timers never come, so that it starts nothing."""
    loop: Any = SimpleNamespace(call_later=lambda *_: None)
    return WarmPool(loop, Log(), BrokerConfig("", warm=warm), [GPU], lambda _: free[0])


def test_a_gpu_has_one_unless_told_and_none_without_memory_for_its_context() -> None:
    free = [8 << 30]
    warm = pool(free)
    assert warm._wanted(GPU) == 1
    assert pool(free, warm=3)._wanted(GPU) == 3
    assert pool(free, warm=0)._wanted(GPU) == 0
    free[0] = CONTEXT - 1
    assert warm._wanted(GPU) == 0
    free[0] = 2 * CONTEXT
    assert pool(free, warm=3)._wanted(GPU) == 2
