"""One process's session: its arena, command ring, heap and address windows.

Lock order: ``_session_lock`` (making and dropping the process's session) → `DeviceMemory.lock` → `Growth`'s →
the producer's own lock.
The heap's spin lock is innermost and is held for no call.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from migproxy import ending
from migproxy.abi import control, layout
from migproxy.abi.ops import Op
from migproxy.arena import fork_unsafe, segment
from migproxy.arena.memory_unsafe import copy_in, copy_out
from migproxy.errors import AdmissionError, CudaError, ProtocolError, SessionError, SessionLost
from migproxy.jit import fast_path
from migproxy.jit.fast_path import FastProducer
from migproxy.jit.heap import Heap
from migproxy.session import connect, late, notes, opening
from migproxy.session.device_memory import DeviceMemory
from migproxy.session.growth import Growth

CUDA_ERROR_NOT_INITIALIZED = 3
CUDA_ERROR_NOT_SUPPORTED = 801
_REPLY_GUESS = 4096


class LibraryCallError(SessionError):
    """A library call failed in the executor with the library's own error.

    Attributes
    ----------
    facts : dict
        ``type`` (class name), ``status`` (int), ``message`` (str); of an earlier call also ``library``, ``function``.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(facts.get("message", ""))
        self.facts = facts


class Session:
    """A connection to one executor.

    Parameters
    ----------
    connection : connect.Connection
        What the broker answered: descriptors of the arena's segments, address windows, facts of the device, quota.
    """

    def __init__(self, connection: connect.Connection) -> None:
        welcome = connection.welcome
        self._connection = connection
        self.id = welcome.session_id
        self.function_id = welcome.function_id
        self.facts = welcome.device
        self.quota = welcome.quota
        self.pid = os.getpid()
        windows = welcome.windows
        self.windows = windows
        self._map_arena(windows, connection.segment_fds, welcome.segment_sizes)
        self.ring = FastProducer(windows.arena_base, self.heap)
        self._protected = fork_unsafe.Protected(self._segments, self.heap, self.ring)
        fork_unsafe.protect(self._protected)
        self.device = DeviceMemory(
            self, windows.device_base, windows.device_size // 2, welcome.quota, connection.account,
            tells=self.facts.checks_memory,
        )  # fmt: skip
        self._in_use: deque[tuple[int, int]] = deque()
        self._in_use_lock = threading.Lock()
        self._lost_reason = ""
        self.closed = False
        self._growth = Growth(lambda message: connect.send(connection.socket, message), self._add_segment)
        _thread.start_new_thread(self._watch, (connection.socket,))

    def _map_arena(self, windows: control.Windows, fds: list[int], sizes: list[int]) -> None:
        """Map the segments where the executor has them, and keep the rest of both windows free of other mappings."""
        address = windows.arena_base
        for index, (fd, size) in enumerate(zip(fds, sizes, strict=True)):
            segment.map_over(fd, address, size)
            os.close(fd)
            if index == 0:
                self.heap = Heap(address + layout.HEAP_OFFSET, size - layout.HEAP_OFFSET)
            else:
                self.heap.add_segment(address, size)
            address += size
        self._arena_end = address

    def _segments(self) -> list[tuple[int, int]]:
        """Return address and size of what is mapped of the arena: one run of adjoining segments."""
        base = self.windows.arena_base
        return [(base, self._arena_end - base)]

    # -- life ------------------------------------------------------------------------------------------------------
    def _watch(self, socket: Any) -> None:
        """Wait for the broker's word that the executor is gone; the thread does not show in `threading`."""
        while True:
            try:
                message, fds = connect.receive(socket)
            except (OSError, SessionError):
                message, fds = None, []
            if isinstance(message, control.Grown):
                self._growth.answer(message, fds)
                continue
            if self.closed or os.getpid() != self.pid:
                self._growth.end()
                return
            self._lost_reason = message.reason if isinstance(message, control.Lost) else "the broker is gone"
            self.ring.mark_lost()
            self._growth.end()
            return

    def check(self) -> None:
        """Raise what makes every later call fail: a dead context or a lost session."""
        status = self.ring.sticky_status()
        if status:
            raise CudaError(status)
        state = self.ring.state()
        if state >= layout.STATE_CLOSED:
            raise SessionLost(self._lost_reason or "the executor is gone")

    def lost_error(self) -> SessionLost:
        """The error for calls on a lost session."""
        return SessionLost(self._lost_reason or "the executor is gone")

    def note(self, note: control.Note) -> None:
        """Send a line for the broker's log."""
        if not self.closed and os.getpid() == self.pid:
            connect.send(self._connection.socket, note)

    def close(self) -> None:
        """End the session in order; the executor finishes what was submitted."""
        if self.closed or os.getpid() != self.pid:
            return
        self.closed = True
        self.ring.publish_waited()
        fast_path.detach()
        with contextlib.suppress(SessionError, CudaError, OSError):
            # What a library call without reply failed with, if nobody was told: just which function it was.
            failed = self.call(Op.CLOSE, b"", timeout=10.0).decode(errors="replace")
            if failed:
                library, _, function = failed.rpartition(".")
                late.note({"library": library, "function": function})
        late.report()
        with contextlib.suppress(OSError, SessionError):
            connect.send(self._connection.socket, control.Goodbye())
            self._connection.socket.close()

    # -- commands --------------------------------------------------------------------------------------------------
    def post(self, op: Op, payload: bytes, stream: int = 0) -> int:
        """Submit a command that needs no reply; returns its number."""
        self.check()
        if len(payload) <= layout.INLINE_PAYLOAD:
            return self.ring.submit(op, payload, stream=stream)
        address = self.allocate(len(payload))
        copy_in(address, payload)
        number = self.ring.submit(op, b"", stream=stream, spill=(address, len(payload)))
        self.release_when_retired(number, address)
        return number

    def call(self, op: Op, payload: bytes, stream: int = 0, timeout: float | None = None) -> bytes:
        """Submit a command and wait for its reply.

        Raises
        ------
        CudaError
            The command failed with a CUDA status, or an earlier command without reply did. An earlier library call's
            own error is none of these: see `migproxy.session.late`.
        LibraryCallError
            A library call failed with the library's own error.
        ProtocolError
            The executor refused the command as malformed.
        SessionLost
            Executor or broker are gone.
        """
        self.check()
        spilled = 0
        if len(payload) > layout.INLINE_PAYLOAD:
            spilled = self.allocate(len(payload))
            copy_in(spilled, payload)
            number = self.ring.submit(op, b"", stream=stream, flags=layout.FLAG_WAIT, spill=(spilled, len(payload)))
        else:
            number = self.ring.submit(op, payload, stream=stream, flags=layout.FLAG_WAIT)
        try:
            return self.finish(number, timeout)
        finally:
            if spilled:
                self.release_when_retired(number, spilled)

    def finish(self, number: int, timeout: float | None = None, *, looked: bool = False) -> bytes:
        """Wait for the reply to command `number` and raise what it says. `looked`: as of `Producer.wait`."""
        status, data = self.ring.wait(number, timeout, looked=looked)
        if status == layout.STATUS_TOO_LONG:
            data = self._fetch(int.from_bytes(data[:8], "little"), number)
            status = 0
        elif status == layout.STATUS_LIBRARY_LONG:
            data = self._fetch(int.from_bytes(data[:8], "little"), number)
            status = layout.STATUS_LIBRARY
        if status == 0:
            self.raise_deferred()
            return data
        if status > 0:
            raise CudaError(status, data.decode("utf-8", "replace"))
        if status == layout.STATUS_LIBRARY:
            raise _failure(msgspec.msgpack.decode(data, type=dict[str, Any]))
        if status == layout.STATUS_REFUSED:
            raise CudaError(CUDA_ERROR_NOT_SUPPORTED, data.decode("utf-8", "replace"))
        raise ProtocolError(data.decode("utf-8", "replace") or "the executor refused a command")

    def raise_deferred(self, package: str = "") -> None:
        """Raise the error of an earlier command without reply, if one has become known; once.

        Parameters
        ----------
        package : str, optional
            The caller speaks for the libraries whose names begin so: their late errors are raised here too.

        Raises
        ------
        LibraryCallError
            A library call of that package failed.
        CudaError
            Another command did, or such a call is not supported.
        """
        status = self.ring.take_deferred_status() if self.ring.deferred_status() else 0
        if status == layout.DEFERRED_LIBRARY and not self.closed:
            late.note(msgspec.msgpack.decode(self.call(Op.LATE_ERROR, b""), type=dict[str, Any]))
        elif status and status != layout.DEFERRED_LIBRARY:
            raise CudaError(status, "from an earlier command")
        if package and late.pending:
            facts = late.take(package)
            if facts is not None:
                raise _failure(facts)

    def _fetch(self, size: int, number: int) -> bytes:
        """Fetch a reply that did not fit its line into a buffer of the heap."""
        address = self.allocate(size)
        try:
            fetch = self.ring.submit(
                Op.FETCH_REPLY,
                number.to_bytes(8, "little"),
                flags=layout.FLAG_WAIT,
                reply_address=address,
                reply_capacity=size,
            )
            status, data = self.ring.wait(fetch, None)
            if status:
                raise ProtocolError(data.decode("utf-8", "replace"))
            return copy_out(address, size)
        finally:
            self.heap.free(address)

    def is_inherited(self, address: int) -> bool:
        """Tell whether an address belongs to the session this process was forked from."""
        return inherited_address(address)

    # -- arena memory ----------------------------------------------------------------------------------------------
    def allocate(self, size: int) -> int:
        """Allocate arena memory; grows the arena, then waits for memory in use, before it gives up.

        Raises
        ------
        CudaError
            2 (out of memory): the arena is full and cannot grow.
        """
        address = self.heap.allocate(size, 64)
        if address:
            return address
        self.drain()
        address = self.heap.allocate(size, 64)
        if not address and self.grow(size):
            address = self.heap.allocate(size, 64)
        while not address and self._in_use:
            with self._in_use_lock:
                number = self._in_use[0][0] if self._in_use else 0
            self.ring.wait_host_retired(number)
            self.drain()
            address = self.heap.allocate(size, 64)
        if not address:
            raise CudaError(2, f"the arena has no room for {size} bytes")
        return address

    def grow(self, size: int) -> bool:
        """Ask the broker for a further segment with room for `size` bytes; for more, if it may be had.

        Raises
        ------
        SessionLost
            The executor or the broker is gone.
        """
        needed = size + GROW_MARGIN
        grown = self._growth.by(max(needed, GROW_LEAST)) or (needed < GROW_LEAST and self._growth.by(needed))
        if not grown:
            self.check()
        return grown

    def _add_segment(self, fd: int, size: int) -> None:
        segment.map_over(fd, self._arena_end, size)
        self.heap.add_segment(self._arena_end, size)
        self._arena_end += size

    def release_when_retired(self, number: int, address: int) -> None:
        """Free an arena block once the executor no longer uses host memory named by command `number`."""
        with self._in_use_lock:
            self._in_use.append((number, address))
        if len(self._in_use) > 64:
            self.drain()

    def drain(self) -> None:
        """Free the blocks whose commands have retired."""
        retired = self.ring.host_retired()
        with self._in_use_lock:
            while self._in_use and self._in_use[0][0] < retired:
                self.heap.free(self._in_use.popleft()[1])


