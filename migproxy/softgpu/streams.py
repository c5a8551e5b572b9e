"""Streams: ordered, asynchronous, with the default stream's rules, and capture into graphs.

A stream is an `OrderedQueue` and its place among the others. The legacy default stream and the blocking streams of a
context wait for each other; a non-blocking stream waits for nobody. That order is made when an operation is submitted:
it gets the marks that it has to wait for.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.capture import Capture, NodeKind
from migproxy.softgpu.host_calls_unsafe import call_host_function, call_stream_callback
from migproxy.softgpu.queues import Mark, OrderedQueue
from migproxy.softgpu.state import Context, DriverBase, entry, need, signed32

NON_BLOCKING = 1
LEGACY_HANDLES = (0, 1)
PER_THREAD_HANDLE = 2
LEAST_PRIORITY, GREATEST_PRIORITY = 0, -5
_WAIT_FLUSH = 1 << 30
_WAIT_STEP_MAX = 0.001


def give_way() -> None:
    """Let the workers have the GIL: a thread that polls in Python would keep it from them for 5 ms at a time."""
    time.sleep(0)


class Stream:
    """One stream of a context."""

    _ids = itertools.count(1)

    def __init__(self, context: Context, *, blocking: bool, priority: int = 0, legacy: bool = False) -> None:
        self.context = context
        self.blocking = blocking
        self.priority = priority
        self.is_legacy = legacy
        self.id = next(self._ids)
        self.handle = 0
        self.queue = OrderedQueue(context, f"softgpu-stream-{self.id}")
        self.capture: Capture | None = None
        self.attributes: dict[int, bytes] = {}

    def submit(
        self,
        kind: NodeKind,
        run: Callable[[], None] | None,
        *,
        after: tuple[Mark, ...] = (),
        foreign: bool = False,
        wait: bool = False,
        quick: bool = False,
        params: object = None,
    ) -> Mark | None:
        """Append an operation, or record it while the stream captures.

        Parameters
        ----------
        kind : NodeKind
            What it would be as a node of a graph.
        run : callable or None
            The operation; None when it only waits.
        after : tuple of Mark
            What it waits for besides the stream's own order.
        foreign : bool
            It calls the application's code.
        wait : bool
            Return when it has completed.
        quick : bool
            It takes less time than waking a thread, and waits for nothing.
        params : object
            What the node's parameter functions give out.

        Returns
        -------
        Mark or None
            None when it was recorded.
        """
        if self.capture is not None:
            if wait:
                self.capture.refuse(status.STREAM_CAPTURE_UNSUPPORTED, "a blocking call on a capturing stream")
            self.capture.record(self, kind, run, foreign, params)
            return None
        with self.context.lock:
            mark = self.queue.submit(run, self._order() + after, foreign=foreign, kick=not wait, quick=quick)
        if wait:
            mark.wait()
            self.context.check()
        return mark

    def _order(self) -> tuple[Mark, ...]:
        """With the context's lock held: the marks of other streams that come before the next operation."""
        if self.is_legacy:
            others = []
            for stream in self.context.streams:
                if stream.blocking and stream is not self:
                    if stream.capture is not None:
                        stream.capture.refuse(status.STREAM_CAPTURE_IMPLICIT, "the default stream would join a capture")
                    if not stream.queue.idle():
                        others.append(stream.queue.last())
            return tuple(others)
        legacy = self.context.legacy
        if self.blocking and legacy is not None and not legacy.queue.idle():
            return (legacy.queue.last(),)
        return ()

    def pending(self) -> tuple[Mark, ...]:
        """The marks that "everything on this stream" consists of."""
        with self.context.lock:
            return (*self._order(), self.queue.last()) if self.is_legacy else (self.queue.last(),)

    def forbid_capture(self) -> None:
        """Fail a query or a wait on a capturing stream; like the driver's, it spoils the capture."""
        if self.capture is not None:
            self.capture.refuse(status.STREAM_CAPTURE_UNSUPPORTED, "the stream is capturing")


def synchronize_context(context: Context) -> None:
    """Wait for everything submitted to a context."""
    with context.lock:
        marks = [stream.queue.last() for stream in context.streams]
    for mark in marks:
        mark.wait()


