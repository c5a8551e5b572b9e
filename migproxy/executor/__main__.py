"""``python -m migproxy.executor --control-fd N``: started by the broker, never by hand."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import socket
import sys

from migproxy.errors import MigproxyError, SessionLost
from migproxy.executor import bootstrap
from migproxy.executor.caches import separate
from migproxy.executor.notes import log_to_broker
from migproxy.executor.opened import open_in_advance
from migproxy.executor.sandbox import confine

log = logging.getLogger("migproxy.executor")

SWITCH_SECONDS = 2e-4


def main(arguments: list[str]) -> int:
    """Serve one session; returns the exit code."""
    if len(arguments) != 2 or arguments[0] != "--control-fd" or not arguments[1].isdecimal():
        print("migproxy.executor is started by a broker, with --control-fd N", file=sys.stderr)
        return 2
    sock = bootstrap.open_control(int(arguments[1]))
    log_to_broker(sock)
    try:
        # A report or a trace, made on another thread, must not hold the one that serves commands up for milliseconds.
        sys.setswitchinterval(SWITCH_SECONDS)
        bootstrap.die_with_broker()
        confine()
        preload()
        opened = open_in_advance()
        preload_plugins(sock)
        opened = opened and opened.measured_again()
        spec, fds = bootstrap.receive_spec(sock)
        separate(spec.owner_uid, spec.cache_dir)
        try:
            from migproxy.executor.main import serve

            serve(spec, fds, sock, opened)
        except SessionLost:
            raise
        except Exception as error:
            log.exception("the executor failed")
            bootstrap.fail(sock, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            return 1
    except SessionLost:
        return 0  # the broker is gone: nobody to tell
    except MigproxyError:
        return 1
    return 0


#: Plugins on the broker's allow-list, by commas: what they need can be imported before a session is there.
PRELOAD_VARIABLE = "MIGPROXY_PRELOAD"
#: A session that comes within so many seconds of the start does not wait for imports that it may not need.
PATIENCE = 0.5
#: setvbuf(3): no buffer.
_IONBF = 2


def preload() -> None:
    """Import and compile what every session needs, before this one is known: a warm executor has it all behind it."""
    from migproxy.executor import flight_tables_unsafe, lease, main, pump_tables, repeat_tables_unsafe  # noqa: F401
    from migproxy.executor.dispatch import load_handlers

    load_handlers()
    pump_tables.compile_pump()
    lease.compile_words()
    repeat_tables_unsafe.compile_repeats()
    flight_tables_unsafe.calibrate()
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        from migproxy.softgpu import libcuda  # noqa: F401


def preload_plugins(sock: socket.socket) -> None:
    """While no session comes: have the plugins import what their calls need."""
    from migproxy.executor import plugin_host

    for name in filter(None, os.environ.get(PRELOAD_VARIABLE, "").split(",")):
        if select.select([sock], [], [], PATIENCE)[0]:
            return
        plugin_host.preload(name)


def leave(code: int) -> None:
    """End without finalising: a driver's exit handlers wait for kernels, and one that hangs would keep this process
    for ever."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the function's end of a pipe may be closed
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def print_at_once() -> None:
    """Leave nothing that a driver prints for kernels in this process's buffers: others write to the same place."""
    library = ctypes.CDLL(None)
    library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _IONBF, ctypes.c_size_t(0))


if __name__ == "__main__":
    print_at_once()
    leave(main(sys.argv[1:]))
