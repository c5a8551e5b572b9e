"""Two executors' ends of one lease page in this process; the broker's part is played by the test."""

from __future__ import annotations

import ctypes
import os
import threading
import time

import pytest

from migproxy.abi import lease as page
from migproxy.abi.control import LeaseChanged, Message
from migproxy.arena import segment
from migproxy.executor.lease import LeaseClient


class Page:
    """A page with two places."""

    def __init__(self) -> None:
        fd = segment.create("lease", page.PAGE_SIZE)
        self.said: list[Message] = []
        self.first, self.second = (LeaseClient(os.dup(fd), place, self.said.append) for place in (0, 1))
        os.close(fd)
        self._base = self.first.permit_address - page.LINES
        self.set(page.MEMBERS, 2)

    def set(self, offset: int, value: int) -> None:
        ctypes.c_uint32.from_address(self._base + offset).value = value

    def get(self, offset: int) -> int:
        return ctypes.c_uint32.from_address(self._base + offset).value

    def grant(self, place: int) -> None:
        self.set(page.HOLDER, place + 1)
        self.set(page.LINES + place * page.LINE + page.PERMIT, page.PERMIT_HELD)

    def name_successor(self, place: int, successor: int) -> None:
        self.set(page.WAITING, 1)
        self.set(page.LINES + place * page.LINE + page.SUCCESSOR, successor + 1)


@pytest.fixture
def shared() -> Page:
    return Page()


def test_a_hand_over_wakes_the_one_that_sleeps(shared: Page) -> None:
    shared.grant(0)
    assert shared.first.acquire()
    assert not shared.second.acquire()
    shared.name_successor(0, 1)
    woken: list[float] = []

    def sleep() -> None:
        while not shared.second.acquire():
            shared.second.wait(60.0)
        woken.append(time.monotonic())

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    assert shared.first.release(wants=False)
    sleeper.join(10.0)
    assert woken, "nobody woke the successor"
    assert not shared.first.holds()


def test_one_that_paused_does_not_overtake_a_successor_that_was_named_meanwhile(shared: Page) -> None:
    """The broker tells a holder to stop only once, and one that pauses has nothing to stop: had it taken the lease
    back, the other would have waited until it paused again."""
    shared.grant(0)
    assert shared.first.acquire()
    assert shared.first.pause()
    shared.set(page.LINES + page.LINE + page.WANT, 1)
    shared.name_successor(0, 1)
    assert not shared.first.acquire()
    assert shared.second.acquire()
    assert shared.get(page.LINES + page.WANT) == 1, "it wants the lease, and the broker cannot see it"
    assert isinstance(shared.said[-1], LeaseChanged)


def test_one_that_paused_takes_it_back_where_nobody_waits(shared: Page) -> None:
    shared.grant(0)
    assert shared.first.acquire()
    assert shared.first.pause()
    assert not shared.first.should_yield()
    assert shared.first.acquire()
    assert shared.get(page.HOLDER) == 1


def test_a_pause_is_the_next_ones_turn(shared: Page) -> None:
    shared.grant(0)
    assert shared.first.acquire()
    shared.name_successor(0, 1)
    assert shared.first.pause()
    assert shared.get(page.HOLDER) == 2
    assert shared.second.acquire()


def test_a_holder_that_is_alone_keeps_it(shared: Page) -> None:
    shared.grant(0)
    assert shared.first.acquire()
    shared.set(page.MEMBERS, 1)
    assert not shared.first.pause()
    assert shared.first.holds()
    shared.set(page.LINES + page.PERMIT, page.PERMIT_REVOKED)
    assert not shared.first.release(wants=True)
    assert shared.first.acquire()
