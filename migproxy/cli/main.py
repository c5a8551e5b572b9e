"""The command line: one file per command. Wrong use gets one line on stderr and exit code 2."""

from __future__ import annotations

import platform
import sys

import typer

from migproxy.errors import AdmissionError, MigproxyError, UsageError

USAGE_EXIT = 2
FAILURE_EXIT = 1

app = typer.Typer(
    name="migproxy",
    help="Run unmodified CuPy, Numba and cuda-python code through a broker that shares the GPU.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


def _register() -> None:
    from migproxy.cli import broker, doctor, kill, logs, mig, ps, run, smi, top, trace

    for module in (run, broker, doctor, ps, kill, logs, smi, top, trace, mig):
        module.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        check_platform()
        _register()
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        if not arguments:
            arguments = ["--help"]
        if arguments[:1] == ["run"]:
            from migproxy.cli.run import protect_module_arguments

            arguments = ["run", *protect_module_arguments(arguments[1:])]
        result = app(args=arguments, prog_name="migproxy", standalone_mode=False)
    except UsageError as error:
        return complain(str(error), USAGE_EXIT)
    except AdmissionError as error:
        return complain(str(error), USAGE_EXIT)
    except MigproxyError as error:
        return complain(str(error), FAILURE_EXIT)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except typer.Abort:
        return 130
    except Exception as error:
        # typer bundles its own click in newer releases, so its usage errors are known by shape, not by class.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        return complain(format_message(), USAGE_EXIT)
    return result if isinstance(result, int) else 0


def complain(text: str, code: int) -> int:
    """Print one line to stderr and return `code`."""
    print("migproxy: " + " ".join(text.split()), file=sys.stderr)
    return code
