"""Whether a function gets a session, on which slice and with how much memory; and if not, the one line that says
why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migproxy.abi.control import Hello, Windows
from migproxy.abi.protocol import DEVICE_GRANULE, PROTOCOL_VERSION, WINDOW_ALIGN, WINDOW_BASE, WINDOW_END
from migproxy.broker.config import BrokerConfig
from migproxy.broker.ledger import Ledger, LedgerFull
from migproxy.device.choose import select
from migproxy.device.inventory import Slice
from migproxy.errors import AdmissionError, UnsupportedVersion, UsageError
from migproxy.sizes import format_size
from migproxy.versions import check_version

#: Less cannot hold a context and a module.
LEAST_MEMORY = 16 << 20
_FUNCTION_ID = re.compile(r"[0-9A-Za-z_.-]{8,64}")


class Denied(AdmissionError):
    """No session. `kind` is `Refused.kind`; with `later`, there may be room once others have left."""

    def __init__(self, kind: str, reason: str, *, later: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.later = later


@dataclass(frozen=True)
class Admission:
    """The slice and the quota that a function gets."""

    slice: Slice
    quota: int


def check_protocol(version: int | None, who: str = "the function") -> None:
    """Refuse another protocol version, naming both."""
    if version != PROTOCOL_VERSION:
        spoken = "no protocol that can be read" if version is None else f"protocol {version}"
        raise Denied(
            "protocol",
            f"{who} speaks {spoken}, the broker speaks protocol {PROTOCOL_VERSION}; "
            "use the same migproxy version for both",
        )


def check_windows(windows: Windows) -> None:
    """Refuse address windows that lie outside the area agreed for them, are not aligned, or overlap."""
    spans = sorted(
        ((windows.arena_base, windows.arena_size), (windows.device_base, windows.device_size)), key=lambda span: span[0]
    )
    end = WINDOW_BASE
    for base, size in spans:
        if base < end or base % WINDOW_ALIGN or size <= 0 or size % DEVICE_GRANULE or base + size > WINDOW_END:
            raise Denied("usage", f"the function proposed an address window {base:#x}+{size:#x} that cannot be used")
        end = base + size


def quota_for(hello: Hello, chosen: Slice, config: BrokerConfig) -> int:
    """Return the quota: what was asked for, or the default; whole granules, never more than the broker's cap."""
    cap = min(config.max_memory or chosen.memory, chosen.memory)
    wanted = hello.memory
    if wanted < 0:
        raise Denied("usage", f"a quota of {wanted} bytes makes no sense")
    if not wanted:
        wanted = config.default_memory or (chosen.memory if config.private else chosen.memory // 4)
        wanted = min(wanted, cap)
    if wanted > cap:
        raise Denied("memory", f"{format_size(wanted)} asked on {chosen.name}, a function may have {format_size(cap)}")
    if wanted < LEAST_MEMORY:
        raise Denied("memory", f"{format_size(wanted)} asked, the least quota is {format_size(LEAST_MEMORY)}")
    return wanted // DEVICE_GRANULE * DEVICE_GRANULE


def admit(
    hello: Hello,
    uid: int,
    session_id: str,
    function_id: str,
    slices: Sequence[Slice],
    ledgers: dict[str, Ledger],
    config: BrokerConfig,
    warm: Callable[[str], int] = lambda _: 0,
) -> Admission:
    """Choose a slice and enter the session in its ledger.

    A further session of a function joins the function's account, on its slice. A first one goes to a slice that matches
    the device name or profile and has room: one for which an executor waits, then the one with the most free memory.
    `warm` tells how many wait for a slice.

    Raises
    ------
    Denied
        No session.
    """
    check_protocol(hello.protocol)
    check_windows(hello.windows)
    try:
        for distribution, version in hello.libraries.items():
            check_version(distribution, version)
    except UnsupportedVersion as error:
        raise Denied("version", str(error)) from None
    if not _FUNCTION_ID.fullmatch(function_id):
        raise Denied("usage", "a function's name is 8 to 64 letters, digits, dots, dashes or underscores")
    try:
        candidates = select(hello.device or "auto", slices)
    except UsageError as error:
        raise Denied("device", str(error)) from None
    for candidate in slices:
        account = ledgers[candidate.name].account(function_id)
        if account is None:
            continue
        if account.uid != uid:
            raise Denied("usage", "that function belongs to another user")
        if candidate not in candidates:
            raise Denied(
                "device", f"this function computes on {candidate.name}; its processes cannot use {hello.device}"
            )
        if len(account.sessions) >= config.limits.sessions:
            raise Denied(
                "busy", f"this function has {len(account.sessions)} sessions, the limit is {config.limits.sessions}"
            )
        ledgers[candidate.name].reserve(function_id, uid, session_id, account.quota)
        return Admission(candidate, account.quota)
    denial: Denied | None = None
    for candidate in sorted(candidates, key=lambda each: (not warm(each.name), -ledgers[each.name].free)):
        try:
            quota = quota_for(hello, candidate, config)
            ledgers[candidate.name].reserve(function_id, uid, session_id, quota)
        except LedgerFull as error:
            denial = denial or Denied("memory", f"no room on {candidate.name}: {error}", later=error.ever)
        except Denied as error:
            denial = denial or error
        else:
            return Admission(candidate, quota)
    assert denial is not None  # `select` returned at least one candidate or raised
    raise denial
