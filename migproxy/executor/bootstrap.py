"""An executor's first steps, before it knows its session: control socket, death with the broker, and nothing else."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Sequence

from migproxy.abi.control import Failed, Message, SessionSpec
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.arena import packets
from migproxy.errors import ProtocolError, SessionLost

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4

send = packets.send


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Receive one message of the broker and its descriptors. See `migproxy.arena.packets.receive`."""
    return packets.receive(sock, "executor")


def die_with_broker() -> None:
    """Have the kernel kill this process when the broker ends; end now if it has ended already."""
    broker = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # Another process of the same uid must not attach to it or read its memory.
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    if os.getppid() != broker or broker == 1:
        raise SessionLost("the broker ended before its executor had started")


def open_control(fd: int) -> socket.socket:
    """Return the control socket that the broker left on descriptor `fd`."""
    sock = socket.socket(fileno=fd)
    if (sock.family, sock.type & 0xF) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        raise ProtocolError(f"descriptor {fd} is no control socket")
    sock.set_inheritable(False)
    return sock


def receive_spec(sock: socket.socket) -> tuple[SessionSpec, list[int]]:
    """Wait for the session to serve; returns it with its descriptors, stdout and stderr put in their places already.

    Raises
    ------
    ProtocolError
        The broker sent something else, or speaks another protocol; it was told so.
    """
    message, fds = receive(sock)
    if not isinstance(message, SessionSpec) or len(fds) < len(message.segment_sizes):
        packets.close_all(fds)
        raise ProtocolError(f"the broker sent {type(message).__name__} first, with {len(fds)} descriptors")
    if message.protocol != PROTOCOL_VERSION:
        packets.close_all(fds)
        reason = f"the broker speaks protocol {message.protocol}, the executor speaks protocol {PROTOCOL_VERSION}"
        fail(sock, reason)
        raise ProtocolError(reason)
    if message.stdio:
        *fds, out, err = fds
        for fd, standard in ((out, 1), (err, 2)):
            os.dup2(fd, standard)
            os.close(fd)
    return message, fds


def fail(sock: socket.socket, reason: str, fds: Sequence[int] = ()) -> None:
    """Tell the broker why the session cannot start or go on."""
    packets.send(sock, Failed(reason), fds)
