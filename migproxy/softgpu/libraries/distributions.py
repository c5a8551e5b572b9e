"""CuPy's device distributions on many lanes: the functions that ``cupy.random.Generator`` launches as kernels.

Each function draws from every lane of an engine exactly what one GPU thread draws, in the same order, so that states
and numbers stay in step with the real ones. Where threads diverge, the lanes that go on are taken out and put back
(`until`, `branch`). The algorithms are those of NumPy's legacy generator: inversion and search for small parameters,
Marsaglia–Tsang for gamma, PTRS for Poisson, BTPE for binomial, HRUA for hypergeometric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from .random_engines import Engine

Array = npt.NDArray[Any]
Attempt = Callable[..., tuple[Array, Array]]


def double(engine: Engine) -> Array:
    """Return float64 in [0, 1): cuRAND's interval is closed at 1, CuPy turns a 1 into a 0."""
    values = engine.uniform_double()
    values[values >= 1.0] = 0.0
    return values


def single(engine: Engine) -> Array:
    """Return float32 in [0, 1)."""
    values = engine.uniform()
    values[values >= 1.0] = 0.0
    return values


def until(engine: Engine, attempt: Attempt, *parameters: Array) -> Array:
    """Repeat an attempt on the lanes where it failed.

    ``attempt(engine, *parameters)`` returns values and a mask of the lanes that are done.
    """
    values, done = attempt(engine, *parameters)
    lanes = np.arange(engine.lanes)
    current = engine
    out = values
    while not done.all():
        again = ~done
        lanes = lanes[again]
        current = engine.take(lanes)
        parameters = tuple(parameter[again] for parameter in parameters)
        values, done = attempt(current, *parameters)
        engine.put(lanes, current)
        out[lanes] = values
    return out


def branch(
    engine: Engine, condition: Array, true: Callable[..., Array], false: Callable[..., Array], *parameters: Array
) -> Array:
    """Run one of two functions on each lane."""
    if condition.all():
        return true(engine, *parameters)
    if not condition.any():
        return false(engine, *parameters)
    out: Array | None = None
    for function, mask in ((true, condition), (false, ~condition)):
        lanes = np.flatnonzero(mask)
        some = engine.take(lanes)
        values = function(some, *(parameter[lanes] for parameter in parameters))
        engine.put(lanes, some)
        if out is None:
            out = np.empty(engine.lanes, values.dtype)
        out[lanes] = values
    assert out is not None
    return out


def _constant(value: float) -> Callable[..., Array]:
    return lambda engine, *parameters: np.full(engine.lanes, value)


# --- continuous ------------------------------------------------------------------------------------------------------


def exponential(engine: Engine) -> Array:
    """Standard exponential, by inversion."""
    values: Array = -np.log(1.0 - double(engine))
    return values


def standard_gamma(engine: Engine, shape: Array) -> Array:
    """Gamma of scale one."""

    def below_one(engine: Engine, shape: Array) -> Array:
        return branch(engine, shape < 0.0, _constant(0.0), lambda e, s: until(e, _small_gamma, s), shape)

    def not_one(engine: Engine, shape: Array) -> Array:
        return branch(engine, shape < 1.0, below_one, _large_gamma, shape)

    return branch(engine, shape == 1.0, lambda e, _: exponential(e), not_one, shape)


def _small_gamma(engine: Engine, shape: Array) -> tuple[Array, Array]:
    u, v = double(engine), exponential(engine)
    low = u <= 1.0 - shape
    y = np.where(low, 0.0, -np.log((1 - u) / shape))
    x = np.where(low, u, 1.0 - shape + shape * y) ** (1.0 / shape)
    return x, x <= v + y


def _large_gamma(engine: Engine, shape: Array) -> Array:
    b = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9 * b)

    def positive(engine: Engine, c: Array) -> tuple[Array, Array]:
        x = engine.normal_double()
        return x, 1.0 + c * x > 0.0

    def attempt(engine: Engine, b: Array, c: Array) -> tuple[Array, Array]:
        x = until(engine, positive, c)
        v = (1.0 + c * x) ** 3
        u = double(engine)
        square = x * x
        done = (u < 1.0 - 0.0331 * square * square) | (np.log(u) < 0.5 * square + b * (1.0 - v + np.log(v)))
        return b * v, done

    return until(engine, attempt, b, c)


def beta(engine: Engine, a: Array, b: Array) -> Array:
    """Beta: Jöhnk's algorithm where both parameters are at most one, else from two gammas."""

    def from_gammas(engine: Engine, a: Array, b: Array) -> Array:
        first = standard_gamma(engine, a)
        share: Array = first / (first + standard_gamma(engine, b))
        return share

    return branch(engine, (a <= 1.0) & (b <= 1.0), lambda e, a, b: until(e, _johnk, a, b), from_gammas, a, b)


