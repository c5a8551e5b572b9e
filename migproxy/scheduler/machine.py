"""The compute lease of one slice as a state machine. Pure: events with their times go in, actions come out.

States of the lease: *free*, *held* by one session, *yielding* (its holder was told to hand over to a named successor
and has not yet). Events: `join`, `leave`, `want`, `released`, `tick`. Actions: `Grant` and `Yield`. The caller
carries actions out and calls `tick` at `wakeup`.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from migproxy.scheduler.policy import Claim, Policy


@dataclass(frozen=True)
class Grant:
    """The lease is this session's."""

    session: str


@dataclass(frozen=True)
class Yield:
    """Tell the holder to hand the lease to `successor`: when it pauses (`now` false), or as soon as its queue has
    drained."""

    session: str
    successor: str
    now: bool


Action = Grant | Yield


class SchedulerError(Exception):
    """An event that cannot happen in this state: a fault of the caller."""


class Lease:
    """The lease of one slice.

    Parameters
    ----------
    policy : Policy
        Ranks the waiting.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._claims: dict[str, Claim] = {}
        self._members: dict[str, int] = {}
        self._heap: list[tuple[float, int, str, int]] = []
        self._tickets: dict[str, int] = {}
        self._order = itertools.count()
        self.holder: str | None = None
        self.successor: str | None = None
        self._urgent = False
        #: When `tick` is next due; None: at no time.
        self.wakeup: int | None = None

    # -- views -----------------------------------------------------------------------------------------------------
    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return len(self._tickets)

    @property
    def pending(self) -> Yield | None:
        """What the holder was told last, if it still stands."""
        if self.holder is None or self.successor is None:
            return None
        return Yield(self.holder, self.successor, self._urgent)

    def waits(self, session: str) -> bool:
        """Tell whether a session waits."""
        return session in self._tickets

    def claim(self, session: str) -> Claim:
        """Return a session's claim."""
        return self._claims[session]

    # -- events ----------------------------------------------------------------------------------------------------
    def join(self, claim: Claim) -> None:
        """Enter a session."""
        if claim.session in self._claims:
            raise SchedulerError(f"{claim.session} has joined already")
        self._claims[claim.session] = claim
        self._members[claim.function] = self._members.get(claim.function, 0) + 1

    def leave(self, session: str, now: int, *, used: int | None = None) -> list[Action]:
        """Strike a session off, whatever it was doing: its executor is gone, and with it what it had in flight."""
        claim = self._claims.pop(session, None)
        if claim is None:
            raise SchedulerError(f"{session} has not joined")
        self._tickets.pop(session, None)
        actions: list[Action] = []
        if self.holder == session:
            self.policy.charge(claim, max(0, now - claim.granted) if used is None else used)
            actions = self._grant_next(now)
        elif self.successor == session:
            actions = self._challenge(now)
        self._members[claim.function] -= 1
        if not self._members[claim.function]:
            del self._members[claim.function]
            self.policy.forget(claim.function)
        return actions

    def want(self, session: str, now: int) -> list[Action]:
        """A session has work for the multiprocessors."""
        claim = self._claims.get(session)
        if claim is None:
            raise SchedulerError(f"{session} has not joined")
        if session == self.holder or session in self._tickets:
            return []
        claim.since = now
        claim.key = self.policy.key(claim)
        if self.holder is None:
            return self._grant(session, now)
        ticket = next(self._order)
        self._tickets[session] = ticket
        heapq.heappush(self._heap, (claim.key, ticket, session, ticket))
        return self._challenge(now)

    def cancel(self, session: str, now: int) -> list[Action]:
        """A session that waited has no work any more: it got the lease and passed it on before anybody looked."""
        if self._tickets.pop(session, None) is None:
            raise SchedulerError(f"{session} does not wait")
        return self._challenge(now) if self.successor == session else []

    def released(
        self, session: str, now: int, *, to: str | None = None, wants: bool = False, used: int | None = None
    ) -> list[Action]:
        """The holder has handed over, to `to` if it did so itself; `wants`: it still has work and queues again.

        `used` is how long it computed; by default all the time since its grant.
        """
        if self.holder != session:
            raise SchedulerError(f"{session} does not hold the lease")
        claim = self._claims[session]
        self.policy.charge(claim, max(0, now - claim.granted) if used is None else used)
        actions = self._take(to, now) if to is not None and to in self._claims else self._grant_next(now)
        if wants:
            actions = actions + self.want(session, now)
        return actions

    def tick(self, now: int) -> list[Action]:
        """Time has passed."""
        if self.wakeup is None or now < self.wakeup:
            return []
        return self._challenge(now)

    # -- decisions -------------------------------------------------------------------------------------------------
    def _first(self) -> str | None:
        """Return the best of the waiting, dropping entries of those that left or were served."""
        while self._heap:
            _, _, session, ticket = self._heap[0]
            if self._tickets.get(session) == ticket:
                return session
            heapq.heappop(self._heap)
        return None

    def _grant(self, session: str, now: int) -> list[Action]:
        self.holder, self.successor, self._urgent, self.wakeup = session, None, False, None
        self._tickets.pop(session, None)
        self._claims[session].granted = now
        return [Grant(session)]

    def _take(self, session: str, now: int) -> list[Action]:
        """The lease went to `session` by itself; nothing to carry out for it, but its own challenger may wait
        already."""
        self._grant(session, now)
        return self._challenge(now)

    def _grant_next(self, now: int) -> list[Action]:
        first = self._first()
        if first is None:
            self.holder, self.successor, self._urgent, self.wakeup = None, None, False, None
            return []
        return self._grant(first, now) + self._challenge(now)

    def _challenge(self, now: int) -> list[Action]:
        """Tell the holder of its successor, and that it must yield now if its time is up."""
        assert self.holder is not None
        first = self._first()
        if first is None:
            self.successor, self._urgent, self.wakeup = None, False, None
            return [Yield(self.holder, "", False)]
        patience = self.policy.patience(self._claims[self.holder], self._claims[first], now)
        urgent = self._urgent or patience <= 0
        self.wakeup = None if urgent else now + patience
        if (first, urgent) == (self.successor, self._urgent):
            return []
        self.successor, self._urgent = first, urgent
        return [Yield(self.holder, first, urgent)]
