"""The command ring in Python: `Producer` in the function, `Consumer` in the executor.

Byte layout and ownership of the words: ``abi/layout.py``. x86-64 keeps the order of stores and of loads, so an
aligned 8-byte
store releases and an aligned 8-byte load acquires; both sides of each pair are marked with the same letter in comments.

    (A) HEAD: the slot is complete before HEAD says so         (C) BELL: published before the sleeper is looked for
    (B) reply: its bytes are complete before REPLY_SEQ says so  (D) TAIL: copied out before the slot may be filled again
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import ARENA_MAGIC, PROTOCOL_VERSION
from migproxy.arena import futex_unsafe
from migproxy.errors import ProtocolError, SessionLost

#: The longest a waiter looks before it sleeps, in seconds; with one core there is nothing to look for.
SPIN_SECONDS = 50e-6 if len(os.sched_getaffinity(0)) > 1 else 0.0
_SHORTEST_SPIN = SPIN_SECONDS / 16
#: And so long at most, where looking longer was seen to suffice and there are cores to spare: docs/decisions/waits.md.
_LONGEST_SPIN = 4 * SPIN_SECONDS if len(os.sched_getaffinity(0)) >= 4 else SPIN_SECONDS
#: A sleeper looks up this often, so that a lost wake-up or a dead peer costs at most this.
LOOK_UP = 1.0
#: The longest payload a spilled command may have.
MAX_SPILL = 256 << 20


_KNOWN_OPERATIONS = frozenset(map(int, Op))
_KNOWN_FLAGS = layout.FLAG_WAIT | layout.FLAG_SPILLED
#: In an owner word: nobody waits for the reply any more, but it may still come.
ABANDONED = 1 << 63
_fence_lock = threading.Lock()


def fence() -> None:
    """A full memory fence: taking a lock is a locked instruction, and on x86-64 that orders everything.

    Sleeping and waking need it: the sleeper announces itself, fences and looks again; the waker publishes, fences and
    looks for sleepers. Without it both could look before the other's store is there, and the wake-up would be lost.
    """
    with _fence_lock:
        pass


class _Words:
    """The words of the header page as attributes."""

    def __init__(self, base: int) -> None:
        self.head = ctypes.c_uint64.from_address(base + layout.HEAD_OFFSET)
        self.tail = ctypes.c_uint64.from_address(base + layout.TAIL_OFFSET)
        self.host_retired = ctypes.c_uint64.from_address(base + layout.HOST_RETIRED_OFFSET)
        self.frees_retired = ctypes.c_uint64.from_address(base + layout.FREES_RETIRED_OFFSET)
        self.executor_bell = ctypes.c_uint32.from_address(base + layout.EXECUTOR_BELL_OFFSET)
        self.function_bell = ctypes.c_uint32.from_address(base + layout.FUNCTION_BELL_OFFSET)
        self.sleepers = ctypes.c_uint32.from_address(base + layout.FUNCTION_SLEEPERS_OFFSET)
        self.deferred = ctypes.c_uint32.from_address(base + layout.DEFERRED_STATUS_OFFSET)
        self.sticky = ctypes.c_uint32.from_address(base + layout.STICKY_STATUS_OFFSET)
        self.state = ctypes.c_uint32.from_address(base + layout.STATE_OFFSET)
        self.other_bytes = ctypes.c_uint64.from_address(base + layout.OTHER_BYTES_OFFSET)
        self.peak_bytes = ctypes.c_uint64.from_address(base + layout.PEAK_BYTES_OFFSET)
        self.waited = ctypes.c_uint64.from_address(base + layout.WAITED_OFFSET)
        self.called = ctypes.c_uint64.from_address(base + layout.CALLED_OFFSET)
        self.called_token = ctypes.c_uint64.from_address(base + layout.CALLED_TOKEN_OFFSET)
        self.ran = ctypes.c_uint64.from_address(base + layout.RAN_OFFSET)


def write_header(base: int, size: int) -> None:
    """Write the constants of a fresh control segment (all zero before); the version comes last."""
    ctypes.c_uint64.from_address(base + layout.MAGIC_OFFSET).value = ARENA_MAGIC
    ctypes.c_uint64.from_address(base + layout.SIZE_OFFSET).value = size
    ctypes.c_uint64.from_address(base + layout.SLOT_COUNT_OFFSET).value = layout.SLOT_COUNT
    ctypes.c_uint32.from_address(base + layout.VERSION_OFFSET).value = PROTOCOL_VERSION


def check_header(base: int) -> None:
    """Raise ProtocolError unless the segment at `base` is a ready arena of this protocol version."""
    version = ctypes.c_uint32.from_address(base + layout.VERSION_OFFSET).value
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"the arena has protocol version {version}, this side speaks {PROTOCOL_VERSION}")
    magic = ctypes.c_uint64.from_address(base + layout.MAGIC_OFFSET).value
    count = ctypes.c_uint64.from_address(base + layout.SLOT_COUNT_OFFSET).value
    if magic != ARENA_MAGIC or count != layout.SLOT_COUNT:
        raise ProtocolError("the control segment is no arena of this layout")


#: The slot of a command that does nothing and is not waited for.
_PADDING = layout.SLOT_HEADER.pack(Op.NOP, 0, 0, 0, 0, 0, 0, 0).ljust(layout.PAYLOAD_OFFSET, b"\0")


class Producer:
    """The function's end of the ring; any number of threads submit under one lock.

    Parameters
    ----------
    base : int
        Address of the control segment.
    """

    def __init__(self, base: int) -> None:
        check_header(base)
        self.base = base
        self._words = _Words(base)
        self.lock = threading.Lock()
        self._sleep_lock = threading.Lock()
        #: Per reply line: number + 1 of the command whose reply it is for, until somebody took that; 0 if it is free.
        self._owners = (ctypes.c_uint64 * layout.SLOT_COUNT)()
        #: How long to look before sleeping.
        self._spin = self._looking = SPIN_SECONDS
        self._events: dict[int, int] = {}
        self._event_numbers = itertools.count(1)
        self._orphans: list[tuple[int, Callable[[], None]]] = []
        self._waited_ns = 0

    # -- words -----------------------------------------------------------------------------------------------------
    def state(self) -> int:
        """Return one of ``layout.STATE_*``."""
        return self._words.state.value

    def sticky_status(self) -> int:
        """Return the status that every call returns once the context is dead, else 0."""
        return self._words.sticky.value

    def deferred_status(self) -> int:
        """Return the first status of commands without reply, which stays for `take_deferred_status`."""
        return self._words.deferred.value

    def take_deferred_status(self) -> int:
        """Return and clear the first status of commands without reply."""
        status = self._words.deferred.value
        if status:
            self._words.deferred.value = 0
        return status

    def host_retired(self) -> int:
        """Return below which command number host memory is free again."""
        return self._words.host_retired.value

    def frees_retired(self) -> int:
        """Return how many frees have been carried out."""
        return self._words.frees_retired.value

    def other_bytes(self) -> int:
        """Return the bytes charged besides the function's own allocations."""
        return self._words.other_bytes.value

    def mark_lost(self) -> None:
        """Make every waiter give up: the executor is gone."""
        self._words.state.value = layout.STATE_LOST
        self._words.function_bell.value = (self._words.function_bell.value + 1) & 0xFFFFFFFF
        futex_unsafe.wake(self.base + layout.FUNCTION_BELL_OFFSET)

    # -- submitting ------------------------------------------------------------------------------------------------
    def submit(
        self,
        op: int,
        payload: bytes,
        *,
        stream: int = 0,
        flags: int = 0,
        reply_address: int = 0,
        reply_capacity: int = 0,
        spill: tuple[int, int] | None = None,
    ) -> int:
        """Publish one command; blocks while the ring is full. Returns the command's number.

        Raises
        ------
        SessionLost
            The executor is gone while the ring is full.
        """
        length, address = len(payload), 0
        if spill is not None:
            address, length = spill
            flags |= layout.FLAG_SPILLED
        elif length > layout.INLINE_PAYLOAD:
            raise ValueError(f"a payload of {length} bytes does not fit a slot")
        header = layout.SLOT_HEADER.pack(op, flags, length, stream, address, reply_address, reply_capacity, 0)
        slot = header.ljust(layout.PAYLOAD_OFFSET, b"\0") + payload
        waits = bool(flags & layout.FLAG_WAIT)
        while True:
            number = self._try_submit(slot, waits)
            if number >= 0:
                return number
            if waits and self._has_room(waits=False):
                # A command that may wait for ever (the question for the next host function) still has this slot's reply
                # line: a command that does nothing takes the slot.
                self._try_submit(_PADDING, False)
            else:
                self._wait(lambda: self._has_room(waits), None)

    def _try_submit(self, slot: bytes, waits: bool) -> int:
        """Publish a command if there is room; returns its number, or -1."""
        with self.lock:
            if not self._has_room(waits):
                return -1
            number = self._words.head.value
            line = number % layout.SLOT_COUNT
            if waits:
                self._owners[line] = number + 1
            ctypes.memmove(self.base + layout.RING_OFFSET + line * layout.SLOT_SIZE, slot, len(slot))
            self._words.head.value = number + 1  # (A)
        fence()
        if self._words.executor_bell.value:  # (C)
            self._words.executor_bell.value = 0
            futex_unsafe.wake(self.base + layout.EXECUTOR_BELL_OFFSET)
        return number

    def _has_room(self, waits: bool) -> bool:
        """Tell whether the next slot is free and, if its command `waits`, the reply line too."""
        number = self._words.head.value
        if number - self._words.tail.value >= layout.SLOT_COUNT:  # (D)
            return False
        line = number % layout.SLOT_COUNT
        owner = self._owners[line]
        if waits and owner & ABANDONED and self._sequence(number) == owner & ~ABANDONED:
            owner = self._owners[line] = 0
        return not (waits and owner)

    def _sequence(self, number: int) -> int:
        line = self.base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE
        return ctypes.c_uint64.from_address(line).value

    def wait(self, number: int, timeout: float | None = None, *, looked: bool = False) -> tuple[int, bytes]:
        """Wait for the reply to command `number`, once; returns its status and data.

        `looked`: somebody has looked for it as long as was to be looked, so that what is left is to sleep.

        A waiter that gives up (time-out, Ctrl-C) leaves its reply line reserved until the reply has come.

        Raises
        ------
        SessionLost
            The executor is gone.
        TimeoutError
            `timeout` seconds have passed.
        """
        if self._orphans:
            self.poll_orphans()
        line = self.base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE
        sequence = ctypes.c_uint64.from_address(line)
        try:
            self._wait(lambda: sequence.value == number + 1, timeout, looked=looked)  # (B)
        except BaseException:
            self._owners[number % layout.SLOT_COUNT] |= ABANDONED
            raise
        _, status, length = layout.REPLY_HEADER.unpack(ctypes.string_at(line, layout.REPLY_HEADER.size))
        data = ctypes.string_at(line + layout.REPLY_INLINE_OFFSET, min(length, layout.REPLY_INLINE))
        self._owners[number % layout.SLOT_COUNT] = 0
        return status, data

    def hold(self) -> None:
        """Keep every thread from submitting, for a fork."""
        self.lock.acquire()

    def let_go(self) -> None:
        """Let threads submit again."""
        self.lock.release()

    # -- events that the executor knows; machine code makes and ends them too -----------------------------------------
    def reserve_event(self, flags: int) -> int:
        """Return the handle for a new event with ``CUevent_flags``; the caller submits the command that makes it."""
        handle = layout.make_handle(layout.KIND_EVENT, next(self._event_numbers))
        self._events[handle] = flags
        return handle

    def reserve_slow_event(self, flags: int) -> int:
        """As `reserve_event`; only Python knows this one, in the executor too."""
        handle = layout.make_handle(layout.KIND_EVENT, next(self._event_numbers))
        self._events[handle] = flags
        return handle

    def adopt_event(self, handle: int, flags: int) -> None:
        """Note an event under a handle from before a fork."""
        self._events[handle] = flags

    def release_event(self, handle: int) -> None:
        """Forget an event; the command that ends it was submitted."""
        self._events.pop(handle, None)

    def event_flags(self, handle: int) -> int | None:
        """Return an event's flags, None if there is no such event."""
        return self._events.get(handle)

    def live_events(self) -> dict[int, int]:
        """Return handle and flags of every event."""
        return dict(self._events)

    # -- what machine code is told, in the subclass that runs it ---------------------------------------------------
    def enter_function(
        self,
        handle: int,
        wire: int,
        parameters: Sequence[tuple[int, int]],
        size: int,
        max_threads: int,
        max_shared: int,
    ) -> None:
        """A kernel can be launched: the executor's name for it, offset and size of each parameter, bytes of all,
        limits."""

    def note_handle(self, handle: int, live: bool) -> None:
        """The executor knows this stream from now on, or no longer."""

    def forget_function(self, handle: int) -> None:
        """A kernel can no longer be launched."""

    def note_range(self, pointer: int, start: int, size: int) -> None:
        """`pointer` lies in the device allocation of `size` bytes at `start`."""

    def forget_range(self, start: int) -> None:
        """A device allocation was freed."""

    def note_foreign(self, count: int) -> None:
        """So many device allocations lie outside the session's window."""

    def note_pinned(self, blocks: Mapping[int, int]) -> None:
        """These blocks (address → bytes) of the arena are page-locked memory."""

    def note_capturing(self, count: int) -> None:
        """So many streams are being captured."""

    def when_replied(self, number: int, action: Callable[[], None]) -> None:
        """Run `action` once the reply to command `number` has come, which nobody waits for any more; see
        `poll_orphans`."""
        line = number % layout.SLOT_COUNT
        if self._owners[line] == number + 1:
            self._owners[line] |= ABANDONED
        self._orphans.append((number, action))

    def poll_orphans(self) -> None:
        """Run the actions of `when_replied` that are due."""
        for orphan in list(self._orphans):
            number, action = orphan
            waiting = self._owners[number % layout.SLOT_COUNT] == (number + 1) | ABANDONED
            if not waiting or self._sequence(number) == number + 1:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._orphans.remove(orphan)
                    action()

    def wait_host_retired(self, number: int) -> None:
        """Wait until host memory named by command `number` is free again."""
        self._wait(lambda: self._words.host_retired.value > number, None)

    def wait_frees_retired(self, count: int) -> None:
        """Wait until `count` frees have been carried out."""
        self._wait(lambda: self._words.frees_retired.value >= count, None)

    # -- host functions --------------------------------------------------------------------------------------------
    def wait_called(self) -> int:
        """Sleep until a host function is to run that has not; returns its token. For one thread, which runs them.

        Raises
        ------
        SessionLost
            There will be none any more.
        """
        while True:
            called = self._words.called.value  # (E)
            if called != self._words.ran.value:
                return self._words.called_token.value
            if self._words.state.value >= layout.STATE_CLOSED:
                raise SessionLost("the executor is gone")
            futex_unsafe.wait(self.base + layout.CALLED_OFFSET, called & 0xFFFFFFFF, LOOK_UP)

    def note_ran(self) -> None:
        """Tell the executor that the host function that `wait_called` told of has run."""
        self._words.ran.value += 1  # (F)
        futex_unsafe.wake(self.base + layout.RAN_OFFSET)

    def _wait(self, done: object, timeout: float | None, *, looked: bool = False) -> None:
        ready = done
        assert callable(ready)
        if ready():
            return
        start = time.perf_counter()
        while time.perf_counter() - start < self._spin:
            if ready():
                self._note_waited(time.perf_counter() - start)
                return
        deadline = None if timeout is None else start + timeout
        with self._sleep_lock:
            self._words.sleepers.value += 1
        try:
            while True:
                bell = self._words.function_bell.value
                fence()
                if ready():
                    return
                if self._words.state.value >= layout.STATE_CLOSED:
                    # What was answered before the end still counts.
                    if ready():
                        return
                    raise SessionLost("the executor is gone")
                left = LOOK_UP if deadline is None else min(LOOK_UP, deadline - time.perf_counter())
                if left <= 0:
                    raise TimeoutError(f"no reply within {timeout} s")
                futex_unsafe.wait(self.base + layout.FUNCTION_BELL_OFFSET, bell, left)
        finally:
            with self._sleep_lock:
                self._words.sleepers.value -= 1
            waited = time.perf_counter() - start
            self._adapt(waited + self._looking if looked else waited)
            self._note_waited(waited)

    def waited_ns(self) -> int:
        """Return how long this side has waited, in nanoseconds."""
        return self._waited_ns

    def _note_waited(self, seconds: float) -> None:
        """Count a wait. Threads may lose one another's: it is a statistic."""
        self._waited_ns += int(seconds * 1e9)
        self.publish_waited()

    def publish_waited(self) -> None:
        """Let the executor's report tell how long this side waited."""
        self._words.waited.value = self.waited_ns()

    def _adapt(self, waited: float) -> None:
        """After a sleep: look as long as would have been enough if that is not too long, else less and less."""
        if waited < 4 * SPIN_SECONDS:
            looking = max(SPIN_SECONDS, min(1.25 * waited, _LONGEST_SPIN))
        else:
            looking = max(self._looking / 2, _SHORTEST_SPIN)
        if looking != self._looking:
            self._look_for(looking)

    def _look_for(self, seconds: float) -> None:
        self._spin = self._looking = seconds


