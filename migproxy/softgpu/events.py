"""Events: marks in streams, with the time at which they were reached."""

from __future__ import annotations

import time
from functools import partial

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import Capture, Node, NodeKind
from migproxy.softgpu.queues import Mark
from migproxy.softgpu.shared_events import SharedEvent
from migproxy.softgpu.state import Context, entry, need
from migproxy.softgpu.streams import StreamApi, give_way, synchronize_context

_BLOCKING_SYNC, _DISABLE_TIMING, _INTERPROCESS = 1, 2, 4
_EXTERNAL = 1


class _Record:
    """One ``cuEventRecord``: where it is, and when it was reached."""

    __slots__ = ("_number", "_shared", "at", "mark")

    def __init__(self, shared: SharedEvent | None) -> None:
        self.mark: Mark | None = None
        self.at = 0
        self._shared = shared
        self._number = shared.record() if shared is not None else 0

    def reach(self) -> None:
        self.at = time.perf_counter_ns()
        if self._shared is not None:
            self._shared.reach(self._number)


def _page() -> SharedEvent:
    try:
        return SharedEvent()
    except OSError as error:
        raise CudaError(status.OUT_OF_MEMORY, f"the host refuses the page of an event: {error}") from error


class Event:
    """An event of a context."""

    def __init__(self, context: Context, flags: int) -> None:
        self.context = context
        self.flags = flags
        self.handle = 0
        self.record: _Record | None = None
        self.captured: tuple[Capture, list[Node]] | None = None
        self.shared: SharedEvent | None = None

    def refuse_if_captured(self) -> None:
        """Fail a call on an event that was last recorded in a capture; like the driver's, it spoils the capture."""
        if self.captured is None:
            return
        capture, _ = self.captured
        need(capture.active(), "the event was last recorded in a capture that is over")
        capture.refuse(status.CAPTURED_EVENT, "the event was last recorded in a capture")

    def reached(self) -> bool:
        if self.shared is not None:
            return self.shared.reached()
        mark = self.record.mark if self.record is not None else None
        return mark is None or mark.reached()


