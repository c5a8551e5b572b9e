"""Messages by which functions of one owner share device memory and events: executor ↔ broker.

An executor gives the broker an object (`Give`, in parts: each carries descriptors); the broker keeps it under a token
of its own making (`Given`), which is all that the function learns. Another executor asks for a token (`Take`) and gets
the object (`Taken`, in parts), if the broker finds that its function may have it. See docs/decisions/ipc.md.
"""

from __future__ import annotations

import struct

from migproxy.abi.message import Message

TOKEN_BYTES = 32
#: What a function gets as a ``CUipcMemHandle`` or ``CUipcEventHandle``: a mark, the kind, the token.
HANDLE = struct.Struct(f"<8s8s{TOKEN_BYTES}s16x")
HANDLE_MARK = b"MIGPROXY"
MEMORY = "memory"
EVENT = "event"
#: Descriptors that one packet carries.
PART = 60
#: Pieces of one allocation: 80 GiB in chunks of 32 MiB.
MOST_PIECES = 2560
#: Bytes that describe an object besides its descriptors.
MOST_DATA = 64
#: What one session keeps shared at a time.
MOST_SHARED = 4096
#: What an executor asks its broker for at a time; the rest waits in the executor.
MOST_AT_ONCE = 16


class Give(Message, frozen=True):
    """Executor → broker, with descriptors: keep this object for other sessions of the owner.

    `number` is the executor's, for the answer. Memory: `sizes` of the pieces whose descriptors come along, and in the
    last part (`more` is false) where in their sum the allocation begins and how long it is. An event: `data`, and at
    most one descriptor.
    """

    number: int
    kind: str
    sizes: tuple[int, ...] = ()
    offset: int = 0
    size: int = 0
    data: bytes = b""
    more: bool = False


class Given(Message, frozen=True):
    """Broker → executor: what `Give` number `number` is called, or the ``CUresult`` that says why it is not kept."""

    number: int
    token: bytes
    status: int = 0


class Withdraw(Message, frozen=True):
    """Executor → broker: the object is gone; nobody may take it any more. What was taken before stays."""

    token: bytes


class Take(Message, frozen=True):
    """Executor → broker: its function has this token."""

    number: int
    kind: str
    token: bytes


class Taken(Message, frozen=True):
    """Broker → executor, with descriptors: the object as `Give` described it, or a ``CUresult``."""

    number: int
    status: int = 0
    sizes: tuple[int, ...] = ()
    offset: int = 0
    size: int = 0
    data: bytes = b""
    more: bool = False
