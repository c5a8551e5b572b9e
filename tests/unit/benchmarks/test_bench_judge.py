"""What ``python -m bench ab`` makes of noise: rounds of a commit against itself, recorded on a machine that other
programs kept busy (load 8 to 15 on 2 cores), in which no difference is true but those that are planted here."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.ab import DIFFERENT, compare, judge
from bench.rounds import Samples

RECORDED: Samples = json.loads(Path(__file__).with_name("null_rounds.json").read_text())["rows"]
ROUNDS = 30
EFFECT = 0.05
#: Those whose pairs differ least there, though still by a fifth (standard deviation).
QUIET = (
    *("memory::alloc_free[half]", "memory::alloc_free[nearly-full]", "memory::large_alloc_free[empty]"),
    *("memory::out_of_memory", "bindings.nvrtc.nvrtc_compile_program"),
    *(f"numpy_arena::empty_and_free[{size}]" for size in (16, 1024, 65536, 1048576)),
)


def rounds(which: Sequence[int], names: Sequence[str] = (), slower: str = "", factor: float = 1.0) -> Samples:
    """Return some of the recorded rounds, of all benchmarks or of `names`; one may be made slower."""
    found: Samples = {}
    for name in names or RECORDED:
        base, head = ([RECORDED[name][side][each] for each in which] for side in ("base", "head"))
        found[name] = {"base": base, "head": [value * (factor if name == slower else 1.0) for value in head]}
    return found


class Drawn:
    """Measures by drawing rounds that were not drawn before."""

    def __init__(self, count: int, seed: int, slower: str = "", factor: float = 1.0) -> None:
        self._count, self._left = count, random.Random(seed).sample(range(ROUNDS), ROUNDS)
        self._planted = slower, factor
        self.asked: list[Sequence[str]] = []

    def __call__(self, only: Sequence[str]) -> Samples:
        self.asked.append(only)
        now, self._left = self._left[: self._count], self._left[self._count :]
        return rounds(now, only, *self._planted)


@pytest.mark.parametrize(("count", "tables"), [(3, 6), (6, 3), (15, 2)])
def test_a_null_change_gets_no_verdict_however_noisy(count: int, tables: int) -> None:
    for seed in range(tables):
        rows = judge(Drawn(count, seed), EFFECT)
        assert len(rows) == len(RECORDED) > 70
        assert not [row for row in rows if row.verdict in DIFFERENT], seed


@pytest.mark.parametrize("slower", QUIET)
def test_a_planted_slowdown_is_found_where_the_noise_is_no_larger(slower: str) -> None:
    rows = {row.name: row.verdict for row in compare(rounds(range(ROUNDS), QUIET, slower, 1.2), EFFECT)}
    assert rows.pop(slower) == "slower"
    assert not set(rows.values()) & set(DIFFERENT)


def test_what_looks_slower_is_measured_again() -> None:
    name = QUIET[1]
    measure = Drawn(15, 1, name, 1.5)
    rows = {row.name: row.verdict for row in judge(measure, EFFECT)}
    assert measure.asked == [(), [name]]
    assert rows.pop(name) == "slower"
    assert not set(rows.values()) & set(DIFFERENT)


def test_what_shows_only_once_is_no_verdict() -> None:
    name = QUIET[1]
    answers = iter([rounds(range(15), (), name, 1.5), rounds(range(15, 30), (name,))])
    rows = {row.name: row.verdict for row in judge(lambda _: next(answers), EFFECT)}
    assert rows[name] == "unclear"
