"""A function that needs no GPU library, so that it starts quickly: for tests and measurements of containment.

``victim.py tour``: does every kind of work again and again, tells ``ready`` after the first round and, at the first
error, the names of the error and its causes, and when it came (CLOCK_MONOTONIC).

``victim.py nonsense``: sends malformed commands of every operation, each in a session of its own, and tells for how
many of them the session went on or was closed with an error; what is neither is an error of this program.

``victim.py fork``: for each line of its input starts a child that opens a session of its own and does work of every
kind in random order until it is killed; tells the child's pid, and ``ready PID`` once it computes. ``victim.py herd``:
the same with children that compute once and are idle then.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.errors import MigproxyError, SessionLost
from migproxy.session import api, session

PTX = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry add_one(.param .u64 place, .param .u32 count)
{
    .reg .pred %p1;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    .reg .f32 %f<3>;
    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra END;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd2, %rd2, %rd3;
    ld.global.f32 %f1, [%rd2];
    add.f32 %f2, %f1, 0f3F800000;
    st.global.f32 [%rd2], %f2;
END:
    ret;
}
\0"""
COUNT = 1024
BYTES = 4 * COUNT


class Work:
    """What a session does; every method is one kind of work and checks its result where it has one."""

    def __init__(self) -> None:
        api.init()
        api.ensure_context()
        self.module = api.module_load(PTX)
        self.function = api.module_function(self.module, b"add_one")
        self.place = api.mem_alloc(BYTES)
        self.host = api.host_alloc(BYTES)
        self.values = (ctypes.c_float * COUNT).from_address(self.host)
        self.kinds = [self.kernel, self.memory, self.streams, self.events, self.modules, self.fill, self.grow]

    def kernel(self, stream: int = 0) -> None:
        """Copy there, launch, copy back."""
        self.values[0] = self.values[COUNT - 1] = 1.0
        api.memcpy_htod(self.place, self.host, BYTES, stream)
        place, count = ctypes.c_uint64(self.place), ctypes.c_uint32(COUNT)
        parameters = (ctypes.c_void_p * 2)(ctypes.addressof(place), ctypes.addressof(count))
        for _ in range(3):
            grid, block = (COUNT // 128, 1, 1), (128, 1, 1)
            api.launch(self.function, grid, block, 0, stream, ctypes.addressof(parameters))
        api.memcpy_dtoh(self.host, self.place, BYTES, stream)
        api.stream_synchronize(stream)
        if (self.values[0], self.values[COUNT - 1]) != (4.0, 4.0):
            print("wrong", self.values[0], flush=True)

    def memory(self) -> None:
        """Map and unmap device memory."""
        pointers = [api.mem_alloc(size) for size in (100, 3 << 20, 5 << 20)]
        for pointer in pointers:
            api.mem_free(pointer)
        api.context_synchronize()

    def streams(self) -> None:
        """Work on a stream that comes and goes."""
        stream = api.stream_create()
        self.kernel(stream)
        api.stream_destroy(stream)

    def events(self) -> None:
        """Measure a kernel."""
        first, last = api.event_create(), api.event_create()
        api.event_record(first)
        self.kernel()
        api.event_record(last)
        api.event_synchronize(last)
        api.event_elapsed_time(first, last)
        for event in (first, last):
            api.event_destroy(event)

    def modules(self) -> None:
        """Load code that is used once."""
        module = api.module_load(PTX)
        api.module_function(module, b"add_one")
        api.module_unload(module)

    def fill(self) -> None:
        """Fill memory and copy it on the device."""
        api.memset(self.place, 7, 1, BYTES)
        api.memcpy_dtod(self.place, self.place + BYTES // 2, BYTES // 2)
        api.context_synchronize()

    def grow(self) -> None:
        """Take pinned memory, more than the arena has at first every now and then."""
        block = api.host_alloc(random.choice([1 << 16, 1 << 20, 40 << 20]))
        api.host_free(block)


def causes(error: BaseException | None) -> list[str]:
    """Return the names of an error and of its causes."""
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__cause__
    return names


def tour() -> None:
    """Do everything in turn until the session ends."""
    told = False
    try:
        work: Any = Work()
        while True:
            for kind in work.kinds:
                kind()
            if not told:
                told = True
                print("ready", flush=True)
    except Exception as error:
        print("ended", *causes(error), time.monotonic(), flush=True)


def idle() -> None:
    """Compute once and then do nothing."""
    work = Work()
    work.kernel()
    print(f"ready {os.getpid()}", flush=True)
    while True:
        signal.pause()


def child() -> None:
    """Work in random order, for ever."""
    chooser = random.Random(os.getpid())
    work = Work()
    work.kernel()
    print(f"ready {os.getpid()}", flush=True)
    while True:
        chooser.choice(work.kinds)()


def fork(what: Callable[[], None]) -> None:
    """Start a child for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            what()
        print(pid, flush=True)


def nonsense() -> None:
    """Send each operation with bytes that mean nothing."""
    seen = {"went-on": 0, "closed": 0}
    at_once = len(os.sched_getaffinity(0)) // 2 or 1
    left = [*map(int, Op), 49, 999, 0xFFFF]  # 49 was an operation once
    running = 0
    while left or running:
        if left and running < at_once:
            op = left.pop()
            if not os.fork():
                os._exit(send_nonsense(op, random.Random(op)))
            running += 1
            continue
        _, code = os.wait()
        running -= 1
        seen[("went-on", "closed")[os.waitstatus_to_exitcode(code)]] += 1
    print(*(f"{name}:{count}" for name, count in seen.items() if count), flush=True)


def send_nonsense(op: int, chooser: random.Random) -> int:
    """Return 0 if the session still computes after some malformed commands, 1 if it was closed with an error."""
    work = Work()
    ring = session.current().ring
    try:
        for length in (0, 1, 8, 24, 48, 448):
            payload = bytes(chooser.choice([0, 1, 0x7F, 0xFF, chooser.randrange(256)]) for _ in range(length))
            number = ring.submit(op, payload, flags=layout.FLAG_WAIT, stream=chooser.choice([0, 1 << 63, 77]))
            ring.wait(number, 10.0)
        for address, size in ((0, 64), (work.host, 1 << 31), (work.host + 64, 1 << 20)):
            number = ring.submit(op, b"", flags=layout.FLAG_WAIT, spill=(address, size))
            ring.wait(number, 10.0)
        work.kernel()
    except (MigproxyError, SessionLost):
        return 1
    return 0


if __name__ == "__main__":
    modes = {"tour": tour, "fork": lambda: fork(child), "herd": lambda: fork(idle), "nonsense": nonsense}
    modes[sys.argv[1]]()
