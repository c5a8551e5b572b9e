"""Processes that measure at the same time, each with a deadline."""

from __future__ import annotations

import json
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.colocation.requests import SIZES
from bench.colocation.ways import Way
from bench.rounds import environment

#: For starting a function and for what it measures, in seconds.
START, DEADLINE = 90.0, 60.0


class TooLate(Exception):
    """A function did not answer by its deadline."""


class Worker:
    """One function or native process."""

    def __init__(self, way: Way, kind: str, size: str, *, whole: bool = False) -> None:
        inner = ["-m", "bench.colocation.worker", kind, size, *(["whole"] if whole else [])]
        self.process = subprocess.Popen(
            way.command(inner, SIZES[size]["memory"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).resolve().parents[2],
            env=environment(**way.env),
        )

    def line(self, deadline: float) -> str:
        """Return its next line.

        Raises
        ------
        TooLate
            None came by `deadline`, or the process ended.
        """
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            text = self.process.stdout.readline() if selector.select(max(0, deadline - time.monotonic())) else ""
        if not text:
            raise TooLate(f"no answer in time; exit code {self.process.poll()}")
        return text.strip()

    def go(self) -> None:
        """Start its measured part."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Group:
    """Workers that measure at the same time, any number of times."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    def measure(self, *only: int) -> list[dict[str, Any]]:
        """Run all, or `only` some by number, at the same time and return their results."""
        chosen = [self._workers[number] for number in only] if only else self._workers
        for one in chosen:
            one.go()
        deadline = time.monotonic() + DEADLINE
        return [json.loads(one.line(deadline)) for one in chosen]

    def until_all_ended(self) -> float:
        """Start all and return the seconds until the last has answered and ended."""
        begin = time.perf_counter()
        self.measure()
        for one in self._workers:
            one.process.wait(DEADLINE)
        return time.perf_counter() - begin


@contextmanager
def group(way: Way, kinds: list[str], size: str, *, whole: bool = False) -> Iterator[Group]:
    """Start workers, for a ``with`` block."""
    workers: list[Worker] = []
    try:
        workers += [Worker(way, kind, size, whole=whole) for kind in kinds]
        deadline = time.monotonic() + START
        for one in workers:
            if (said := one.line(deadline)) != "ready":
                raise TooLate(f"a function said {said!r}")
        yield Group(workers)
    finally:
        for one in workers:
            one.end()
