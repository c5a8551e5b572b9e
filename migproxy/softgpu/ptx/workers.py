"""Worker threads and their contexts: shared-memory windows, scheduler arrays, frames, local memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import threading
from collections.abc import Callable
from functools import cache

from migproxy.softgpu.ptx.layout import CONTEXT, PADDED, SHADOW

#: a shared window is this much address space, most of it inaccessible, so that any 32-bit offset stays inside
WINDOW = 1 << 32
_GUARD = 1 << 20
_PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE


def _map(size: int, protection: int) -> int:
    address = _libc.mmap(None, size, protection, _ANONYMOUS, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise MemoryError(f"cannot map {size} bytes")
    return int(address)


class Area:
    """Memory that grows on demand; what was in it is lost then. A guard page follows it."""

    def __init__(self) -> None:
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> int:
        """At least `size` bytes; the address."""
        if size > self.size:
            if self.address:
                _libc.munmap(self.address, self.size + _PAGE)
            self.size = -(-max(size, _PAGE) // _PAGE) * _PAGE
            self.address = _map(self.size + _PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
            _libc.mprotect(self.address + self.size, _PAGE, 0)
        return self.address


_ARRAYS = {"resume": 4, "returned": 4, "state": 1, "kind": 4, "mask": 4, "value": 8, "aux": 4, "result": 8, "group": 4,
           "tidx": 4, "tidy": 4, "tidz": 4}  # fmt: skip


class Context:
    """What one worker needs to run blocks; used by one thread at a time."""

    def __init__(self, number: int) -> None:
        arrays = sum(size * PADDED for size in _ARRAYS.values())
        self._memory = Area()
        self.address = self._memory.reserve(CONTEXT.size + arrays)
        self.window = _map(WINDOW + 2 * _GUARD, 0) + _GUARD
        self._shared = 0
        self._prepared = (0, 0, 0, 0)
        self._frame = Area()
        self._local = Area()
        self._shadow = Area()
        at = self.address + CONTEXT.size
        for name, size in _ARRAYS.items():
            self.set(name, at)
            at += size * PADDED
        self.set("shared", self.window)
        self.set("worker", number)

    def set(self, field: str, value: int) -> None:
        """Write a field of the context."""
        size = ctypes.c_uint32 if CONTEXT.kind[field] == "i32" else ctypes.c_uint64
        size.from_address(self.address + CONTEXT.offset[field]).value = value

    def get(self, field: str) -> int:
        """Read a field of the context."""
        size = ctypes.c_uint32 if CONTEXT.kind[field] == "i32" else ctypes.c_uint64
        return int(size.from_address(self.address + CONTEXT.offset[field]).value)

    def prepare(self, threads: int, shared: int, frame_bytes: int, local_bytes: int) -> None:
        """Make room for blocks of this many threads."""
        wanted = (threads, shared, frame_bytes, local_bytes)
        if wanted == self._prepared:
            return
        self._prepared = wanted
        self.set("frame", self._frame.reserve(frame_bytes * PADDED))
        self.set("local", self._local.reserve(local_bytes * threads))
        shared = -(-shared // _PAGE) * _PAGE
        if shared > self._shared:
            _libc.mprotect(self.window, shared, mmap.PROT_READ | mmap.PROT_WRITE)
        elif shared < self._shared:
            _libc.mprotect(self.window + shared, self._shared - shared, 0)
        self._shared = shared

    def check(self, shared: int, allocations: int) -> None:
        """Make a shadow of `shared` bytes of shared memory for check mode; none for a negative number."""
        self.set("shadow", self._shadow.reserve(max(shared, 1) * SHADOW.size) if shared >= 0 else 0)
        self.set("allocations", allocations)


#: what a thread's stack must have left for what runs on it besides kernels: handlers, the printer
_RESERVE = 256 << 10
_ATTRIBUTES = 64  # bytes of a pthread_attr_t, with room
_known = threading.local()


def stack_limit() -> int:
    """The address below which the calling thread's stack must not grow in a kernel."""
    limit: int | None = getattr(_known, "limit", None)
    if limit is None:
        attributes = (ctypes.c_uint64 * _ATTRIBUTES)()
        low, size = ctypes.c_uint64(), ctypes.c_uint64()
        _libc.pthread_self.restype = ctypes.c_uint64
        if _libc.pthread_getattr_np(ctypes.c_uint64(_libc.pthread_self()), attributes):
            return 0  # unknown: an overflow is the process's end, as in any other code
        _libc.pthread_attr_getstack(attributes, ctypes.byref(low), ctypes.byref(size))
        _libc.pthread_attr_destroy(attributes)
        limit = _known.limit = low.value + min(_RESERVE, size.value // 4)
    return limit


class Ticket:
    """A launch that helpers may join until it is closed."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.running = 0
        self.closed = False
        self.condition = threading.Condition()

    def join_in(self) -> None:
        """A helper's part."""
        with self.condition:
            if self.closed:
                return
            self.running += 1
        try:
            self.work()
        finally:
            with self.condition:
                self.running -= 1
                self.condition.notify_all()

    def close(self) -> None:
        """No more helpers; wait for those inside."""
        with self.condition:
            self.closed = True
            while self.running:
                self.condition.wait()


@cache
def thread_count() -> int:
    """Worker threads of this process: ``MIGPROXY_SOFTGPU_THREADS``, or one for each processor we may use."""
    named = os.environ.get("MIGPROXY_SOFTGPU_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0))


class Pool:
    """The process's helper threads and free contexts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: list[Context] = []
        self.made = 0
        self.tickets: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self.helpers = 0
        self.idle = 0

    def take(self) -> Context:
        """A context of one's own, until `give`."""
        with self.lock:
            if self.free:
                return self.free.pop()
            self.made += 1
            return Context(self.made - 1)

    def give(self, context: Context) -> None:
        """Return a context."""
        with self.lock:
            self.free.append(context)

    def help(self, ticket: Ticket, count: int) -> None:
        """Invite up to `count` helpers."""
        with self.lock:
            wanted = min(count, thread_count() - 1)
            while self.helpers < wanted:
                self.helpers += 1
                threading.Thread(target=self._loop, name=f"softgpu-{self.helpers}", daemon=True).start()
        for _ in range(wanted):
            self.tickets.put(ticket)

    def _loop(self) -> None:
        while True:
            self.tickets.get().join_in()


_pool = Pool()


def pool() -> Pool:
    """The process's pool."""
    return _pool


def _after_fork() -> None:
    global _pool
    _pool = Pool()


os.register_at_fork(after_in_child=_after_fork)