class EventApi(StreamApi):
    """``cuEvent*``, ``cuStreamWaitEvent``."""

    def event(self, handle: int) -> Event:
        event = self.handles.get(handle, Event)
        event.context.check()
        return event

    @entry
    def cuEventCreate(self, phEvent: int, Flags: int) -> None:
        need(phEvent and not Flags & ~(_BLOCKING_SYNC | _DISABLE_TIMING | _INTERPROCESS), f"event flags {Flags}")
        need(not Flags & _INTERPROCESS or Flags & _DISABLE_TIMING, "an event between processes with timing")
        event = Event(self.context(), Flags)
        if Flags & _INTERPROCESS:
            event.shared = _page()
        event.handle = self.handles.add(event)
        raw.write_u64(phEvent, event.handle)

    def export_event(self, handle: int) -> int:
        """Return a descriptor by which another process opens an event (`import_event`); the caller closes it."""
        event = self.event(handle)
        if event.shared is None:
            raise CudaError(status.INVALID_HANDLE, "the event was not made for other processes")
        return event.shared.export()

    def import_event(self, fd: int) -> int:
        """Return an event of another process; the descriptor stays the caller's."""
        event = Event(self.context(), _DISABLE_TIMING | _INTERPROCESS)
        event.shared = SharedEvent(fd)
        event.handle = self.handles.add(event)
        return event.handle

    @entry
    def cuEventDestroy(self, hEvent: int) -> None:
        self.event(hEvent)
        self.handles.drop(hEvent)

    @entry
    def cuEventRecord(self, hEvent: int, hStream: int) -> None:
        self._record(hEvent, hStream, 0)

    @entry
    def cuEventRecordWithFlags(self, hEvent: int, hStream: int, flags: int) -> None:
        self._record(hEvent, hStream, flags)

    def _record(self, event_handle: int, stream_handle: int, flags: int) -> None:
        need(flags in (0, _EXTERNAL), f"record flags {flags}")
        event = self.event(event_handle)
        stream = self.stream(stream_handle)
        if stream.capture is not None:
            stream.capture.check()
            if flags == _EXTERNAL:
                stream.submit(NodeKind.EVENT_RECORD, self.record_when_run(event), params=event)
            else:
                event.captured = (stream.capture, list(stream.capture.frontier[stream]))
            return
        need(event.context.device is stream.context.device, "event and stream of two devices", status.INVALID_HANDLE)
        record = _Record(event.shared)
        record.mark = stream.submit(NodeKind.EVENT_RECORD, record.reach, quick=True)
        event.captured = None
        event.record = record

    @staticmethod
    def record_when_run(event: Event) -> _Reacher:
        """What an event-record node of a graph does when the graph runs."""
        return _Reacher(event)

    @staticmethod
    def wait_when_run(event: Event) -> _Waiter:
        """What an event-wait node of a graph does when the graph runs."""
        return _Waiter(event)

    @entry
    def cuEventQuery(self, hEvent: int) -> None:
        event = self.event(hEvent)
        event.refuse_if_captured()
        if not event.reached():
            give_way()
            if not event.reached():
                raise CudaError(status.NOT_READY)
        event.context.check()

    @entry
    def cuEventSynchronize(self, hEvent: int) -> None:
        event = self.event(hEvent)
        event.refuse_if_captured()
        record = event.record
        if event.shared is not None:
            event.shared.wait(event.shared.last())
        elif record is not None and record.mark is not None:
            record.mark.wait()
        event.context.check()

    @entry
    def cuEventElapsedTime(self, pMilliseconds: int, hStart: int, hEnd: int) -> None:
        start, end = self.event(hStart), self.event(hEnd)
        need(pMilliseconds, "", status.INVALID_HANDLE)
        start.refuse_if_captured()
        end.refuse_if_captured()
        need(not (start.flags | end.flags) & _DISABLE_TIMING, "an event without timing", status.INVALID_HANDLE)
        first, last = start.record, end.record
        if first is None or last is None:
            need(False, "an event was never recorded", status.INVALID_HANDLE)
            return
        need(start.reached() and end.reached(), "", status.NOT_READY)
        raw.write_f32(pMilliseconds, (last.at - first.at) / 1e6)

    @entry
    def cuStreamWaitEvent(self, hStream: int, hEvent: int, Flags: int) -> None:
        stream, event = self.stream(hStream), self.event(hEvent)
        need(Flags in (0, _EXTERNAL), f"wait flags {Flags}")
        if event.captured is not None and Flags != _EXTERNAL:
            capture, nodes = event.captured
            need(capture.active(), "the event was last recorded in a capture that is over")
            capture.join(stream, nodes)
            return
        if stream.capture is not None:
            stream.capture.check()
            if Flags != _EXTERNAL:
                stream.capture.refuse(status.STREAM_CAPTURE_ISOLATION, "the event was not recorded in this capture")
            stream.submit(NodeKind.WAIT_EVENT, self.wait_when_run(event), params=event)
            return
        record = event.record
        if event.shared is not None:
            number = event.shared.last()
            if not event.shared.reached(number):
                stream.submit(NodeKind.WAIT_EVENT, partial(event.shared.wait, number))
        elif record is not None and record.mark is not None and not record.mark.reached():
            stream.submit(NodeKind.WAIT_EVENT, None, after=(record.mark,))

    @entry
    def cuCtxRecordEvent(self, hCtx: int, hEvent: int) -> None:
        need(False, "cuCtxRecordEvent needs green contexts, which the software GPU has not", status.NOT_SUPPORTED)

    @entry
    def cuCtxSynchronize(self, ctx: int = 0) -> None:
        # CUDA 13's second form takes the context.
        context = self.handles.get(ctx, Context, status.INVALID_CONTEXT) if ctx else self.context()
        context.check()
        for stream in list(context.streams):
            stream.forbid_capture()
        synchronize_context(context)
        context.check()


class _Reacher:
    """Records an event from inside a running graph."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self) -> None:
        record = _Record(self.event.shared)
        record.reach()
        self.event.captured = None
        self.event.record = record


class _Waiter:
    """Waits for an event from inside a running graph."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self) -> None:
        record, shared = self.event.record, self.event.shared
        if shared is not None:
            shared.wait(shared.last())
        elif record is not None and record.mark is not None:
            record.mark.wait()
