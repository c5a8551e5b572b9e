"""The first of migproxy's code in an interpreter; ``migproxy.pth`` calls it while the interpreter starts."""

from __future__ import annotations

import os
import sys


def start() -> None:
    """Become a function, if this interpreter was started for ``migproxy run``, and begin as one, if this is one."""
    if sys.argv[1:2] == ["run"]:
        from migproxy.cli import early

        early.become()
    if os.environ.get("MIGPROXY_ACTIVE") == "1":
        start_function()


def start_function() -> None:
    """Wake the interposition, or end the process with one line: a function must not run half interposed."""
    from migproxy.errors import MigproxyError

    try:
        from migproxy.interpose.wake import wake

        wake()
    except MigproxyError as error:
        # `site` reports any exception of a .pth line and goes on, so this is the only way to stop.
        os.write(2, b"migproxy: " + " ".join(str(error).split()).encode() + b"\n")
        os._exit(2)
