"""What a program is to the driver, and the clock that splits its time as the paper does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Program:
    """One program of one size.

    Attributes
    ----------
    name : str
    prepare : callable
        Makes what one invocation needs; its time does not count.
    run : callable
        One invocation, done when it returns; gets what `prepare` made and returns its results.
    check : callable, optional
        Raises if results are wrong.
    split : Split, optional
        Where the time of the last invocations went.
    arrays : callable
        Returns the arrays that an invocation got, by what `prepare` made; it may have changed them.
    by_numpy : callable, optional
        Returns the results that NumPy's version of the program has, and behind them its arrays.
    """

    name: str
    prepare: Callable[[], Any]
    run: Callable[[Any], Sequence[Any]]
    check: Callable[[Sequence[Any]], None] | None = None
    split: Split | None = None
    arrays: Callable[[Any], Sequence[Any]] = lambda _: ()
    by_numpy: Callable[[], Sequence[Any]] | None = None


@dataclass
class Split:
    """Adds up where an invocation's time goes: active GPU, copies, allocation; the rest is the CPU's.

    Active GPU is the device's own time between two events round the kernels; what the host needs to launch them beyond
    that counts as CPU. Copies and allocations are the host's time in these calls.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    total: float = 0.0

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Time a block of ``copies`` or ``allocation`` by the host's clock."""
        begin = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - begin)

    @contextmanager
    def gpu(self) -> Iterator[None]:
        """Time a block of kernels by the device's clock, and wait for them."""
        import cupy

        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record()
        yield
        last.record()
        last.synchronize()
        self._add("gpu", cupy.cuda.get_elapsed_time(first, last) / 1e3)

    def start(self) -> None:
        """Forget what was."""
        self.seconds, self.total = {}, 0.0

    def shares(self) -> dict[str, float]:
        """Return seconds by kind, the CPU's being what is left of `total`."""
        known = {name: self.seconds.get(name, 0.0) for name in ("gpu", "copies", "allocation")}
        return {**known, "cpu": max(0.0, self.total - sum(known.values()))}
