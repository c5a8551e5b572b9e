"""Questions for further segments: answered, refused, given up by whoever waited, and never answered."""

from __future__ import annotations

import os
import threading

import pytest

from migproxy.abi import control
from migproxy.errors import SessionLost
from migproxy.session.growth import Growth


class Broker:
    """What is sent to it, and a thread that answers."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.asked = threading.Semaphore(0)
        self.added: list[int] = []
        self.growth = Growth(self.send, lambda fd, size: self.added.append(size))

    def send(self, message: control.Message) -> None:
        assert isinstance(message, control.GrowArena)
        self.sent.append(message.size)
        self.asked.release()

    def grown(self, size: int) -> None:
        fds = [os.open(os.devnull, os.O_RDONLY)] if size else []
        self.growth.answer(control.Grown(size), fds)

    def when_asked(self, do: object, *arguments: int) -> threading.Thread:
        assert callable(do)

        def act() -> None:
            assert self.asked.acquire(timeout=10)
            do(*arguments)

        thread = threading.Thread(target=act)
        thread.start()
        return thread


@pytest.mark.parametrize(("answer", "added"), [(4096, [4096]), (0, [])])
def test_an_answer_is_taken(answer: int, added: list[int]) -> None:
    broker = Broker()
    thread = broker.when_asked(broker.grown, answer)
    assert broker.growth.by(100) == bool(added)
    thread.join()
    assert (broker.sent, broker.added) == ([100], added)


def test_a_lost_session_ends_the_wait() -> None:
    broker = Broker()
    thread = broker.when_asked(broker.growth.end)
    assert not broker.growth.by(100)
    thread.join()
    assert not broker.growth.by(200)
    assert broker.sent == [100]


def test_an_answer_that_nobody_waited_for_is_taken_first() -> None:
    broker = Broker()
    real_wait = broker.growth._answered.wait

    def interrupted() -> bool:
        broker.growth._answered.wait = real_wait  # type: ignore[method-assign]
        raise KeyboardInterrupt

    broker.growth._answered.wait = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        broker.growth.by(100)
    assert broker.asked.acquire(timeout=10)
    broker.grown(4096)
    thread = broker.when_asked(broker.grown, 8192)
    assert broker.growth.by(200)
    thread.join()
    assert (broker.sent, broker.added) == ([100, 200], [4096, 8192])


def test_a_broker_that_is_gone_is_an_error_each_time() -> None:
    def gone(_: control.Message) -> None:
        raise SessionLost("the broker is gone")

    growth = Growth(gone, lambda fd, size: None)
    with pytest.raises(SessionLost):
        growth.by(100)
    growth.end()
    assert not growth.by(100)


def test_a_segment_that_cannot_be_mapped_is_the_last_question() -> None:
    """The executor has it mapped: those after it would lie elsewhere in the function."""
    broker = Broker()

    def fails(fd: int, size: int) -> None:
        raise OSError("no room for the mapping")

    broker.growth._add = fails
    thread = broker.when_asked(broker.grown, 4096)
    with pytest.raises(OSError, match="no room"):
        broker.growth.by(100)
    thread.join()
    assert not broker.growth.by(100)
    assert broker.sent == [100]
