"""Host functions on streams: the device calls back here, the function runs its Python callable, the stream waits
meanwhile."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor.dispatch import Result, handles

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostFunctions:
    """Tokens on their way between the device's callback thread and the function, which runs them one by one.

    They go through words of the arena's header, and past the executor's loop. The loop may be held up by what the
    device waits for: by a command that needs the lease while the work before it does not end, or in the driver, which
    takes no more work while a stream stands still.

    Parameters
    ----------
    state : SessionState
    """

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._called = 0
        self._entry = _HOST_FUNCTION(self._call)
        #: The C function ``void (void *token)`` that the device calls.
        self.address = ctypes.cast(self._entry, ctypes.c_void_p).value or 0

    def _call(self, token: int | None) -> None:
        """Runs on the driver's thread: have the function run its function, and hold the stream until it has."""
        assert token is not None
        with self._lock:
            self._called += 1
            self._state.consumer.call(self._called, token)
            while not self._state.consumer.wait_ran(self._called, 1.0):
                if self._state.closing:
                    return


@handles(Op.HOST_CALLBACK)
def host_callback(state: SessionState, command: Command) -> Result:
    (token,) = layout.HANDLE.unpack_from(command.payload)
    state.driver.call("cuLaunchHostFunc", state.stream(command.stream), state.host_functions.address, token)
    return None
