"""Random programs against their NumPy model."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import kit
from .programs import OPS, Program


def check(program: Program, blocks: int = 1) -> None:
    kernel = kit.load(program.text()).kernels["k"]
    expected = program.expected()
    out = np.zeros_like(expected)
    kit.launch(kernel, blocks, program.threads, program.inputs, out)
    if not np.array_equal(out, expected):
        wrong = [name for name, a, b in zip(program.values, out, expected, strict=True) if (a != b).any()]
        raise AssertionError(f"{wrong}\n{program.text()}")


@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False), threads=st.sampled_from([32, 64, 96, 256]), sections=st.integers(1, 5))
def test_programs_do_what_their_model_does(random: Random, threads: int, sections: int) -> None:
    program = Program(random, threads)
    program.write(sections)
    check(program)


@settings(max_examples=6, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_programs_of_one_thread_need_no_scheduler(random: Random) -> None:
    program = Program(random, 1)
    program.block(np.ones(1, bool), 3, 30)
    check(program)


@settings(max_examples=5, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_programs_are_the_same_in_check_mode(random: Random) -> None:
    program = Program(random, 64)
    program.write(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGPROXY_SOFTGPU", "check")
        check(program)


def test_what_a_barrier_counts_outlives_the_next_barrier() -> None:
    text = f"""{kit.HEAD}.visible .entry k(.param .u64 out)
{{ .reg .b64 %o; .reg .b32 %t; .reg .b32 %n; .reg .pred %p; ld.param.u64 %o, [out]; mov.u32 %t, %tid.x;
  mad.wide.u32 %o, %t, 4, %o; mov.u32 %n, %t; setp.lt.u32 %p, %t, 5; bar.red.popc.u32 %n, 0, %p; bar.sync 0;
  st.global.u32 [%o], %n; ret; }}"""
    out = np.zeros(64, np.uint32)
    kit.launch(kit.load(text).kernels["k"], 1, 64, out)
    assert (out == 5).all()


def test_each_operation_alone() -> None:
    """Every entry of the table at least once, in one long program each for the three result types."""
    program = Program(Random(1), 64)
    for entry in OPS:
        program.random = _Chooser(entry)  # type: ignore[assignment]
        program.straight(np.ones(64, bool))
    check(program)


class _Chooser(Random):
    """Chooses a given table entry, and everything else at random."""

    def __init__(self, entry: object) -> None:
        super().__init__(7)
        self.entry = entry

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return self.entry if seq is OPS else super().choice(seq)
