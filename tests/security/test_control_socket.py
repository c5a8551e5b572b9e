"""Hostile, broken and slow peers at the control socket: each is cut off, and others are served meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from broker.broker_tools import ROOT, Peer, Running, hello, start, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migproxy.abi import control
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.broker.config import Limits
from migproxy.errors import SessionLost

__all__ = ["start"]
Start = Callable[..., Running]


def still_serves(running: Running) -> None:
    peer = running.peer()
    peer.open()
    peer.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=600))
def test_garbage_is_refused_with_a_line(start: Start, garbage: bytes) -> None:
    running = _one(start)
    peer = running.peer()
    peer.socket.send(garbage)
    answer = peer.receive("client")
    assert isinstance(answer, control.Refused)
    assert "\n" not in answer.reason
    peer.close()


_cache: dict[int, Running] = {}


def _one(start: Start) -> Running:
    """One broker for all examples of a hypothesis test."""
    if id(start) not in _cache:
        _cache.clear()
        _cache[id(start)] = start()
    return _cache[id(start)]


def test_after_garbage_the_broker_serves(start: Start) -> None:
    running = start()
    for garbage in (b"\x00", b"\xc1" * 1000, b"\x91" * 100_000, msgspec.msgpack.encode({"type": "Hello"}), b"{}"):
        peer = running.peer()
        peer.socket.send(garbage)
        assert isinstance(peer.receive("client"), control.Refused)
    still_serves(running)


def test_another_protocol_version_is_named_even_if_its_hello_cannot_be_decoded(start: Start) -> None:
    peer = start().peer()
    peer.socket.send(msgspec.msgpack.encode({"type": "Hello", "protocol": 41, "colour": "blue"}))
    refused = peer.receive()
    assert (refused.kind, f"protocol 41, the broker speaks protocol {PROTOCOL_VERSION}" in refused.reason) == (
        "protocol",
        True,
    )


def test_a_silent_connection_is_closed(start: Start) -> None:
    running = start(limits=Limits(hello_seconds=0.2))
    with pytest.raises(SessionLost):
        running.peer().receive()


def test_descriptors_nobody_asked_for_are_closed(start: Start) -> None:
    running = start()
    still_serves(running)
    until(lambda: not running.broker.sessions)
    null = os.open(os.devnull, os.O_RDONLY)
    before = open_fds()
    for message in (control.AskStatus(), control.Goodbye(), hello(), control.GrowArena(1)):
        peer = running.peer()
        peer.send(message, (null,) * 40)
        peer.receive("client") if not isinstance(message, control.Goodbye) else peer.socket.recv(1)
        peer.close()
    peer = running.peer()
    peer.send(control.AskStatus(), (null,) * 200)
    assert isinstance(peer.receive("client"), control.Refused)
    peer.close()
    until(lambda: open_fds() == before)
    os.close(null)


def flood(peer: Peer) -> None:
    for _ in range(100_000):
        peer.send_raw(msgspec.msgpack.encode(control.ReadLog()))


def test_a_peer_that_never_reads_is_cut_off_and_the_others_are_served(start: Start) -> None:
    running = start()
    deaf = running.peer()
    deaf.socket.settimeout(5.0)
    with pytest.raises(OSError):  # noqa: PT011  (EPIPE or ECONNRESET: the broker closed)
        flood(deaf)
    began = time.monotonic()
    still_serves(running)
    assert time.monotonic() - began < 5.0


def test_connections_of_one_uid_are_limited(start: Start) -> None:
    running = start(limits=Limits(connections=3, start_seconds=20.0))
    peers = [running.peer() for _ in range(3)]
    for peer in peers:
        peer.ask(control.AskStatus())
    answer = running.peer().receive("client")
    assert answer.kind == "busy"
    peers[0].close()
    until(lambda: isinstance(_try_status(running), control.Status))


def _try_status(running: Running) -> object:
    peer = Peer(running.path)
    try:
        return peer.ask(control.AskStatus())
    except SessionLost:
        return None
    finally:
        peer.close()


def as_other_uid(path: str, code: str) -> str:
    """Run `code` as nobody; `peer` is a connection."""
    tests = str(Path(__file__).resolve().parents[1] / "unit")
    program = (
        "import os, sys\n"
        "from broker.broker_tools import Peer, hello\n"
        "from migproxy.abi import control\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "peer = Peer(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + code, path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((ROOT, tests))},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming another uid needs root")


@needs_root
def test_other_uids_are_refused_unless_allowed(start: Start, tmp_path: Path) -> None:
    closed, opened = start(), start(allow_uids=(65534,))
    reachable(tmp_path)
    os.chmod(closed.path, 0o666)  # file permissions are not what protects it
    assert "uid 65534 may not use" in as_other_uid(closed.path, "print(peer.receive('client').reason)")
    assert as_other_uid(opened.path, "print(type(peer.open()).__name__)") == "Welcome"


@needs_root
def test_users_neither_see_nor_end_each_others_sessions(start: Start, tmp_path: Path) -> None:
    running = start(allow_all=True)
    reachable(tmp_path)
    welcome = running.peer().open(function_id="function-1", program="secret job")
    said = as_other_uid(
        running.path,
        "print(peer.ask(control.ListSessions(True)).rows,"
        f" peer.ask(control.KillSession({welcome.session_id!r})).reason,"
        " peer.ask(control.AskReport('function-1')).sessions,"
        " [line.text for line in peer.ask(control.ReadLog()).lines if line.session_id])\n",
    )
    assert said == f"[] no session {welcome.session_id!r} of yours 0 []"
    joined = as_other_uid(running.path, "peer.send(hello(function_id='function-1')); print(peer.receive().reason)")
    assert joined == "that function belongs to another user"


def reachable(path: Path) -> None:
    while path != path.parent and path.stat().st_uid == os.getuid():
        path.chmod(path.stat().st_mode | 0o011)
        path = path.parent


def test_two_brokers_do_not_share_a_socket_and_a_stale_one_is_replaced(start: Start, tmp_path: Path) -> None:
    from migproxy.broker.config import BrokerConfig
    from migproxy.broker.server import Broker
    from migproxy.errors import UsageError

    running = start()
    with pytest.raises(UsageError, match="another broker serves"):
        Broker(BrokerConfig(running.path), [])
    stale = str(tmp_path / "stale.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(stale)
    broker = Broker(BrokerConfig(stale), [])
    broker.close()
    assert not os.path.exists(stale)
    plain = tmp_path / "plain"
    plain.write_text("a file")
    with pytest.raises(UsageError, match="no socket"):
        Broker(BrokerConfig(str(plain)), [])
    assert plain.read_text() == "a file"
