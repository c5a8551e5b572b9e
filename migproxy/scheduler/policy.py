"""Who gets a slice's compute lease next, and how long the holder may keep it. Pure: no I/O, no clock.

All times are nanoseconds of one monotonic clock, handed in by the caller. A policy ranks claims by a key that is
fixed when the claim is made, so that the waiting ones lie in a heap and a decision over thousands costs a few
microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

MS = 1_000_000


@dataclass
class Claim:
    """One session on a slice, as the scheduler sees it.

    Attributes
    ----------
    session : str
        Its id.
    function : str
        The function it belongs to: GPU time is the function's.
    priority : int
        For the policy ``priority``: larger is sooner.
    deadline_ns : int
        For the policy ``deadline``: how long after a claim it must have computed; 0: no deadline of its own.
    since : int
        When it claimed the lease; meaningful while it waits.
    granted : int
        When it got the lease; meaningful while it holds.
    """

    session: str
    function: str
    priority: int = 0
    deadline_ns: int = 0
    since: int = 0
    granted: int = 0
    key: float = 0.0


class Policy(Protocol):
    """How claims are ranked. Smaller keys are served sooner."""

    name: str

    def key(self, claim: Claim) -> float:
        """Return the rank of a claim made at ``claim.since``."""

    def patience(self, holder: Claim, challenger: Claim, now: int) -> int:
        """Return for how many more nanoseconds the holder may compute although `challenger` waits; 0: it must yield
        now."""

    def charge(self, claim: Claim, used: int) -> None:
        """Enter `used` nanoseconds of the slice for the function of `claim`."""

    def forget(self, function: str) -> None:
        """Drop what is remembered of a function: its last session has gone."""


@dataclass
class Fifo:
    """First come, first served. A holder that never pauses yields after `quantum`, so that nobody starves."""

    quantum: int = 50 * MS
    name: str = "fifo"

    def key(self, claim: Claim) -> float:
        """Rank by the time of the claim."""
        return claim.since

    def patience(self, holder: Claim, challenger: Claim, now: int) -> int:
        """Let the holder use up its quantum."""
        return max(0, holder.granted + self.quantum - now)

    def charge(self, claim: Claim, used: int) -> None:
        """Remember nothing."""

    def forget(self, function: str) -> None:
        """Remember nothing."""


@dataclass
class GpuTime:
    """Round-robin by GPU time: the function that has had least of the slice goes first.

    A challenger far behind interrupts the holder at once: a small request beside a heavy neighbour waits for one
    kernel of it, not for a quantum. Credit for pauses is limited to `credit`, so that a function that slept for an
    hour cannot hold the slice for an hour.
    """

    quantum: int = 10 * MS
    granularity: int = 4 * MS
    credit: int = 20 * MS
    name: str = "gpu_time"
    _used: dict[str, float] = field(default_factory=dict)
    _floor: float = 0.0

    def used(self, function: str) -> float:
        """Return what a function has had, in nanoseconds of this policy's account."""
        return self._used.get(function, self._floor)

    def key(self, claim: Claim) -> float:
        """Rank by the account, lifted to the floor less the credit."""
        lifted = max(self._used.get(claim.function, self._floor), self._floor - self.credit)
        self._used[claim.function] = lifted
        return lifted

    def patience(self, holder: Claim, challenger: Claim, now: int) -> int:
        """Let the holder get ahead of the challenger by the granularity, at most for its quantum."""
        lead = self.used(holder.function) + (now - holder.granted) - self.used(challenger.function)
        return max(0, min(holder.granted + self.quantum - now, int(self.granularity - lead)))

    def charge(self, claim: Claim, used: int) -> None:
        """Add to the account, and move the floor."""
        self._used[claim.function] = self.used(claim.function) + used
        # The floor is what each would have had, had all shared evenly. It always moves on, so newcomers, who start
        # there, cannot keep those that were here before from their turn.
        self._floor += used / len(self._used)

    def forget(self, function: str) -> None:
        """Close the account."""
        self._used.pop(function, None)


@dataclass
class PriorityAgeing:
    """Higher priority first; waiting `ageing` nanoseconds is worth one step, so that low priorities do not starve.

    All claims age alike, so their order never changes while they wait and the key is fixed.
    """

    ageing: int = 100 * MS
    quantum: int = 10 * MS
    name: str = "priority"

    def key(self, claim: Claim) -> float:
        """Rank by the time of the claim, moved forward by the priority."""
        return claim.since - claim.priority * self.ageing

    def patience(self, holder: Claim, challenger: Claim, now: int) -> int:
        """Yield at once to one that would rank first, had the holder claimed again at its grant."""
        if challenger.key < holder.granted - holder.priority * self.ageing:
            return 0
        return max(0, holder.granted + self.quantum - now)

    def charge(self, claim: Claim, used: int) -> None:
        """Remember nothing."""

    def forget(self, function: str) -> None:
        """Remember nothing."""


@dataclass
class Deadline:
    """Earliest deadline first. A claim without a deadline of its own counts as due `slack` after it was made."""

    slack: int = 200 * MS
    quantum: int = 10 * MS
    name: str = "deadline"

    def key(self, claim: Claim) -> float:
        """Rank by the time at which the claim is due."""
        return claim.since + (claim.deadline_ns or self.slack)

    def patience(self, holder: Claim, challenger: Claim, now: int) -> int:
        """Yield at once to an earlier deadline, otherwise after the quantum."""
        if challenger.key < holder.key:
            return 0
        return max(0, holder.granted + self.quantum - now)

    def charge(self, claim: Claim, used: int) -> None:
        """Remember nothing."""

    def forget(self, function: str) -> None:
        """Remember nothing."""


POLICIES: dict[str, type[Fifo] | type[GpuTime] | type[PriorityAgeing] | type[Deadline]] = {
    "fifo": Fifo,
    "gpu_time": GpuTime,
    "priority": PriorityAgeing,
    "deadline": Deadline,
}


def make_policy(name: str) -> Policy:
    """Return a new policy by its name."""
    return POLICIES[name]()
