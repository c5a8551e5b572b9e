"""What executors really use of a GPU, as NVML counts it by process, held against the ledger.

An executor keeps its function's quota itself, and it is as hostile as its tenant. This is the check from outside: a
function whose executors use more than its quota loses the session that uses most. Where NVML does not count by process
(some virtual machines and containers) there is nothing to compare; the log says so once.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from migproxy.device.inventory import Slice
from migproxy.sizes import format_size

#: What a driver may take before the executor has measured it: local memory that a launch made grow, page tables.
SLACK = 256 << 20
#: One reading may fall between a free and its end on the device; so many in a row are no accident.
PATIENCE = 2


@dataclass(frozen=True)
class Used:
    """One session as the check sees it."""

    session: str
    function: str
    executor_pid: int
    quota: int


class UsageCheck:
    """Compares NVML's figures with the quotas of the sessions on the slices of real GPUs.

    Parameters
    ----------
    slices : sequence of Slice
    exceeded : callable
        Gets the session that has to go, and why.
    note : callable
        Gets a line for the log.
    nvml : module, optional
        Stands in for `pynvml` in tests.
    run : callable, optional
        Has a function run beside this thread: NVML takes milliseconds, in which the broker would decide nothing. Tests
        run it at once.
    """

    def __init__(
        self,
        slices: Sequence[Slice],
        exceeded: Callable[[str, str], None],
        note: Callable[[str], None],
        nvml: Any = None,
        run: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._slices = [each for each in slices if each.kind != "software"]
        self._exceeded = exceeded
        self._note = note
        self._nvml = nvml
        self._handles: dict[str, Any] = {}
        self._often: dict[str, int] = {}
        self._silent: set[str] = set()
        self._run = run or _beside
        self._measuring = False
        self._found: dict[str, dict[int, int] | str] = {}

    @property
    def has_work(self) -> bool:
        """There is a slice that NVML knows."""
        return bool(self._slices)

    def look(self, sessions: Callable[[str], Iterable[Used]]) -> None:
        """Compare what was measured since the last look, and measure again.

        Parameters
        ----------
        sessions : callable
            Returns the running sessions of a slice by its name.
        """
        if self._measuring:
            return
        found, self._found = self._found, {}
        served_slices = [each for each in self._slices if list(sessions(each.name))]
        if served_slices:
            self._measuring = True
            self._run(lambda: self._measure(served_slices))
        for each in self._slices:
            served, measured = list(sessions(each.name)), found.get(each.name)
            if not served or measured is None:
                continue
            if isinstance(measured, str):
                self._say_once(each.name, measured)
                continue
            if not any(one.executor_pid in measured for one in served):
                self._say_once(each.name, f"NVML does not count the executors on {each.name} by process")
                continue
            self._compare(served, measured)

    def _compare(self, served: list[Used], measured: dict[int, int]) -> None:
        functions: dict[str, list[Used]] = {}
        for one in served:
            functions.setdefault(one.function, []).append(one)
        for function, members in functions.items():
            used = sum(measured.get(one.executor_pid, 0) for one in members)
            quota = members[0].quota
            if used <= quota + SLACK:
                self._often.pop(function, None)
                continue
            self._often[function] = self._often.get(function, 0) + 1
            if self._often[function] >= PATIENCE:
                del self._often[function]
                worst = max(members, key=lambda one: measured.get(one.executor_pid, 0))
                reason = f"its function uses {format_size(used)} of the device, its quota is {format_size(quota)}"
                self._exceeded(worst.session, reason)
        for function in [each for each in self._often if each not in functions]:
            del self._often[function]

    def _measure(self, slices: list[Slice]) -> None:
        """Ask NVML for the bytes that each process uses of each slice, or keep why it does not tell."""
        found: dict[str, dict[int, int] | str] = {}
        nvml = self._nvml = self._nvml or importlib.import_module("pynvml")
        for each in slices:
            try:
                if each.name not in self._handles:
                    nvml.nvmlInit()
                    self._handles[each.name] = nvml.nvmlDeviceGetHandleByUUID(each.uuid.encode())
                running = nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[each.name])
                found[each.name] = {int(one.pid): int(one.usedGpuMemory or 0) for one in running}
            except nvml.NVMLError as error:
                found[each.name] = f"NVML does not tell who uses {each.name}: {error}"
        self._found = found
        self._measuring = False

    def _say_once(self, name: str, text: str) -> None:
        if name not in self._silent:
            self._silent.add(name)
            self._note(text)


def _beside(action: Callable[[], None]) -> None:
    threading.Thread(target=action, name="usage", daemon=True).start()
