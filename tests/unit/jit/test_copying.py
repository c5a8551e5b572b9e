"""Copies by several cores: every byte arrives, whoever copies it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import pytest

from migproxy.arena.machine_unsafe import as_python
from migproxy.jit import copying


def buffers(size: int) -> tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]:
    source = ctypes.create_string_buffer(os.urandom(size), size)
    target = ctypes.create_string_buffer(b"\xaa" * (size + 16), size + 16)
    return source, target


@pytest.mark.parametrize("size", [0, 1, 1000, copying.PIECE, copying.WORTH_SHARING, (1 << 20) + 7, (5 << 20) - 1])
def test_every_byte_arrives_and_no_more(size: int) -> None:
    source, target = buffers(size)
    for _ in range(5):
        ctypes.memset(target, 0xAA, size + 16)
        copying.copy_large(ctypes.addressof(target), ctypes.addressof(source), size)
        assert target.raw == source.raw + b"\xaa" * 16


def test_the_readable_form_copies_alone() -> None:
    board = ctypes.create_string_buffer(copying.BOARD_SIZE)
    source, target = buffers((1 << 20) + 5)
    as_python(copying.copy_shared)(
        ctypes.addressof(board), ctypes.addressof(target), ctypes.addressof(source), (1 << 20) + 5
    )
    assert target.raw == source.raw + b"\xaa" * 16


def test_many_threads_at_once() -> None:
    wrong: list[int] = []

    def work(index: int) -> None:
        source, target = buffers((1 << 20) + index)
        for _ in range(40):
            ctypes.memset(target, 0, len(target))
            copying.copy_large(ctypes.addressof(target), ctypes.addressof(source), len(source))
            if target.raw[: len(source)] != source.raw:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_forked_child_copies_with_helpers_of_its_own() -> None:
    source, target = buffers(2 << 20)
    copying.copy_large(ctypes.addressof(target), ctypes.addressof(source), 2 << 20)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ctypes.memset(target, 0, 2 << 20)
            copying.copy_large(ctypes.addressof(target), ctypes.addressof(source), 2 << 20)
            status = int(target.raw[: 2 << 20] != source.raw)
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert done[1] == 0


def test_idle_helpers_use_no_cpu() -> None:
    source, target = buffers(2 << 20)
    copying.copy_large(ctypes.addressof(target), ctypes.addressof(source), 2 << 20)
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.05
