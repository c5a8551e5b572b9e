"""The executor's side of its slice's compute lease.

The lease lies in a page that the broker and the slice's executors share (`migproxy.abi.lease`). A holder keeps it
until somebody else wants it; then it hands it over by itself, to the successor that the broker named beforehand, so
that no message is on the way between one function's last kernel and the next one's first. The broker's policy
decides; the page carries it out.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections import deque
from collections.abc import Callable
from functools import cache

from migproxy.abi import lease as page
from migproxy.abi.control import LeaseChanged, Message, TraceEvent
from migproxy.arena import futex_unsafe
from migproxy.arena.machine_unsafe import U64, compare_exchange32, exchange32
from migproxy.errors import ProtocolError

#: So many events fit a packet, beside those of marks.
KEEP_EVENTS = 1000


def swap_if(address: U64, expected: U64, value: U64) -> U64:
    """Set a u32 to `value` if it is `expected`; returns what it was. Orders memory. Precondition: `address` is
    mapped."""
    return compare_exchange32(address, expected, value)


def put(address: U64, value: U64) -> U64:
    """Set a u32; returns what it was. Orders memory. Precondition: `address` is mapped."""
    return exchange32(address, value)


@cache
def compile_words() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return `swap_if` and `put` as machine code."""
    from migproxy.jit import language

    addresses = language.compile_functions(swap_if, put)
    return language.bind(swap_if, addresses["swap_if"]), language.bind(put, addresses["put"])