def _failure(facts: dict[str, Any]) -> Exception:
    """Return the error that a reply's facts mean: a library's own, or a CUDA status whose message is a long one."""
    status = facts.get("cuda", 0)
    if not status:
        return LibraryCallError(facts)
    return CudaError(CUDA_ERROR_NOT_SUPPORTED if status == layout.STATUS_REFUSED else status, facts.get("message", ""))


#: What a segment has beyond the memory that it is asked for, and the least one that is asked for at first.
GROW_MARGIN = 1 << 20
GROW_LEAST = 48 << 20

_session_lock = threading.RLock()
_current: Session | None = None
_forgotten: list[Session] = []
_on_fork: list[Callable[[], None]] = []
_on_new_session: list[Callable[[Session], None]] = []


def current() -> Session:
    """Return this process's session; connects at the first call.

    Raises
    ------
    SessionLost
        No broker, or the session broke.
    AdmissionError
        The broker refused.
    """
    session = _current
    if session is not None:
        return session
    return _open()


def opened() -> Session | None:
    """Return this process's session if there is one, without connecting."""
    return _current


def close_current() -> None:
    """End this process's session, if there is one; the next call opens another."""
    global _current
    with _session_lock:
        session, _current = _current, None
    if session is not None:
        session.close()


def _close_at_end() -> None:
    """End the session, but keep it: late destructors must find it closed, not open another."""
    if _current is not None:
        _current.close()