class StreamApi(DriverBase):
    """``cuStream*`` and ``cuLaunchHostFunc``."""

    def new_stream(self, context: Context, *, blocking: bool, priority: int = 0, legacy: bool = False) -> Stream:
        stream = Stream(context, blocking=blocking, priority=priority, legacy=legacy)
        stream.handle = self.handles.add(stream)
        with context.lock:
            context.streams.append(stream)
        return stream

    def stream(self, handle: int) -> Stream:
        """The stream of a handle, in a healthy context: 0 and 1 are the legacy default one, 2 the thread's own."""
        if handle in LEGACY_HANDLES:
            context = self.context()
            with context.lock:
                if context.legacy is None:
                    context.legacy = self.new_stream(context, blocking=True, legacy=True)
                return context.legacy
        if handle == PER_THREAD_HANDLE:
            context = self.context()
            with context.lock:
                thread = threading.get_ident()
                if thread not in context.per_thread:
                    context.per_thread[thread] = self.new_stream(context, blocking=True)
                return context.per_thread[thread]
        stream = self.handles.get(handle, Stream)
        stream.context.check()
        return stream

    @entry
    def cuStreamCreate(self, phStream: int, Flags: int) -> None:
        self._create(phStream, Flags, 0)

    @entry
    def cuStreamCreateWithPriority(self, phStream: int, flags: int, priority: int) -> None:
        self._create(phStream, flags, priority)

    def _create(self, out: int, flags: int, priority: int) -> None:
        need(out and flags in (0, NON_BLOCKING), f"stream flags {flags}")
        clamped = max(GREATEST_PRIORITY, min(LEAST_PRIORITY, signed32(priority)))
        raw.write_u64(out, self.new_stream(self.context(), blocking=flags != NON_BLOCKING, priority=clamped).handle)

    @entry
    def cuStreamDestroy(self, hStream: int) -> None:
        need(hStream not in (0, 1, 2), "a default stream cannot be destroyed", status.INVALID_HANDLE)
        stream = self.stream(hStream)
        if stream.capture is not None:
            stream.capture.leave(stream)
        self.handles.drop(hStream)
        with stream.context.lock:
            if stream in stream.context.streams and stream.queue.idle():
                stream.context.streams.remove(stream)
            else:
                # Its work goes on; the order against the default stream must hold until that is done.
                context = stream.context
                stream.queue.submit(lambda: _forget(context, stream))
        stream.queue.close()

    @entry
    def cuStreamSynchronize(self, hStream: int) -> None:
        stream = self.stream(hStream)
        stream.forbid_capture()
        for mark in stream.pending():
            mark.wait()
        stream.context.check()

    @entry
    def cuStreamQuery(self, hStream: int) -> None:
        stream = self.stream(hStream)
        stream.forbid_capture()
        if not all(mark.reached() for mark in stream.pending()):
            give_way()
            if not all(mark.reached() for mark in stream.pending()):
                raise CudaError(status.NOT_READY)
        stream.context.check()

    @entry
    def cuStreamGetFlags(self, hStream: int, flags: int) -> None:
        raw.write_u32(flags, 0 if self.stream(hStream).blocking else NON_BLOCKING)

    @entry
    def cuStreamGetPriority(self, hStream: int, priority: int) -> None:
        raw.write_i32(priority, self.stream(hStream).priority)

    @entry
    def cuStreamGetId(self, hStream: int, streamId: int) -> None:
        raw.write_u64(streamId, self.stream(hStream).id)

    @entry
    def cuStreamGetCtx(self, hStream: int, pctx: int, pGreenCtx: int = 0) -> None:
        # The third argument is CUDA 13's form of the function.
        raw.write_u64(pctx, self.stream(hStream).context.handle)
        if pGreenCtx:
            raw.write_u64(pGreenCtx, 0)

    @entry
    def cuStreamGetDevice(self, hStream: int, device: int) -> None:
        raw.write_i32(device, self.stream(hStream).context.device.ordinal)

    @entry
    def cuStreamCopyAttributes(self, dst: int, src: int) -> None:
        self.stream(dst).attributes = dict(self.stream(src).attributes)

    @entry
    def cuStreamSetAttribute(self, hStream: int, attr: int, value: int) -> None:
        self.stream(hStream).attributes[attr] = raw.read_bytes(value, 64)

    @entry
    def cuStreamGetAttribute(self, hStream: int, attr: int, value_out: int) -> None:
        raw.write_bytes(value_out, self.stream(hStream).attributes.get(attr, bytes(64)))

    @entry
    def cuStreamAttachMemAsync(self, hStream: int, dptr: int, length: int, flags: int) -> None:
        # Managed memory is visible to host and device at all times here, so attaching it changes nothing.
        self.stream(hStream)
        found = self.space.allocations.find(dptr)
        need(found is not None and found.managed, "not managed memory")

    @entry
    def cuLaunchHostFunc(self, hStream: int, fn: int, userData: int) -> None:
        need(fn)
        self.stream(hStream).submit(
            NodeKind.HOST, lambda: call_host_function(fn, userData), foreign=True, params=(fn, userData)
        )

    @entry
    def cuStreamAddCallback(self, hStream: int, callback: int, userData: int, flags: int) -> None:
        need(callback and flags == 0)
        stream = self.stream(hStream)
        if stream.capture is not None:
            stream.capture.refuse(status.STREAM_CAPTURE_UNSUPPORTED, "callbacks cannot be captured")
        stream.submit(NodeKind.HOST, lambda: call_stream_callback(callback, hStream, 0, userData), foreign=True)

    # ---- values in memory ---------------------------------------------------------------------------------------

    @entry
    def cuStreamWaitValue32(self, stream: int, addr: int, value: int, flags: int) -> None:
        self.wait_value(stream, addr, value, flags, 4)

    @entry
    def cuStreamWaitValue64(self, stream: int, addr: int, value: int, flags: int) -> None:
        self.wait_value(stream, addr, value, flags, 8)

    @entry
    def cuStreamWriteValue32(self, stream: int, addr: int, value: int, flags: int) -> None:
        self.write_value(stream, addr, value, flags, 4)

    @entry
    def cuStreamWriteValue64(self, stream: int, addr: int, value: int, flags: int) -> None:
        self.write_value(stream, addr, value, flags, 8)

    def write_value(self, handle: int, address: int, value: int, flags: int, width: int) -> None:
        """Submit a store of ``width`` bytes."""
        stream = self.stream(handle)
        need(address % width == 0 and flags in (0, 1), "misaligned address or unknown flags")
        self.space.require(address, width)

        def run() -> None:
            with self.space.touching((address, width)):
                if width == 4:
                    raw.write_u32(address, value & 0xFFFFFFFF)
                else:
                    raw.write_u64(address, value & 0xFFFFFFFFFFFFFFFF)

        stream.submit(NodeKind.BATCH_MEM_OP, run)

    def wait_value(self, handle: int, address: int, value: int, flags: int, width: int) -> None:
        """Submit a wait until ``width`` bytes compare with ``value`` as ``flags`` say."""
        stream = self.stream(handle)
        compare = flags & ~_WAIT_FLUSH
        need(address % width == 0 and compare in (0, 1, 2, 3), "misaligned address or unknown flags")
        self.space.require(address, width)
        bits = 8 * width
        value &= (1 << bits) - 1

        def met() -> bool:
            with self.space.touching((address, width)):
                now = raw.read_u32(address) if width == 4 else raw.read_u64(address)
            if compare == 0:  # GEQ, cyclic
                return (now - value) % (1 << bits) < 1 << (bits - 1)
            if compare == 1:  # EQ
                return now == value
            if compare == 2:  # AND
                return now & value != 0
            return ~(now | value) & ((1 << bits) - 1) != 0  # NOR

        def run() -> None:
            # Nobody announces a store to memory: look again, ever more rarely, up to once a millisecond.
            step = 0.00002
            while not met():
                if stream.context.fault is not None or not stream.context.alive:
                    return
                time.sleep(step)
                step = min(step * 2, _WAIT_STEP_MAX)

        # 'foreign': it may wait for what the thread that would help is about to do.
        stream.submit(NodeKind.BATCH_MEM_OP, run, foreign=True)


def _forget(context: Context, stream: Stream) -> None:
    with context.lock:
        if stream in context.streams:
            context.streams.remove(stream)
