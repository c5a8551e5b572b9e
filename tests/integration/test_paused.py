"""A paused executor blocks its function when the ring is full, and nothing else: no command is lost, Ctrl-C works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from migproxy.abi import layout

DEVICES = [pytest.param("software", id="software"), pytest.param("0", id="gpu", marks=pytest.mark.gpu)]
LAUNCHES = 3 * layout.SLOT_COUNT
SCRIPT = f"""
import cupy, sys
x = cupy.zeros(100, 'i8')
x += 1
cupy.cuda.Device().synchronize()
print('ready', flush=True)
sys.stdin.readline()
interrupted = done = 0
while done < {LAUNCHES}:
    try:
        while done < {LAUNCHES}:
            done += 1
            x += 1
    except KeyboardInterrupt:
        interrupted += 1
        print('interrupted', flush=True)
        sys.stdin.readline()
# The one launch that was interrupted may have been published or not.
assert int(x[0]) - 1 - done in range(-interrupted, 1), (int(x[0]), done, interrupted)
assert (x == x[0]).all()
print('fine', flush=True)
"""


def executor_of(function: int) -> int:
    """Return the process ID of the one executor of a function's private broker."""
    parents, brokers, executors = {}, set(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if "--parent-pid" in command and command[command.index("--parent-pid") + 1] == str(function):
            brokers.add(int(entry.name))
        elif "migproxy.executor" in command:
            executors.add(int(entry.name))
    (found,) = (pid for pid in executors if parents[pid] in brokers)
    return found


@contextmanager
def function(path: Path, device: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the script; yield it, ready for its launches, and its executor's process ID."""
    path.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "-m", "migproxy", "run", "--private", "--device", device, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        executor = 0
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
            executor = executor_of(process.pid)
            yield process, executor
        finally:
            if executor:
                with suppress(ProcessLookupError):
                    os.kill(executor, signal.SIGCONT)
            process.kill()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def wait_until_blocked(pid: int) -> None:
    """Return once a process sleeps in futex(2) and has used no CPU for a while."""
    futex, deadline, before, quiet = "202", time.monotonic() + 30, -1, 0
    while quiet < 10:
        assert time.monotonic() < deadline, "the function did not block"
        used = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        asleep = Path(f"/proc/{pid}/syscall").read_text().split()[0] == futex
        quiet = quiet + 1 if asleep and used == before else 0
        before = used
        time.sleep(0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_a_full_ring_blocks_and_goes_on(tmp_path: Path, device: str) -> None:
    with function(tmp_path / "script.py", device) as (process, executor):
        os.kill(executor, signal.SIGSTOP)
        say(process)
        wait_until_blocked(process.pid)
        os.kill(executor, signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "fine\n", "")


@pytest.mark.parametrize("device", DEVICES)
def test_ctrl_c_while_the_ring_is_full(tmp_path: Path, device: str) -> None:
    with function(tmp_path / "script.py", device) as (process, executor):
        os.kill(executor, signal.SIGSTOP)
        say(process)
        wait_until_blocked(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        os.kill(executor, signal.SIGCONT)
        out, err = process.communicate("go\n", timeout=60)
        assert (process.returncode, out, err) == (0, "fine\n", "")
