"""What all tests share: the `gpu` mark, scripts run with a deadline, and a check that no process is left behind."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from processes import Finished, RunScript, marked_processes, run_command

ROOT = Path(__file__).resolve().parents[1]
#: In the environment of every process that the tests start.
RUN_VARIABLE = "MIGPROXY_TEST_RUN"
#: What would tie the tests to a broker or function that the caller's environment names.
FOREIGN = ("MIGPROXY_ACTIVE", "MIGPROXY_BROKER", "MIGPROXY_FUNCTION", "MIGPROXY_MEMORY", "MIGPROXY_DEVICE")
INHERITED = frozenset(os.environ)
#: A private broker ends with its function; its executor may take half a second to report.
END_SECONDS = 10.0


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA driver."""
    return os.path.exists("/dev/nvidiactl")


def pytest_configure() -> None:
    """Let Ctrl-C work again where the caller's shell ignores it, as for a command in the background: children inherit
    that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if has_gpu():
        return
    skip = pytest.mark.skip(reason="needs a real NVIDIA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail if a process that the tests started outlives them; end it."""
    if RUN_VARIABLE in INHERITED:
        # A pytest under test: the outer one watches.
        yield
        return
    value = secrets.token_hex(8)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ[RUN_VARIABLE] = value
    yield
    mark = f"{RUN_VARIABLE}={value}"
    close_own_session(mark)
    deadline = time.monotonic() + END_SECONDS
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert not left, f"processes outlived the tests: {left}"


@pytest.fixture(autouse=True)
def no_function_named_in_the_environment() -> Iterator[None]:
    """A session that a test opened here names its broker and function for children: not for the next test's."""
    yield
    if RUN_VARIABLE not in INHERITED:
        for name in FOREIGN:
            os.environ.pop(name, None)


def close_own_session(mark: str) -> None:
    """Close the session that tests opened in this process, and end its private broker, which would outlast us."""
    module = sys.modules.get("migproxy.session.session")
    if module is not None:
        module.close_current()
    for pid, command in marked_processes(mark).items():
        if f"--parent-pid {os.getpid()} " in command:
            os.kill(pid, signal.SIGTERM)


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run a script, given as text or as a path, through ``migproxy run`` (or plainly with ``proxied=False``)."""

    def run(
        script: str | Path, *arguments: str, options: Sequence[str] = (), proxied: bool = True, **more: object
    ) -> Finished:
        if isinstance(script, str):
            path = tmp_path / "script.py"
            path.write_text(script)
        else:
            path = script
        prefix = [sys.executable, "-m", "migproxy", "run", *options] if proxied else [sys.executable]
        return run_command([*prefix, str(path), *arguments], **more)  # type: ignore[arg-type]

    return run
