"""The compute lease between real processes: never two at a time, nobody waits for ever, and it survives its holder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from migproxy.abi import control

from .broker_tools import Running, until

Start = Callable[..., Running]


@pytest.mark.parametrize("policy", ["fifo", "gpu_time", "priority", "deadline"])
def test_only_one_computes_at_a_time_and_everyone_does(start: Start, tmp_path: Path, policy: str) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(4096))
    running = start(f"compute:{shared}", policy=policy)
    for index in range(3):
        running.peer().send(_hello(index))
    asker = running.peer()

    def reports() -> list[dict[str, int]]:
        return [asker.ask(control.AskReport(f"function-{index}")).counters for index in range(3)]

    until(lambda: all("turns" in each for each in reports()))
    found = reports()
    assert [each["violations"] for each in found] == [0, 0, 0]
    assert min(each["turns"] for each in found) >= 20
    assert not running.broker.leases["software"].waiting


def test_the_lease_of_a_killed_holder_goes_to_the_next(start: Start, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(4096))
    running = start(f"compute:{shared}")
    peers = [running.peer() for _ in range(3)]
    for index, peer in enumerate(peers):
        peer.send(_hello(index))
        assert isinstance(peer.receive(), control.Welcome)
    asker = running.peer()
    until(lambda: bool(asker.ask(control.AskStatus()).slices[0].holder))
    holder = asker.ask(control.AskStatus()).slices[0].holder
    rows = {row.session_id: row for row in asker.ask(control.ListSessions()).rows}
    os.kill(rows[holder].executor_pid, signal.SIGKILL)
    with shared.open("r+b") as file:
        file.write(bytes(1))  # the one killed may have been inside
    others = [row.function_id for name, row in rows.items() if name != holder]
    until(lambda: all("turns" in asker.ask(control.AskReport(each)).counters for each in others))
    assert all(asker.ask(control.AskReport(each)).counters["turns"] > 20 for each in others)


def test_a_private_broker_has_no_lease(start: Start) -> None:
    running = start(private=True)
    running.peer().open()
    (shown,) = running.peer().ask(control.AskStatus()).slices
    assert (shown.mode, shown.policy) == ("full_overlap", "")


def _hello(index: int) -> control.Hello:
    from .broker_tools import hello

    return hello(function_id=f"function-{index}")


def test_priority_and_deadline_are_the_functions_as_far_as_the_broker_allows(start: Start) -> None:
    from .broker_tools import hello

    running = start(policy="priority", max_priority=3)
    found = []
    for priority, deadline in ((2, 10), (9, -1), (-1000, 10**12)):
        peer = running.peer()
        peer.send(hello(priority=priority, deadline_ms=deadline))
        welcome = peer.receive()
        claim = running.broker.leases["software"]._machine.claim(welcome.session_id)
        found.append((claim.priority, claim.deadline_ns // 1_000_000))
    assert found == [(2, 10), (3, 0), (-100, 3_600_000)]
