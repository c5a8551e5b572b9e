"""Who may use how much of each slice's memory. The sum of quotas never exceeds the slice."""

from __future__ import annotations

from dataclasses import dataclass, field

from migproxy.sizes import format_size


class LedgerFull(Exception):
    """The slice has no room for this quota now. `ever` tells whether it could once others have left."""

    def __init__(self, reason: str, *, ever: bool) -> None:
        super().__init__(reason)
        self.ever = ever


@dataclass
class Account:
    """What one function holds of one slice: one quota, shared by the sessions of its process tree."""

    function_id: str
    uid: int
    quota: int
    sessions: set[str] = field(default_factory=set)


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
        return sum(account.quota for account in self._accounts.values())

    @property
    def free(self) -> int:
        """Bytes not promised."""
        return self.capacity - self.reserved

    @property
    def sessions(self) -> int:
        """Sessions that hold or share a quota."""
        return sum(len(account.sessions) for account in self._accounts.values())

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
        account = self._accounts.get(function_id)
        if account is None:
            if quota > self.capacity:
                raise LedgerFull(f"{format_size(quota)} asked, the slice has {format_size(self.capacity)}", ever=False)
            if quota > self.free:
                raise LedgerFull(
                    f"{format_size(quota)} asked, {format_size(self.free)} of {format_size(self.capacity)} "
                    "are free now",
                    ever=True,
                )
            account = self._accounts[function_id] = Account(function_id, uid, quota)
        elif session_id in account.sessions:
            raise ValueError(f"session {session_id} is entered already")
        account.sessions.add(session_id)
        return account

    def release(self, function_id: str, session_id: str) -> None:
        """Strike a session off; with its last one the function's quota is free again."""
        account = self._accounts[function_id]
        account.sessions.remove(session_id)
        if not account.sessions:
            del self._accounts[function_id]
