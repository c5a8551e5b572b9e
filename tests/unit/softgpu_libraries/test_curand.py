"""cuRAND's host API against what cuRAND's own host generators returned, and its device engines against its header."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from migproxy.softgpu.libraries import curand, random_engines
from migproxy.softgpu.libraries.status import CURANDError

DATA = Path(__file__).parent / "data"
HOST = json.loads((DATA / "curand_host.json").read_text())
DEVICE = json.loads((DATA / "curand_device.json").read_text())
DTYPES = {"generate": "u4", "generateUniform": "f4", "generateUniformDouble": "f8", "generateNormal": "f4",
          "generateNormalDouble": "f8"}  # fmt: skip


def places(count):
    spread = [int(place) for place in np.linspace(0, count - 1, 12)]
    return sorted({*range(min(6, count)), *spread, *range(max(0, count - 3), count)})


def draw(put, generator, function, count):
    out = np.zeros(count, DTYPES.get(function, "u4"))
    extra = (0.0, 1.0) if "Normal" in function else ()
    getattr(curand, function)(generator, put(out), count, *extra)
    return out


@pytest.mark.parametrize("case", HOST, ids=lambda case: f"{case['generator']}-{case['ordering']}-{case['seed']}")
def test_same_sequences_as_curand(put, case):
    generator = curand.createGenerator(case["generator"])
    curand.setGeneratorOrdering(generator, case["ordering"])
    curand.setPseudoRandomGeneratorSeed(generator, case["seed"])
    curand.setGeneratorOffset(generator, case["offset"])
    for step in case["draws"]:
        values = draw(put, generator, step["function"], step["count"])[places(step["count"])]
        expected = np.array(step["values"], values.dtype)
        if "Normal" in step["function"]:
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=2e-6)
        elif step["function"] == "generateUniform" and case["generator"] == 121:
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-7)  # the host rounds once more
        else:
            np.testing.assert_array_equal(values, expected)
    curand.destroyGenerator(generator)


@pytest.mark.parametrize("case", DEVICE["init"], ids=lambda case: "-".join(map(str, case[:4])))
def test_same_states_as_the_device_header(case):
    name, seed, subsequence, offset, words, numbers = case
    kind = getattr(random_engines, name)
    # The wanted lane among others, so that jumps of several lanes at once are seen.
    engine = kind.seeded(seed, np.array([subsequence + 1, subsequence, 0]), offset)
    states = np.zeros(3, kind.STATE)
    engine.save(states)
    assert states[1:2].view(np.uint32).tolist() == words
    again = kind.load(states)
    assert [int(again.bits()[1]) for _ in numbers] == numbers


@pytest.mark.parametrize("name", DEVICE["mixed"])
def test_same_mixture_as_the_device_header(name):
    engine = getattr(random_engines, name).seeded(42, np.array([3]))
    values = []
    for _ in range(4):
        values += [engine.bits(), engine.uniform(), engine.uniform_double(), engine.normal(), engine.normal_double()]
    np.testing.assert_allclose(np.array(values, float).ravel(), DEVICE["mixed"][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["Xorwow", "Mrg32k3a", "Philox"])
def test_lanes_are_independent(name):
    kind = getattr(random_engines, name)
    engine, alone = kind.seeded(7, np.arange(5)), kind.seeded(7, np.array([3]))
    some = engine.take(np.array([1, 3]))
    drawn = [some.normal_double()[1], some.bits()[1], some.normal_double()[1], some.uniform()[1], some.normal()[1]]
    engine.put(np.array([1, 3]), some)
    expected = [alone.normal_double(), alone.bits(), alone.normal_double(), alone.uniform(), alone.normal()]
    np.testing.assert_array_equal(drawn, np.array(expected, float).ravel())
    assert engine.bits()[3] == alone.bits()[0]


@pytest.mark.parametrize(("kind", "integers", "narrow"), [(201, "generate", 32), (203, "generateLongLong", 64)])
def test_sobol(put, kind, integers, narrow):
    # As cuRAND's host generators returned them.
    generator, out = curand.createGenerator(kind), np.zeros(6, f"u{narrow // 8}")
    getattr(curand, integers)(generator, put(out), 6)
    fractions = np.array([0, 0.5, 0.75, 0.25, 0.375, 0.875])
    np.testing.assert_array_equal(out, (fractions * 2.0**narrow).astype(out.dtype))
    first = {
        "generateUniform": ("f4", 1.1641532e-10),
        "generateUniformDouble": ("f8", 2.32830644e-10 if narrow == 32 else 5.55111512e-17),
        "generateNormal": ("f4", -6.3379574),
        "generateNormalDouble": ("f8", -6.33795775 if narrow == 32 else -8.29236108),
    }
    for function, (dtype, expected) in first.items():
        curand.setGeneratorOffset(generator, 0)
        values = np.zeros(4, dtype)
        getattr(curand, function)(generator, put(values), 4, *((0.0, 1.0) if "Normal" in function else ()))
        np.testing.assert_allclose(values[0], expected, rtol=1e-7)
        rest = [0.5, 0.75, 0.25] if "Uniform" in function else [0, 0.67448975, -0.67448975]
        np.testing.assert_allclose(values[1:], rest, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("kind", [100, 121, 141, 142, 161])
def test_distributions(put, kind):
    generator = curand.createGenerator(kind)
    curand.setPseudoRandomGeneratorSeed(generator, 99)
    for function, law in [("generateUniform", "uniform"), ("generateNormal", "norm"), ("generateNormalDouble", "norm")]:
        values = draw(put, generator, function, 20000)
        assert stats.kstest(values, law).pvalue > 1e-4, function
    assert draw(put, generator, "generateUniform", 20000).min() > 0
    out = np.zeros(20000)
    curand.generateLogNormalDouble(generator, put(out), out.size, 0.5, 2.0)
    assert stats.kstest(np.log(out), "norm", (0.5, 2.0)).pvalue > 1e-4
    for mean in (0.5, 5.0, 300.0):
        counts = np.zeros(20000, np.uint32)
        curand.generatePoisson(generator, put(counts), counts.size, mean)
        assert abs(counts.mean() - mean) < 5 * (mean / 20000) ** 0.5
        assert abs(counts.var() / mean - 1) < 0.06


def test_seed_starts_over(put):
    generator = curand.createGenerator(100)
    curand.setPseudoRandomGeneratorSeed(generator, 5)
    first = draw(put, generator, "generate", 100)
    assert (draw(put, generator, "generate", 100) != first).any()
    curand.setPseudoRandomGeneratorSeed(generator, 5)
    np.testing.assert_array_equal(draw(put, generator, "generate", 100), first)


def test_errors(put):
    generator = curand.createGenerator(161)
    with pytest.raises(ValueError, match="even number of random variables"):
        curand.generateNormal(generator, 0, 3, 0.0, 1.0)
    for call, status in [
        (lambda: curand.createGenerator(7), 103),
        (lambda: curand.createGenerator(202), 103),
        (lambda: curand.setPseudoRandomGeneratorSeed(curand.createGenerator(201), 1), 103),
        (lambda: curand.setGeneratorOffset(curand.createGenerator(141), 1), 103),
        (lambda: curand.setGeneratorOrdering(generator, 102), 104),
        (lambda: curand.generateLongLong(generator, 0, 1), 103),
        (lambda: curand.generatePoisson(generator, 0, 1, 0.0), 104),
        (lambda: curand.generate(12345, 0, 1), 101),
        (lambda: curand.check_status(201), 201),
    ]:
        with pytest.raises(CURANDError) as caught:
            call()
        assert caught.value.status == status
