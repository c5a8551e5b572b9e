"""The first of migproxy's code in a function's interpreter; ``migproxy.pth`` calls it while the interpreter starts."""

from __future__ import annotations

import os

from migproxy.errors import MigproxyError


def start_function() -> None:
    """Wake the interposition, or end the process with one line: a function must not run half interposed."""
    try:
        from migproxy.interpose.wake import wake

        wake()
    except MigproxyError as error:
        # `site` reports any exception of a .pth line and goes on, so this is the only way to stop.
        os.write(2, b"migproxy: " + " ".join(str(error).split()).encode() + b"\n")
        os._exit(2)
