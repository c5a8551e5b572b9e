"""Random programs of streams and events: whatever CUDA orders happens in that order."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st
from softgpu_session import DEADLINE, FakeKernel, Session, connected

STREAMS, EVENTS = 4, 3
LEGACY, NON_BLOCKING = 0, (2, 3)


@dataclass
class Model:
    """What CUDA says comes before what: for each operation the set of operations that must have ended."""

    before: list[set[int]] = field(default_factory=list)
    last: list[set[int]] = field(default_factory=lambda: [set() for _ in range(STREAMS)])
    events: list[set[int]] = field(default_factory=lambda: [set() for _ in range(EVENTS)])

    def _seen(self, stream: int) -> set[int]:
        """What an operation submitted to ``stream`` now follows."""
        seen = set(self.last[stream])
        if stream == LEGACY:
            seen |= self.last[1]
        elif stream not in NON_BLOCKING:
            seen |= self.last[LEGACY]
        return seen

    def launch(self, stream: int) -> int:
        number = len(self.before)
        seen = self._seen(stream)
        self.before.append(seen)
        self.last[stream] = seen | {number}
        return number

    def record(self, event: int, stream: int) -> None:
        self.last[stream] = self._seen(stream)
        self.events[event] = set(self.last[stream])

    def wait(self, stream: int, event: int) -> None:
        # A wait for what has happened, or was never recorded, is no work: it does not follow the default stream's.
        self.last[stream] = self.last[stream] | self.events[event]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("launch"), st.integers(0, STREAMS - 1), st.just(0)),
        st.tuples(st.just("record"), st.integers(0, STREAMS - 1), st.integers(0, EVENTS - 1)),
        st.tuples(st.just("wait"), st.integers(0, STREAMS - 1), st.integers(0, EVENTS - 1)),
        st.tuples(st.just("query"), st.integers(0, STREAMS - 1), st.just(0)),
        st.tuples(st.just("synchronize"), st.integers(0, STREAMS - 1), st.just(0)),
        st.tuples(st.just("synchronize event"), st.just(0), st.integers(0, EVENTS - 1)),
    ),
    min_size=5,
    max_size=40,
)


def _logging_function(session: Session, ended: list[int]) -> int:
    """A kernel that waits until the program is submitted, takes its time, and notes its argument."""
    function = session.function("store")
    kernel = session.cuda.function(function).kernel
    assert isinstance(kernel, FakeKernel)

    def body(_grid: object, _block: object, _shared: int, params: int) -> None:
        assert session.engine.gate.wait(DEADLINE)
        number = ctypes.c_uint32.from_address(params + 8).value
        # Long and short ones, so that what nobody orders comes out of order.
        threading.Event().wait(0.002 * (number % 3 == 0))
        ended.append(number)

    kernel.body = body
    return function


@settings(max_examples=60, deadline=None)
@given(STEPS)
@example([("launch", 1, 0), ("launch", LEGACY, 0), ("launch", 2, 0), ("launch", 1, 0)])
@example([("launch", LEGACY, 0), ("launch", 1, 0), ("launch", 2, 0), ("launch", LEGACY, 0)])
@example([("launch", LEGACY, 0), ("wait", 1, 0), ("synchronize", 1, 0)])
@example([("launch", 2, 0), ("record", 2, 1), ("wait", 3, 1), ("launch", 3, 0)])
def test_every_order_that_cuda_promises_is_kept(steps: list[tuple[str, int, int]]) -> None:
    session, model = connected(), Model()
    ended: list[int] = []
    function = _logging_function(session, ended)
    streams = [LEGACY, session.stream(0), session.stream(1), session.stream(1)]
    events = [session.event(2) for _ in range(EVENTS)]
    for step, stream, event in steps:
        if step == "launch":
            assert session.launch(function, streams[stream], 0, model.launch(stream)) == 0
        elif step == "record":
            session.ok("cuEventRecord", events[event], streams[stream])
            model.record(event, stream)
        elif step == "wait":
            session.ok("cuStreamWaitEvent", streams[stream], events[event], 0)
            model.wait(stream, event)
        elif step == "query":
            if session.cuda.cuStreamQuery(streams[stream]) == 0:
                assert model.last[stream] <= set(ended)
        elif step == "synchronize":
            session.engine.gate.set()
            session.ok("cuStreamSynchronize", streams[stream])
            assert model.last[stream] <= set(ended)
        else:
            session.engine.gate.set()
            session.ok("cuEventSynchronize", events[event])
            assert model.events[event] <= set(ended)
    session.engine.gate.set()
    session.ok("cuCtxSynchronize")
    place = {number: position for position, number in enumerate(ended)}
    assert len(place) == len(ended) == len(model.before)
    for number, before in enumerate(model.before):
        assert all(place[earlier] < place[number] for earlier in before)
    session.ok("cuDevicePrimaryCtxReset", 0)
