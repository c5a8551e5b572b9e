"""An executor that SIGKILLs itself at a named step of its work: for tests and measurements of containment.

Usage, as a broker's ``executor_command``: ``killing_executor.py PLAN --control-fd N``. PLAN is the path of a file whose
content is the step at which the next session's executor dies. The executor that takes a step empties the file, so that
the executors after it live, and writes ``died TIME`` (CLOCK_MONOTONIC) into it at the end. Steps are ``KIND:NAME`` with
an optional ``:COUNT``, the occurrence that kills:

=====================  ======================================================================================
``before:FUNCTION``    before a driver function, which machine code or Python calls for a command
``after:FUNCTION``     behind it: the work is on its way, nothing was answered
``handler:OPERATION``  before the handler of an operation that Python carries out
``handled:OPERATION``  behind it, before the answer
``answering:half``     the answer's bytes are there, its sequence number is not
``answering:done``     the answer is there, its waiter was not woken
``lease:put``          between two stores of a hand-over of the compute lease
``lease:swap``         behind a compare-and-swap of the lease
``start:NAME``         at start: ``spec``, ``mapped``, ``ready``
=====================  ======================================================================================
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from migproxy.abi.ops import Op
from migproxy.arena import ring
from migproxy.executor import __main__ as entry
from migproxy.executor import bootstrap, dispatch, driver, lease, main

_PROTOTYPES = {
    "cuLaunchKernel": (ctypes.c_uint64,) + (ctypes.c_uint32,) * 7 + (ctypes.c_uint64,) * 3,
    "cuMemcpyHtoDAsync": (ctypes.c_uint64,) * 4,
    "cuMemcpyDtoHAsync": (ctypes.c_uint64,) * 4,
    "cuEventRecord": (ctypes.c_uint64,) * 2,
}


def die() -> None:
    """End as by kill -9; the plan says when."""
    with open(sys.argv[1], "w") as file:
        file.write(f"died {time.monotonic()}")
    os.kill(os.getpid(), signal.SIGKILL)


def take_step(path: str) -> str:
    """Return the plan's step and empty the plan."""
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        step = file.read().strip()
        file.truncate(0)
    return step


def around(function: Callable[..., Any], count: int, *, before: bool) -> Callable[..., Any]:
    """Return `function` that dies at its call number `count`."""
    left = count

    def killing(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and before:
            die()
        result = function(*arguments, **named)
        if left == 0:
            die()
        return result

    return killing


def plant_in_driver(name: str, count: int, *, before: bool) -> None:
    """Have a driver function kill, both for machine code, which has its address, and for Python."""
    kept = []
    for kind in (driver.NativeDriver, driver.SoftwareDriver):
        real_pointer, real_status = kind.pointer, kind.status

        def pointer(self: Any, asked: str, *more: int, real: Any = real_pointer) -> int:
            address: int = real(self, asked, *more)
            if asked != name:
                return address
            prototype = ctypes.CFUNCTYPE(ctypes.c_int, *_PROTOTYPES[name])
            kept.append(prototype(around(prototype(address), count, before=before)))
            return ctypes.cast(kept[-1], ctypes.c_void_p).value or 0

        def status(self: Any, asked: str, *arguments: int, real: Any = real_status) -> int:
            call = around(real, 1, before=before) if asked == name and count == 1 else real
            answer: int = call(self, asked, *arguments)
            return answer

        kind.pointer, kind.status = pointer, status  # type: ignore[method-assign, assignment]


def plant(step: str) -> None:
    """Arrange for this process to die at `step`."""
    kind, name, *rest = step.split(":")
    count = int(rest[0]) if rest else 1
    if kind in ("before", "after"):
        plant_in_driver(name, count, before=kind == "before")
    elif kind in ("handler", "handled"):
        dispatch.load_handlers()
        operation = Op[name]
        dispatch.HANDLERS[operation] = around(dispatch.HANDLERS[operation], count, before=kind == "handler")
    elif kind == "answering":
        real = ring.Consumer.reply

        def half(self: Any, number: int, status: int, data: bytes) -> None:
            nonlocal count
            count -= 1
            if count:
                real(self, number, status, data)
                return
            line = self.base + ring.layout.REPLY_OFFSET + number % ring.layout.SLOT_COUNT * ring.layout.REPLY_SIZE
            body = ring.layout.REPLY_HEADER.pack(0, status, len(data))[8:] + data
            ctypes.memmove(line + 8, body, len(body))
            die()

        ring.Consumer.reply = half if name == "half" else around(real, count, before=False)  # type: ignore[method-assign]
    elif kind == "lease":
        swap, put = lease.compile_words()
        words = (around(swap, count, before=False), put) if name == "swap" else (swap, around(put, count, before=False))
        lease.compile_words = lambda: words  # type: ignore[assignment]
    elif kind == "start":
        owner, function = {
            "spec": (bootstrap, "receive_spec"),
            "mapped": (main, "_map_arena"),
            "ready": (main, "_open_lease"),
        }[name]
        setattr(owner, function, around(getattr(owner, function), 1, before=False))
    else:
        raise SystemExit(f"no step {step!r}")


if __name__ == "__main__":
    chosen = take_step(sys.argv[1])
    if ":" in chosen:
        plant(chosen)
    entry.leave(entry.main(sys.argv[2:]))
