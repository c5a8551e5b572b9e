"""The pytest plugin: run tests and benchmarks in functions, or natively and in functions side by side.

``pytest --migproxy=proxied``
    The whole run happens in a function process (xdist's workers too).
``pytest --migproxy=both``
    Each round runs the selected tests once natively and once proxied, in processes of their own and in alternating
    order; then pairs
    with ratio, spread and verdict are printed. Benchmarks of pytest-benchmark are compared by their medians, other
    tests by the
    duration of their call.

The plugin imports no GPU library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACTIVE_VARIABLE = "MIGPROXY_ACTIVE"
OUTCOMES_VARIABLE = "MIGPROXY_PYTEST_OUTCOMES"
_OWN_OPTIONS = ("--migproxy", "--migproxy-rounds", "--migproxy-json", "--migproxy-report")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("migproxy")
    group.addoption(
        "--migproxy",
        choices=("off", "proxied", "both"),
        default="off",
        help="proxied: run in a function process; both: compare native and proxied runs",
    )
    group.addoption("--migproxy-rounds", type=int, default=5, metavar="N", help="pairs of runs for both (default 5)")
    group.addoption("--migproxy-json", metavar="DIR", help="write native.json and proxied.json for pytest-benchmark")
    group.addoption("--migproxy-report", metavar="DIR", help="write a report page (needs matplotlib)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Hand over to function processes before anything is collected."""
    mode = config.getoption("--migproxy")
    if mode == "off" or hasattr(config, "workerinput"):
        return None
    if mode == "proxied":
        if os.environ.get(ACTIVE_VARIABLE) != "1":
            _become_function(config)
        return None
    from migproxy.testing.both import run_both

    return run_both(config, child_arguments(config))


def child_arguments(config: pytest.Config) -> list[str]:
    """Return the command line's arguments without this plugin's own."""
    kept: list[str] = []
    skip = False
    for argument in map(str, config.invocation_params.args):
        if skip:
            skip = False
        elif argument in _OWN_OPTIONS:
            skip = True
        elif not argument.startswith(tuple(f"{option}=" for option in _OWN_OPTIONS)):
            kept.append(argument)
    return kept


def _become_function(config: pytest.Config) -> None:
    """Replace this process by a function process that runs the same pytest."""
    from migproxy.testing.processes import functions_environment

    arguments = [str(argument) for argument in config.invocation_params.args]
    env = functions_environment(parent_pid=os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(config.invocation_params.dir)
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments], env)


class _Outcomes:
    """Writes what became of each test to a file, for the parent of a ``both`` run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            self.tests[report.nodeid] = {"outcome": report.outcome, "seconds": report.duration}

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.tests))


def pytest_configure(config: pytest.Config) -> None:
    """In a child of ``both``, record outcomes."""
    path = os.environ.get(OUTCOMES_VARIABLE)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Outcomes(Path(path)), "migproxy-outcomes")


@pytest.fixture(scope="session")
def migproxy_session() -> Any:
    """The session of the function this test runs in; skipped elsewhere.

    Returns
    -------
    migproxy.session.session.Session
        With `facts` (the slice), `quota` and `id`.
    """
    if os.environ.get(ACTIVE_VARIABLE) != "1":
        pytest.skip("runs in a function only: pytest --migproxy=proxied")
    from migproxy.session.session import current

    return current()


@pytest.fixture
def native_and_proxied() -> Callable[..., Any]:
    """Call a callable natively and in a function, each in its own process, and get both results and times.

    Returns
    -------
    callable
        ``native_and_proxied(function, *args, rounds=5, **kwargs)`` returns a `migproxy.testing.processes.Pair`.
    """
    from migproxy.testing.processes import pair

    return pair


def run_child(arguments: list[str], env: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in a child process and return what it said."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env=env, cwd=directory, capture_output=True, text=True, check=False)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a directory for the children's files."""
    return tempfile.TemporaryDirectory(prefix="migproxy-pytest-")
