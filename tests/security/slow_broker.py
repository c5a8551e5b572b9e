"""A shared broker whose executors are slow at some work of their own: ``slow_broker.py SOCKET WHAT``. WHAT is
``compile`` (a launched kernel takes 2.5 s to compile), ``load`` (0.5 s, and a module 2.5 s to load) or ``forever``
(a kernel takes a minute to compile, and two seconds are the longest that may take). A kernel may run for a second.

With ``--control-fd`` it is such an executor.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

LIMIT = 1.0


def slowly(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return `function` that takes so much longer."""

    @functools.wraps(function)
    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments)

    return slow


def executor(what: str, arguments: list[str]) -> int:
    """Serve a session, slowly."""
    from migproxy.abi.ops import Op
    from migproxy.executor import __main__ as entry
    from migproxy.executor import dispatch, turns
    from migproxy.softgpu.ptx import engine

    seconds = {"compile": 2.5, "load": 0.5, "forever": 60.0}[what]
    engine.Code.linked = slowly(engine.Code.linked, seconds)  # type: ignore[method-assign]
    if what == "load":
        dispatch.load_handlers()
        dispatch.HANDLERS[Op.MODULE_LOAD] = slowly(dispatch.HANDLERS[Op.MODULE_LOAD], 2.5)
    if what == "forever":
        turns.LONGEST_LOAD = 2.0
    return entry.main(arguments)


def broker(socket: str, what: str) -> int:
    """Serve as a broker."""
    from migproxy.broker.config import BrokerConfig
    from migproxy.broker.main import main

    return main(
        BrokerConfig(
            socket=socket,
            devices=("software",),
            software_memory=1 << 30,
            default_memory=128 << 20,
            kernel_seconds=LIMIT,
            executor_command=(sys.executable, __file__, what),
        )
    )


if __name__ == "__main__":
    if "--control-fd" in sys.argv:
        from migproxy.executor.__main__ import leave

        leave(executor(sys.argv[1], sys.argv[2:]))
    sys.exit(broker(*sys.argv[1:]))
