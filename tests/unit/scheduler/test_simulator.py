"""The simulator: modes, fairness, the offline optimum of small cases, and the price of a decision at scale."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migproxy.scheduler.policy import MS, POLICIES
from migproxy.scheduler.simulator import MODES, Function, Phase, Simulator, simulate

REQUEST = Phase(cpu=4_560_000, copy=1_710_000, kernels=10, kernel=513_000)  # 40% CPU, 15% copy, 45% GPU of 11.4 ms


def requests(count: int, rounds: int = 20) -> list[Function]:
    return [Function(f"f{index}", (REQUEST,) * rounds, arrival=index) for index in range(count)]


def test_modes_overlap_as_their_names_say() -> None:
    alone = simulate(requests(1)).makespan
    spans = {mode: simulate(requests(4), mode=mode).makespan for mode in MODES}
    assert spans["sequential"] == pytest.approx(4 * alone, rel=0.02)
    assert spans["sequential"] > spans["overlap_cpu"] > spans["overlap_cpu_memcpy"] > spans["full_overlap"]


@pytest.mark.parametrize(("count", "least"), [(2, 1.85), (4, 2.0), (8, 2.0)])
def test_overlap_gains_what_the_hand_over_leaves(count: int, least: float) -> None:
    alone = simulate(requests(1)).makespan
    together = simulate(requests(count)).makespan
    assert count * alone / together >= least


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_everyone_finishes_and_kernels_never_overlap(policy: str, data: st.DataObject) -> None:
    phase = st.builds(
        Phase,
        cpu=st.integers(0, 5 * MS),
        copy=st.integers(0, MS),
        kernels=st.integers(0, 6),
        kernel=st.integers(1, 3 * MS),
    )
    functions = [
        Function(
            f"f{index}",
            tuple(data.draw(st.lists(phase, max_size=5))),
            arrival=data.draw(st.integers(0, 10 * MS)),
            slice=data.draw(st.integers(0, 1)),
            priority=data.draw(st.integers(-2, 2)),
            deadline_ns=data.draw(st.integers(0, 50 * MS)),
        )
        for index in range(data.draw(st.integers(1, 6)))
    ]
    mode = data.draw(st.sampled_from(MODES))
    outcome = simulate(functions, policy=policy, mode=mode, slices=2)
    assert set(outcome.finished) == {each.name for each in functions}
    assert outcome.overlaps == 0
    assert sum(outcome.gpu_busy) == sum(phase.gpu for each in functions for phase in each.phases)


@pytest.mark.parametrize("policy", ["gpu_time", "priority", "deadline"])
def test_a_small_request_waits_for_a_kernel_of_its_neighbour_not_for_its_queue(policy: str) -> None:
    heavy = Function("heavy", (Phase(kernels=2_000, kernel=2 * MS),), priority=0)
    small = Function(
        "small", (Phase(cpu=50 * MS, kernels=50, kernel=30_000),) * 20, arrival=MS, priority=1, deadline_ns=5 * MS
    )
    outcome = simulate([heavy, small], policy=policy)
    assert outcome.longest_wait["small"] <= 2 * MS + 500_000


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nobody_starves_beside_greedy_neighbours(policy: str) -> None:
    greedy = [Function(f"g{index}", (Phase(kernels=400, kernel=MS),), priority=2, deadline_ns=MS) for index in range(4)]
    modest = Function("modest", (Phase(kernels=1, kernel=MS),), arrival=MS, priority=-2, deadline_ns=10_000 * MS)
    outcome = simulate([*greedy, modest], policy=policy)
    if policy == "deadline":  # earliest deadline first promises nothing else to a deadline ten seconds away
        assert outcome.finished["modest"] <= outcome.makespan
    else:
        assert outcome.finished["modest"] < 1_000 * MS


@pytest.mark.parametrize("seed", range(6))
def test_utilisation_is_near_the_best_offline_order_of_small_cases(seed: int) -> None:
    """Jobs of one CPU phase, then one kernel, are a two-machine flow shop with infinite CPUs: Johnson's rule is by
    CPU time."""
    chooser = random.Random(seed)
    jobs = [(chooser.randrange(1, 20) * MS, chooser.randrange(1, 20) * MS) for _ in range(6)]

    def length(order: tuple[int, ...]) -> int:
        free = 0
        for index in order:
            free = max(free, jobs[index][0]) + jobs[index][1]
        return free

    best = min(length(order) for order in itertools.permutations(range(len(jobs))))
    functions = [
        Function(f"f{index}", (Phase(cpu=cpu, kernels=1, kernel=gpu),)) for index, (cpu, gpu) in enumerate(jobs)
    ]
    for policy in POLICIES:
        assert simulate(functions, policy=policy, handover=0, think=0).makespan <= 1.01 * best


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_decisions_stay_cheap_with_ten_thousand_functions_on_a_hundred_slices(policy: str) -> None:
    chooser = random.Random(1)
    functions = [
        Function(
            f"f{index}",
            (Phase(cpu=chooser.randrange(MS), kernels=1, kernel=chooser.randrange(1, MS)),),
            arrival=chooser.randrange(50 * MS),
            slice=index % 100,
            priority=chooser.randrange(5),
        )
        for index in range(10_000)
    ]
    simulator = Simulator(functions, policy=policy, slices=100)
    began = time.process_time()
    outcome = simulator.run()
    each = (time.process_time() - began) / outcome.decisions
    assert len(outcome.finished) == 10_000
    assert each < 60e-6, f"{each * 1e6:.1f} µs a decision, the simulation of its functions included"
