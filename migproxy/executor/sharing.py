"""What this session shares with other sessions of its owner by CUDA IPC, and what it took from them.

Everything here runs on the thread that carries out commands, except `receive`: the broker's answers come on the thread
that listens to it, and are looked at by `look`. Descriptors are closed as soon as the driver has them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from migproxy.abi import layout, sharing
from migproxy.abi.message import Message
from migproxy.abi.sharing import Give, Given, Take, Taken, Withdraw
from migproxy.arena import packets
from migproxy.errors import CudaError, SessionLost
from migproxy.executor.driver import CUDA_ERROR_NOT_READY

if TYPE_CHECKING:
    from migproxy.executor.state import SessionState

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_OUT_OF_MEMORY = 2
CUDA_ERROR_NOT_SUPPORTED = 801
#: Questions to the broker that may wait in here.
_MOST_WAITING = 4096

Send = Callable[[Message, Sequence[int]], None]


@dataclass
class _Taking:
    """An object on its way here, and what is done with it once it is whole."""

    take: Take
    done: Callable[[Taken, list[int], list[int]], None]
    sizes: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Memory of another session that is mapped here."""

    token: bytes
    start: int
    base: int
    size: int


class Sharing:
    """The IPC objects of one session.

    Parameters
    ----------
    state : SessionState
    """

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._send: Send | None = None
        self._answers: deque[tuple[Given | Taken, list[int]]] = deque()
        self._giving: dict[int, int] = {}  # number → what is being given, as in `_given`
        self._gone: set[int] = set()  # numbers of what was withdrawn before it was given
        self._taking: dict[int, _Taking] = {}
        self._waiting: deque[_Taking] = deque()
        self._given: dict[int, bytes] = {}  # base of memory or handle of an event → token
        self._by_token: dict[bytes, _Taken] = {}
        self._by_base: dict[int, _Taken] = {}
        #: Events that other sessions record or wait for too, by handle.
        self.events: set[int] = set()
        #: Commands that wait for such an event, with its handle. They are no work of this session's, which could hang.
        self.waiting: list[tuple[int, int]] = []

    def connect(self, send: Send) -> None:
        """Set how messages reach the broker."""
        self._send = send

    # -- the broker's answers ----------------------------------------------------------------------------------------
    def receive(self, message: Given | Taken, fds: list[int]) -> None:
        """Keep an answer of the broker for `look`; called by the thread that listens to it."""
        self._answers.append((message, fds))
        self._state.consumer.wake()

    def look(self) -> None:
        """Act on the broker's answers, and on shared events that have happened; called once a round."""
        if self.waiting:
            self.waiting = [each for each in self.waiting if not self._happened(*each)]
        while self._answers:
            message, fds = self._answers.popleft()
            if isinstance(message, Given):
                self._was_given(message)
            else:
                self._was_taken(message, fds)

    def _tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        if self._send is None:
            raise CudaError(CUDA_ERROR_NOT_SUPPORTED, "this executor has no broker to share by")
        self._send(message, fds)

    # -- giving ------------------------------------------------------------------------------------------------------
    def give_memory(self, number: int, base: int, size: int) -> None:
        """Answer command `number` with the token of an allocation, all of whose pieces the session mapped itself.

        Raises
        ------
        CudaError
            1 for a range that is not the session's own, 2 for one in too many pieces.
        """
        pieces = self._state.memory.pieces(base, size)
        if base in self._given:
            self._state.reply(number, 0, self._given[base])
            return
        if len(pieces) > sharing.MOST_PIECES or len(self._giving) >= sharing.MOST_AT_ONCE:
            raise CudaError(CUDA_ERROR_OUT_OF_MEMORY, f"{size} bytes in {len(pieces)} pieces")
        try:
            fds = self._state.memory.export(pieces)
        except CudaError as error:
            if error.status != CUDA_ERROR_NOT_READY:
                raise
            # The software GPU moves the memory for this, while nothing runs.
            self._state.after_everything(lambda status: self._again(number, base, size, status))
            return

        try:
            self._giving[number] = base
            last = (len(fds) - 1) // sharing.PART * sharing.PART
            for start in range(0, len(fds), sharing.PART):
                part = tuple(length for _, length in pieces[start : start + sharing.PART])
                give = Give(number, sharing.MEMORY, part, base - pieces[0][0], size, b"", start < last)
                self._tell(give, fds[start : start + sharing.PART])
        except (CudaError, SessionLost):
            self._giving.pop(number, None)
            raise
        finally:
            packets.close_all(fds)

    def _again(self, number: int, base: int, size: int, status: int) -> None:
        if status:
            self._state.reply(number, status)
            return
        try:
            self.give_memory(number, base, size)
        except CudaError as error:
            self._state.reply(number, error.status, error.detail.encode())

    def give_event(self, number: int, handle: int) -> None:
        """Answer command `number` with the token of an event that was made for other processes.

        Raises
        ------
        CudaError
            The driver's: 400 or 1 for an event that was not.
        """
        event = self._state.handles.real(layout.KIND_EVENT, handle)
        if handle in self._given:
            self._state.reply(number, 0, self._given[handle])
            return
        if len(self._giving) >= sharing.MOST_AT_ONCE:
            raise CudaError(CUDA_ERROR_OUT_OF_MEMORY, "too many events are being shared")
        data, fds = self._state.driver.export_event(event)

        self._giving[number] = handle
        try:
            self._tell(Give(number, sharing.EVENT, data=data), fds)
        except (CudaError, SessionLost):
            self._giving.pop(number, None)
            raise
        finally:
            packets.close_all(fds)

    def _was_given(self, message: Given) -> None:
        key = self._giving.pop(message.number, None)
        if key is None:
            return
        status = message.status
        if message.number in self._gone:
            self._gone.discard(message.number)
            status = status or CUDA_ERROR_INVALID_VALUE
            self._tell(Withdraw(message.token))
        if not status:
            self._given[key] = message.token
            if key >> layout.HANDLE_KIND_SHIFT == layout.KIND_EVENT:
                self.events.add(key)
        self._state.reply(message.number, status, b"" if status else message.token)

    def withdraw(self, key: int) -> None:
        """The memory at a base, or the event with a handle, is gone: nobody can take it any more."""
        token = self._given.pop(key, None)
        self.events.discard(key)
        self._gone.update(number for number, given in self._giving.items() if given == key)
        if token is not None:
            self._tell(Withdraw(token))

    def withdraw_range(self, address: int, size: int) -> None:
        """All of a range is unmapped: so is what was given of it."""
        given = [*self._given, *self._giving.values()]
        for base in {base for base in given if address <= base < address + size}:
            self.withdraw(base)

    # -- taking ------------------------------------------------------------------------------------------------------
    def take_memory(self, number: int, token: bytes) -> None:
        """Answer command `number` with the address and size of another session's allocation, mapped here once.

        Raises
        ------
        CudaError
            2: too many wait for the broker.
        """

        def done(message: Taken, sizes: list[int], fds: list[int]) -> None:
            try:
                if not self._answer_open(number, token):
                    before = self._measured()
                    start = self._state.memory.import_pieces(sizes, fds)
                    # Whether a driver counts such memory as this process's too is its own affair.
                    self._state.counts_taken = self._measured() - before >= sum(sizes) // 2 > 0
                    self._state.publish_memory()
                    taken = _Taken(token, start, start + message.offset, message.size)
                    self._by_token[token] = self._by_base[taken.base] = taken
                    self._answer_open(number, token)
            finally:
                packets.close_all(fds)

        if not self._answer_open(number, token):
            self._ask(_Taking(Take(number, sharing.MEMORY, token), done))

    def _measured(self) -> int:
        return self._state.process_memory.used() if self._state.counts_by_process else 0

    def _answer_open(self, number: int, token: bytes) -> bool:
        taken = self._by_token.get(token)
        if taken is not None:
            self._state.reply(number, 0, layout.RANGE.pack(taken.base, taken.size))
        return taken is not None

    def take_event(self, number: int, token: bytes, handle: int) -> None:
        """Answer command `number` once another session's event is known by `handle` here.

        Raises
        ------
        CudaError
            2: too many wait for the broker.
        """

        def done(message: Taken, sizes: list[int], fds: list[int]) -> None:
            try:
                event = self._state.driver.import_event(message.data, fds)
                try:
                    self._state.handles.enter(layout.KIND_EVENT, handle, event)
                except CudaError:
                    self._state.driver.status("cuEventDestroy", event)
                    raise
            finally:
                packets.close_all(fds)
            self.events.add(handle)
            self._state.reply(number)

        self._ask(_Taking(Take(number, sharing.EVENT, token), done))

    def _ask(self, taking: _Taking) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise CudaError(CUDA_ERROR_OUT_OF_MEMORY, "too many handles are being opened")
        self._waiting.append(taking)
        self._ask_next()

    def _ask_next(self) -> None:
        while self._waiting and len(self._taking) < sharing.MOST_AT_ONCE:
            taking = self._waiting.popleft()
            self._taking[taking.take.number] = taking
            self._tell(taking.take)

    def _was_taken(self, message: Taken, fds: list[int]) -> None:
        taking = self._taking.get(message.number)
        if taking is None:
            packets.close_all(fds)
            return
        taking.sizes += message.sizes
        taking.fds += fds
        if message.more:
            return
        del self._taking[message.number]
        try:
            if message.status:
                raise CudaError(message.status, "no object of this owner on this device has that handle")
            taking.done(message, taking.sizes, taking.fds)
        except CudaError as error:
            self._state.reply(message.number, error.status, error.detail.encode()[: layout.REPLY_INLINE])
        self._ask_next()

    def close_memory(self, number: int, base: int) -> None:
        """Unmap what `take_memory` mapped, once no work submitted before can use it, and answer command `number`.

        Raises
        ------
        CudaError
            1 when nothing was taken there.
        """
        taken = self._by_base.pop(base, None)
        if taken is None:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, f"{base:#x} is not memory of an IPC handle")
        del self._by_token[taken.token]

        def done(status: int) -> None:
            if not status:
                try:
                    self._state.memory.release_pieces(taken.start)
                except CudaError as error:
                    status = error.status
                self._state.publish_memory()
                self._state.forget_plans()
            self._state.reply(number, status)

        self._state.after_everything(done)

    # -- waiting for others ------------------------------------------------------------------------------------------
    def wait_for(self, number: int, handle: int) -> None:
        """Answer command `number` once a shared event has happened."""
        if not self._happened(number, handle):
            self.waiting.append((number, handle))

    def _happened(self, number: int, handle: int) -> bool:
        try:
            event = self._state.handles.real(layout.KIND_EVENT, handle)
            status = self._state.driver.status("cuEventQuery", event)
        except CudaError as error:  # it was destroyed meanwhile
            status = error.status
        if status == CUDA_ERROR_NOT_READY:
            return False
        self._state.reply(number, status)
        return True

    def must_wait(self, handle: int) -> bool:
        """Tell whether an event that is shared has yet to happen."""
        if handle not in self.events:
            return False
        event = self._state.handles.real(layout.KIND_EVENT, handle)
        return self._state.driver.status("cuEventQuery", event) == CUDA_ERROR_NOT_READY