@dataclass(frozen=True, slots=True)
class Command:
    """One command, copied out of shared memory once.

    Attributes
    ----------
    number : int
        Its place in the order of submission.
    refusal : str
        Why it is malformed; empty if it is not.
    """

    number: int
    op: int
    flags: int
    stream: int
    payload: bytes
    reply_address: int
    reply_capacity: int
    refusal: str = ""

    @property
    def waits(self) -> bool:
        """The function waits for a reply."""
        return bool(self.flags & layout.FLAG_WAIT)


class Consumer:
    """The executor's end of the ring. Used by one thread, except `wake`, `add_heap`, `call` and `wait_ran`.

    Parameters
    ----------
    base : int
        Address of the control segment.
    heap : sequence of (int, int)
        (address, size) of the heap's parts.
    """

    def __init__(self, base: int, heap: Sequence[tuple[int, int]]) -> None:
        check_header(base)
        self.base = base
        self._words = _Words(base)
        self._heap = tuple(heap)
        self.tail = 0
        self._deferred_seen = False

    def add_heap(self, address: int, size: int) -> None:
        """Accept addresses in a further segment."""
        self._heap = (*self._heap, (address, size))

    def in_heap(self, address: int, size: int) -> bool:
        """Tell whether [address, address + size) lies inside one run of adjoining heap parts."""
        position, end = address, address + size
        for start, length in self._heap:
            if start <= position < start + length:
                if end <= start + length:
                    return True
                position = start + length
        return False

    def write_heap(self, address: int, data: bytes) -> None:
        """Write into the heap; the caller checked the range with `in_heap`."""
        ctypes.memmove(address, data, len(data))

    def take(self) -> Command | None:
        """Return the next command, None if there is none."""
        number = self.tail
        available = self._words.head.value - number  # (A)
        if available == 0:
            return None
        if not 0 < available <= layout.SLOT_COUNT:
            self.tail = number + 1
            return Command(number, 0, 0, 0, b"", 0, 0, "the ring's head is not between its tail and one round later")
        slot = self.base + layout.RING_OFFSET + number % layout.SLOT_COUNT * layout.SLOT_SIZE
        raw = ctypes.string_at(slot, layout.SLOT_SIZE)
        command = self.parse(raw, number)
        self.tail = number + 1
        self._words.tail.value = number + 1  # (D)
        if number & 0xFF == 0 and self._words.sleepers.value:
            self._ring()
        return command

    def parse(self, raw: bytes, number: int) -> Command:
        """Read command `number` from the private copy of its slot; a spilled payload is copied out of the heap here."""
        op, flags, length, stream, address, reply, capacity, _ = layout.SLOT_HEADER.unpack_from(raw)
        payload, refusal = b"", ""
        if flags & ~_KNOWN_FLAGS:
            refusal = f"unknown flags {flags:#x}"
        elif op not in _KNOWN_OPERATIONS:
            refusal = f"unknown operation {op}"
        elif capacity and not self.in_heap(reply, capacity):
            refusal = f"a reply buffer of {capacity} bytes at {reply:#x} is not in the arena"
        elif flags & layout.FLAG_SPILLED:
            if length <= MAX_SPILL and self.in_heap(address, length):
                payload = ctypes.string_at(address, length)
            else:
                refusal = f"a spilled payload of {length} bytes at {address:#x} is not in the arena"
        elif length <= layout.INLINE_PAYLOAD:
            payload = raw[layout.PAYLOAD_OFFSET : layout.PAYLOAD_OFFSET + length]
        else:
            refusal = f"a payload of {length} bytes does not fit a slot"
        return Command(number, op, flags, stream, payload, reply, capacity, refusal)

    def reply(self, number: int, status: int, data: bytes) -> None:
        """Answer command `number`; `data` has at most ``REPLY_INLINE`` bytes."""
        line = self.base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE
        body = layout.REPLY_HEADER.pack(0, status, len(data))[8:] + data
        ctypes.memmove(line + 8, body, len(body))
        ctypes.c_uint64.from_address(line).value = number + 1  # (B)
        self._ring()

    def _ring(self) -> None:
        self._words.function_bell.value = (self._words.function_bell.value + 1) & 0xFFFFFFFF
        fence()
        if self._words.sleepers.value:
            futex_unsafe.wake(self.base + layout.FUNCTION_BELL_OFFSET)

    def set_deferred_status(self, status: int) -> bool:
        """Note the status of a command without reply; the first one stays until the function took it.

        Returns
        -------
        bool
            Whether this was the first.
        """
        if self._words.deferred.value:
            return False
        self._words.deferred.value = status
        return True

    def set_sticky_status(self, status: int) -> None:
        """Make every later call of the function fail with `status`."""
        self._words.sticky.value = status

    def set_state(self, state: int) -> None:
        """Publish one of ``layout.STATE_*`` and wake whoever waits."""
        self._words.state.value = state
        self._ring()

    def set_host_retired(self, number: int) -> None:
        """Publish below which command number host memory is free again."""
        if self._words.host_retired.value != number:
            self._words.host_retired.value = number
            self._ring()

    def add_frees_retired(self, count: int) -> None:
        """Publish that `count` more frees have been carried out."""
        self._words.frees_retired.value += count
        self._ring()

    def set_memory(self, other: int, peak: int) -> None:
        """Publish the bytes charged besides the function's allocations, and the peak of all."""
        self._words.other_bytes.value = other
        self._words.peak_bytes.value = peak

    def waited_ns(self) -> int:
        """Return how long the function says that it waited; its own word, good for its own report only."""
        return self._words.waited.value

    def call(self, count: int, token: int) -> None:
        """Tell the function to run its host function number `count`; the one before has run. From any one thread at a
        time."""
        self._words.called_token.value = token
        self._words.called.value = count  # (E)
        futex_unsafe.wake(self.base + layout.CALLED_OFFSET)

    def wait_ran(self, count: int, timeout: float) -> bool:
        """Sleep until the function says that it has run so many host functions, at most `timeout` seconds; returns
        whether it does."""
        seen = self._words.ran.value  # (F)
        if seen != count:
            futex_unsafe.wait(self.base + layout.RAN_OFFSET, seen & 0xFFFFFFFF, timeout)
        return self._words.ran.value == count

    def sleep(self, timeout: float) -> None:
        """Sleep until a command arrives or somebody calls `wake`, at most `timeout` seconds."""
        self._words.executor_bell.value = 1  # (C)
        fence()
        if self._words.head.value == self.tail:
            futex_unsafe.wait(self.base + layout.EXECUTOR_BELL_OFFSET, 1, timeout)
        self._words.executor_bell.value = 0

    def wake(self) -> None:
        """End the consumer's sleep, from any thread."""
        self._words.executor_bell.value = 0
        futex_unsafe.wake(self.base + layout.EXECUTOR_BELL_OFFSET)
