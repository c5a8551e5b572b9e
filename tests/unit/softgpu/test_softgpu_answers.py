"""The software driver answers as a real one does: against a record of several hundred calls on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import driver_answers
import driver_asked
import pytest

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "h100_answers.json").read_text())

#: Where the software driver differs on purpose: (scenario, question) → why.
DIFFERENCES = {
    ("pointers", "device 10"): "no handles for other processes",
    ("pointers", "device 18"): "the size of the driver's own mapping, which is not specified",
    ("pointers", "pinned 18"): "the size of the driver's own mapping",
    ("pointers", "managed 18"): "the size of the driver's own mapping",
    ("pointers", "ordered 18"): "the size of the pool's own mapping",
    ("modules", "elf rubbish"): "every ELF image is refused as machine code of a real GPU",
    ("modules", "library rubbish"): "an image that cannot be loaded fails at once, not at the first kernel",
    ("launches", "read"): "a parameter that the application left out: the real driver takes what was there before",
    ("more_of_memory", "map at two places"): "an allocation has one address at a time",
}


@pytest.fixture(scope="module")
def software() -> dict[str, Any]:
    return driver_answers.ask_software()


@pytest.mark.parametrize("scenario", sorted(driver_answers.SCENARIOS))
def test_answers(software: dict[str, Any], scenario: str) -> None:
    recorded, answers = RECORD[scenario], software[scenario]
    assert "failed" not in recorded
    assert answers.keys() == recorded.keys()
    wrong = {
        question: f"GPU {recorded[question]}, software {answer}"
        for question, answer in answers.items()
        if answer != recorded[question]
        and recorded[question] != driver_asked.CRASHED
        and (scenario, question) not in DIFFERENCES
    }
    assert not wrong


def test_every_difference_is_one() -> None:
    assert {scenario for scenario, _ in DIFFERENCES} <= RECORD.keys()
    assert all(question in RECORD[scenario] for scenario, question in DIFFERENCES)