def _johnk(engine: Engine, a: Array, b: Array) -> tuple[Array, Array]:
    u, v = double(engine), double(engine)
    x, y = u ** (1.0 / a), v ** (1.0 / b)
    total = x + y
    log_x, log_y = np.log(u) / a, np.log(v) / b
    # Both powers may underflow to zero; their ratio is then taken from the logarithms.
    largest = np.maximum(log_x, log_y)
    log_x, log_y = log_x - largest, log_y - largest
    tiny = np.exp(log_x - np.log(np.exp(log_x) + np.exp(log_y)))
    return np.where(total > 0, x / total, tiny), total <= 1.0


# --- discrete --------------------------------------------------------------------------------------------------------


def geometric(engine: Engine, p: Array) -> Array:
    """Number of trials up to the first success."""

    def search(engine: Engine, p: Array) -> Array:
        u = double(engine)
        count, total, product, q = np.ones(len(u), np.int64), p.copy(), p.copy(), 1.0 - p
        while (more := u > total).any():
            product[more] *= q[more]
            total[more] += product[more]
            count[more] += 1
            # Rounding can leave the sum of all terms just below u; the kernel would then never end.
            total[more & (product == 0)] = np.inf
        return count

    def inversion(engine: Engine, p: Array) -> Array:
        return _to_integer(np.ceil(np.log(1.0 - double(engine)) / np.log(1.0 - p)))

    return branch(engine, p >= 0.333333333333333333333333, search, inversion, p)


def _to_integer(values: Array) -> Array:
    """Convert as the GPU does: saturating, NaN to the least value."""
    limit = 2.0**63
    clipped = np.where(np.isnan(values) | (values < -limit), -limit, np.where(values >= limit, 0.0, values))
    return np.where(values >= limit, np.iinfo(np.int64).max, clipped.astype(np.int64))


def hypergeometric(engine: Engine, good: Array, bad: Array, sample: Array) -> Array:
    """Number of good ones in a sample."""

    def drawn(engine: Engine, good: Array, bad: Array, sample: Array) -> Array:
        large = (sample > 10) & (sample <= good + bad - 10)
        return branch(engine, large, _hrua, _hyp, good, bad, sample)

    nothing = lambda e, *_: np.zeros(e.lanes, np.int64)  # noqa: E731
    return branch(engine, sample <= 0, nothing, drawn, good, bad, sample)


def _hyp(engine: Engine, good: Array, bad: Array, sample: Array) -> Array:
    d1 = bad + good - sample
    d2 = np.minimum(bad, good).astype(np.float64)
    y, k = d2.copy(), sample.copy()
    lanes = np.flatnonzero((y > 0.0) & (k > 0))
    while len(lanes):
        some = engine.take(lanes)
        u = double(some)
        engine.put(lanes, some)
        y[lanes] -= np.floor(u + y[lanes] / (d1[lanes] + k[lanes]))
        k[lanes] -= 1
        lanes = lanes[(y[lanes] > 0.0) & (k[lanes] > 0)]
    z = (d2 - y).astype(np.int64)
    return np.where(good > bad, sample - z, z)


def _hrua(engine: Engine, good: Array, bad: Array, sample: Array) -> Array:
    low, high, total = np.minimum(good, bad), np.maximum(good, bad), good + bad
    m = np.minimum(sample, total - sample)
    d4 = low / total
    d6 = m * d4 + 0.5
    d7 = np.sqrt((total - m) * sample * d4 * (1.0 - d4) / (total - 1) + 0.5)
    d8 = 1.7155277699214135 * d7 + 0.8989161620588988
    d9 = np.floor((m + 1) * (low + 1) / (total + 2))
    d11 = np.minimum(np.minimum(m, low) + 1.0, np.floor(d6 + 16 * d7))

    def weight(z: Array, low: Array, high: Array, m: Array) -> Array:
        value: Array = gammaln(z + 1) + gammaln(low - z + 1) + gammaln(m - z + 1) + gammaln(high - m + z + 1)
        return value

    d10 = weight(d9, low, high, m)

    def attempt(engine: Engine, *parameters: Array) -> tuple[Array, Array]:
        low, high, m, d6, d8, d10, d11 = parameters
        x, y = double(engine), double(engine)
        w = d6 + d8 * (y - 0.5) / x
        inside = (w >= 0.0) & (w < d11)
        z = np.floor(np.where(inside, w, 0.0))
        u = d10 - weight(z, low, high, m)
        quick = x * (4.0 - x) - 3.0 <= u
        slow = ~(x * (x - u) >= 1) & (2.0 * np.log(x) <= u)
        return z.astype(np.int64), inside & (quick | slow)

    z = until(engine, attempt, low, high, m, d6, d8, d10, d11)
    z = np.where(good > bad, m - z, z)
    return np.where(m < sample, good - z, z)


