"""All commands but `run`, by typer: one file per command."""

from __future__ import annotations

import typer

from migproxy.cli import broker, doctor, kill, logs, mig, plugin, ps, smi, top, trace
from migproxy.cli.run_options import HELP as RUN_HELP
from migproxy.errors import UsageError

COMMANDS = (broker, doctor, ps, kill, logs, smi, top, trace, mig, plugin)


def make_app() -> typer.Typer:
    """Return the application; its ``run`` is there to be listed, `migproxy.cli.main` never passes it on."""
    app = typer.Typer(
        name="migproxy",
        help="Run unmodified CuPy, Numba and cuda-python code through a broker that shares the GPU.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.command("run", help=RUN_HELP)(lambda: None)
    for module in COMMANDS:
        module.register(app)
    return app


def invoke(arguments: list[str]) -> int:
    """Run a command; returns the exit code.

    Raises
    ------
    UsageError
        The arguments are wrong.
    """
    try:
        result = make_app()(args=arguments, prog_name="migproxy", standalone_mode=False)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except typer.Abort:
        return 130
    except Exception as error:
        # typer bundles its own click in newer releases, so its usage errors are known by shape, not by class.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        raise UsageError(format_message()) from error
    return result if isinstance(result, int) else 0