def on_new_session(callback: Callable[[Session], None]) -> None:
    """Call `callback` with each session this process opens (again after a fork)."""
    _on_new_session.append(callback)


#: How long a refusal stands before a further call asks the broker again: each asking may wait for room that long.
REFUSAL_SECONDS = 60.0
_refusal: tuple[float, AdmissionError] | None = None


def _connect() -> Session:
    """Open a session; repeats a fresh refusal instead of waiting for room again in every call."""
    global _refusal
    if _refusal is not None and time.monotonic() < _refusal[0]:
        raise _refusal[1]
    try:
        return Session(opening.open_connection())
    except AdmissionError as error:
        _refusal = time.monotonic() + REFUSAL_SECONDS, error
        raise


def _open() -> Session:
    global _current
    with _session_lock:
        if _current is None:
            session = _connect()
            _current = session
            fast_path.attach(session)
            notes.keep_quiet()
            notes.HANDLER.attach(session.note)
            for callback in _on_new_session:
                callback(session)
            ending.at_end(_close_at_end)
        return _current


def on_fork(callback: Callable[[], None]) -> None:
    """Call `callback` in each forked child, after it forgot its parent's session."""
    _on_fork.append(callback)


def forked() -> bool:
    """Tell whether this process was forked from one that had a session."""
    return bool(_forgotten)