def logseries(engine: Engine, p: Array) -> Array:
    """Logarithmic series."""

    def attempt(engine: Engine, p: Array) -> tuple[Array, Array]:
        v = double(engine)
        values, done = np.ones(len(v), np.int64), v >= p
        lanes = np.flatnonzero(~done)
        if len(lanes):
            some = engine.take(lanes)
            q = 1.0 - np.exp(np.log(1.0 - p[lanes]) * double(some))
            engine.put(lanes, some)
            v = v[lanes]
            deep = v <= q * q
            number = np.where(deep, np.floor(1 + np.log(v) / np.log(q)), np.where(v >= q, 1, 2))
            values[lanes] = _to_integer(number)
            done[lanes] = ~deep | (values[lanes] >= 1)
        return values, done

    return until(engine, attempt, p)


def poisson(engine: Engine, lam: Array) -> Array:
    """Poisson: transformed rejection from ten on, else products of uniforms."""

    def small(engine: Engine, lam: Array) -> Array:
        nothing = lambda e, _: np.zeros(e.lanes, np.int64)  # noqa: E731
        return branch(engine, lam == 0, nothing, _poisson_products, lam)

    return branch(engine, lam >= 10, lambda e, x: until(e, _ptrs, x), small, lam)


def _poisson_products(engine: Engine, lam: Array) -> Array:
    limit, product = np.exp(-lam), np.ones(engine.lanes)
    count = np.full(engine.lanes, -1, np.int64)
    lanes = np.arange(engine.lanes)
    while len(lanes):
        some = engine.take(lanes)
        product[lanes] *= double(some)
        engine.put(lanes, some)
        count[lanes] += 1
        lanes = lanes[product[lanes] > limit[lanes]]
    return count


def _ptrs(engine: Engine, lam: Array) -> tuple[Array, Array]:
    b = 0.931 + 2.53 * np.sqrt(lam)
    a = -0.059 + 0.02483 * b
    u, v = double(engine) - 0.5, double(engine)
    us = 0.5 - np.abs(u)
    k = np.floor((2 * a / us + b) * u + lam + 0.43)
    quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
    never = (k < 0) | ((us < 0.013) & (v > us))
    left = np.log(v) + np.log(1.1239 + 1.1328 / (b - 3.4)) - np.log(a / (us * us) + b)
    slow = left <= -lam + k * np.log(lam) - gammaln(k + 1)
    return _to_integer(k), quick | (~never & slow)


def binomial(engine: Engine, n: Array, p: Array) -> Array:
    """Binomial: BTPE where the mean of the rarer outcome is above thirty, else inversion."""
    n = n.astype(np.int32).astype(np.int64)  # the kernel reads 32 bits
    rare = np.where(p <= 0.5, p, 1.0 - p)
    counts = branch(engine, rare * n <= 30.0, _binomial_inversion, _btpe, n, rare)
    return np.where(p <= 0.5, counts, n - counts)


def _binomial_inversion(engine: Engine, n: Array, p: Array) -> Array:
    q = 1.0 - p
    start = np.exp(n * np.log(q))
    bound = np.minimum(n, n * p + 10.0 * np.sqrt(n * p * q + 1)).astype(np.int64)

    def attempt(engine: Engine, *parameters: Array) -> tuple[Array, Array]:
        n, p, q, start, bound = parameters
        u, x, px = double(engine), np.zeros(engine.lanes, np.int64), start.copy()
        while (more := (u > px) & (x <= bound)).any():
            x[more] += 1
            go = more & (x <= bound)
            u[go] -= px[go]
            px[go] *= (n[go] - x[go] + 1) * p[go] / (x[go] * q[go])
        return x, x <= bound

    return until(engine, attempt, n, p, q, start, bound)


def _btpe(engine: Engine, n: Array, r: Array) -> Array:
    q = 1.0 - r
    fm = n * r + r
    m = np.floor(fm)
    p1 = np.floor(2.195 * np.sqrt(n * r * q) - 4.6 * q) + 0.5
    xm = m + 0.5
    xl, xr = xm - p1, xm + p1
    c = 0.134 + 20.5 / (15.3 + m)
    a = (fm - xl) / (fm - xl * r)
    laml = a * (1.0 + a / 2.0)
    a = (xr - fm) / (xr * q)
    lamr = a * (1.0 + a / 2.0)
    p2 = p1 * (1.0 + 2.0 * c)
    p3 = p2 + c / laml
    p4 = p3 + c / lamr
    return until(engine, _btpe_attempt, n, r, q, m, p1, xm, xl, xr, c, laml, lamr, p2, p3, p4)


