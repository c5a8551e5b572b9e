"""The device generators: each distribution has its law, and the states go on as cuRAND's do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from migproxy.softgpu.libraries import generator_api, random_engines

LANES = 1500


class Bits:
    """A bit generator as CuPy's, with its states in a NumPy buffer."""

    def __init__(self, generator, seed=1, size=LANES):
        self.generator = generator
        self.states = np.zeros(size, random_engines.ENGINES[generator].STATE)
        generator_api.init_curand(generator, self.state(), seed, size)

    def state(self):
        return self.states.__array_interface__["data"][0]

    def _state_size(self):
        return len(self.states)


@pytest.fixture(params=[0, 1, 2], ids=["XORWOW", "MRG32k3a", "Philox"])
def generator(request):
    return generator_api.Generator(Bits(request.param))


def test_raw_numbers_are_one_per_thread(generator):
    bits = generator.bit_generator
    out = np.zeros(LANES + 10, np.int32)
    generator_api.random_raw(bits, out)
    kind = random_engines.ENGINES[bits.generator]
    reference = kind.seeded(1, np.arange(LANES))
    first = reference.bits()
    np.testing.assert_array_equal(out.view(np.uint32)[:LANES], first)
    second = reference.take(np.arange(10)).bits()
    np.testing.assert_array_equal(out.view(np.uint32)[LANES:], second)
    # The states were saved: the next draw goes on.
    again = np.zeros(3, np.int32)
    generator_api.random_raw(bits, again)
    reference.bits()
    np.testing.assert_array_equal(again.view(np.uint32), reference.take(np.arange(3)).bits())


CONTINUOUS = [
    ("random", (), "uniform", ()),
    ("standard_normal", (), "norm", ()),
    ("standard_exponential", (), "expon", ()),
    ("standard_gamma", (0.3,), "gamma", (0.3,)),
    ("standard_gamma", (1,), "gamma", (1,)),
    ("standard_gamma", (7.5,), "gamma", (7.5,)),
    ("beta", (0.5, 0.8), "beta", (0.5, 0.8)),
    ("beta", (2.0, 5.0), "beta", (2.0, 5.0)),
    ("chisquare", (3.0,), "chi2", (3.0,)),
    ("f", (4.0, 9.0), "f", (4.0, 9.0)),
    ("power", (2.5,), "powerlaw", (2.5,)),
    ("exponential", (3.0,), "expon", (0, 3.0)),
    ("gamma", (2.0, 0.5), "gamma", (2.0, 0, 0.5)),
    ("uniform", (-1.0, 4.0), "uniform", (-1.0, 5.0)),
]


@pytest.mark.parametrize(("method", "arguments", "law", "parameters"), CONTINUOUS)
def test_continuous(generator, method, arguments, law, parameters):
    values = getattr(generator, method)(*arguments, size=9000)
    assert values.dtype == np.float64
    assert stats.kstest(values, law, parameters).pvalue > 1e-4


DISCRETE = [
    ("geometric", (0.6,), stats.geom(0.6)),
    ("geometric", (0.02,), stats.geom(0.02)),
    ("poisson", (0.7,), stats.poisson(0.7)),
    ("poisson", (40.0,), stats.poisson(40.0)),
    ("logseries", (0.8,), stats.logser(0.8)),
    ("binomial", (20, 0.3), stats.binom(20, 0.3)),
    ("binomial", (200, 0.7), stats.binom(200, 0.7)),
    ("binomial", (100000, 0.4), stats.binom(100000, 0.4)),
    ("hypergeometric", (6, 8, 5), stats.hypergeom(14, 6, 5)),
    ("hypergeometric", (50, 80, 40), stats.hypergeom(130, 50, 40)),
    ("integers", (3, 10), stats.randint(3, 10)),
]


@pytest.mark.parametrize(("method", "arguments", "law"), DISCRETE)
def test_discrete(generator, method, arguments, law):
    values = getattr(generator, method)(*arguments, size=9000)
    assert values.dtype == np.int64
    # Compare frequencies in bins of equal weight.
    edges = np.unique(law.ppf(np.linspace(0, 1, 13)[1:-1]))
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    keep = expected > 1e-6
    assert observed[~keep].sum() == 0
    assert stats.chisquare(observed[keep], expected[keep] / expected[keep].sum() * len(values)).pvalue > 1e-4


def test_array_parameters_follow_their_elements(generator):
    lam = np.array([[0.0, 1.0, 500.0]])
    values = generator.poisson(lam, (2000, 3))
    np.testing.assert_allclose(values.mean(axis=0), [0, 1, 500], rtol=0.1)
    means = generator.binomial(np.array([10, 1000]), np.array([0.5, 0.9]), (2000, 2)).mean(axis=0)
    np.testing.assert_allclose(means, [5, 900], rtol=0.05)
    assert generator.dirichlet(np.array([1.0, 2.0, 3.0]), 5).sum(axis=-1) == pytest.approx(np.ones(5))


def test_integers_of_all_widths(generator):
    wide = generator.integers(-(2**63), 2**63 - 1, size=3000, endpoint=True)
    assert abs(wide.astype(float).mean()) < 2**63 * 0.1
    small = generator.integers(0, 255, size=3000, dtype=np.uint8, endpoint=True)
    assert small.dtype == np.uint8
    assert (small.min(), small.max()) == (0, 255)
    assert generator.integers(5, 6) == 5
    with pytest.raises(ValueError, match="low >= high"):
        generator.integers(5, 5)
    with pytest.raises(ValueError, match="high is out of bounds for uint8"):
        generator.integers(0, 257, dtype=np.uint8)


def test_output_arrays(generator):
    out = np.zeros((4, 5), np.float32)
    assert generator.random(out=out, dtype=np.float32) is out
    assert len(np.unique(out)) > 15
    turned = np.zeros((5, 4)).T
    generator.standard_normal(out=turned)
    assert len(np.unique(turned)) == 20
    with pytest.raises(TypeError, match="wrong type"):
        generator.random(out=out)
    with pytest.raises(ValueError, match="size must match"):
        generator.random(3, np.float32, out)
    with pytest.raises(NotImplementedError, match="Ziggurat"):
        generator.standard_exponential(method="zig")
    assert generator.random().shape == ()
    assert generator.random((0, 3)).shape == (0, 3)


def test_normals_alternate_per_thread():
    for kind in (0, 1, 2):
        bits = Bits(kind, 3, 4)
        values = generator_api.Generator(bits).standard_normal(8)
        engine = random_engines.ENGINES[kind].seeded(3, np.arange(4))
        first, second = engine.normal_pair_double()
        np.testing.assert_array_equal(values, np.concatenate([first, second]))
        assert (bits.states["flag_double"] == 0).all()


@pytest.mark.parametrize("count", [1, 5, 256, 257, 1000, 70000])
def test_feistel_is_a_bijection(rng, count):
    keys = rng.integers(0, 2**32, 24, np.uint32)
    values = generator_api.FeistelBijection(count, keys)(count)
    assert values.dtype == np.int64
    np.testing.assert_array_equal(np.sort(values), np.arange(count))
    if count > 200:
        assert abs(np.corrcoef(values, np.arange(count))[0, 1]) < 0.3
