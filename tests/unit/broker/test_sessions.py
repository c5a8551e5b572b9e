"""Sessions from Hello to the end, with real executor processes that compute nothing."""

from __future__ import annotations

import collections
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from migproxy.abi import control, layout
from migproxy.abi.protocol import ARENA_MAGIC, PROTOCOL_VERSION
from migproxy.broker import sessions
from migproxy.broker.config import Limits

from .broker_tools import ROOT, Running, alive, hello, until

Start = Callable[..., Running]


def test_a_session_gets_a_sealed_arena_and_device_facts(start: Start) -> None:
    peer = start().peer()
    welcome = peer.open()
    assert welcome.protocol == PROTOCOL_VERSION
    assert welcome.quota == 64 << 20
    assert welcome.device.name == "fake"
    assert [os.fstat(fd).st_size for fd in peer.fds] == welcome.segment_sizes
    control_fd = peer.fds[0]
    assert struct.unpack("<Q", os.pread(control_fd, 8, layout.MAGIC_OFFSET))[0] == ARENA_MAGIC
    assert struct.unpack("<I", os.pread(control_fd, 4, layout.VERSION_OFFSET))[0] == PROTOCOL_VERSION
    seals = fcntl.fcntl(control_fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def test_the_executor_writes_to_the_functions_stdout(start: Start) -> None:
    peer = start().peer()
    read_end, write_end = os.pipe()
    peer.send(hello(), (write_end, write_end))
    os.close(write_end)
    welcome = peer.receive()
    with os.fdopen(read_end) as stream:
        assert welcome.session_id in stream.readline()


def test_the_arena_grows_until_its_cap(start: Start) -> None:
    peer = start(limits=Limits(arena_bytes=16 << 20, start_seconds=20.0)).peer()
    welcome = peer.open()
    grown = peer.ask_function(control.GrowArena(3 << 20))
    assert grown.size == 4 << 20
    assert os.fstat(peer.fds[-1]).st_size == grown.size
    refused = peer.ask_function(control.GrowArena(16 << 20))
    assert refused.size == 0
    assert "16MiB" in refused.reason
    assert len(peer.fds) == len(welcome.segment_sizes) + 1


def test_the_arenas_of_a_functions_sessions_count_together(start: Start) -> None:
    running = start(limits=Limits(arena_bytes=16 << 20, start_seconds=20.0), memory=4 << 30)
    first, second, third = (running.peer() for _ in range(3))
    of_one = {"function_id": "function-1"}
    arena = sum(first.open(**of_one).segment_sizes)
    assert second.open(**of_one).segment_sizes == [arena]
    room = (16 << 20) - 2 * arena
    refused = first.ask_function(control.GrowArena(room + (2 << 20)))
    assert refused.size == 0
    assert "16MiB" in refused.reason
    assert first.ask_function(control.GrowArena(room)).size == room
    third.send(hello(**of_one))
    denied = third.receive()
    assert isinstance(denied, control.Refused)
    assert "16MiB" in denied.reason
    assert running.peer().open(function_id="function-2").segment_sizes == [arena]


def test_a_segment_that_the_executor_cannot_map_is_not_handed_out(start: Start) -> None:
    peer = start("unmappable").peer()
    peer.open()
    assert peer.ask_function(control.GrowArena(1)).reason == "no room at that address"
    assert len(peer.fds) == 1


def test_the_quota_returns_when_the_function_goes(start: Start) -> None:
    running = start(memory=256 << 20)
    first = running.peer()
    first.open(memory=256 << 20)
    second = running.peer()
    second.send(hello(memory=2 << 24, wait_s=20.0))
    until(lambda: running.broker.log.read(0, "", None)[0][-1].text.endswith("1 wait"))
    first.close()
    assert isinstance(second.receive(), control.Welcome)


def test_a_function_that_finds_no_room_is_refused_with_the_reason(start: Start) -> None:
    running = start(memory=256 << 20)
    running.peer().open(memory=200 << 20)
    second = running.peer()
    second.send(hello(memory=100 << 20))
    refused = second.receive()
    assert (refused.kind, "100MiB asked, 56MiB of 256MiB are free now" in refused.reason) == ("memory", True)


def test_waiting_for_room_is_bounded(start: Start) -> None:
    running = start(memory=64 << 20)
    running.peer().open()
    second = running.peer()
    second.send(hello(wait_s=0.05))
    assert second.receive().reason.startswith("no room within 0.05 s")


def test_sessions_of_one_function_share_its_quota(start: Start) -> None:
    running = start(memory=256 << 20)
    first = running.peer().open(memory=200 << 20, function_id="function-1")
    second = running.peer().open(memory=0, function_id=first.function_id)
    assert second.quota == first.quota
    (shown,) = running.peer().ask(control.AskStatus()).slices
    assert (shown.reserved, shown.sessions) == (200 << 20, 2)


def test_goodbye_brings_the_report(start: Start) -> None:
    running = start()
    peer = running.peer()
    welcome = peer.open(function_id="function-1")
    peer.send(control.Goodbye())
    asker = running.peer()
    until(lambda: not asker.ask(control.AskReport("function-1")).running)
    report = asker.ask(control.AskReport("function-1"))
    assert report.sessions == 1
    assert report.counters == {
        "launches": 3,
        "peak_device_bytes": welcome.segment_sizes[0],
        "quota_bytes": welcome.quota,
    }


def test_an_executor_that_does_not_end_is_killed(start: Start) -> None:
    running = start("stuck", limits=Limits(end_seconds=0.1, start_seconds=20.0))
    peer = running.peer()
    peer.open()
    (row,) = running.peer().ask(control.ListSessions()).rows
    peer.close()
    until(lambda: not alive(row.executor_pid), 5.0)
    until(lambda: not running.peer().ask(control.ListSessions()).rows)


def test_a_killed_executor_is_told_at_once_and_marked_in_the_arena(start: Start) -> None:
    running = start()
    peer = running.peer()
    peer.open()
    (row,) = running.peer().ask(control.ListSessions()).rows
    os.kill(row.executor_pid, signal.SIGKILL)
    lost = peer.receive()
    assert isinstance(lost, control.Lost)
    assert "SIGKILL" in lost.reason
    assert struct.unpack("<I", os.pread(peer.fds[0], 4, layout.STATE_OFFSET))[0] == layout.STATE_LOST
    assert struct.unpack("<I", os.pread(peer.fds[0], 4, layout.FUNCTION_BELL_OFFSET))[0] == 1


def test_an_executor_that_fails_to_start_refuses_with_its_reason(start: Start) -> None:
    peer = start("fail").peer()
    peer.send(hello())
    refused = peer.receive()
    assert refused.reason == "no session on software: there is no such card"


def test_an_executor_that_crashes_at_its_start_refuses(start: Start) -> None:
    peer = start("crash").peer()
    peer.send(hello())
    assert "SIGABRT" in peer.receive().reason


def test_an_executor_that_is_never_ready_is_killed(start: Start) -> None:
    peer = start("silent", limits=Limits(start_seconds=0.3)).peer()
    peer.send(hello())
    assert "not ready after 0.3 s" in peer.receive().reason


def test_an_executor_that_sends_nonsense_is_killed(start: Start) -> None:
    peer = start("nonsense").peer()
    peer.open()
    assert "nonsense" in peer.receive().reason


def test_executors_end_with_the_broker(start: Start) -> None:
    running = start()
    peer = running.peer()
    peer.open()
    (row,) = running.peer().ask(control.ListSessions()).rows
    running.stop_broker()
    assert not alive(row.executor_pid)
    lost = peer.receive()
    assert isinstance(lost, control.Lost)
    assert lost.reason == "the broker stops"


def test_kill_ends_a_session(start: Start) -> None:
    running = start()
    peer = running.peer()
    welcome = peer.open()
    assert running.peer().ask(control.KillSession(welcome.session_id)).reason == ""
    assert peer.receive().reason == "it was ended by migproxy kill"
    assert "no session" in running.peer().ask(control.KillSession(welcome.session_id)).reason


def test_asking_often_about_an_executor_that_is_busy_does_not_end_it(start: Start) -> None:
    """Each list asks every executor to report; nobody may fill another's socket by that."""
    running = start("busy")
    peer, asker = running.peer(), running.peer()
    welcome = peer.open()
    for _ in range(2000):
        (row,) = asker.ask(control.ListSessions()).rows
        asker.ask(control.AskTrace(row.session_id))
    assert (row.session_id, row.state) == (welcome.session_id, "running")


def test_events_are_asked_for_once_and_kept_in_order() -> None:
    session = sessions.Session.__new__(sessions.Session)
    session.events, session.traced_until = collections.deque(maxlen=3), 0
    assert session.trace_request().after == 0
    event = [control.TraceEvent("computes", each, each + 10_000_000) for each in range(5)]
    session.keep(event[:2])
    assert session.trace_request().after == event[1].end - sessions.TRACE_OVERLAP_NS
    session.keep([event[0], event[1], event[2]])
    assert list(session.events) == event[:3]
    session.keep([])
    session.keep(event[3:])
    assert list(session.events) == event[2:]


def test_a_function_that_dies_while_its_child_holds_the_socket_is_seen(start: Start) -> None:
    running = start()
    code = (
        "import os, sys, time\n"
        "from broker.broker_tools import Peer, hello\n"
        "peer = Peer(sys.argv[1]); peer.socket.set_inheritable(True); peer.open()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(30); os._exit(0)\n"
        "print(child, flush=True); os._exit(0)\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join((ROOT, tests))}
    with subprocess.Popen(
        [sys.executable, "-c", code, running.path], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait(20.0)
        try:
            until(lambda: not running.peer().ask(control.ListSessions()).rows, 5.0)
        finally:
            os.kill(child, signal.SIGKILL)
