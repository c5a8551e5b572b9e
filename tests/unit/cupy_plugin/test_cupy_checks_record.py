"""The function's checks against what CUDA's libraries answered to the same invalid calls on an H100.

``tests/gpu_data/record_library_checks.py`` makes the record. Where a call ended the process that made it, because its
descriptors are none, there is no answer, and the rule is the manual's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from invalid_calls import LIBRARIES, checked_functions
from migproxy_plugins.cupy import checks

HERE = Path(__file__).resolve().parent
RECORD = json.loads((HERE / "data" / "gpu_checks.json").read_text())
#: These cannot be called without descriptors, or are no longer in the library that was asked.
UNANSWERED = {"cublas": 0, "cusolver": 0, "cusparse": 37}
ASKED = [
    ("cublas", "sgemm"),
    ("cublas", "strsm"),
    ("cusolver", "spotrf"),
    ("cusolver", "dgeqrf"),
    ("cusparse", "createDnVec"),
]


def expected(short: str, name: str) -> dict[str, int]:
    signature = next(each for each in checked_functions(short) if each.name == name)
    return {rule: status for rule, status in checks.conditions(short, signature) if rule != "handle == 0"}


@pytest.mark.parametrize("short", sorted(LIBRARIES))
def test_each_rule_is_what_the_library_answered(short: str) -> None:
    if short not in RECORD:
        pytest.skip("its functions were not asked")
    wrong, unanswered = [], 0
    for signature in checked_functions(short):
        answers = RECORD[short][signature.name]
        if "died" in answers:
            unanswered += 1
            continue
        rules = expected(short, signature.name)
        wrong += [(signature.name, rule, answers.get(rule)) for rule in rules if answers.get(rule) != rules[rule]]
    assert not wrong
    assert unanswered == UNANSWERED[short]


@pytest.mark.gpu
@pytest.mark.parametrize(("short", "name"), ASKED)
def test_the_library_answers_so_here(short: str, name: str) -> None:
    """In a process of its own: an invalid call may end the context."""
    recorder = HERE.parents[1] / "gpu_data" / "record_library_checks.py"
    command = [sys.executable, str(recorder), "--one", short, name, "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    rules = expected(short, name)
    assert {rule: found[rule] for rule in rules} == rules
