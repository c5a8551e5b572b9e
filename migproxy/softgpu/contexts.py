"""Contexts: the primary one of each device, others, and each thread's stack of them."""

from __future__ import annotations

from migproxy.errors import CudaError
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.card import Device
from migproxy.softgpu.devices import DeviceApi
from migproxy.softgpu.events import Event, EventApi
from migproxy.softgpu.state import Context, entry, need
from migproxy.softgpu.streams import GREATEST_PRIORITY, LEAST_PRIORITY, Stream, synchronize_context

_API_VERSION = 3020
_FLAGS = 0xFF


class ContextApi(EventApi, DeviceApi):
    """``cuCtx*`` and ``cuDevicePrimaryCtx*``."""

    def _any_context(self, handle: int) -> Context:
        return self.handles.get(handle, Context, status.INVALID_CONTEXT)

    def _current_even_if_faulty(self) -> Context:
        context = self.current()
        if context is None:
            raise CudaError(status.INVALID_CONTEXT, "this thread has no current context")
        if not context.alive:
            raise CudaError(status.CONTEXT_IS_DESTROYED)
        return context

    # ---- primary contexts ---------------------------------------------------------------------------------------

    @entry
    def cuDevicePrimaryCtxRetain(self, pctx: int, dev: int) -> None:
        need(pctx)
        device = self.device(dev)
        with self.lock:
            context = self.primary.get(dev)
            if context is None:
                context = self.primary[dev] = Context(device, 0, primary=True)
                context.handle = self.handles.add(context)
                context.alive = False
            _refuse_after_fault(device)
            if not context.alive:
                # The same object again: a thread that had it current has it current still.
                context.renew(self.primary_flags.get(dev, 0))
            self.primary_references[dev] = self.primary_references.get(dev, 0) + 1
            raw.write_u64(pctx, context.handle)

    @entry
    def cuDevicePrimaryCtxRelease(self, dev: int) -> None:
        self.device(dev)
        with self.lock:
            need(self.primary_references.get(dev, 0) > 0, "not retained", status.INVALID_CONTEXT)
            self.primary_references[dev] -= 1
            if self.primary_references[dev] == 0:
                self._destroy(self.primary[dev])

    @entry
    def cuDevicePrimaryCtxReset(self, dev: int) -> None:
        self.device(dev)
        with self.lock:
            self.primary_references[dev] = 0
            context = self.primary.get(dev)
        if context is not None and context.alive:
            self._destroy(context)

    @entry
    def cuDevicePrimaryCtxGetState(self, dev: int, flags: int, active: int) -> None:
        self.device(dev)
        context = self.primary.get(dev)
        raw.write_u32(flags, self.primary_flags.get(dev, 0))
        raw.write_i32(active, int(context is not None and context.alive))

    @entry
    def cuDevicePrimaryCtxSetFlags(self, dev: int, flags: int) -> None:
        self.device(dev)
        need(not flags & ~_FLAGS, f"flags {flags:#x}")
        with self.lock:
            self.primary_flags[dev] = flags
            if dev in self.primary:
                self.primary[dev].flags = flags

    # ---- other contexts -----------------------------------------------------------------------------------------

    @entry
    def cuCtxCreate(self, pctx: int, *rest: int) -> None:
        # CUDA 12: (pctx, flags, dev); _v3: (pctx, affinities, count, flags, dev); CUDA 13: (pctx, params, flags, dev).
        need(pctx and len(rest) in (2, 3, 4), f"cuCtxCreate with {1 + len(rest)} arguments")
        flags, dev = rest[-2:]
        need(not any(rest[:-2]), "execution affinity is not supported", status.NOT_SUPPORTED)
        need(not flags & ~_FLAGS, f"flags {flags:#x}")
        _refuse_after_fault(self.device(dev))
        context = Context(self.device(dev), flags, primary=False)
        context.handle = self.handles.add(context)
        self.context_stack.append(context)
        raw.write_u64(pctx, context.handle)

    @entry
    def cuCtxDestroy(self, ctx: int) -> None:
        context = self._any_context(ctx)
        need(not context.primary, "primary contexts are released, not destroyed", status.INVALID_CONTEXT)
        if self.current() is context:
            self.context_stack.pop()
        self._destroy(context)

    def _destroy(self, context: Context) -> None:
        """End a context and give back all that is its own."""
        if context.fault is None:
            synchronize_context(context)
        context.alive = False
        for stream in list(context.streams):
            stream.queue.wait(stream.queue.submitted)
            stream.queue.close()
            self.handles.drop(stream.handle)
        for event in self.handles.of_kind(Event):
            if event.context is context:
                self.handles.drop(event.handle)
        for stream in self.handles.of_kind(Stream):
            if stream.context is context:
                self.handles.drop(stream.handle)
        for allocation in list(self.space.allocations):
            if allocation.context_handle == context.handle:
                self.space.free(allocation.base)
        for pinned in list(self.space.host):
            if pinned.context_handle == context.handle:
                (self.space.host_free if pinned.owned else self.space.host_unregister)(pinned.base)
        self.forget_context(context)
        if not context.primary:
            self.handles.drop(context.handle)

    def forget_context(self, context: Context) -> None:
        """For the parts that keep more objects of a context: drop them."""

    # ---- the calling thread's stack -----------------------------------------------------------------------------

    @entry
    def cuCtxPushCurrent(self, ctx: int) -> None:
        need(ctx)
        self.context_stack.append(self._any_context(ctx))

    @entry
    def cuCtxPopCurrent(self, pctx: int) -> None:
        context = self.current()
        if context is None:
            raise CudaError(status.INVALID_CONTEXT, "this thread has no current context")
        self.context_stack.pop()
        if pctx:
            raw.write_u64(pctx, context.handle)

    @entry
    def cuCtxSetCurrent(self, ctx: int) -> None:
        stack = self.context_stack
        if ctx == 0:
            if stack:
                stack.pop()
            return
        context = self._any_context(ctx)
        if stack:
            stack[-1] = context
        else:
            stack.append(context)

    @entry
    def cuCtxGetCurrent(self, pctx: int) -> None:
        need(pctx)
        context = self.current()
        raw.write_u64(pctx, context.handle if context else 0)

    @entry
    def cuCtxGetDevice(self, device: int, ctx: int = 0) -> None:
        # CUDA 13's second form takes the context.
        need(device)
        context = self._any_context(ctx) if ctx else self._current_even_if_faulty()
        raw.write_i32(device, context.device.ordinal)

    @entry
    def cuCtxGetId(self, ctx: int, ctxId: int) -> None:
        need(ctxId)
        context = self._any_context(ctx) if ctx else self._current_even_if_faulty()
        raw.write_u64(ctxId, context.id)

    @entry
    def cuCtxGetApiVersion(self, ctx: int, version: int) -> None:
        need(version)
        _ = self._any_context(ctx) if ctx else self._current_even_if_faulty()
        raw.write_u32(version, _API_VERSION)

    @entry
    def cuCtxGetFlags(self, flags: int) -> None:
        raw.write_u32(flags, self._current_even_if_faulty().flags)

    @entry
    def cuCtxSetFlags(self, flags: int) -> None:
        need(not flags & ~_FLAGS, f"flags {flags:#x}")
        self.context().flags = flags

    @entry
    def cuCtxGetStreamPriorityRange(self, leastPriority: int, greatestPriority: int) -> None:
        self.context()
        if leastPriority:
            raw.write_i32(leastPriority, LEAST_PRIORITY)
        if greatestPriority:
            raw.write_i32(greatestPriority, GREATEST_PRIORITY)

    @entry
    def cuCtxGetLimit(self, pvalue: int, limit: int) -> None:
        limits = self.context().limits
        need(pvalue)
        need(limit in limits, f"limit {limit}")
        raw.write_u64(pvalue, limits[limit])

    @entry
    def cuCtxSetLimit(self, limit: int, value: int) -> None:
        context = self.context()
        need(limit in context.limits, f"limit {limit}")
        need(value <= context.device.total, f"limit {limit} of {value} bytes", status.OUT_OF_MEMORY)
        context.limits[limit] = value

    @entry
    def cuCtxGetCacheConfig(self, pconfig: int) -> None:
        raw.write_i32(pconfig, self.context().cache_config)

    @entry
    def cuCtxSetCacheConfig(self, config: int) -> None:
        need(config in (0, 1, 2, 3), f"cache configuration {config}")
        self.context().cache_config = config

    @entry
    def cuCtxGetSharedMemConfig(self, pConfig: int) -> None:
        raw.write_i32(pConfig, self.context().shared_config)

    @entry
    def cuCtxSetSharedMemConfig(self, config: int) -> None:
        need(config in (0, 1, 2), f"shared memory configuration {config}")
        self.context().shared_config = config

    @entry
    def cuCtxResetPersistingL2Cache(self) -> None:
        self.context()

    @entry
    def cuCtxEnablePeerAccess(self, peerContext: int, Flags: int) -> None:
        context, peer = self.context(), self._any_context(peerContext)
        need(Flags == 0, f"flags {Flags}")
        need(peer.device is not context.device, "the same device", status.INVALID_DEVICE)
        need(peer.id not in context.peers, "", status.PEER_ACCESS_ALREADY_ENABLED)
        context.peers.add(peer.id)

    @entry
    def cuCtxDisablePeerAccess(self, peerContext: int) -> None:
        context, peer = self.context(), self._any_context(peerContext)
        need(peer.id in context.peers, "", status.PEER_ACCESS_NOT_ENABLED)
        context.peers.remove(peer.id)


def _refuse_after_fault(device: Device) -> None:
    if device.fault is not None:
        raise CudaError(device.fault.status, device.fault.detail)
