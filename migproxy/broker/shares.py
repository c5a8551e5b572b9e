"""What sessions share by CUDA IPC: the broker keeps each object's descriptors under a token, and decides who gets them.

A token is random and long, but that alone opens nothing: whoever takes an object must be a session of the same owner
(uid) on the same slice as the one that gave it, and another session than that. What was given is forgotten with the
session that gave it, or when that session says so; what was taken before lives on in those that took it.
"""

from __future__ import annotations

import resource
import secrets
from collections import Counter
from dataclasses import dataclass, field

from migproxy.abi import sharing
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.abi.sharing import Give, Given, Take, Taken, Withdraw
from migproxy.arena import packets
from migproxy.broker.sessions import Session
from migproxy.errors import ProtocolError

INVALID_VALUE = 1
OUT_OF_MEMORY = 2
INVALID_CONTEXT = 201
#: No allocation is larger.
_LARGEST = 1 << 40
#: The broker keeps at most this share of the descriptors that it may have for what is shared.
_SHARE_OF_DESCRIPTORS = 2


@dataclass
class _Object:
    """What one session gave, or is giving."""

    session: Session
    number: int
    kind: str
    sizes: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    offset: int = 0
    size: int = 0
    data: bytes = b""
    refused: bool = False


class Shares:
    """The objects that sessions share.

    Parameters
    ----------
    limit : int
        Descriptors that one function's sessions may have kept here.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_DESCRIPTORS
        self._objects: dict[bytes, _Object] = {}
        self._of_session: dict[str, set[bytes]] = {}
        self._coming: dict[str, _Object] = {}
        self._kept: Counter[str] = Counter()  # descriptors by function

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def descriptors(self) -> int:
        """How many descriptors are kept."""
        return self._kept.total()

    def handle(self, session: Session, message: Give | Take | Withdraw, fds: list[int]) -> None:
        """Do what an executor asks for; owns `fds`.

        Raises
        ------
        ProtocolError
            No executor of ours sends that.
        """
        if isinstance(message, Give):
            self._give(session, message, fds)
            return
        packets.close_all(fds)
        if isinstance(message, Withdraw):
            if message.token in self._of_session.get(session.session_id, ()):
                self._forget(message.token)
            return
        self._take(session, message)

    def leave(self, session: Session) -> None:
        """A session has ended: nobody can take what it gave any more."""
        coming = self._coming.pop(session.session_id, None)
        if coming is not None:
            self._drop(coming)
        for token in list(self._of_session.get(session.session_id, ())):
            self._forget(token)

    # -- giving ------------------------------------------------------------------------------------------------------
    def _give(self, session: Session, message: Give, fds: list[int]) -> None:
        coming = self._coming.pop(session.session_id, None)
        if coming is None:
            coming = _Object(session, message.number, message.kind)
        elif coming.number != message.number or coming.kind != message.kind:
            packets.close_all(fds)
            self._drop(coming)
            raise ProtocolError("it began to share an object before it had shared another one whole")
        self._kept[session.function_id] += len(fds)
        coming.fds += fds
        coming.sizes += message.sizes
        wrong = _wrong(coming, message)
        if wrong:
            self._drop(coming)
            raise ProtocolError(wrong)
        if self._kept[session.function_id] > self._limit or self._kept.total() > self._most:
            self._drop(coming)  # further parts find it refused
            coming.refused = True
        if message.more:
            self._coming[session.session_id] = coming
            return
        mine = self._of_session.setdefault(session.session_id, set())
        if coming.refused or len(mine) >= sharing.MOST_SHARED:
            self._drop(coming)
            self._send(session, Given(message.number, b"", OUT_OF_MEMORY))
            return
        coming.offset, coming.size, coming.data = message.offset, message.size, message.data
        token = secrets.token_bytes(sharing.TOKEN_BYTES)
        self._objects[token] = coming
        mine.add(token)
        self._send(session, Given(message.number, token))

    # -- taking ------------------------------------------------------------------------------------------------------
    def _take(self, session: Session, message: Take) -> None:
        found = self._objects.get(message.token)
        if found is None or found.kind != message.kind or not _may_have(session, found.session):
            self._send(session, Taken(message.number, INVALID_VALUE))
            return
        if found.session is session:
            self._send(session, Taken(message.number, INVALID_CONTEXT))
            return
        for start in range(0, max(1, len(found.fds)), sharing.PART):
            end = start + sharing.PART
            more = end < len(found.fds)
            part = Taken(message.number, 0, tuple(found.sizes[start:end]), found.offset, found.size, found.data, more)
            self._send(session, part, found.fds[start:end])

    def _send(self, session: Session, message: Given | Taken, fds: list[int] | None = None) -> None:
        if session.executor is not None:
            session.executor.send(message, fds or [])

    # -- forgetting --------------------------------------------------------------------------------------------------
    def _forget(self, token: bytes) -> None:
        found = self._objects.pop(token)
        mine = self._of_session[found.session.session_id]
        mine.discard(token)
        if not mine:
            del self._of_session[found.session.session_id]
        self._drop(found)

    def _drop(self, gone: _Object) -> None:
        """Close an object's descriptors."""
        packets.close_all(gone.fds)
        function = gone.session.function_id
        self._kept[function] -= len(gone.fds)
        if not self._kept[function]:
            del self._kept[function]
        gone.fds.clear()


def _may_have(session: Session, giver: Session) -> bool:
    return session.uid == giver.uid and session.slice.name == giver.slice.name


def _wrong(coming: _Object, message: Give) -> str:
    """Return what is wrong with an object as far as it has come; empty: nothing."""
    if message.kind == sharing.EVENT:
        fits = len(coming.fds) <= 1 and not coming.sizes and not message.more
        return "" if fits and len(message.data) <= sharing.MOST_DATA else "it shares an event that cannot be one"
    if message.kind != sharing.MEMORY or message.data:
        return "it shares something unknown"
    if len(coming.sizes) > sharing.MOST_PIECES or (not coming.refused and len(coming.sizes) != len(coming.fds)):
        return "it shares memory in pieces that have no descriptors"
    if any(size <= 0 or size % DEVICE_GRANULE or size > _LARGEST for size in message.sizes):
        return "it shares a piece of memory of an impossible size"
    if not message.more and not 0 <= message.offset < message.offset + message.size <= sum(coming.sizes):
        return "it shares memory that is not in its pieces"
    return ""