def _btpe_attempt(engine: Engine, *parameters: Array) -> tuple[Array, Array]:
    n, r, q, m, p1, xm, xl, xr, c, laml, lamr, p2, p3, p4 = parameters
    u = double(engine) * p4
    v = double(engine)
    triangle = u <= p1
    parallelogram = ~triangle & (u <= p2)
    left = ~triangle & ~parallelogram & (u <= p3)
    right = ~triangle & ~parallelogram & ~left
    y = np.floor(xm - p1 * v + u)
    x = xl + (u - p1) / c
    w = np.where(parallelogram, v * c + 1.0 - np.abs(m - x + 0.5) / p1, v)
    y = np.where(parallelogram, np.floor(x), y)
    possible = ~(parallelogram & (w > 1.0))
    tail = np.floor(xl + np.log(v) / laml)
    y = np.where(left, tail, y)
    possible &= ~(left & (tail < 0))
    w = np.where(left, v * (u - p2) * laml, w)
    tail = np.floor(xr - np.log(v) / lamr)
    y = np.where(right, tail, y)
    possible &= ~(right & (tail > n))
    w = np.where(right, v * (u - p3) * lamr, w)
    y = np.where(possible, y, m)  # keeps what follows finite; these lanes are rejected anyway
    accepted = triangle | (possible & ~triangle & _btpe_accepts(n, r, q, m, xm, y, w))
    return y.astype(np.int64), accepted


def _btpe_accepts(n: Array, r: Array, q: Array, m: Array, xm: Array, y: Array, v: Array) -> Array:
    """Decide on a candidate: by the ratio of probabilities near the mode or far out, by Stirling's bounds between."""
    k = np.abs(y - m)
    nrq = n * r * q
    squeeze = (k > 20) & (k < nrq / 2.0 - 1)
    ratio = gammaln(m + 1) + gammaln(n - m + 1) - gammaln(y + 1) - gammaln(n - y + 1) + (y - m) * np.log(r / q)
    exact = np.log(v) <= ratio
    rho = (k / nrq) * ((k * (k / 3.0 + 0.625) + 0.16666666666666666) / nrq + 0.5)
    t = -k * k / (2 * nrq)
    log_v = np.log(v)
    x1, f1, z, w = y + 1, m + 1, n + 1 - m, n - y + 1

    def stirling(x: Array) -> Array:
        s = x * x
        value: Array = (13680.0 - (462.0 - (132.0 - (99.0 - 140.0 / s) / s) / s) / s) / x / 166320.0
        return value

    bound = (
        xm * np.log(f1 / x1) + (n - m + 0.5) * np.log(z / w) + (y - m) * np.log(w * r / (x1 * q))
        + stirling(f1) + stirling(z) + stirling(x1) + stirling(w)
    )  # fmt: skip
    between = (log_v < t - rho) | (~(log_v > t + rho) & ~(log_v > bound))
    accepted: Array = np.where(squeeze, between, exact)
    return accepted


def interval_32(engine: Engine, largest: Array, mask: Array) -> Array:
    """Integers from 0 to the largest, by masked rejection."""

    def attempt(engine: Engine, largest: Array, mask: Array) -> tuple[Array, Array]:
        values = engine.bits() & mask
        return values, values <= largest

    return until(engine, attempt, largest.astype(np.uint32), mask.astype(np.uint32))


def interval_64(engine: Engine, largest: Array, mask: Array) -> Array:
    """64-bit integers from 0 to the largest, by masked rejection."""

    def attempt(engine: Engine, largest: Array, mask: Array) -> tuple[Array, Array]:
        high = engine.bits().astype(np.uint64) << np.uint64(32)
        values = (high | engine.bits()) & mask
        return values, values <= largest

    return until(engine, attempt, largest.astype(np.uint64), mask.astype(np.uint64))


#: Name of the launched function → what draws it, and the dtype it writes.
DISTRIBUTIONS: dict[str, tuple[Callable[..., Array], type]] = {
    "raw": (lambda engine: engine.bits(), np.int32),
    "random_uniform": (double, np.float64),
    "random_uniform_float": (single, np.float32),
    "standard_normal": (lambda engine: engine.normal_double(), np.float64),
    "standard_normal_float": (lambda engine: engine.normal(), np.float32),
    "exponential": (exponential, np.float64),
    "standard_gamma": (standard_gamma, np.float64),
    "beta": (beta, np.float64),
    "geometric": (geometric, np.int64),
    "hypergeometric": (hypergeometric, np.int64),
    "logseries": (logseries, np.int64),
    "poisson": (poisson, np.int64),
    "binomial": (binomial, np.int64),
    "interval_32": (interval_32, np.uint32),
    "interval_64": (interval_64, np.uint64),
}
