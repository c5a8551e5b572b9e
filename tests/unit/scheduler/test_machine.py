"""The lease as a state machine: exclusive, never lost, never starving; under every policy."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from migproxy.scheduler.machine import Grant, Lease, SchedulerError, Yield
from migproxy.scheduler.policy import MS, POLICIES, Claim, Fifo, GpuTime, make_policy


class LeaseMachine(RuleBasedStateMachine):
    """Random events; the model knows who was granted the lease."""

    policy = "fifo"

    def __init__(self) -> None:
        super().__init__()
        self.lease = Lease(make_policy(self.policy))
        self.now = 0
        self.members: set[str] = set()
        self.wanting: set[str] = set()
        self.holder: str | None = None
        self.yielding: Yield | None = None
        self.count = 0

    def apply(self, actions: list[Grant | Yield]) -> None:
        for action in actions:
            if isinstance(action, Grant):
                assert self.holder is None, "granted while another one holds"
                self.holder = action.session
                self.wanting.discard(action.session)
                self.yielding = None
            else:
                assert action.session == self.holder
                assert not action.successor or action.successor in self.wanting
                self.yielding = action if action.successor else None

    @rule(priority=st.integers(-3, 3), function=st.integers(0, 3), deadline=st.integers(0, 50))
    def join(self, priority: int, function: int, deadline: int) -> None:
        name = f"s{self.count}"
        self.count += 1
        self.members.add(name)
        self.lease.join(Claim(name, f"f{function}", priority=priority, deadline_ns=deadline * MS))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        if name != self.holder:
            self.wanting.add(name)
        self.apply(self.lease.want(name, self.now))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        self.members.remove(name)
        self.wanting.discard(name)
        if self.holder == name:
            self.holder = self.yielding = None
        elif self.yielding is not None and self.yielding.successor == name:
            self.yielding = None
        self.apply(self.lease.leave(name, self.now))

    @precondition(lambda self: self.wanting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanting)))
        self.wanting.remove(name)
        if self.yielding is not None and self.yielding.successor == name:
            self.yielding = None
        self.apply(self.lease.cancel(name, self.now))

    @precondition(lambda self: self.holder is not None)
    @rule(wants=st.booleans(), direct=st.booleans())
    def release(self, wants: bool, direct: bool) -> None:
        assert self.holder is not None
        name, yielding = self.holder, self.yielding
        self.holder = self.yielding = None
        to = yielding.successor if direct and yielding is not None else None
        if to is not None:
            self.holder = to
            self.wanting.discard(to)
        if wants:
            self.wanting.add(name)
        self.apply(self.lease.released(name, self.now, to=to, wants=wants))

    @rule(step=st.integers(0, 200))
    def pass_time(self, step: int) -> None:
        self.now += step * MS // 10
        self.apply(self.lease.tick(self.now))

    @invariant()
    def agrees(self) -> None:
        assert self.lease.holder == self.holder
        assert self.lease.waiting == len(self.wanting)
        if self.wanting:
            assert self.holder is not None, "the lease lies idle while somebody waits"
            assert self.yielding is not None, "the holder knows of nobody that waits"
            assert self.yielding.now or self.lease.wakeup is not None, "nobody will ever tell the holder to yield"


def machine_for(name: str) -> type[RuleBasedStateMachine]:
    return type(f"Lease_{name}", (LeaseMachine,), {"policy": name})


for _name in POLICIES:
    _case = machine_for(_name).TestCase
    _case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    globals()[f"Test_{_name}"] = _case
del _case


def test_events_that_cannot_happen_are_refused() -> None:
    lease = Lease(Fifo())
    lease.join(Claim("a", "a"))
    with pytest.raises(SchedulerError):
        lease.join(Claim("a", "a"))
    with pytest.raises(SchedulerError):
        lease.released("a", 0)
    for event in (lease.want, lease.leave):
        with pytest.raises(SchedulerError):
            event("b", 0)


def test_fifo_serves_in_order_and_ends_a_turn_after_its_quantum() -> None:
    lease = Lease(Fifo(quantum=50 * MS))
    for name in "abc":
        lease.join(Claim(name, name))
    assert lease.want("a", 0) == [Grant("a")]
    assert lease.want("c", 1) == [Yield("a", "c", False)]
    assert lease.want("b", 2) == []
    assert lease.wakeup == 50 * MS
    assert lease.tick(49 * MS) == []
    assert lease.tick(50 * MS) == [Yield("a", "c", True)]
    assert lease.released("a", 51 * MS, wants=True) == [Grant("c"), Yield("c", "b", False)]
    assert lease.released("c", 52 * MS) == [Grant("b"), Yield("b", "a", False)]


def test_a_light_function_interrupts_a_heavy_one_at_once() -> None:
    policy = GpuTime()
    lease = Lease(policy)
    for name in ("heavy", "light"):
        lease.join(Claim(name, name))
    lease.want("light", 0)
    lease.released("light", 1 * MS)
    lease.want("heavy", 1 * MS)
    assert lease.want("light", 500 * MS) == [Yield("heavy", "light", True)]


def test_sessions_of_one_function_share_its_account() -> None:
    lease = Lease(GpuTime())
    for session, function in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        lease.join(Claim(session, function))
    lease.want("b1", 0)
    lease.want("a1", 0)
    lease.released("b1", 2 * MS)
    lease.want("b1", 2 * MS)
    lease.released("a1", 10 * MS)
    assert lease.holder == "b1"
    lease.want("a2", 10 * MS)
    lease.want("b1", 10 * MS)
    assert lease.waits("a2")


def test_newcomers_cannot_starve_those_that_wait() -> None:
    policy = GpuTime()
    lease = Lease(policy)
    lease.join(Claim("old", "old"))
    lease.want("old", 0)
    now = 200 * MS
    lease.join(Claim("n0", "n0"))
    lease.want("n0", now)
    lease.released("old", now, wants=True)
    for index in range(1, 500):
        lease.join(Claim(f"n{index}", f"n{index}"))
        lease.want(f"n{index}", now)
        now += 5 * MS
        if lease.holder == "old":
            break
        assert lease.holder is not None
        lease.leave(lease.holder, now)
    assert lease.holder == "old"
