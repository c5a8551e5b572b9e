"""Functions on slices in simulated time, driven by the real `Lease` and policies.

What it models: CPU phases, GPU phases made of kernels that cannot be interrupted, copies, the cost of a hand-over,
the holder's think-time, and the four modes. What it does not: memory, queue depth, kernels that slow each other down.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from migproxy.scheduler.machine import Action, Grant, Lease, Yield
from migproxy.scheduler.policy import Claim, Policy, make_policy

MODES = ("sequential", "overlap_cpu", "overlap_cpu_memcpy", "full_overlap")


@dataclass(frozen=True)
class Phase:
    """CPU time, then a copy, then `kernels` kernels of `kernel` nanoseconds each."""

    cpu: int = 0
    copy: int = 0
    kernels: int = 0
    kernel: int = 0

    @property
    def gpu(self) -> int:
        """Nanoseconds on the multiprocessors."""
        return self.kernels * self.kernel


@dataclass(frozen=True)
class Function:
    """A function: when it arrives, what it does, on which slice (index), and what its policy goes by."""

    name: str
    phases: tuple[Phase, ...]
    arrival: int = 0
    slice: int = 0
    priority: int = 0
    deadline_ns: int = 0


@dataclass
class Outcome:
    """What became of the functions, in nanoseconds."""

    finished: dict[str, int] = field(default_factory=dict)
    longest_wait: dict[str, int] = field(default_factory=dict)
    gpu_busy: list[int] = field(default_factory=list)
    handovers: int = 0
    decisions: int = 0
    overlaps: int = 0

    @property
    def makespan(self) -> int:
        """When the last one finished."""
        return max(self.finished.values(), default=0)


@dataclass
class _Running:
    function: Function
    phase: int = 0
    kernels_left: int = 0
    wanted_at: int = -1
    idle_since: int = -1


class Simulator:
    """Runs functions on slices.

    Parameters
    ----------
    functions : sequence of Function
    policy : str
        One of `migproxy.scheduler.policy.POLICIES`.
    mode : str
        One of `MODES`.
    slices : int
    handover : int
        Nanoseconds from one holder's last kernel to the next one's first.
    think : int
        How long a holder that others wait for may pause before it hands over.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        policy: str = "gpu_time",
        mode: str = "overlap_cpu_memcpy",
        slices: int = 1,
        handover: int = 150_000,
        think: int = 100_000,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: it is one of {', '.join(MODES)}")
        self.mode = mode
        self.handover = handover
        self.think = think
        self.outcome = Outcome(gpu_busy=[0] * slices)
        self._policies: list[Policy] = [make_policy(policy) for _ in range(slices)]
        self._leases = [Lease(each) for each in self._policies]
        self._pending: list[dict[str, Yield]] = [{} for _ in range(slices)]
        self._computing: list[int] = [0] * slices
        self._running = {each.name: _Running(each) for each in functions}
        self._events: list[tuple[int, int, str, str]] = []
        self._order = itertools.count()
        for each in functions:
            self._at(each.arrival, "arrive", each.name)

    def run(self) -> Outcome:
        """Run to the end and return what happened."""
        while self._events:
            now, _, kind, name = heapq.heappop(self._events)
            getattr(self, f"_on_{kind}")(name, now)
        return self.outcome

    def _at(self, when: int, kind: str, name: str) -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, name))

    # -- a function's phases ---------------------------------------------------------------------------------------
    def _on_arrive(self, name: str, now: int) -> None:
        running = self._running[name]
        function = running.function
        if self.mode != "full_overlap":
            self._leases[function.slice].join(
                Claim(name, function.name, priority=function.priority, deadline_ns=function.deadline_ns)
            )
        if self.mode == "sequential":
            self._want(running, now)
        else:
            self._begin_phase(running, now)

    def _begin_phase(self, running: _Running, now: int) -> None:
        function = running.function
        if running.phase == len(function.phases):
            self._finish(running, now)
            return
        self._at(now + function.phases[running.phase].cpu, "cpu_done", function.name)

    def _on_cpu_done(self, name: str, now: int) -> None:
        running = self._running[name]
        phase = running.function.phases[running.phase]
        running.kernels_left = phase.kernels
        if self.mode == "overlap_cpu":
            self._compute(running, now)  # the copy is part of what needs the lease
        else:
            self._at(now + phase.copy, "copy_done", name)

    def _on_copy_done(self, name: str, now: int) -> None:
        self._compute(self._running[name], now)

    def _compute(self, running: _Running, now: int) -> None:
        phase = running.function.phases[running.phase]
        lease = self._leases[running.function.slice]
        if not phase.kernels and (self.mode != "overlap_cpu" or not phase.copy):
            running.phase += 1
            self._begin_phase(running, now)
        elif self.mode == "full_overlap" or lease.holder == running.function.name:
            running.idle_since = -1
            self._start_work(running, now)
        else:
            self._want(running, now)

    def _want(self, running: _Running, now: int) -> None:
        name, index = running.function.name, running.function.slice
        running.wanted_at = now
        running.idle_since = -1
        self.outcome.decisions += 1
        self._carry_out(index, self._leases[index].want(name, now), now)
        self._arm(index, now)

    def _start_work(self, running: _Running, now: int) -> None:
        index = running.function.slice
        phase = running.function.phases[running.phase]
        extra = phase.copy if self.mode == "overlap_cpu" and running.kernels_left == phase.kernels else 0
        if self._computing[index] and self.mode != "full_overlap":
            self.outcome.overlaps += 1
        self._computing[index] += 1
        self._at(now + extra + (phase.kernel if running.kernels_left else 0), "work_done", running.function.name)

    def _on_work_done(self, name: str, now: int) -> None:
        running = self._running[name]
        index = running.function.slice
        phase = running.function.phases[running.phase]
        self._computing[index] -= 1
        if running.kernels_left:
            running.kernels_left -= 1
            self.outcome.gpu_busy[index] += phase.kernel
        pending = self._pending[index].get(name)
        if running.kernels_left:
            if pending is not None and pending.now and self.mode != "sequential":
                self._release(running, now, wants=True)
            else:
                self._start_work(running, now)
            return
        running.phase += 1
        running.idle_since = now
        if pending is not None and self.mode not in ("sequential", "full_overlap"):
            self._at(now + (0 if pending.now else self.think), "thought", name)
        self._begin_phase(running, now)

    def _on_thought(self, name: str, now: int) -> None:
        """The holder has paused for the think-time: hand over if somebody still waits and it has not gone on
        computing."""
        running = self._running[name]
        index = running.function.slice
        lease = self._leases[index]
        pending = self._pending[index].get(name)
        if lease.holder != name or pending is None or running.idle_since < 0:
            return
        if now - running.idle_since < self.think and not pending.now:
            return
        self._release(running, now, wants=False)

    def _finish(self, running: _Running, now: int) -> None:
        name, index = running.function.name, running.function.slice
        self.outcome.finished[name] = now
        if self.mode == "full_overlap":
            return
        self._pending[index].pop(name, None)
        self.outcome.decisions += 1
        self._carry_out(index, self._leases[index].leave(name, now), now)
        self._arm(index, now)

    # -- the lease -------------------------------------------------------------------------------------------------
    def _release(self, running: _Running, now: int, *, wants: bool) -> None:
        name, index = running.function.name, running.function.slice
        pending = self._pending[index].pop(name)
        if wants:
            running.wanted_at, running.idle_since = now, -1
        self.outcome.decisions += 1
        actions = self._leases[index].released(name, now, wants=wants, to=pending.successor)
        holder = self._leases[index].holder
        if holder is not None and not any(isinstance(each, Grant) for each in actions):
            self._granted(holder, now)
        self._carry_out(index, actions, now)
        self._arm(index, now)

    def _carry_out(self, index: int, actions: Sequence[Action], now: int) -> None:
        for action in actions:
            if isinstance(action, Grant):
                self._granted(action.session, now)
            elif not action.successor:
                self._pending[index].pop(action.session, None)
            else:
                self._pending[index][action.session] = action
                running = self._running[action.session]
                if running.idle_since >= 0 and self.mode != "sequential":
                    ready = now if action.now else max(now, running.idle_since + self.think)
                    self._at(ready, "thought", action.session)

    def _granted(self, name: str, now: int) -> None:
        self.outcome.handovers += 1
        self._pending[self._running[name].function.slice].pop(name, None)
        self._at(now + self.handover, "granted", name)

    def _on_granted(self, name: str, now: int) -> None:
        running = self._running[name]
        waited = now - running.wanted_at
        longest = self.outcome.longest_wait
        longest[name] = max(longest.get(name, 0), waited)
        running.idle_since = -1
        if self.mode == "sequential":
            self._begin_phase(running, now)
        else:
            self._start_work(running, now)

    def _arm(self, index: int, now: int) -> None:
        due = self._leases[index].wakeup
        if due is not None:
            heapq.heappush(self._events, (max(due, now), next(self._order), "tick", str(index)))

    def _on_tick(self, name: str, now: int) -> None:
        index = int(name)
        lease = self._leases[index]
        if lease.wakeup is not None and lease.wakeup <= now:
            self.outcome.decisions += 1
            self._carry_out(index, lease.tick(now), now)
            self._arm(index, now)


def simulate(functions: Sequence[Function], **settings: object) -> Outcome:
    """Run `functions`; see `Simulator` for the settings."""
    return Simulator(functions, **settings).run()  # type: ignore[arg-type]
