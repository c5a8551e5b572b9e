"""Two pytest processes take turns, test by test, so that what is compared runs seconds apart and never at once.

In the processes this module is a pytest plugin (``-p baton``) that imports nothing but the standard library and pytest:
they measure other versions of migproxy and must not see this one. The process around them hands the baton out.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Generator, Sequence

import pytest

#: The descriptor of the plugin's end; and the tests to run as JSON, all if it is empty.
VARIABLE, ONLY_VARIABLE = "BENCH_BATON_FD", "BENCH_ONLY"
_WANTED, _GRANTED, _BACK = b"?", b"!", b"."


class Holder:
    """Runs a test only while it has the baton."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._socket.sendall(_WANTED)
        if not self._socket.recv(1):
            pytest.exit("the comparison was ended", returncode=2)
        try:
            return (yield)
        finally:
            self._socket.sendall(_BACK)


def pytest_configure(config: pytest.Config) -> None:
    """Hold tests back until it is this process's turn."""
    descriptor = os.environ.get(VARIABLE)
    if descriptor:
        config.pluginmanager.register(Holder(socket.socket(fileno=int(descriptor))), "bench-baton")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is not asked for."""
    if only := os.environ.get(ONLY_VARIABLE):
        wanted = set(json.loads(only))
        items[:] = [item for item in items if item.nodeid in wanted]


def take_turns(ends: Sequence[socket.socket], first: int, seconds: float) -> None:
    """Hand the baton out until all processes have closed their ends.

    Each waits for the others before every test; who goes first changes from test to test, beginning with `first`. A
    process that has ended is not waited for.

    Raises
    ------
    TimeoutError
        None of them said anything for `seconds`.
    """
    living = list(ends)
    number = first
    while living:
        wanting = [end for end in living if _said(end, seconds) == _WANTED]
        living = wanting
        turn = number % len(ends)
        for end in sorted(living, key=lambda each: (ends.index(each) - turn) % len(ends)):
            end.sendall(_GRANTED)
            if _said(end, seconds) != _BACK:
                living = [each for each in living if each is not end]
        number += 1


def _said(end: socket.socket, seconds: float) -> bytes:
    """Return the next byte from a process; empty if it has closed its end."""
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise TimeoutError(f"a benchmark's process said nothing for {seconds:g} s")
    try:
        return end.recv(1)
    except ConnectionResetError:
        return b""
