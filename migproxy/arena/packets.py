"""Control messages on a socket: one msgpack-encoded message a packet, file descriptors beside it.

Used by function, broker and executor alike. The sockets are of type SOCK_SEQPACKET, so a packet is a whole message or
nothing, and a reader is never in the middle of one.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec

from migproxy.abi import control
from migproxy.abi.control import MAX_MESSAGE, Message
from migproxy.errors import ProtocolError, SessionLost

#: More descriptors than any message carries. The kernel's own limit is 253.
MAX_DESCRIPTORS = 64

#: What msgspec raises over bytes that are no message: also UnicodeDecodeError (a ValueError), TypeError for keys that
#: cannot be hashed.
_UNDECODABLE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_ROLES: dict[str, Any] = {
    "broker": control.ToBroker,
    "function": control.FromBroker,
    "executor": control.ToExecutor,
    "supervisor": control.FromExecutor,
    "client": control.Answer,
}


@cache
def _decoder(role: str) -> msgspec.msgpack.Decoder[Any]:
    """Making one takes half a millisecond, and most processes have one role."""
    return msgspec.msgpack.Decoder(_ROLES[role])


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message with its descriptors.

    Raises
    ------
    SessionLost
        The peer is gone.
    ProtocolError
        The message is longer than `MAX_MESSAGE` or than the socket's buffer.
    BlockingIOError
        The socket is non-blocking and its buffer is full.
    """
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"a {type(message).__name__} message of {len(data)} bytes is longer than {MAX_MESSAGE}")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise ProtocolError(
                f"a {type(message).__name__} message of {len(data)} bytes does not fit a packet"
            ) from error
        raise SessionLost(f"the control socket's peer is gone: {error.strerror}") from error


def receive_raw(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one packet undecoded, and its descriptors (close-on-exec; the caller owns them).

    Raises
    ------
    SessionLost
        The peer closed the socket.
    ProtocolError
        The packet or its descriptors were cut short; descriptors that came were closed.
    """
    fds: list[int] = []
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            MAX_MESSAGE, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except (BlockingIOError, InterruptedError, TimeoutError):
        raise
    except OSError as error:
        raise SessionLost(f"the control socket broke: {error.strerror}") from error
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
            fds.extend(received)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise ProtocolError("a control message was longer than allowed or carried too many descriptors")
    if not data:
        close_all(fds)
        raise SessionLost("the control socket's peer closed it")
    return data, fds


def decode(data: bytes, role: str) -> Message:
    """Decode a packet that came to `role`: ``"broker"``, ``"function"``, ``"executor"``, ``"supervisor"`` or
    ``"client"``."""
    try:
        message: Message = _decoder(role).decode(data)
    except _UNDECODABLE as error:
        raise ProtocolError(f"malformed control message: {error}") from error
    return message


def receive(sock: socket.socket, role: str) -> tuple[Message, list[int]]:
    """Receive and decode one message for `role`; see `receive_raw` and `decode`."""
    data, fds = receive_raw(sock)
    try:
        return decode(data, role), fds
    except ProtocolError:
        close_all(fds)
        raise


def peek_protocol(data: bytes) -> int | None:
    """Return the protocol version that a message names, though it may be one this version cannot decode; None without
    one."""
    try:
        raw = msgspec.msgpack.decode(data)
    except _UNDECODABLE:
        return None
    version = raw.get("protocol") if isinstance(raw, dict) else None
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors; those already closed are passed over."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
