"""Warm executors: ready before they are asked for, one session each, and no endless restarts."""

from __future__ import annotations

from collections.abc import Callable

from migproxy.abi import control
from migproxy.broker.warm import GIVE_UP

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
