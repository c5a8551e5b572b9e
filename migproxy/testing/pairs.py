"""Paired timings: what one of two sides costs against the other, with noise and the number of looks taken into account.

Rounds come in pairs (both sides right after one another, in alternating order), so that slow drifts of the machine
cancel. The figure is the ratio of each pair. Two things must agree before a row gets a verdict:

- the bootstrap interval of the median ratio (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13)
  lies beyond the smallest effect that counts. With few pairs such intervals are too narrow, so they do not suffice;
- a paired t-test of the log ratios against that smallest effect. With few pairs it is careful, and an outlier makes it
  more so.

Whoever looks at forty rows finds two below 5% by chance: the interval's level is divided by the number of rows
(Bonferroni) and the tests' probabilities are stepped down (Holm 1979), so that 5% is the chance of *any* false verdict
in a table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
#: Ratios closer to 1 than this are not worth a verdict.
TOLERANCE = 0.02
#: The chance of any false verdict in one table.
ALPHA = 0.05
#: With fewer pairs there is no verdict.
FEWEST_PAIRS = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of one test or benchmark on both sides.

    Attributes
    ----------
    name : str
    base, other : float
        Median seconds of the side compared against (native, or the commit before) and of the one that is judged.
    ratio : float
        Median of the pairs' ratios, `other` by `base`.
    low, high : float
        Bootstrap interval of `ratio`, at 95% for all rows of the table together; equal to it with a single pair.
    p : float
        Chance of a ratio so far beyond the tolerance without a difference beyond it, corrected for the table's rows.
    verdict : str
        ``"slower"``, ``"faster"``, ``"same"`` (within the tolerance) or ``"unclear"`` (the noise is larger than the
        difference).
    """

    name: str
    base: float
    other: float
    ratio: float
    low: float
    high: float
    p: float
    verdict: str


def compare(name: str, base: Sequence[float], other: Sequence[float], *, seed: int = 0) -> Comparison:
    """Compare the paired timings of one benchmark alone. See `compare_all`."""
    return compare_all({name: (base, other)}, seed=seed)[0]


def compare_all(
    samples: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, tolerance: float = TOLERANCE, seed: int = 0
) -> list[Comparison]:
    """Compare the paired timings of all benchmarks of one table.

    Parameters
    ----------
    samples : mapping of str to two sequences of float
        Seconds of both sides; element i of both belongs to round i. At least one.
    tolerance : float
        The smallest relative effect that counts.
    seed : int
        Of the bootstrap's random numbers, so that a report can be made again.

    Raises
    ------
    ValueError
        The sequences of a benchmark are empty or of different length.
    """
    logs: dict[str, list[float]] = {}
    for name, (base, other) in samples.items():
        if not base or len(base) != len(other):
            raise ValueError(f"{name}: {len(base)} and {len(other)} timings make no pairs")
        logs[name] = [math.log(after / before) for before, after in zip(base, other, strict=True)]
    chances = holm({name: _chance(values, math.log1p(tolerance)) for name, values in logs.items()})
    rows = []
    for name, values in logs.items():
        low, high = (math.exp(bound) for bound in _interval(values, ALPHA / len(logs), seed))
        verdict = _verdict(low, high, chances[name], len(values), tolerance)
        before, after = (statistics.median(side) for side in samples[name])
        ratio = math.exp(statistics.median(values))
        rows.append(Comparison(name, before, after, ratio, low, high, chances[name], verdict))
    return rows


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Return probabilities corrected for their number: reject below `ALPHA`, and a table errs in `ALPHA` of cases."""
    corrected = {}
    least = 0.0
    for position, name in enumerate(sorted(chances, key=lambda each: chances[each])):
        least = max(least, min(1.0, chances[name] * (len(chances) - position)))
        corrected[name] = least
    return corrected


def _interval(logs: Sequence[float], level: float, seed: int) -> tuple[float, float]:
    if len(logs) == 1:
        return logs[0], logs[0]
    chosen = np.random.default_rng(seed).choice(np.asarray(logs), size=(RESAMPLES, len(logs)))
    low, high = np.quantile(np.median(chosen, axis=1), [level / 2, 1 - level / 2])
    return float(low), float(high)


def _chance(logs: Sequence[float], effect: float) -> float:
    """Return the two-sided probability of such a mean if the true one is no further from 0 than `effect`."""
    if len(logs) < FEWEST_PAIRS:
        return 1.0
    beyond = abs(statistics.fmean(logs)) - effect
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    if beyond <= 0:
        return 1.0
    if error == 0:
        return 0.0
    from scipy.special import stdtr

    return min(1.0, 2 * float(stdtr(len(logs) - 1, -beyond / error)))


def _verdict(low: float, high: float, chance: float, pairs: int, tolerance: float) -> str:
    if pairs < FEWEST_PAIRS:
        return "unclear"
    if low > 1 + tolerance and chance < ALPHA:
        return "slower"
    if high < 1 / (1 + tolerance) and chance < ALPHA:
        return "faster"
    if low >= 1 / (1 + tolerance) and high <= 1 + tolerance:
        return "same"
    return "unclear"
