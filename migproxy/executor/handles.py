"""The session's handle tables: what the function names, and what it is on the device.

A handle is looked up in its kind's table and nowhere else, so a foreign or stale one can only be refused.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.arena.account import HANDLES, KERNELS, MODULES, QuotaAccount
from migproxy.errors import CudaError

if TYPE_CHECKING:
    from migproxy.executor.pump_tables import PumpTables

CUDA_ERROR_INVALID_HANDLE = 400

_COLUMN_NAMES = {HANDLES: "handles", MODULES: "modules", KERNELS: "kernels"}


def _columns(kind: int) -> tuple[int, ...]:
    """Return what a handle of a kind counts as."""
    if kind in (layout.KIND_MODULE, layout.KIND_LIBRARY):
        return HANDLES, MODULES
    return (HANDLES, KERNELS) if kind == layout.KIND_FUNCTION else (HANDLES,)


class Handles:
    """Tables by kind. Events with a small number are in the mirror alone: the hot path makes and ends them by itself.

    Parameters
    ----------
    mirror : PumpTables, optional
        Is told of every change, for the hot path.
    """

    def __init__(self, mirror: PumpTables | None = None) -> None:
        self._mirror = mirror
        self._account: QuotaAccount | None = None
        self._limits: dict[int, int] = {}
        self._counts: Counter[int] = Counter()
        self._tables: dict[int, dict[int, int]] = {}
        self._next: Counter[int] = Counter()

    def limit(self, handles: int, modules: int, kernels: int, account: QuotaAccount | None) -> None:
        """Set the most that the function may keep, all its sessions together; 0: no limit.

        Events that the hot path makes and ends by itself do not count: its table bounds them.
        """
        self._account = account
        self._limits = {HANDLES: handles, MODULES: modules, KERNELS: kernels}

    def require_room(self, kind: int) -> None:
        """Raise CudaError(2) if the function may keep no further object of a kind; ask before making a costly one."""
        for column in _columns(kind):
            limit = self._limits.get(column, 0)
            others = self._account.others(column) if self._account is not None and limit else 0
            if limit and self._counts[column] + others >= limit:
                raise CudaError(2, f"the function keeps {limit} {_COLUMN_NAMES[column]}, which is its limit")

    def _change(self, kind: int, by: int) -> None:
        for column in _columns(kind):
            self._counts[column] += by
            if self._account is not None:
                self._account.count(column, self._counts[column])

    def add(self, kind: int, real: int) -> int:
        """Enter a real object under a new handle of this side's choosing, and return the handle."""
        self._next[kind] += 1
        handle = layout.make_handle(kind, self._next[kind])
        self.enter(kind, handle, real)
        return handle

    def enter(self, kind: int, handle: int, real: int) -> None:
        """Enter a real object under a handle that the function chose.

        Raises
        ------
        CudaError
            400 when the handle is not of this kind or already in use, 2 when the function keeps too many.
        """
        if kind == layout.KIND_EVENT and self._mirror is not None and self._mirror.holds_event(handle):
            if self._mirror.event(handle):
                raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"event handle {handle:#x}")
            self._mirror.enter_event(handle, real)
            return
        table = self._tables.setdefault(kind, {})
        if handle >> layout.HANDLE_KIND_SHIFT != kind or handle in table:
            raise CudaError(CUDA_ERROR_INVALID_HANDLE, f"{layout.KIND_NAMES.get(kind, kind)} handle {handle:#x}")
        self.require_room(kind)
        table[handle] = real
        self._change(kind, 1)
        if self._mirror is not None:
            self._mirror.enter(kind, handle, real)

    def real(self, kind: int, handle: int) -> int:
        """Return the real object.

        Raises
        ------
        CudaError
            400 for anything that is not a live handle of this kind.
        """
        if kind == layout.KIND_EVENT and self._mirror is not None and self._mirror.holds_event(handle):
            event = self._mirror.event(handle)
            if event:
                return event
        try:
            return self._tables[kind][handle]
        except KeyError:
            raise CudaError(
                CUDA_ERROR_INVALID_HANDLE, f"{layout.KIND_NAMES.get(kind, kind)} handle {handle:#x}"
            ) from None

    def remove(self, kind: int, handle: int) -> int:
        """Take a handle out of its table and return the real object."""
        real = self.real(kind, handle)
        if kind == layout.KIND_EVENT and self._mirror is not None and self._mirror.holds_event(handle):
            return self._mirror.remove_event(handle)
        del self._tables[kind][handle]
        self._change(kind, -1)
        if self._mirror is not None:
            self._mirror.remove(kind, handle)
        return real

    def all(self, kind: int) -> dict[int, int]:
        """Return the live handles of a kind with their real objects."""
        return self._tables.get(kind, {})

    def counts(self) -> dict[str, int]:
        """Return how many live handles there are by kind's name."""
        found = {
            layout.KIND_NAMES.get(kind, str(kind)): len(table) for kind, table in list(self._tables.items()) if table
        }
        events = self._mirror.live_events() if self._mirror is not None else 0
        if events:
            found["event"] = found.get("event", 0) + events
        return found