class LeaseClient:
    """One session's place in its slice's lease page. Used by one thread.

    Parameters
    ----------
    fd : int
        The page's descriptor; this object owns it.
    place : int
        This session's place.
    notify : callable
        Sends a message to the broker.
    clock : callable
        Monotonic nanoseconds.
    """

    def __init__(
        self, fd: int, place: int, notify: Callable[[Message], None], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        if not 0 <= place < page.PLACES:
            raise ProtocolError(f"place {place} is not on the lease page")
        self._memory = mmap.mmap(fd, page.PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._me = place + 1
        self._notify = notify
        self._clock = clock
        self._swap, self._put = compile_words()
        self._asked = False
        self._since = 0
        self._wanted_at = 0
        #: What this session did lately, for `migproxy trace`; appended by the executor's thread, read by another.
        self.events: deque[TraceEvent] = deque(maxlen=KEEP_EVENTS)
        #: Address of the word that the pump compares with PERMIT_HELD.
        self.permit_address = self._line(self._me) + page.PERMIT
        self._permit = ctypes.c_uint32.from_address(self.permit_address)
        self._members = ctypes.c_uint32.from_address(self._base + page.MEMBERS)

    def _line(self, place: int) -> int:
        return self._base + page.LINES + (place - 1) * page.LINE

    def _load(self, address: int) -> int:
        return ctypes.c_uint32.from_address(address).value

    def _word(self, offset: int) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_address(self._line(self._me) + offset)

    # -- views -----------------------------------------------------------------------------------------------------
    @property
    def contended(self) -> bool:
        """Other sessions compute on this slice too."""
        return self._members.value > 1

    @property
    def alone(self) -> bool:
        """No other session computes on this slice, and this one holds the lease."""
        return self._permit.value == page.PERMIT_HELD and self._members.value <= 1

    def holds(self) -> bool:
        """The lease is this session's, revoked or not."""
        return self._load(self._base + page.HOLDER) == self._me and self._load(self.permit_address) != page.PERMIT_NONE

    def should_yield(self) -> bool:
        """Issue nothing more: let the queue drain, then `release`."""
        return self._load(self.permit_address) == page.PERMIT_REVOKED and self.holds()

    # -- getting it ------------------------------------------------------------------------------------------------
    def acquire(self) -> bool:
        """Return whether work may be issued now; if not, this session waits from now on. Call again until it may."""
        permit = self._load(self.permit_address)
        if permit == page.PERMIT_HELD:
            self._start()
            return True
        if permit == page.PERMIT_PARKED and self._swap(self.permit_address, page.PERMIT_PARKED, page.PERMIT_HELD) == (
            page.PERMIT_PARKED
        ):
            # A successor that was named during the pause comes first. Its turn was announced to a holder that paused,
            # so nothing else would tell this one to stop.
            if self._load(self._line(self._me) + page.SUCCESSOR) and self.release(wants=True):
                self._wanted_at = self._wanted_at or self._clock()
                return False
            self._start()
            return True
        if permit == page.PERMIT_REVOKED and self.holds():
            return False  # the caller drains and releases first
        ctypes.c_uint32.from_address(self._line(self._me) + page.WANT).value = 1
        if self._take_parked():
            return True
        self._wanted_at = self._wanted_at or self._clock()
        if not self._asked:
            self._asked = True
            self._notify(LeaseChanged())
        return self._load(self.permit_address) == page.PERMIT_HELD and self._started()

    def _take_parked(self) -> bool:
        """Take the lease from a holder that pauses, if this session is next in turn."""
        holder = self._load(self._base + page.HOLDER)
        if not 0 < holder <= page.PLACES or holder == self._me:
            return False
        line = self._line(holder)
        first = self._load(line + page.SUCCESSOR) == self._me or not self._load(self._base + page.WAITING)
        if not first or self._load(line + page.PERMIT) != page.PERMIT_PARKED:
            return False
        if self._swap(line + page.PERMIT, page.PERMIT_PARKED, page.PERMIT_NONE) != page.PERMIT_PARKED:
            return False
        self._put(self._base + page.HOLDER, self._me)
        self._put(self.permit_address, page.PERMIT_HELD)
        self._start()
        self._notify(LeaseChanged())
        return True

    def wait(self, longest: float) -> bool:
        """Sleep until the lease may have come to this session, which asked for it in vain; at most `longest` seconds.

        Who hands over, and a broker that names this session successor of a holder that pauses, wakes it. Returns
        whether it was woken.
        """
        permit = self._load(self.permit_address)
        if permit in (page.PERMIT_NONE, page.PERMIT_REVOKED) and not self.holds():
            return futex_unsafe.wait(self.permit_address, permit, longest)
        return True

    def announce(self) -> None:
        """Wake the successor, if there is one: the hand-over is near, and waking takes time."""
        successor = self._load(self._line(self._me) + page.SUCCESSOR)
        if 0 < successor <= page.PLACES and successor != self._me:
            futex_unsafe.wake(self._line(successor) + page.PERMIT)

    def _started(self) -> bool:
        self._start()
        return True

    def _start(self) -> None:
        if not self._since:
            self._since = self._clock()
            if self._wanted_at:
                self.events.append(TraceEvent("waits", self._wanted_at, self._since))
                self._wanted_at = 0
            self._word(page.HANDOVERS).value += 1
        if self._asked or self._load(self._line(self._me) + page.WANT):
            ctypes.c_uint32.from_address(self._line(self._me) + page.WANT).value = 0
            self._asked = False

    # -- giving it up ----------------------------------------------------------------------------------------------
    def release(self, *, wants: bool) -> bool:
        """Hand over; the caller's queue has drained. `wants`: a command waits already, so this session queues again.

        Returns False if nobody is there to have it: then this session has it still.
        """
        self._stop()
        successor = self._load(self._line(self._me) + page.SUCCESSOR)
        if not 0 < successor <= page.PLACES or successor == self._me:
            self._swap(self.permit_address, page.PERMIT_REVOKED, page.PERMIT_HELD)
            return False
        line = ctypes.c_uint32.from_address(self._line(self._me) + page.WANT)
        line.value = int(wants)
        self._asked = wants
        self._put(self._line(self._me) + page.SUCCESSOR, 0)
        self._put(self.permit_address, page.PERMIT_NONE)
        self._put(self._base + page.HOLDER, successor)
        self._put(self._line(successor) + page.PERMIT, page.PERMIT_HELD)
        futex_unsafe.wake(self._line(successor) + page.PERMIT)
        self._notify(LeaseChanged())
        return True

    def pause(self) -> bool:
        """There is nothing to do and nothing on its way, for the think-time already: let others have the lease.

        Returns False where there are no others: then this session has it still.
        """
        self._stop()
        if not self.holds():
            return True
        if (self._load(self._line(self._me) + page.SUCCESSOR) or self.should_yield()) and self.release(wants=False):
            return True
        if not self.contended:
            return False
        self._swap(self.permit_address, page.PERMIT_HELD, page.PERMIT_PARKED)
        # The broker names a successor first and looks for a parked holder then; this looks in the other order, so one
        # of the two sees the other.
        if self._load(self._line(self._me) + page.SUCCESSOR) and (
            self._swap(self.permit_address, page.PERMIT_PARKED, page.PERMIT_HELD) == page.PERMIT_PARKED
        ):
            return self.release(wants=False)
        return True

    def _stop(self) -> None:
        if self._since:
            now = self._clock()
            self.events.append(TraceEvent("computes", self._since, now))
            self._word(page.HELD_NS).value += now - self._since
            self._since = 0

    # -- the watchdog's word ---------------------------------------------------------------------------------------
    def progress(self, *, on_its_way: bool) -> None:
        """Note that work was just finished, or that none is on its way. The broker ends executors that note nothing
        for long."""
        self._word(page.BUSY_SINCE).value = self._clock() if on_its_way else 0

    def loads(self, longest: float) -> None:
        """Note that this session is busy with itself for at most `longest` seconds: until then nothing hangs."""
        self._word(page.BUSY_SINCE).value = self._clock() + int(longest * 1e9)

    @property
    def held_ns(self) -> int:
        """How long this session computed with the lease."""
        return self._word(page.HELD_NS).value + (self._clock() - self._since if self._since else 0)
