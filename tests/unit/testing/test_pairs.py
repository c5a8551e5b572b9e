"""Paired comparisons: a real difference is found, noise is not."""

from __future__ import annotations

import random

import pytest

from migproxy.testing.pairs import compare, compare_all, holm


def noisy(rounds: int, factor: float, spread: float, seed: int) -> tuple[list[float], list[float]]:
    """Pairs that drift together: round i of both is slower by the same amount, plus independent noise."""
    chooser = random.Random(seed)
    drift = [1.0 + 0.5 * index / rounds for index in range(rounds)]
    native = [value * chooser.uniform(1 - spread, 1 + spread) for value in drift]
    proxied = [value * factor * chooser.uniform(1 - spread, 1 + spread) for value in drift]
    return native, proxied


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slowdown_is_found(seed: int) -> None:
    result = compare("x", *noisy(15, 1.2, 0.03, seed))
    assert result.verdict == "slower"
    assert result.low <= 1.2 <= result.high or abs(result.ratio - 1.2) < 0.03


@pytest.mark.parametrize("seed", range(5))
def test_a_null_change_is_not_found(seed: int) -> None:
    assert compare("x", *noisy(15, 1.0, 0.03, seed)).verdict in ("same", "unclear")


def test_a_speedup_is_found() -> None:
    assert compare("x", *noisy(15, 0.6, 0.03, 1)).verdict == "faster"


def test_one_pair_gets_no_verdict() -> None:
    result = compare("x", [1.0], [2.0])
    assert (result.ratio, result.low, result.high, result.verdict) == (2.0, 2.0, 2.0, "unclear")


def test_what_makes_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="1 and 2 timings"):
        compare("x", [1.0], [1.0, 2.0])


def test_a_table_of_nulls_seldom_holds_a_verdict() -> None:
    """Twelve tables of forty rows without a difference: one verdict is bad luck, three are none."""
    wrong = 0
    for seed in range(12):
        table = {f"row {row}": noisy(11, 1.0, 0.08, 1000 * seed + row) for row in range(40)}
        wrong += any(row.verdict in ("slower", "faster") for row in compare_all(table, tolerance=0.02))
    assert wrong <= 2


def test_a_planted_slowdown_is_found_among_many() -> None:
    table = {f"row {row}": noisy(15, 1.2 if row == 7 else 1.0, 0.05, row) for row in range(40)}
    found = {row.name: row.verdict for row in compare_all(table, tolerance=0.05)}
    assert found.pop("row 7") == "slower"
    assert set(found.values()) <= {"same", "unclear"}


def test_one_wild_round_makes_no_verdict() -> None:
    base, other = noisy(11, 1.0, 0.01, 3)
    other[4] *= 20
    assert compare("x", base, other).verdict in ("same", "unclear")


def test_chances_are_stepped_down() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}
