"""Who may take what another session shared, and that the broker keeps nothing longer or more of it than it must."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.abi import sharing
from migproxy.abi.sharing import Give, Given, Take, Taken, Withdraw
from migproxy.broker.sessions import Session
from migproxy.broker.shares import Shares
from migproxy.device.inventory import Slice, software_slice
from migproxy.errors import ProtocolError

GRANULE = 2 << 20
SLICE = software_slice(1 << 30)
OTHER_SLICE = Slice(**{field: getattr(SLICE, field) for field in SLICE.__dataclass_fields__} | {"name": "other"})


class FakeExecutor:
    """Keeps what it is sent; of descriptors it notes how many came."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, int]] = []

    def send(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.fstat(fd)
        self.got.append((message, len(fds)))


def session(name: str, uid: int = 1, chosen: Slice = SLICE, function: str = "") -> Session:
    made = Session(name, function or name, uid, None, chosen, 1 << 30, "running")  # type: ignore[arg-type]
    made.executor = FakeExecutor()  # type: ignore[assignment]
    return made


def last(of: Session) -> Any:
    return of.executor.got[-1][0]  # type: ignore[union-attr]


@pytest.fixture
def fds() -> Iterator[Any]:
    """Make descriptors; none may be open at the end."""
    made: list[int] = []

    def make(count: int) -> list[int]:
        new = [os.memfd_create("share") for _ in range(count)]
        made.extend(new)
        return new

    yield make
    left = []
    for fd in made:
        try:
            os.close(fd)
            left.append(fd)
        except OSError:
            pass
    assert left == []


def give(shares: Shares, of: Session, made: list[int], number: int = 1) -> bytes:
    count = len(made)
    for start in range(0, count, sharing.PART):
        part = made[start : start + sharing.PART]
        more = start + sharing.PART < count
        size = count * GRANULE - 100
        message = Give(number, sharing.MEMORY, (GRANULE,) * len(part), 100, size, b"", more)
        shares.handle(of, message, part)
    answer = last(of)
    assert isinstance(answer, Given)
    assert answer.status == 0, answer
    return answer.token


def take(shares: Shares, of: Session, token: bytes, kind: str = sharing.MEMORY) -> Taken:
    shares.handle(of, Take(7, kind, token), [])
    answer = last(of)
    assert isinstance(answer, Taken)
    return answer


def test_another_session_of_the_owner_gets_every_piece(fds: Any) -> None:
    shares = Shares(4096)
    giver, taker = session("a"), session("b")
    token = give(shares, giver, fds(130))
    assert len(token) == sharing.TOKEN_BYTES
    take(shares, taker, token)
    parts = taker.executor.got  # type: ignore[union-attr]
    assert [count for _, count in parts] == [60, 60, 10]
    assert [each.more for each, _ in parts] == [True, True, False]
    assert [sum(each.sizes) for each, _ in parts] == [60 * GRANULE, 60 * GRANULE, 10 * GRANULE]
    assert (parts[-1][0].offset, parts[-1][0].size) == (100, 130 * GRANULE - 100)
    shares.leave(giver)
    assert (len(shares), shares.descriptors) == (0, 0)


@pytest.mark.parametrize(
    ("taker", "status"),
    [
        (session("b", uid=2), 1),
        (session("b", chosen=OTHER_SLICE), 1),
        (session("b", uid=2, function="a"), 1),
    ],
)
def test_nobody_else_gets_it(fds: Any, taker: Session, status: int) -> None:
    shares = Shares(4096)
    giver = session("a")
    token = give(shares, giver, fds(1))
    assert take(shares, taker, token).status == status
    assert taker.executor.got[-1][1] == 0  # type: ignore[union-attr]
    assert take(shares, giver, token).status == 201
    shares.leave(giver)


def test_guessed_and_stale_tokens_and_wrong_kinds_open_nothing(fds: Any) -> None:
    shares = Shares(4096)
    giver, taker = session("a"), session("b")
    token = give(shares, giver, fds(1))
    for wrong in (b"", bytes(32), token[:-1], token + b"\0", bytes([token[0] ^ 1]) + token[1:]):
        assert take(shares, taker, wrong).status == 1
    assert take(shares, taker, token, sharing.EVENT).status == 1
    shares.handle(taker, Withdraw(token), [])  # not its own
    assert take(shares, taker, token).status == 0
    shares.handle(giver, Withdraw(token), [])
    assert take(shares, taker, token).status == 1
    shares.handle(giver, Withdraw(token), [])
    assert (len(shares), shares.descriptors) == (0, 0)


def test_tokens_differ(fds: Any) -> None:
    shares = Shares(4096)
    giver = session("a")
    assert len({give(shares, giver, fds(1), number) for number in range(50)}) == 50
    shares.leave(giver)


def test_a_function_shares_no_more_than_its_limit(fds: Any) -> None:
    shares = Shares(100)
    first, second, other = session("a", function="f"), session("b", function="f"), session("c")
    give(shares, first, fds(60))
    for start in (0, 60, 90):
        part = fds(min(60, 120 - start) if start < 90 else 10)
        shares.handle(second, Give(3, sharing.MEMORY, (GRANULE,) * len(part), 0, 8, b"", start < 90), part)
    assert last(second) == Given(3, b"", 2)
    assert shares.descriptors == 60
    give(shares, other, fds(60))
    shares.leave(first)
    give(shares, second, fds(60), 4)
    for each in (second, other):
        shares.leave(each)
    assert (len(shares), shares.descriptors) == (0, 0)


def test_a_session_that_ends_in_the_middle_leaves_nothing(fds: Any) -> None:
    shares = Shares(4096)
    giver = session("a")
    shares.handle(giver, Give(1, sharing.MEMORY, (GRANULE,), more=True), fds(1))
    assert shares.descriptors == 1
    shares.leave(giver)
    assert (len(shares), shares.descriptors) == (0, 0)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (Give(1, "socket", (GRANULE,), 0, 8), 1),
        (Give(1, sharing.MEMORY, (GRANULE,), 0, 8), 2),
        (Give(1, sharing.MEMORY, (GRANULE, GRANULE), 0, 8), 1),
        (Give(1, sharing.MEMORY, (), 0, 8), 0),
        (Give(1, sharing.MEMORY, (GRANULE,), 0, 0), 1),
        (Give(1, sharing.MEMORY, (GRANULE,), -8, 16), 1),
        (Give(1, sharing.MEMORY, (GRANULE,), 8, GRANULE), 1),
        (Give(1, sharing.MEMORY, (GRANULE + 1,), 0, 8), 1),
        (Give(1, sharing.MEMORY, (-GRANULE,), 0, 8), 1),
        (Give(1, sharing.MEMORY, (1 << 62,), 0, 8), 1),
        (Give(1, sharing.EVENT, (GRANULE,)), 1),
        (Give(1, sharing.EVENT, data=bytes(65)), 0),
        (Give(1, sharing.EVENT, data=bytes(64)), 2),
        (Give(1, sharing.EVENT, data=bytes(64), more=True), 0),
    ],
)
def test_what_no_executor_sends_is_refused_and_closed(fds: Any, message: Give, count: int) -> None:
    shares = Shares(4096)
    with pytest.raises(ProtocolError):
        shares.handle(session("a"), message, fds(count))
    assert (len(shares), shares.descriptors) == (0, 0)


def test_objects_are_shared_one_after_another(fds: Any) -> None:
    shares = Shares(4096)
    giver = session("a")
    shares.handle(giver, Give(1, sharing.MEMORY, (GRANULE,), more=True), fds(1))
    with pytest.raises(ProtocolError, match="whole"):
        shares.handle(giver, Give(2, sharing.MEMORY, (GRANULE,), 0, 8), fds(1))
    assert (len(shares), shares.descriptors) == (0, 0)
