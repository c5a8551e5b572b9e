"""The command line: one file per command. Wrong use gets one line on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from migproxy.errors import AdmissionError, MigproxyError, UsageError

_Result = TypeVar("_Result")
USAGE_EXIT = 2
FAILURE_EXIT = 1


def check_platform() -> None:
    """Refuse systems that migproxy is not made for.

    Raises
    ------
    UsageError
        Not Linux on x86-64, or not CPython 3.11 to 3.14.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise UsageError(f"migproxy runs on Linux on x86-64; this is {sys.platform} on {os.uname().machine}")
    if not (3, 11) <= sys.version_info[:2] <= (3, 14) or sys.implementation.name != "cpython":
        version = ".".join(map(str, sys.version_info[:3]))
        raise UsageError(f"migproxy needs CPython 3.11 to 3.14; this is {sys.implementation.name} {version}")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code, result = guarded(lambda: _command(given))
    return code or result or 0


def _command(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        from migproxy.cli.run import main as run

        return run(arguments[1:])
    from migproxy.cli.commands import invoke

    return invoke(arguments or ["--help"])


def guarded(action: Callable[[], _Result]) -> tuple[int, _Result | None]:
    """Do `action`; returns 0 and its result, or an exit code and None after one line on stderr."""
    try:
        check_platform()
        return 0, action()
    except (UsageError, AdmissionError) as error:
        return complain(str(error), USAGE_EXIT), None
    except MigproxyError as error:
        return complain(str(error), FAILURE_EXIT), None


def complain(text: str, code: int) -> int:
    """Print one line to stderr and return `code`."""
    print("migproxy: " + " ".join(text.split()), file=sys.stderr)
    return code
