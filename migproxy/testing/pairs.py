"""Paired timings: what a proxied run costs against a native one, with noise taken into account.

Rounds come in pairs (native and proxied right after one another, in alternating order), so that slow drifts of the
machine cancel. The
figure is the ratio of each pair; its interval comes from the bootstrap over pairs (Efron & Tibshirani, An
Introduction to the
Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
#: Ratios closer to 1 than this are not worth a verdict.
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of one test or benchmark in both modes.

    Attributes
    ----------
    name : str
    native, proxied : float
        Median seconds.
    ratio : float
        Median of the pairs' ratios, proxied by native.
    low, high : float
        95% bootstrap interval of `ratio`; equal to it with a single pair.
    verdict : str
        ``"slower"``, ``"faster"``, ``"same"`` (within `TOLERANCE`) or ``"unclear"`` (the noise is larger than the
        difference).
    """

    name: str
    native: float
    proxied: float
    ratio: float
    low: float
    high: float
    verdict: str


def compare(name: str, native: Sequence[float], proxied: Sequence[float], *, seed: int = 0) -> Comparison:
    """Compare paired timings.

    Parameters
    ----------
    name : str
    native, proxied : sequence of float
        Seconds; element i of both belongs to round i. At least one.
    seed : int
        Of the bootstrap's random numbers, so that a report can be made again.

    Raises
    ------
    ValueError
        The sequences are empty or of different length.
    """
    if not native or len(native) != len(proxied):
        raise ValueError(f"{name}: {len(native)} native and {len(proxied)} proxied timings make no pairs")
    logs = [math.log(after / before) for before, after in zip(native, proxied, strict=True)]
    ratio = math.exp(statistics.median(logs))
    low, high = (math.exp(bound) for bound in _interval(logs, seed))
    return Comparison(
        name, statistics.median(native), statistics.median(proxied), ratio, low, high, _verdict(low, high, len(logs))
    )


def _interval(logs: Sequence[float], seed: int) -> tuple[float, float]:
    if len(logs) == 1:
        return logs[0], logs[0]
    chooser = random.Random(seed)
    medians = sorted(statistics.median(chooser.choices(logs, k=len(logs))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def _verdict(low: float, high: float, pairs: int) -> str:
    if pairs < 3:
        return "unclear"
    if low > 1 + TOLERANCE:
        return "slower"
    if high < 1 - TOLERANCE:
        return "faster"
    if low >= 1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "same"
    return "unclear"
