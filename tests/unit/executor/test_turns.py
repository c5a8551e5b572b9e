"""When an executor gives its lease up: the loop, with a recorder in the place of the lease page."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.executor import flight, pump_block
from migproxy.executor.flight import BATCH_COUNT
from migproxy.executor.main import run
from migproxy.executor.turns import ANNOUNCE, LONG_NAP, SHORTEST_THINK, Turns

from .executor_rig import Rig


class FakeLease:
    """Held from the first request on; tells when it is given up."""

    def __init__(self) -> None:
        self.permit = ctypes.c_uint32(0)
        self.permit_address = ctypes.addressof(self.permit)
        self.contended = True
        self.revoked = False
        self.given_up = threading.Event()
        self.how: list[str] = []
        self.held_ns = 0

    def acquire(self) -> bool:
        self.permit.value = 1
        return True

    @property
    def alone(self) -> bool:
        return self.holds() and not self.contended

    def holds(self) -> bool:
        return bool(self.permit.value)

    def should_yield(self) -> bool:
        return self.revoked and self.holds()

    def pause(self) -> bool:
        self._give_up("pause")
        return True

    def release(self, *, wants: bool) -> bool:
        self._give_up("release")
        return True

    def _give_up(self, how: str) -> None:
        self.permit.value = 0
        self.how.append(how)
        self.given_up.set()

    def wait(self, longest: float) -> bool:
        """Nobody else is there to wake this one."""
        return False

    def announce(self) -> None:
        """Nobody waits."""

    def progress(self, *, on_its_way: bool) -> None:
        """The watchdog's word."""


