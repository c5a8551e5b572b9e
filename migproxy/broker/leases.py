"""The compute leases of a broker's slices: the scheduler's decisions, written to the lease page of each slice.

The page is believed only as far as executors are: one that writes nonsense into it delays the functions of its slice,
which a hostile executor can do anyway by computing without the lease. It cannot reach the broker: every word read is
checked.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from migproxy.abi import lease as page
from migproxy.arena import segment
from migproxy.arena.ring import fence
from migproxy.broker import segments
from migproxy.broker.loop import Loop, Timer
from migproxy.scheduler.machine import Action, Grant, Lease, Yield
from migproxy.scheduler.policy import Claim, make_policy

#: A live executor hands over within microseconds; after so long it is dead.
STRANDED_SECONDS = 5e-3


class NoPlace(Exception):
    """Every place of the slice's page is taken."""


@dataclass
class _Member:
    session: str
    place: int
    ring: Callable[[], None]
    hang: Callable[[float], None]
    held: int = 0


class SliceLease:
    """The lease of one slice.

    Parameters
    ----------
    loop : Loop
        For the time at which a holder's turn ends.
    name : str
        The slice's.
    policy : str
        One of `migproxy.scheduler.policy.POLICIES`.
    mode : str
        One of `migproxy.abi.lease.MODES`.
    hang_seconds : float
        How long work may be on its way without progress until its executor is ended; 0: for ever.
    """

    def __init__(self, loop: Loop, name: str, policy: str, mode: str, hang_seconds: float = 0.0) -> None:
        self.policy_name, self.mode = policy, mode
        self._loop = loop
        self._machine = Lease(make_policy(policy))
        self._members: dict[str, _Member] = {}
        self._places: dict[int, str] = {}
        self._hang_seconds = hang_seconds
        self._timer: Timer | None = None
        self._watch: Timer | None = None
        self.fd = segment.create(f"migproxy-lease-{name}", page.PAGE_SIZE)
        self._memory = mmap.mmap(self.fd, page.PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    # -- the page --------------------------------------------------------------------------------------------------
    def _u32(self, address: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(address)

    def _line(self, place: int) -> int:
        return self._base + page.LINES + place * page.LINE

    def _u64(self, session: str, offset: int) -> int:
        return ctypes.c_uint64.from_address(self._line(self._members[session].place) + offset).value

    @property
    def holder(self) -> str:
        """The session that has the lease according to the page; empty: none."""
        return self._places.get(self._u32(self._base + page.HOLDER).value - 1, "")

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return self._machine.waiting

    def waits(self, session: str) -> bool:
        """Tell whether a session waits for the lease."""
        return self._machine.waits(session)

    def held_ns(self, session: str) -> int:
        """How long a session computed with the lease, as its executor counts."""
        return self._u64(session, page.HELD_NS) if session in self._members else 0

    # -- members ---------------------------------------------------------------------------------------------------
    def join(self, claim: Claim, ring: Callable[[], None], hang: Callable[[float], None]) -> int:
        """Enter a session; returns its place.

        Parameters
        ----------
        claim : Claim
        ring : callable
            Wakes the session's executor.
        hang : callable
            Ends it, because nothing it computes gets anywhere for so many seconds.
        """
        place = next((number for number in range(page.PLACES) if number not in self._places), None)
        if place is None:
            raise NoPlace
        ctypes.memset(self._line(place), 0, page.LINE)
        self._members[claim.session] = _Member(claim.session, place, ring, hang)
        self._places[place] = claim.session
        self._machine.join(claim)
        self._u32(self._base + page.MEMBERS).value = len(self._members)
        holder = self._machine.holder
        if len(self._members) == 2 and holder is not None:
            # So far it was alone and bounded nothing: have it look up and begin to.
            self._revoke(holder)
        if self._hang_seconds and self._watch is None:
            self._watch_for_hangs()
        return place

    def leave(self, session: str) -> None:
        """Strike off a session whose executor is gone."""
        if session not in self._members:
            return
        self.observe()
        used = self._used(session)
        member = self._members.pop(session)
        del self._places[member.place]
        self._u32(self._base + page.MEMBERS).value = len(self._members)
        held = self._u32(self._base + page.HOLDER).value == member.place + 1
        ctypes.memset(self._line(member.place), 0, page.LINE)
        if held:
            self._u32(self._base + page.HOLDER).value = 0
        self._carry_out(self._machine.leave(session, time.monotonic_ns(), used=used))
        stranded = self._stranded()
        if stranded:
            self._loop.call_later(STRANDED_SECONDS, lambda: self._rescue(stranded))

    def _stranded(self) -> str:
        """Return the holder if it has no permit: the lease is just changing hands, or who moved it died half-way."""
        holder = self.holder
        if holder and self._u32(self._line(self._members[holder].place) + page.PERMIT).value == page.PERMIT_NONE:
            return holder
        return ""

    def _rescue(self, before: str) -> None:
        """Complete a hand-over that its executor did not live to complete."""
        self.observe()
        if self._stranded() == before == self._machine.holder:
            self._carry_out([Grant(before)])

    def _used(self, session: str) -> int:
        """Return how long a session computed since this was last asked."""
        member = self._members[session]
        held = self._u64(session, page.HELD_NS)
        used, member.held = held - member.held, held
        return max(0, min(used, 10**12))

    # -- events ----------------------------------------------------------------------------------------------------
    def observe(self) -> None:
        """Bring the scheduler up to what the page says: who has the lease now, and who waits."""
        now = time.monotonic_ns()
        before, after = self._machine.holder, self.holder
        actions: list[Action] = []
        if before is not None and before != after:
            actions += self._machine.released(before, now, to=after or None, used=self._used(before))
        for session, member in self._members.items():
            wants = self._u32(self._line(member.place) + page.WANT).value == 1
            waits = self._machine.waits(session)
            if wants and not waits and session not in (after, self._machine.holder):
                actions += self._machine.want(session, now)
            elif waits and not wants:
                actions += self._machine.cancel(session, now)
        self._carry_out(actions)
        # The lease may have gone round and come back between two looks; its holder forgot its successor on the way.
        pending = self._machine.pending
        if pending is not None and pending.session == self.holder:
            line = self._line(self._members[pending.session].place)
            if self._u32(line + page.SUCCESSOR).value != self._members[pending.successor].place + 1:
                self._yield(pending, line)

    def _tick(self) -> None:
        self._timer = None
        self.observe()
        self._carry_out(self._machine.tick(time.monotonic_ns()))

    # -- actions ---------------------------------------------------------------------------------------------------
    def _carry_out(self, actions: list[Action]) -> None:
        self._u32(self._base + page.WAITING).value = self._machine.waiting
        for action in actions:
            member = self._members.get(action.session)
            if member is None:
                continue
            line = self._line(member.place)
            if isinstance(action, Grant):
                # The page is free: the one that had the lease is gone, or nobody had it.
                self._u32(line + page.SUCCESSOR).value = 0
                self._u32(self._base + page.HOLDER).value = member.place + 1
                self._u32(line + page.PERMIT).value = page.PERMIT_HELD
                segments.wake(line + page.PERMIT)
                member.ring()
            else:
                self._yield(action, line)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._machine.wakeup is not None:
            delay = max(0, self._machine.wakeup - time.monotonic_ns()) / 1e9
            self._timer = self._loop.call_later(delay, self._tick)

    def _yield(self, action: Yield, line: int) -> None:
        if self._machine.holder != action.session:
            return
        successor = self._members.get(action.successor)
        self._u32(line + page.SUCCESSOR).value = successor.place + 1 if successor is not None else 0
        # The successor is there before the permit is looked at; a holder that goes on looks the other way round.
        fence()
        if successor is not None and self._u32(line + page.PERMIT).value == page.PERMIT_PARKED:
            # It may take the lease now, and sleeps. A holder that parks after this sees the successor by itself.
            segments.wake(self._line(successor.place) + page.PERMIT)
        if action.now and self.mode != "sequential":
            self._revoke(action.session)
        elif successor is not None:
            self._members[action.session].ring()

    def _revoke(self, session: str) -> None:
        """Have the holder stop. Only from HELD: a parked one is left to its successor.

        A plain store: should the lease have moved on just now, the word is wrong for one that holds nothing, which
        ignores it.
        """
        member = self._members[session]
        permit = self._u32(self._line(member.place) + page.PERMIT)
        if permit.value == page.PERMIT_HELD:
            permit.value = page.PERMIT_REVOKED
        member.ring()

    # -- hangs -----------------------------------------------------------------------------------------------------
    def _watch_for_hangs(self) -> None:
        self._watch = None
        now = time.monotonic_ns()
        for member in list(self._members.values()):
            since = self._u64(member.session, page.BUSY_SINCE)
            if since and 0 < now - since < 1 << 62 and now - since > self._hang_seconds * 1e9:
                member.hang((now - since) / 1e9)
        if self._members:
            self._watch = self._loop.call_later(min(1.0, self._hang_seconds / 4), self._watch_for_hangs)

    def close(self) -> None:
        """Free the page."""
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        os.close(self.fd)
