"""Host functions on streams: the device calls back here, the function runs its Python callable, the stream waits
meanwhile."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor.dispatch import PENDING, Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostFunctions:
    """Tokens on their way between the device's callback thread and the function.

    Parameters
    ----------
    state : SessionState
    """

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._due: list[int] = []
        self._asker: int | None = None
        self._acknowledged: dict[int, threading.Event] = {}
        self._entry = _HOST_FUNCTION(self._call)
        #: The C function ``void (void *token)`` that the device calls.
        self.address = ctypes.cast(self._entry, ctypes.c_void_p).value or 0

    def _call(self, token: int | None) -> None:
        """Runs on the driver's thread: hand the token over and hold the stream until the function has run."""
        assert token is not None
        done = threading.Event()
        with self._lock:
            self._acknowledged[token] = done
            self._due.append(token)
        self._state.consumer.wake()
        while not done.wait(1.0):
            if self._state.closing:
                return

    def ask(self, number: int, done: int) -> None:
        """The function asks for the next token (its command is `number`) and says which one it has run."""
        with self._lock:
            event = self._acknowledged.pop(done, None)
            self._asker = number
        if event is not None:
            event.set()
        self.hand_over()

    def hand_over(self) -> None:
        """Answer the function's question if a token is due; called by the loop, which alone writes replies."""
        with self._lock:
            if self._asker is None or not self._due:
                return
            number, token = self._asker, self._due.pop(0)
            self._asker = None
        self._state.reply(number, 0, token.to_bytes(8, "little"))


@handles(Op.HOST_CALLBACK)
def host_callback(state: SessionState, command: Command) -> Result:
    (token,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call("cuLaunchHostFunc", state.stream(command.stream), state.host_functions.address, token)
    return None


@handles(Op.HOST_CALLBACK_NEXT)
def host_callback_next(state: SessionState, command: Command) -> Result:
    (done,) = layout.HANDLE.unpack_from(command.payload)
    state.host_functions.ask(command.number, done)
    return PENDING
