"""A control connection to the broker, whoever opened it. It is never waited for: a peer that does not read is cut
off."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence

from migproxy.abi.control import Message, Refused
from migproxy.arena import packets
from migproxy.broker.loop import Loop
from migproxy.errors import ProtocolError, SessionLost

_UCRED = struct.Struct("3i")


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that connected, as the kernel recorded them."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


class Client:
    """One connection.

    Parameters
    ----------
    loop : Loop
    sock : socket.socket
        Owned by this object from here on.
    on_packet : callable
        Gets this client, the undecoded packet and its descriptors, which it owns.
    on_close : callable
        Gets this client, once, when the peer or the broker ended the connection.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_packet: Callable[[Client, bytes, list[int]], None],
        on_close: Callable[[Client], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._on_packet = on_packet
        self._on_close = on_close
        self.pid, self.uid, self.gid = peer_credentials(sock)
        self.open = True
        self._pidfd = -1
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send a message; False (and the connection closed) if the peer is gone or does not read."""
        if not self.open:
            return False
        try:
            packets.send(self._socket, message, fds)
        except (BlockingIOError, SessionLost):
            self.close()
            return False
        return True

    def close_with_process(self) -> None:
        """End the connection when the process that opened it ends, even if a child of it still holds the socket
        open."""
        if not self.open or self._pidfd >= 0 or self.pid <= 0:
            return  # 0: a process of a pid namespace that this one cannot see; its socket must do
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self.close()
            return
        self._loop.watch(self._pidfd, self.close)

    def refuse(self, kind: str, reason: str) -> None:
        """Send `Refused` and close."""
        self.send(Refused(kind, reason))
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self.open:
            self.open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            if self._pidfd >= 0:
                self._loop.unwatch(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
            self._on_close(self)

    def _readable(self) -> None:
        try:
            data, fds = packets.receive_raw(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except SessionLost:
            self.close()
            return
        except ProtocolError as error:
            self.refuse("usage", str(error))
            return
        try:
            self._on_packet(self, data, fds)
        except Exception:
            self.close()  # rather than leave the peer waiting; the loop's owner logs it
            raise
