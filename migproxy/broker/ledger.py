"""Who may use how much of each slice's memory. The sum of quotas never exceeds the slice."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from migproxy.arena import account, segment
from migproxy.sizes import format_size


class LedgerFull(Exception):
    """The slice has no room for this quota now. `ever` tells whether it could once others have left."""

    def __init__(self, reason: str, *, ever: bool) -> None:
        super().__init__(reason)
        self.ever = ever


@dataclass
class Account:
    """What one function holds of one slice: one quota, shared by the sessions of its process tree.

    `fd` is the page on which the sessions' executors enter what they use (`migproxy.arena.account`), made when it is
    first asked for; `places` are the sessions' lines.
    """

    function_id: str
    uid: int
    quota: int
    sessions: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)
    fd: int = -1

    def open_place(self, session_id: str) -> int:
        """Give a session a line on the account's page; returns the line's number."""
        if self.fd < 0:
            self.fd = segment.create(f"migproxy-account-{self.function_id}", account.PAGE_SIZE)
            os.fchmod(self.fd, 0o600)  # so that no other uid opens it anew for writing
        place = next(number for number in range(account.PLACES) if number not in self.places.values())
        self.places[session_id] = place
        return place

    def close_place(self, session_id: str) -> None:
        """Clear and free the line of a session that has ended."""
        place = self.places.pop(session_id, None)
        if place is not None:
            account.clear_line(self.fd, place)


class Ledger:
    """The quotas on one slice.

    Parameters
    ----------
    capacity : int
        Bytes that may be promised in all.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError("a slice's capacity is not negative")
        self.capacity = capacity
        self._accounts: dict[str, Account] = {}

    @property
    def reserved(self) -> int:
        """Bytes promised."""
        return sum(each.quota for each in self._accounts.values())

    @property
    def free(self) -> int:
        """Bytes not promised."""
        return self.capacity - self.reserved

    @property
    def sessions(self) -> int:
        """Sessions that hold or share a quota."""
        return sum(len(each.sessions) for each in self._accounts.values())

    def account(self, function_id: str) -> Account | None:
        """Return the account of a function, if it has one here."""
        return self._accounts.get(function_id)

    def reserve(self, function_id: str, uid: int, session_id: str, quota: int) -> Account:
        """Enter a session. The first one of a function opens its account with `quota`; later ones share that account.

        Raises
        ------
        LedgerFull
            The quota does not fit.
        """
        if quota <= 0:
            raise ValueError("a quota is positive")
        found = self._accounts.get(function_id)
        if found is None:
            if quota > self.capacity:
                raise LedgerFull(f"{format_size(quota)} asked, the slice has {format_size(self.capacity)}", ever=False)
            if quota > self.free:
                raise LedgerFull(
                    f"{format_size(quota)} asked, {format_size(self.free)} of {format_size(self.capacity)} "
                    "are free now",
                    ever=True,
                )
            found = self._accounts[function_id] = Account(function_id, uid, quota)
        elif session_id in found.sessions:
            raise ValueError(f"session {session_id} is entered already")
        found.sessions.add(session_id)
        return found

    def release(self, function_id: str, session_id: str) -> None:
        """Strike a session off; with its last one the function's quota is free again."""
        found = self._accounts[function_id]
        found.sessions.remove(session_id)
        found.close_place(session_id)
        if not found.sessions:
            del self._accounts[function_id]
            if found.fd >= 0:
                os.close(found.fd)
