"""A function's quota is its process tree's: what one session uses, the others cannot."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from migproxy.arena import segment
from migproxy.arena.account import PAGE_SIZE, QuotaAccount, clear_line

from .broker_tools import ROOT, Running, until


def test_sessions_share_a_quota() -> None:
    fd = segment.create("account", PAGE_SIZE)
    first = QuotaAccount(os.dup(fd), 0, 100, writable=True)
    second = QuotaAccount(os.dup(fd), 7, 100, writable=True)
    reader = QuotaAccount(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 7, 100, writable=False)
    assert first.charge(60)
    assert not second.charge(41)
    assert (second.others(), first.others(), reader.others()) == (60, 0, 60)
    assert second.charge(40)
    assert not first.charge(61)
    second.settle(90)
    assert first.others() == 90
    clear_line(fd, 7)
    assert first.charge(100)
    os.close(fd)


def test_the_functions_view_cannot_be_written() -> None:
    fd = segment.create("account", PAGE_SIZE)
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with pytest.raises(PermissionError):
        mmap.mmap(readable, PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(readable, b"x", 0)
    for each in (fd, readable):
        os.close(each)


def test_a_places_line_is_cleared_when_its_session_ends(start: Callable[..., Running]) -> None:
    running = start()
    first, second = running.peer(), running.peer()
    first.open(function_id="function-1")
    welcome = second.open(function_id="function-1")
    assert welcome.account_place == 1
    assert second.account is not None
    account = running.broker.ledgers["software"].account("function-1")
    assert account is not None
    os.pwrite(account.fd, (5 << 20).to_bytes(8, "little"), 0)
    assert second.account.others() == 5 << 20
    first.close()
    until(lambda: second.account is not None and second.account.others() == 0)


SCRIPT = """
import multiprocessing

def fill():
    import cupy
    blocks = []
    try:
        while len(blocks) < 64:
            blocks.append(cupy.empty(16 << 20, dtype=cupy.uint8))
    except cupy.cuda.memory.OutOfMemoryError:
        return blocks

def count():
    import cupy
    return len(fill()), cupy.cuda.runtime.memGetInfo()[1] >> 20

if __name__ == "__main__":
    mine = fill()
    before = len(mine)
    del mine[before // 2:]
    import cupy
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.cuda.Device().synchronize()
    print(cupy.cuda.runtime.memGetInfo()[0] >> 20)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(before, len(mine), *pool.apply(count))
"""


def test_two_processes_of_one_function_get_its_quota_together(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")} | {"PYTHONPATH": ROOT}
    command = [sys.executable, "-m", "migproxy", "run", "--private", "--device", "software", "--memory", "512MiB"]
    done = subprocess.run([*command, str(script)], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    free, before, kept, theirs, total = (int(word) for word in done.stdout.split())
    assert 240 <= free <= 256
    assert 28 <= before <= 32
    assert total == 512
    # Up to 64 MiB of what was freed stay mapped in the first process's reserve.
    assert before - kept - 6 <= theirs <= before - kept
