"""NVML's count by process held against the ledger, with a stand-in for NVML."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from migproxy.abi import control
from migproxy.broker.usage import PATIENCE, SLACK, UsageCheck, Used
from migproxy.device.inventory import Slice, software_slice

from .broker_tools import Running, hello, until

GIB = 1 << 30
GPU = Slice("gpu0", "gpu", "GPU-1", 80 * GIB, 0, "GPU-1")


class NVMLError(Exception):
    pass


class Nvml:
    """NVML with processes given as pid → bytes (None: it does not say)."""

    NVMLError = NVMLError

    def __init__(self, used: dict[int, int | None], broken: bool = False) -> None:
        self.used, self.broken = used, broken

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> bytes:
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: bytes) -> list[Any]:
        assert handle == b"GPU-1"
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.used.items()]


class Checked:
    def __init__(self, nvml: Nvml, *served: Used) -> None:
        self.nvml, self.served = nvml, list(served)
        self.gone: list[tuple[str, str]] = []
        self.notes: list[str] = []
        slices = [software_slice(GIB), GPU]
        self.check = UsageCheck(
            slices, lambda *each: self.gone.append(each), self.notes.append, nvml, run=lambda action: action()
        )
        self.look(1)  # nothing was measured before

    def look(self, times: int = PATIENCE) -> list[str]:
        for _ in range(times):
            self.check.look(lambda name: self.served if name == "gpu0" else [])
        return [session for session, _ in self.gone]


def test_who_keeps_to_the_quota_stays() -> None:
    checked = Checked(Nvml({11: 4 * GIB, 99: 50 * GIB}), Used("a", "f", 11, 4 * GIB))
    assert checked.look(5) == []


def test_who_exceeds_it_goes_and_is_told_why() -> None:
    checked = Checked(Nvml({11: 5 * GIB, 12: GIB}), Used("a", "f", 11, 4 * GIB), Used("b", "g", 12, 4 * GIB))
    assert checked.look(PATIENCE - 1) == []
    assert checked.look(1) == ["a"]
    assert checked.gone[0][1] == "its function uses 5GiB of the device, its quota is 4GiB"


def test_one_reading_is_no_proof() -> None:
    checked = Checked(Nvml({11: 5 * GIB}), Used("a", "f", 11, 4 * GIB))
    for used in (4 * GIB + SLACK, 5 * GIB, 4 * GIB, 5 * GIB):  # each look compares what the one before has measured
        checked.nvml.used[11] = used
        assert checked.look(1) == []


def test_the_sessions_of_a_function_count_together_and_the_largest_goes() -> None:
    sessions = Used("a", "f", 11, 4 * GIB), Used("b", "f", 12, 4 * GIB)
    assert Checked(Nvml({11: 2 * GIB, 12: 3 * GIB}), *sessions).look() == ["b"]


def test_what_nvml_does_not_say_is_noted_once_and_ends_nobody() -> None:
    for nvml, said in (
        (Nvml({}), "does not count"),
        (Nvml({7: 5 * GIB}), "does not count"),
        (Nvml({}, broken=True), "Driver Not Loaded"),
    ):
        checked = Checked(nvml, Used("a", "f", 11, GIB))
        assert checked.look(4) == []
        assert len(checked.notes) == 1
        assert said in checked.notes[0]
    assert Checked(Nvml({11: None}), Used("a", "f", 11, GIB)).look() == []


def test_the_broker_ends_an_executor_that_uses_more_than_its_share(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml({})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    running = start(usage_seconds=0.05, slices_served=[GPU])
    greedy, modest = running.peer(), running.peer()
    for peer in (greedy, modest):
        peer.send(hello(function_id=f"function-{peer is greedy}", memory=4 * GIB))
        assert isinstance(peer.receive(), control.Welcome)
    rows = {row.function_id: row for row in running.peer().ask(control.ListSessions()).rows}
    nvml.used.update({row.executor_pid: 4 * GIB for row in rows.values()})
    nvml.used[rows["function-True"].executor_pid] = 6 * GIB
    lost = greedy.receive()
    assert isinstance(lost, control.Lost)
    assert "6GiB" in lost.reason
    asker = running.peer()
    until(lambda: [row.function_id for row in asker.ask(control.ListSessions()).rows] == ["function-False"])