class Served:
    """A rig whose loop runs in a thread."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.lease = FakeLease()
        turns: Any = Turns(self.rig.state, self.lease)  # type: ignore[arg-type]

        def loop() -> None:
            driver = self.rig.state.driver
            driver.call("cuCtxSetCurrent", driver.out("cuDevicePrimaryCtxRetain", 0))
            run(self.rig.state, turns)

        self.thread = threading.Thread(target=loop)
        self.thread.start()

    def submit(self, op: Op, payload: bytes, *, wait: bool) -> None:
        flags = layout.FLAG_WAIT if wait else 0
        number = self.rig.producer.submit(op, payload, flags=flags)
        if wait:
            assert self.rig.producer.wait(number, 10.0)[0] == 0

    def close(self) -> None:
        self.rig.state.closing = True
        self.rig.state.consumer.wake()
        self.thread.join(10.0)
        assert not self.thread.is_alive()
        self.rig.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.submit(Op.MAP, layout.RANGE.pack(served.rig.device, DEVICE_GRANULE), wait=False)
    yield served
    served.close()


def test_an_idle_holder_gives_the_lease_up_after_its_think_time(served: Served) -> None:
    served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 1, 1, 4096), wait=False)
    served.submit(Op.STREAM_SYNC, b"", wait=True)
    assert served.lease.given_up.wait(10.0)
    assert served.lease.how == ["pause"]


def test_what_was_not_waited_for_is_done_before_the_lease_goes(served: Served) -> None:
    served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 7, 1, 1 << 20), wait=False)
    assert served.lease.given_up.wait(10.0)
    assert ctypes.string_at(served.rig.device, 1 << 20) == b"\x07" * (1 << 20)


def test_a_revoked_holder_drains_and_hands_over(served: Served) -> None:
    served.lease.revoked = True
    served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 1, 1, 4096), wait=False)
    assert served.lease.given_up.wait(10.0)
    assert served.lease.how[0] == "release"


def test_copies_need_no_lease(served: Served) -> None:
    payload = layout.COPY.pack(served.rig.device, served.rig.heap, 4096)
    served.submit(Op.COPY_HTOD, payload, wait=True)
    assert not served.lease.holds()


def test_alone_nothing_is_bounded_and_what_was_issued_is_still_seen_to_end(served: Served) -> None:
    served.lease.contended = False
    flight = served.rig.state.pump.flight
    assert flight is not None
    for _ in range(2000):
        served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 1, 1, 64), wait=False)
    served.submit(Op.STREAM_SYNC, b"", wait=True)
    served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 1, 1, 64), wait=False)
    deadline = time.monotonic() + 10
    while flight.on_its_way() or flight.get(BATCH_COUNT) or not flight.busy_ns:
        assert time.monotonic() < deadline
    assert not served.lease.how
    # Somebody else comes: the holder is bounded, drains and gives up.
    served.lease.contended = served.lease.revoked = True
    served.submit(Op.MEMSET, layout.MEMSET.pack(served.rig.device, 1, 1, 64), wait=False)
    assert served.lease.given_up.wait(10.0)


# -- hung kernels -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("contended", [True, False])
def test_a_function_that_goes_on_asking_does_not_hide_a_kernel_that_hangs_from_others(contended: bool) -> None:
    rig, lease = Rig(), FakeLease()
    lease.contended = contended
    turns: Any = Turns(rig.state, lease)  # type: ignore[arg-type]
    turns._limit = 2_000_000
    try:
        lease.acquire()
        tables, marks = rig.state.pump, turns._flight
        marks.set(flight.TAIL, marks.get(flight.HEAD) + 1)  # a mark that is never reached
        deadline = time.monotonic() + (20 if contended else 0.1)
        while time.monotonic() < deadline and not rig.state.closing:
            tables.add(pump_block.TAIL, 1)  # one question after the other
            turns._watch()
        assert rig.state.closing is contended
        assert rig.state.counters["hung_kernels"] == contended
        marks.set(flight.TAIL, marks.get(flight.HEAD))
    finally:
        rig.close()


def test_kernels_that_end_one_after_the_other_do_not_hang() -> None:
    rig, lease = Rig(), FakeLease()
    turns: Any = Turns(rig.state, lease)  # type: ignore[arg-type]
    turns._limit = 50_000_000
    try:
        lease.acquire()
        marks = turns._flight
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            marks.set(flight.TAIL, marks.get(flight.HEAD) + 1)
            turns._watch()
            marks.set(flight.HEAD, marks.get(flight.TAIL))
        assert not rig.state.closing
    finally:
        rig.close()


def test_a_hand_over_is_announced_once_and_awaited_without_a_nap() -> None:
    rig, lease, announced = Rig(), FakeLease(), []
    turns: Any = Turns(rig.state, lease)  # type: ignore[arg-type]
    lease.announce = lambda: announced.append(True)  # type: ignore[method-assign]
    lease.acquire()
    lease.revoked = True
    left = 0

    def rest(microseconds: int) -> float:
        nonlocal left
        left = microseconds * 1000
        return float(turns.rest(0))

    turns._flight.left_ns = lambda: left
    assert rest(5_000) == LONG_NAP
    assert not announced
    near = int(ANNOUNCE * 1e6) - 10
    assert rest(near) == 0
    assert rest(near // 2) == 0
    assert rest(-50) == 0, "it is a little late"
    assert announced == [True]
    assert rest(-1_000) > 0, "the estimate was wrong"
    assert rest(5_000) == LONG_NAP
    assert rest(near) == 0
    assert announced == [True, True], "the next turn's"
    rig.close()


def test_nothing_is_announced_while_more_of_the_turn_waits() -> None:
    rig, lease, announced = Rig(), FakeLease(), []
    turns: Any = Turns(rig.state, lease)  # type: ignore[arg-type]
    lease.announce = lambda: announced.append(True)  # type: ignore[method-assign]
    lease.acquire()
    turns._think = SHORTEST_THINK
    turns._flight.left_ns = lambda: 20_000
    turns.hold(0)
    assert not announced
    turns.rest(0)
    assert announced == [True]
    rig.close()


def test_a_turn_that_is_to_end_goes_on_behind_late_work_only_and_not_without_end() -> None:
    """It began while nobody else was there, so that nothing was bounded."""
    rig, lease = Rig(), FakeLease()
    turns: Any = Turns(rig.state, lease)  # type: ignore[arg-type]
    lease.contended = False
    turns._operation = ctypes.c_uint64(int(Op.MEMSET))
    assert turns.may_carry_out(pump_block.REASON_COMMAND)
    assert not turns._bounded
    lease.acquire = lambda: False  # type: ignore[method-assign]
    lease.contended = lease.revoked = True
    assert not turns.may_carry_out(pump_block.REASON_LEASE), "nothing is on its way"
    late = False
    turns._flight.is_late = lambda: late
    turns._flight.has_room = lambda _: turns._bounded
    assert not turns.may_carry_out(pump_block.REASON_LEASE)
    late = True
    assert turns.may_carry_out(pump_block.REASON_LEASE)
    assert turns.by_hand
    turns._flight.has_room = lambda _: False
    assert not turns.may_carry_out(pump_block.REASON_LEASE)
    assert not turns.by_hand
    rig.close()
