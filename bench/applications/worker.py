"""One process that runs programs as it is told, natively or as a function: ``python -m bench.applications.worker``.

Requests and answers are one line of JSON each. A request that takes longer than its limit ends with an error, and the
worker goes on with the next.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench.applications.program import Program


class TookTooLong(Exception):
    """A request ran into its limit."""


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise TookTooLong("took longer than its limit")


def load(suite: str, root: str, name: str, preset: str) -> Program:
    """Return a program."""
    if suite == "rodinia":
        from bench.applications.rodinia import PROGRAMS

        return PROGRAMS[name][preset]()
    from bench.applications import external

    make = {"npbench": external.npbench, "pyhpc": external.pyhpc}[suite]
    return make(Path(root), name, preset)


def digest(results: Sequence[Any]) -> list[float]:
    """Return one number per result, by which runs in both modes are compared."""
    import numpy as np

    numbers = []
    for result in results:
        array = np.asarray(result.get() if hasattr(result, "get") else result)
        if array.dtype.kind in "biufc":
            numbers.append(float(np.abs(np.nan_to_num(array.astype(np.complex128))).sum()))
    return numbers


def off(results: Sequence[Any], by_numpy: Sequence[Any]) -> float:
    """Return how far the results are from NumPy's: the largest norm of a difference, relative to NumPy's norm.

    Some programs return in one of their versions only what both leave in their arguments, which come last in both.

    Raises
    ------
    ValueError
        There is nothing to compare, a shape differs, or not both are finite in the same places.
    """
    import numpy as np

    both = min(len(results), len(by_numpy))
    if not both:
        raise ValueError(f"{len(results)} results, by NumPy {len(by_numpy)}")
    most = 0.0
    for result, expected in zip(results[-both:], by_numpy[-both:], strict=True):
        ours = np.asarray(result.get() if hasattr(result, "get") else result)
        theirs = np.asarray(expected)
        if ours.shape != theirs.shape:
            raise ValueError(f"shape {ours.shape}, by NumPy {theirs.shape}")
        if theirs.dtype.kind not in "biufc":
            continue
        finite = np.isfinite(theirs)
        if (np.isfinite(ours) != finite).any():
            raise ValueError("not finite in other places than NumPy's")
        difference = np.linalg.norm(ours[finite].astype(np.complex128) - theirs[finite])
        if difference:
            most = max(most, float(difference / max(float(np.linalg.norm(theirs[finite])), 1e-300)))
    return most


class Worker:
    """Carries out requests."""

    program: Program | None = None

    def load(self, suite: str, root: str, name: str, preset: str) -> dict[str, Any]:
        """Make a program and run it once, for everything that happens once; check its results."""
        self.program = None
        self.program = program = load(suite, root, name, preset)
        prepared = program.prepare()
        begin = time.perf_counter()
        results = program.run(prepared)
        seconds = time.perf_counter() - begin
        if program.check is not None:
            program.check(results)
        return {"seconds": seconds, "digest": digest(results), "checked": program.check is not None}

    def compare(self) -> dict[str, Any]:
        """Run the program that was loaded once more, and NumPy's version of it."""
        program = self.program
        assert program is not None
        assert program.by_numpy is not None
        prepared = program.prepare()
        results = program.run(prepared)
        return {"off": off([*results, *program.arrays(prepared)], program.by_numpy())}

    def run(self, seconds: float, most: int) -> dict[str, Any]:
        """Invoke the program until `seconds` have gone or `most` times; return each time and where it went."""
        program = self.program
        assert program is not None
        times: list[float] = []
        shares: dict[str, list[float]] = {}
        while len(times) < most and (not times or sum(times) < seconds):
            prepared = program.prepare()
            if program.split is not None:
                program.split.start()
            begin = time.perf_counter()
            program.run(prepared)
            times.append(time.perf_counter() - begin)
            if program.split is not None:
                program.split.total = times[-1]
                for kind, took in program.split.shares().items():
                    shares.setdefault(kind, []).append(took)
        return {"times": times, "shares": shares}

    def end(self) -> dict[str, Any]:
        """Give the program's memory back."""
        import cupy

        self.program = None
        cupy.get_default_memory_pool().free_all_blocks()
        return {}


def main() -> int:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what programs print is no answer
    signal.signal(signal.SIGALRM, _alarm)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        what, limit = request.pop("what"), request.pop("limit")
        try:
            # Again and again: an exception that is raised inside a callback of the machine code's is lost.
            signal.setitimer(signal.ITIMER_REAL, limit, 0.5)
            try:
                answer = getattr(worker, what)(**request)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Exception as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
