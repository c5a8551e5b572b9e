"""Executors killed at steps of a command, functions killed at random instants; a bystander computes throughout. The
full counts are ``tools/measure_containment.py``'s."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from containment_kills import STEPS, KillingBroker, kill_functions  # noqa: E402
from measure_containment import BYSTANDER, Rig, end, left_behind, line  # noqa: E402

#: One of each kind; the last dies between two stores of a hand-over.
SOME = ("after:cuLaunchKernel", "handled:MODULE_LOAD", "answering:half", "lease:put:3")


@pytest.fixture(autouse=True)
def source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_functions_die_at_random_instants() -> None:
    rig = Rig("software")
    bystander = rig.function(BYSTANDER)
    try:
        before = rig.footprint()
        made, right, _, seen = kill_functions(rig.path, rounds=4, herds=1, until=time.monotonic() + 60)
        assert (made, right) == (4, 4), seen
        _, nothing, _, words = left_behind(rig, before)
        assert nothing, words
        assert bystander.stdin is not None
        bystander.stdin.write("stop\n")
        bystander.stdin.flush()
        assert line(bystander)[0] == "right"
    finally:
        end(bystander)
        rig.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[KillingBroker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        made = KillingBroker("software")
    yield made
    made.close()


@pytest.mark.parametrize("step", SOME)
def test_an_executor_dies_at_a_step_of_a_command(broker: KillingBroker, step: str) -> None:
    assert step in STEPS
    right, took, words = broker.die_at(step)
    assert right, (words, took)
