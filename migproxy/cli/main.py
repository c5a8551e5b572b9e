"""The command line: one file per command. Wrong use gets one line on stderr and exit code 2."""

from __future__ import annotations

import platform
import sys

from migproxy.errors import AdmissionError, MigproxyError, UsageError

USAGE_EXIT = 2
FAILURE_EXIT = 1


def check_platform() -> None:
    """Refuse systems that migproxy is not made for.

    Raises
    ------
    UsageError
        Not Linux on x86-64, or not CPython 3.11 to 3.14.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UsageError(f"migproxy runs on Linux on x86-64; this is {sys.platform} on {platform.machine()}")
    if not (3, 11) <= sys.version_info[:2] <= (3, 14) or platform.python_implementation() != "CPython":
        raise UsageError(
            "migproxy needs CPython 3.11 to 3.14; "
            f"this is {platform.python_implementation()} {platform.python_version()}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_platform()
        if arguments[:1] == ["run"]:
            from migproxy.cli.run import main as run

            return run(arguments[1:])
        from migproxy.cli.commands import invoke

        return invoke(arguments or ["--help"])
    except (UsageError, AdmissionError) as error:
        return complain(str(error), USAGE_EXIT)
    except MigproxyError as error:
        return complain(str(error), FAILURE_EXIT)


def complain(text: str, code: int) -> int:
    """Print one line to stderr and return `code`."""
    print("migproxy: " + " ".join(text.split()), file=sys.stderr)
    return code
