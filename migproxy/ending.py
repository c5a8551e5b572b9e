"""What must happen when the interpreter ends, after everything that the function itself does then.

Exit handlers run in reverse order of registration. A function's own handlers, and those of its libraries (which free
device memory
there), must still find their GPU. So `prepare`, called when the interpreter starts, registers a single handler,
which therefore runs
last; actions are added to it later.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

_actions: list[Callable[[], object]] = []
_prepared = False


def prepare() -> None:
    """Take the last place among the exit handlers registered from now on; calling it again changes nothing."""
    global _prepared
    if not _prepared:
        _prepared = True
        atexit.register(_run)


def at_end(action: Callable[[], object]) -> None:
    """Run `action` when the interpreter ends; actions run in reverse order, each once."""
    prepare()
    if action not in _actions:
        _actions.append(action)


def _run() -> None:
    while _actions:
        _actions.pop()()
