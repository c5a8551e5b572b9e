"""Child processes of tests: run with a deadline, found by a mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path


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


class Finished(subprocess.CompletedProcess[str]):
    """What a script did."""

    @property
    def said(self) -> str:
        """Everything about it, for an assertion's message."""
        return f"exit code {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


#: The fixture ``run_script``.
RunScript = Callable[..., Finished]


def environment_outside_xdist() -> dict[str, str]:
    """Return this process's environment; a pytest that a worker starts is no worker itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}


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
        env={**environment_outside_xdist(), **(env or {})},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{command} was not done in {timeout:g} s\n{out}\n{err}") from None
    return Finished(command, process.returncode, out, err)
