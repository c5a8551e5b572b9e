"""What all tests share: the `gpu` mark, scripts run with a deadline, and a check that no process is left behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: In the environment of every process that the tests start.
RUN_VARIABLE = "MIGPROXY_TEST_RUN"
#: What would tie the tests to a broker or function that the caller's environment names.
FOREIGN = ("MIGPROXY_ACTIVE", "MIGPROXY_BROKER", "MIGPROXY_FUNCTION", "MIGPROXY_MEMORY", "MIGPROXY_DEVICE")
#: A private broker ends with its function; its executor may take half a second to report.
END_SECONDS = 10.0


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA driver."""
    return os.path.exists("/dev/nvidiactl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if has_gpu():
        return
    skip = pytest.mark.skip(reason="needs a real NVIDIA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def marked_processes(mark: str) -> dict[int, str]:
    """Return the living processes other than this one whose environment holds `mark`, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark.encode() not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if state != "Z":
            found[int(entry.name)] = command
    return found


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail if a process that the tests started outlives them; end it."""
    if "PYTEST_XDIST_WORKER" not in os.environ and RUN_VARIABLE in os.environ:
        # A pytest under test: the outer one watches.
        yield
        return
    value = secrets.token_hex(8)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ[RUN_VARIABLE] = value
    yield
    close_own_session()
    deadline = time.monotonic() + END_SECONDS
    while (left := marked_processes(f"{RUN_VARIABLE}={value}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert not left, f"processes outlived the tests: {left}"


def close_own_session() -> None:
    """Close the session that tests opened in this process, and end its private broker."""
    module = sys.modules.get("migproxy.session.session")
    session = module.opened() if module else None
    if session is not None:
        session.close()


class Finished(subprocess.CompletedProcess[str]):
    """What a script did."""

    @property
    def said(self) -> str:
        """Everything about it, for an assertion's message."""
        return f"exit code {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


RunScript = Callable[..., Finished]


def run_command(
    command: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 90.0,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
) -> Finished:
    """Run a command to its end; its whole process group ends at the deadline."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{command} was not done in {timeout:g} s\n{out}\n{err}") from None
    return Finished(command, process.returncode, out, err)


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
