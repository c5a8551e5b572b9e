"""What the handlers share: one served session."""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from migproxy.abi import control, layout
from migproxy.errors import CudaError
from migproxy.executor import pump_block
from migproxy.executor.completions import Action, Completions
from migproxy.executor.device_memory import DeviceMemory
from migproxy.executor.handles import Handles
from migproxy.executor.host_copies_unsafe import HostCopies
from migproxy.executor.sharing import Sharing

if TYPE_CHECKING:
    from migproxy.arena.ring import Command, Consumer
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.handlers.callbacks import HostFunctions
    from migproxy.executor.handlers.launch import LaunchTarget
    from migproxy.executor.plugin_host import PluginHost
    from migproxy.executor.process_memory import ProcessMemory
    from migproxy.executor.pump_tables import PumpTables
    from migproxy.executor.repeat_tables_unsafe import Repeat

#: Statuses after which a context is dead: every later call returns them, as on a real device.
STICKY = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
MAX_KEPT_REPLIES = 16
#: Library functions, and kinds of handles, that a report names.
MOST_REPORTED = 64


class SessionState:
    """One session as its executor holds it.

    Parameters
    ----------
    driver : AnyDriver
    consumer : Consumer
        The executor's end of the ring.
    memory : DeviceMemory
    tables : PumpTables
        The hot path's state block.
    spec : control.SessionSpec
    facts : control.DeviceFacts
    """

    def __init__(
        self,
        driver: AnyDriver,
        consumer: Consumer,
        memory: DeviceMemory,
        tables: PumpTables,
        spec: control.SessionSpec,
        facts: control.DeviceFacts,
    ) -> None:
        self.driver = driver
        self.consumer = consumer
        self.memory = memory
        self.spec = spec
        self.facts = facts
        self.pump = tables
        self.handles = Handles(tables)
        self.completions = Completions(driver, tables)
        self.counters: Counter[str] = Counter()
        self.closing = False
        self.opened_ns = time.monotonic_ns()
        #: Brings the counters of the time on the device up to date.
        self.account: Callable[[], None] = lambda: None
        self.sticky = 0
        #: The library's error of the deferred status ``layout.DEFERRED_LIBRARY``.
        self.late_error: dict[str, Any] = {}
        self.capturing: dict[int, int] = {}
        self._ending: dict[int, list[Action]] = {}
        self.functions: dict[int, LaunchTarget] = {}
        self.globals_of: dict[int, list[int]] = {}
        self._frees_done = 0
        self._kept: dict[int, bytes] = {}
        self.owner_of_function: dict[int, int] = {}
        #: What repeats a library call, by stream and payload; see ``handlers/calls.py``.
        self.plans: dict[tuple[int, bytes], tuple[tuple[str, str], Repeat]] = {}
        #: How often each function of a library was called.
        self.library_calls: Counter[tuple[str, str]] = Counter()
        self.seen_calls: set[tuple[int, bytes]] = set()
        self.process_memory: ProcessMemory
        #: NVML tells this process's memory.
        self.counts_by_process = False
        #: It counts memory of other sessions, which is mapped here, as this process's.
        self.counts_taken = False
        self.next_measurement = 0.0
        self.called_libraries: set[tuple[str, str]] = set()
        self.sharing = Sharing(self)
        self.host_copies = HostCopies()
        self.host_functions: HostFunctions
        self.plugins: PluginHost

    # -- library calls ----------------------------------------------------------------------------------------------
    def forget_plans(self) -> None:
        """What library calls mean may have changed: carry each out by its arguments again."""
        self.plans.clear()
        self.library_calls.update(self.pump.repeats.forget())

    # -- streams ---------------------------------------------------------------------------------------------------
    def stream(self, handle: int) -> int:
        """Return the real stream of a wire handle; 0 is the legacy default stream."""
        return self.handles.real(layout.KIND_STREAM, handle) if handle else 0

    def is_captured(self, stream: int) -> bool:
        """Tell whether a real stream takes part in a capture, be it begun there or joined by an event of another."""
        if not self.capturing:
            return False
        return self.driver.out("cuStreamIsCapturing", before=(stream,), kind=ctypes.c_int) != 0

    def end_stream(self, stream: int) -> None:
        """Destroy a real stream; its work goes on, and `after_everything` still waits for it."""
        if self.is_captured(stream):
            self.driver.call("cuStreamDestroy", stream)
            return
        if self.pump.flight is not None:
            self.pump.flight.mark()
        waiting: list[Action] = []
        key = id(waiting)
        self._ending[key] = waiting

        def ended(status: int) -> None:
            del self._ending[key]
            for action in waiting:
                action(status)

        self.completions.after_stream(stream, ended)
        self.driver.call("cuStreamDestroy", stream)

    def after_everything(self, action: Action) -> None:
        """Run ``action(status)`` once everything submitted so far is done, on destroyed streams too.

        Streams that are being captured are left out: nothing runs there, and asking would break the capture.
        """
        streams = [0, *self.handles.all(layout.KIND_STREAM).values()]
        if self.capturing:
            streams = [stream for stream in streams if stream and not self.is_captured(stream)]
        left = len(streams) + len(self._ending)
        failed = 0

        def done(status: int) -> None:
            nonlocal left, failed
            left -= 1
            failed = failed or status
            if left <= 0:
                action(failed)

        if not left:
            action(0)
        for waiting in self._ending.values():
            waiting.append(done)
        for stream in streams:
            self.completions.after_stream(stream, done)

    def expect_prints(self) -> None:
        """From now on let the driver write out what kernels printed before a waiter hears of their end.

        The software GPU writes at once.
        """
        if self.driver.kind != "software":
            self.completions.printing = True
            self.pump.set(pump_block.PRINTING, 1)

    # -- replies and errors ----------------------------------------------------------------------------------------
    def reply(self, number: int, status: int = 0, data: bytes = b"") -> None:
        """Answer command `number`; keeps what does not fit its line for `Op.FETCH_REPLY`."""
        if status > 0:
            self.note_status(status)
        if len(data) > layout.REPLY_INLINE and status == 0:
            self._keep(number, data)
            status, data = layout.STATUS_TOO_LONG, len(data).to_bytes(8, "little")
        self.consumer.reply(number, status, data[: layout.REPLY_INLINE])

    def _keep(self, number: int, data: bytes) -> None:
        while len(self._kept) >= MAX_KEPT_REPLIES:
            del self._kept[next(iter(self._kept))]
        self._kept[number] = data

    def reply_error_facts(self, number: int, facts: dict[str, Any]) -> None:
        """Answer command `number` with a library's error."""
        data = msgspec.msgpack.encode(facts)
        if len(data) > layout.REPLY_INLINE:
            self._keep(number, data)
            data = len(data).to_bytes(8, "little")
            self.consumer.reply(number, layout.STATUS_LIBRARY_LONG, data)
            return
        self.consumer.reply(number, layout.STATUS_LIBRARY, data)

    def take_kept(self, number: int) -> bytes | None:
        """Return (and forget) the long reply of command `number`."""
        return self._kept.pop(number, None)

    def fail(self, command: Command, status: int, message: str = "") -> None:
        """Report a failed command: to its waiter, else as the deferred status."""
        self.counters["errors"] += 1
        text = message.encode()
        if command.waits and len(text) > layout.REPLY_INLINE:
            if status > 0:
                self.note_status(status)
            self.reply_error_facts(command.number, {"cuda": status, "message": message[: layout.MOST_MESSAGE]})
        elif command.waits:
            self.reply(command.number, status, text)
        else:
            if status > 0:
                self.note_status(status)
            self.consumer.set_deferred_status(status if status > 0 else 999)

    def note_status(self, status: int) -> None:
        """Make the session's context dead if `status` says so."""
        if status in STICKY and not self.sticky:
            self.sticky = status
            self.pump.set(pump_block.STICKY, 1)
            self.consumer.set_sticky_status(status)

    # -- host memory and frees -------------------------------------------------------------------------------------
    def host_memory_used(self, number: int, stream: int) -> None:
        """Command `number` uses arena memory until the work submitted so far to `stream` is done."""
        self.pump.host_memory_used(number, stream)

    def mark_free(self) -> None:
        """A free was submitted: its addresses may be used again once all work submitted so far has retired."""
        self.pump.add(pump_block.PYTHON_FREES, 1)

        def done(_: int) -> None:
            self._frees_done += 1

        self.after_everything(done)

    def publish_frees(self) -> None:
        """Publish frees that Python tracked, once every free before them that the pump tracked has retired."""
        if self._frees_done and not self.pump.frees_outstanding():
            self.consumer.add_frees_retired(self._frees_done)
            self.pump.add(pump_block.PYTHON_FREES, -self._frees_done)
            self._frees_done = 0

    # -- accounting ------------------------------------------------------------------------------------------------
    def publish_memory(self) -> None:
        """Publish the bytes charged to the session."""
        self.consumer.set_memory(self.memory.other_bytes + self.memory.taken_bytes, self.memory.peak_bytes)

    def charged(self) -> ChargedSection:
        """Charge whatever the driver allocates inside the ``with`` block; see `ChargedSection`."""
        return ChargedSection(self)

    def require_room(self, size: int) -> None:
        """Raise CUDA_ERROR_OUT_OF_MEMORY unless the quota has room for `size` more bytes."""
        if not self.memory.has_room(size):
            raise CudaError(2, "beyond the quota")

    def report(self) -> dict[str, int]:
        """Return the counters of the session so far."""
        counters = dict(self.counters + Counter(self.pump.counters()))
        counters["peak_device_bytes"] = self.memory.peak_bytes
        counters["device_bytes"] = self.memory.used_bytes
        counters["quota_bytes"] = self.memory.quota
        # The function's own word: no more than the session has lived.
        counters["reply_wait_ns"] = min(self.consumer.waited_ns(), time.monotonic_ns() - self.opened_ns)
        called = self.library_calls + self.pump.repeats.counts()
        for (library, function), count in called.most_common(MOST_REPORTED):
            counters[f"calls_{library}.{function}"] = count
        living = Counter(self.handles.counts()) + self.plugins.counts()
        for kind, count in living.most_common(MOST_REPORTED):
            counters[f"handles_{kind}"] = count
        return counters