def parent_session() -> Session | None:
    """Return the session of the process that this one was forked from, if it had one."""
    return _forgotten[-1] if _forgotten else None


def unknown_object(status: int, detail: str = "") -> CudaError:
    """The error for a handle or address that is not this session's.

    In a forked child it may be the parent's: natively CUDA is not initialised there (3), and so it says here.
    """
    return CudaError(CUDA_ERROR_NOT_INITIALIZED if forked() else status, detail)


def inherited_address(address: int) -> bool:
    """Tell whether an address lies in the device or arena window of the session this process was forked from."""
    for session in _forgotten:
        windows = session.windows
        for base, size in (
            (windows.device_base, windows.device_size),
            (windows.arena_base, windows.arena_size),
        ):
            if base <= address < base + size:
                return True
    return False


def _forget_after_fork() -> None:
    """In a forked child: the parent's session is not ours; the arena's fork hooks replace its mappings."""
    global _current, _session_lock
    _session_lock = threading.RLock()
    fast_path.detach()
    late.forget()
    if _current is not None:
        # The broker sees the parent's end by this socket; a child that kept it open would hide that.
        _current._connection.socket.close()
        _forgotten.append(_current)
        _current = None
        for callback in _on_fork:
            callback()


os.register_at_fork(after_in_child=_forget_after_fork)
