"""Ordered asynchronous queues: what a stream is underneath.

A queue is a sequence of numbered operations. Whoever holds its *turn* runs them in order, one by one: normally the
queue's own worker thread, but a thread that waits for the queue takes the turn when nobody has it, which spares two
thread switches for "launch, synchronize" and for every blocking copy. A *mark* is a pair (queue, number); it is
reached when the queue has completed that number. All ordering between queues (events, the legacy default stream) is
operations that wait for marks of other queues; a mark always names an operation that was submitted before, so there
are no cycles.

An idle queue costs nothing: its worker, which is started by the first operation that nobody waits for, sleeps on a
lock.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from migproxy.errors import CudaError, KernelFault, PtxError
from migproxy.softgpu import errors_table as status

_FOREVER = 1 << 62


class Mark(NamedTuple):
    """A point in a queue."""

    queue: OrderedQueue
    number: int

    def reached(self) -> bool:
        return self.queue.completed >= self.number

    def wait(self) -> None:
        self.queue.wait(self.number)


class Owner(Protocol):
    """What a queue needs of its context: where faults go."""

    fault: CudaError | None

    def set_fault(self, fault: CudaError) -> None: ...


class _Operation(NamedTuple):
    number: int
    run: Callable[[], None] | None
    after: tuple[Mark, ...]
    foreign: bool  # runs code of the application: only on the worker, never on a thread that happens to wait


class OrderedQueue:
    """One ordered queue of operations.

    Parameters
    ----------
    owner : Owner
        Receives the fault of an operation; while it has one, operations complete without being run.
    name : str
        For the worker thread.
    """

    def __init__(self, owner: Owner, name: str) -> None:
        self._owner = owner
        self._name = name
        self._condition = threading.Condition(threading.Lock())
        self._operations: deque[_Operation] = deque()
        self._turn_taken = False
        self._waiters = 0
        self._wake: SimpleQueue[bool] | None = None
        self._kicked = False
        self._closed = False
        self.submitted = 0
        self.completed = 0

    def submit(
        self,
        run: Callable[[], None] | None,
        after: Iterable[Mark] = (),
        *,
        foreign: bool = False,
        kick: bool = True,
        quick: bool = False,
    ) -> Mark:
        """Append an operation.

        Parameters
        ----------
        run : callable or None
            The operation; None for one that only waits.
        after : iterable of Mark
            What must be reached before it starts.
        foreign : bool
            It runs the application's code.
        kick : bool
            False when the caller waits for the mark at once, so that the worker need not be woken.
        quick : bool
            It takes less time than waking the worker and waits for nothing: when it is its turn, the caller runs it.
        """
        marks = tuple(after)
        with self._condition:
            self.submitted = number = self.submitted + 1
            now = quick and not self._turn_taken and not self._operations and all(mark.reached() for mark in marks)
            if now:
                self._turn_taken = True
            else:
                self._operations.append(_Operation(number, run, marks, foreign))
                if (kick or foreign) and not self._turn_taken:
                    self._kick()
        if now:
            if run is not None and self._owner.fault is None:
                self._attempt(run)
            self._run(number, helper=True, done=number)
        return Mark(self, number)

    def last(self) -> Mark:
        """The mark of everything submitted so far."""
        return Mark(self, self.submitted)

    def idle(self) -> bool:
        return self.completed >= self.submitted

    def wait(self, number: int) -> None:
        """Return when operation ``number`` has completed, helping to run what is before it."""
        if self.completed >= number:
            return
        while True:
            with self._condition:
                while True:
                    if self.completed >= number:
                        return
                    if not self._turn_taken and not self._operations[0].foreign:
                        self._turn_taken = True
                        break
                    if not self._turn_taken:
                        self._kick()
                    self._waiters += 1
                    self._condition.wait()
                    self._waiters -= 1
            self._run(number, helper=True)

    def close(self) -> None:
        """Let the worker end once everything submitted has run."""
        with self._condition:
            self._closed = True
            if self._wake is not None:
                self._kick()

    def _kick(self) -> None:
        if self._kicked:
            return
        self._kicked = True
        if self._wake is None:
            self._wake = SimpleQueue()
            threading.Thread(target=self._work, args=(self._wake,), name=self._name, daemon=True).start()
        self._wake.put(True)

    def _work(self, wake: SimpleQueue[bool]) -> None:
        while True:
            wake.get()
            with self._condition:
                self._kicked = False
                mine = not self._turn_taken and bool(self._operations)
                if mine:
                    self._turn_taken = True
            if mine:
                self._run(_FOREVER, helper=False)
            with self._condition:
                # A submission after this finds no worker and starts another one.
                if self._closed and not self._operations and not self._kicked:
                    self._wake = None
                    return

    def _run(self, until: int, *, helper: bool, done: int = 0) -> None:
        """Run operations up to ``until``; the caller has taken the turn, and it is given back here.

        ``done`` is an operation that the caller has run itself.
        """
        number = done
        while True:
            with self._condition:
                if number:
                    self.completed = number
                    if self._waiters:
                        self._condition.notify_all()
                operations = self._operations
                if not operations or number >= until or (helper and operations[0].foreign):
                    self._turn_taken = False
                    if operations:
                        self._kick()
                    return
                operation = operations.popleft()
            number = operation.number
            for mark in operation.after:
                mark.wait()
            if operation.run is not None and self._owner.fault is None:
                self._attempt(operation.run)

    def _attempt(self, run: Callable[[], None]) -> None:
        try:
            run()
        except KernelFault as fault:
            self._owner.set_fault(CudaError(fault.status, fault.message))
        except CudaError as fault:
            self._owner.set_fault(fault)
        except PtxError as error:
            # A kernel is compiled at its first launch.
            self._owner.set_fault(CudaError(status.INVALID_PTX, str(error)))
        except BaseException:
            # Nothing may escape: a dead worker would hang every waiter. The context gets the whole story.
            self._owner.set_fault(CudaError(status.UNKNOWN, traceback.format_exc()))
