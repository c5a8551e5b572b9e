"""What executors really use of a GPU, as NVML counts it by process, held against the ledger.

An executor keeps its function's quota itself, and it is as hostile as its tenant. This is the check from outside: a
function whose executors use more than its quota loses the session that uses most. Where NVML does not count by process
(some virtual machines and containers) there is nothing to compare; the log says so once.
"""

from __future__ import annotations

import importlib
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
    """

    def __init__(
        self,
        slices: Sequence[Slice],
        exceeded: Callable[[str, str], None],
        note: Callable[[str], None],
        nvml: Any = None,
    ) -> None:
        self._slices = [each for each in slices if each.kind != "software"]
        self._exceeded = exceeded
        self._note = note
        self._nvml = nvml
        self._handles: dict[str, Any] = {}
        self._often: dict[str, int] = {}
        self._silent: set[str] = set()

    @property
    def has_work(self) -> bool:
        """There is a slice that NVML knows."""
        return bool(self._slices)

    def look(self, sessions: Callable[[str], Iterable[Used]]) -> None:
        """Compare once.

        Parameters
        ----------
        sessions : callable
            Returns the running sessions of a slice by its name.
        """
        for each in self._slices:
            served = list(sessions(each.name))
            if not served:
                continue
            measured = self._measure(each)
            if measured is None:
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

    def _measure(self, chosen: Slice) -> dict[int, int] | None:
        """Return the bytes that each process uses of a slice; None if NVML does not tell."""
        nvml = self._nvml = self._nvml or importlib.import_module("pynvml")
        try:
            handle = self._handles.get(chosen.name)
            if handle is None:
                nvml.nvmlInit()
                handle = self._handles[chosen.name] = nvml.nvmlDeviceGetHandleByUUID(chosen.uuid.encode())
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError as error:
            self._say_once(chosen.name, f"NVML does not tell who uses {chosen.name}: {error}")
            return None
        return {int(one.pid): int(one.usedGpuMemory or 0) for one in running}

    def _say_once(self, name: str, text: str) -> None:
        if name not in self._silent:
            self._silent.add(name)
            self._note(text)
