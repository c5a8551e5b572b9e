"""Questions to a running broker."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import TypeVar

from migproxy.abi.control import AskStatus, Message, Refused, Status
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.arena import packets
from migproxy.errors import ProtocolError, SessionLost, UnsupportedVersion, UsageError
from migproxy.session.connect import broker_places, refusal

_Answer = TypeVar("_Answer", bound=Message)
_PATIENCE = 10.0


class BrokerClient:
    """A connection for requests."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise UsageError(f"no broker answers at {path}: {error.strerror or error}") from error

    @property
    def uid(self) -> int:
        """The uid that the broker runs as."""
        _, uid, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)

    def ask(self, request: Message, expected: type[_Answer]) -> _Answer:
        """Send a request and return its answer.

        Raises
        ------
        UsageError
            The broker refused, is gone, or answers something else.
        """
        try:
            packets.send(self._socket, request)
            message, fds = packets.receive(self._socket, "client")
        except (SessionLost, TimeoutError) as error:
            raise UsageError(f"the broker at {self.path} does not answer: {error}") from error
        except ProtocolError as error:
            raise UnsupportedVersion(f"the broker at {self.path} is of another version of migproxy: {error}") from error
        packets.close_all(fds)
        if isinstance(message, Refused):
            raise refusal(message)
        if not isinstance(message, expected):
            raise UsageError(
                f"the broker at {self.path} answered {type(request).__name__} with {type(message).__name__}"
            )
        return message

    def status(self) -> Status:
        """Return the broker's status; refuses a broker of another protocol."""
        status = self.ask(AskStatus(), Status)
        if status.protocol != PROTOCOL_VERSION:
            raise UnsupportedVersion(
                f"the broker at {self.path} speaks protocol {status.protocol}, "
                f"this migproxy speaks protocol {PROTOCOL_VERSION}; use the same version for both"
            )
        return status

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def client_or_none(explicit: str = "") -> BrokerClient | None:
    """Connect to the broker that `migproxy.session.connect.find_broker` would find; None if there is none.

    Raises
    ------
    UsageError
        A broker was named and does not answer.
    """
    for path, origin in broker_places(explicit=explicit):
        try:
            return BrokerClient(path)
        except UsageError as error:
            if origin:
                raise UsageError(f"no broker answers at {path} (from {origin})") from error
    return None


@contextlib.contextmanager
def running_broker(explicit: str = "") -> Iterator[BrokerClient]:
    """Connect to the broker that is named or found.

    Raises
    ------
    UsageError
        There is none.
    """
    client = client_or_none(explicit)
    if client is None:
        raise UsageError("no broker runs here; start one with migproxy broker, or name its socket with --broker")
    try:
        yield client
    finally:
        client.close()