class ChargedSection:
    """Charges what the driver allocates inside the ``with`` block.

    By NVML's count for this process where there is one: then the charge is the measured sum and cannot drift. Otherwise
    by the difference in the device's free memory, which on a GPU shared with other executors can contain what a
    neighbour took or gave back in the meantime, and so counts in both directions.
    """

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._before = 0

    def _free(self) -> int:
        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        if self._state.driver.status("cuMemGetInfo", ctypes.addressof(free), ctypes.addressof(total)):
            return self._before
        return free.value

    def __enter__(self) -> ChargedSection:
        if not self._state.counts_by_process:
            self._before = self._free()
        return self

    def __exit__(self, *_: object) -> None:
        state, memory = self._state, self._state.memory
        if not state.counts_by_process:
            memory.charge_other(max(self._before - self._free(), state.facts.context_bytes - memory.other_bytes))
            state.publish_memory()
            return
        now = time.monotonic()
        if now < state.next_measurement:
            return
        used = state.process_memory.used()
        # Asking costs; it may take a twentieth of the time.
        state.next_measurement = time.monotonic() + 20 * (time.monotonic() - now)
        if used:
            known = memory.mapped_bytes + (memory.taken_bytes if state.counts_taken else 0)
            memory.set_other(max(state.facts.context_bytes, used - known))
            state.publish_memory()
