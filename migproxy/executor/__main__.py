"""``python -m migproxy.executor --control-fd N``: started by the broker, never by hand."""

from __future__ import annotations

import os
import sys

from migproxy.errors import MigproxyError, SessionLost
from migproxy.executor import bootstrap


def main(arguments: list[str]) -> int:
    """Serve one session; returns the exit code."""
    if len(arguments) != 2 or arguments[0] != "--control-fd" or not arguments[1].isdecimal():
        print("migproxy.executor is started by a broker, with --control-fd N", file=sys.stderr)
        return 2
    sock = bootstrap.open_control(int(arguments[1]))
    try:
        bootstrap.die_with_broker()
        spec, fds = bootstrap.receive_spec(sock)
        try:
            from migproxy.executor.main import serve

            serve(spec, fds, sock)
        except SessionLost:
            raise
        except (MigproxyError, OSError, ImportError) as error:
            bootstrap.fail(sock, f"{type(error).__name__}: {error}")
            return 1
    except SessionLost:
        return 0  # the broker is gone: nobody to tell
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter is not taken down: threads of the device may still be in Python, and stderr is the function's.
    os._exit(code)
