"""Errors of library calls that had returned before they failed, until somebody tells them.

A call that waits for nothing is over for its caller when it leaves. CUDA never reports a library's status, so that a
synchronisation by `cuda.bindings` or Numba does not fail for it. It is told by the next call of a library of the same
package, or by a front end that speaks for that library, as CuPy's own streams do; and on stderr in the end, if nobody
told it.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

#: Library → the facts of its first error that nobody has told yet. Looked at without the lock: almost always empty.
pending: dict[str, dict[str, Any]] = {}
_lock = threading.Lock()


def note(facts: dict[str, Any]) -> None:
    """Keep an error, unless one of the same library is kept already."""
    with _lock:
        pending.setdefault(str(facts.get("library", "")), facts)


def take(package: str) -> dict[str, Any] | None:
    """Return and forget the first error of a library whose name begins so; None if there is none."""
    with _lock:
        for library in pending:
            if library.startswith(package):
                return pending.pop(library)
    return None


def forget() -> None:
    """Drop all: in a forked child they are the parent's."""
    pending.clear()


def report() -> None:
    """Say on stderr what nobody told, when the session ends."""
    with _lock:
        left = list(pending.values())
        pending.clear()
    for facts in left:
        text = facts.get("message") or "the log of the broker says why"
        print(f"migproxy: {called(facts)} failed after it had returned: {text}", file=sys.stderr)


def called(facts: dict[str, Any]) -> str:
    """Return which function an error is of, as people write it."""
    return ".".join(filter(None, (str(facts.get("library", "")), str(facts.get("function", ""))))) or "a library call"
