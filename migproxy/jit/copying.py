"""Copies of large blocks by several cores: native helper threads that never touch Python.

One copy at a time is shared out, in pieces that helpers and caller take from one counter; a helper that sleeps takes
none, so that the caller never waits for somebody to wake up. Who finds the helpers busy with another thread's copy
does its own alone.

The counter's upper half is the copy's number: a helper that comes late gets a number that is over and takes nothing.
`board` is the address of a block of BOARD_SIZE bytes that lives as long as the process. Precondition of all
functions: it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

from migproxy.arena.machine_unsafe import (
    U64,
    External,
    add64,
    compare_exchange32,
    copy,
    load32_acquire,
    load64,
    load64_acquire,
    pause,
    store32,
    store32_release,
    store64,
    store64_release,
    time_stamp,
)
from migproxy.arena.memory_unsafe import copy as plain_copy
from migproxy.jit import compiler, language

LOCK = 0x00  # u32: a copy is being shared out
BELL = 0x40  # u32: number of copies shared out; a futex, on which helpers sleep
NEXT = 0x80  # u64: copy's number << 32 | next piece
DONE = 0xC0  # u64: pieces done
NUMBER = 0x100  # u64: of the copy that the words below describe
TARGET = 0x108
SOURCE = 0x110
SIZE = 0x118
PIECES = 0x120
SPIN_TICKS = 0x140  # how long a helper looks for another copy before it sleeps
BOARD_SIZE = 0x180

PIECE = 256 << 10
#: Smaller copies are not worth waking anybody.
WORTH_SHARING = 512 << 10
MOST_HELPERS = 3
_SYS_FUTEX = 202
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1
_EVERYBODY = 0x7FFFFFFF
_SPIN_TICKS = 150_000  # about 50 µs at the 2 to 4 GHz that time-stamp counters tick with

system_call = External("syscall", "I64(I64, U64, I32, U32, U64, U64, U32)")


def copy_pieces(board: U64) -> None:
    """Take and copy pieces until there are none left."""
    while True:
        taken = add64(board + NEXT, 1)
        piece = taken & 0xFFFFFFFF
        if taken >> 32 != load64_acquire(board + NUMBER) or piece >= load64(board + PIECES):
            return
        start = piece * PIECE
        left = load64(board + SIZE) - start
        copy(load64(board + TARGET) + start, load64(board + SOURCE) + start, left if left < PIECE else PIECE)
        add64(board + DONE, 1)


def copy_helper(board: U64) -> U64:
    """What a helper thread does for ever."""
    seen = 0
    while True:
        start = time_stamp()
        while load32_acquire(board + BELL) == seen:
            pause()
            if time_stamp() - start > load64(board + SPIN_TICKS):
                system_call(_SYS_FUTEX, board + BELL, _FUTEX_WAIT, seen, 0, 0, 0)
                start = time_stamp()
        seen = load32_acquire(board + BELL)
        copy_pieces(board)
    return 0


def copy_shared(board: U64, target: U64, source: U64, size: U64) -> None:
    """Copy `size` bytes, with the helpers if they are free."""
    if compare_exchange32(board + LOCK, 0, 1) != 0:
        copy(target, source, size)
        return
    number = load64(board + NUMBER) + 1 & 0xFFFFFFFF
    pieces = (size + PIECE - 1) // PIECE
    store64(board + TARGET, target)
    store64(board + SOURCE, source)
    store64(board + SIZE, size)
    store64(board + PIECES, pieces)
    store64(board + DONE, 0)
    store64_release(board + NUMBER, number)
    store64_release(board + NEXT, number << 32)
    bell = load32_acquire(board + BELL) + 1
    store32(board + BELL, bell)
    system_call(_SYS_FUTEX, board + BELL, _FUTEX_WAKE, _EVERYBODY, 0, 0, 0)
    copy_pieces(board)
    while load64_acquire(board + DONE) != pieces:
        pause()
    store32_release(board + LOCK, 0)


_lock = threading.Lock()
_copier: Callable[[int, int, int], object] | None = None


def _start() -> Callable[[int, int, int], object]:
    """Start the helpers; returns the function that copies."""
    helpers = min(MOST_HELPERS, len(os.sched_getaffinity(0)) - 1)
    if helpers < 1:
        return plain_copy
    compiler.use_cache()
    compiled = language.compile_functions(copy_shared, copy_helper)
    memory = ctypes.create_string_buffer(BOARD_SIZE + 64)
    board = (ctypes.addressof(memory) + 63) & ~63
    store64(board + SPIN_TICKS, _SPIN_TICKS)
    _kept.append(memory)
    libc = ctypes.CDLL(None)
    # Signals are for Python's threads: the helpers inherit a mask that keeps all of them out.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for _ in range(helpers):
            thread = ctypes.c_ulong()
            arguments = (ctypes.byref(thread), None, ctypes.c_void_p(compiled["copy_helper"]), ctypes.c_void_p(board))
            if libc.pthread_create(*arguments) == 0:
                libc.pthread_detach(thread)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    shared = language.bind(copy_shared, compiled["copy_shared"])

    def copier(target: int, source: int, size: int) -> None:
        if size < WORTH_SHARING:
            plain_copy(target, source, size)
        else:
            shared(board, target, source, size)

    return copier


_kept: list[object] = []


def copy_large(target: int, source: int, size: int) -> None:
    """Copy `size` bytes between addresses, by several cores if that pays; the GIL is released.

    Precondition: both ranges are mapped and do not overlap.
    """
    global _copier
    if _copier is None:
        with _lock:
            if _copier is None:
                _copier = _start()
    _copier(target, source, size)


def _after_fork() -> None:
    """A child has no helpers; it starts its own when it first needs them."""
    global _copier, _lock
    _copier = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
