"""CuPy's device random generators: the counterpart of ``cupy.random._generator_api``.

A bit generator is any object with CuPy's attributes: ``generator`` (which engine), ``state()`` (the address of the
states, in cuRAND's layout) and ``_state_size()`` (how many there are). Arrays are NumPy views of device memory. The
states and numbers are those of the kernels that CuPy launches (see `distributions`), except where a rejection test
falls within rounding of its bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import views_unsafe as raw
from .distributions import DISTRIBUTIONS
from .names import complete
from .random_engines import ENGINES, Engine
from .status import UnsupportedCall

Array = npt.NDArray[Any]
Size = int | Sequence[int] | None


def _engine(generator: int) -> type[Engine]:
    if generator not in ENGINES:
        raise UnsupportedCall("generator_api", f"random generator {generator} is not supported by the software GPU")
    return ENGINES[generator]


def init_curand(generator: int, state: int, seed: int, size: int) -> None:
    """Make the states of ``size`` threads: the same seed, each its own subsequence."""
    kind = _engine(generator)
    if size > 0:
        kind.seeded(int(seed) & 0xFFFFFFFFFFFFFFFF, np.arange(size)).save(raw.array(state, size, kind.STATE))


def launch(function: str, generator: int, state: int, state_size: int, out: Array, arguments: Sequence[Any]) -> None:
    """Draw into ``out`` as one of CuPy's kernels does.

    Parameters
    ----------
    function : str
        A name in `DISTRIBUTIONS`.
    generator, state, state_size : int
        Which engine, where its states are, and how many; element ``i`` is drawn by thread ``i % state_size``.
    out : ndarray
        Filled in C order.
    arguments : sequence
        Scalars, or arrays that are broadcast to ``out``'s shape.
    """
    if out.size == 0:
        return
    draw, _ = DISTRIBUTIONS[function]
    lanes = min(out.size, state_size)
    kind = _engine(generator)
    states = raw.array(state, lanes, kind.STATE)
    engine = kind.load(states)
    flat = [np.broadcast_to(np.asarray(argument), out.shape).reshape(-1) for argument in arguments]
    result = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, out.size, state_size):
            stop = min(start + state_size, out.size)
            parameters = [argument[start:stop] for argument in flat]
            if stop - start == engine.lanes:
                result[start:stop] = draw(engine, *parameters)
            else:
                some = np.arange(stop - start)
                part = engine.take(some)
                result[start:stop] = draw(part, *parameters)
                engine.put(some, part)
    engine.save(states)
    if not out.flags.c_contiguous:
        out[...] = result.reshape(out.shape)


def _launch_dist(bit_generator: Any, function: str, out: Array, arguments: Sequence[Any]) -> None:
    launch(function, bit_generator.generator, bit_generator.state(), bit_generator._state_size(), out, arguments)


def random_raw(generator: Any, out: Array) -> None:
    """Fill with raw 32-bit numbers."""
    _launch_dist(generator, "raw", out, ())


def _shape(size: Size, *parameters: Array) -> tuple[int, ...]:
    """Return the shape of a result: ``size``, or what the parameters broadcast to."""
    if size is None:
        return np.broadcast_shapes(*(parameter.shape for parameter in parameters)) if parameters else ()
    return (size,) if isinstance(size, int) else tuple(size)


def _parameter(value: Any, name: str, dtype: type) -> Array:
    if isinstance(value, np.ndarray):
        return value.astype(dtype, copy=False)
    if type(value) not in (float, int):
        raise TypeError(f"{name} is required to be a cupy.ndarray or a scalar")
    return np.asarray(value, dtype)


class Generator:
    """Random numbers from a bit generator: the methods of ``cupy.random.Generator``."""

    def __init__(self, bit_generator: Any) -> None:
        self.bit_generator = bit_generator

    def _draw(self, function: str, shape: tuple[int, ...], *parameters: Any) -> Array:
        out: Array = np.empty(shape, DISTRIBUTIONS[function][1])
        _launch_dist(self.bit_generator, function, out, parameters)
        return out

    def _check_output_array(self, dtype: Any, size: Size, out: Array, check_only_c_cont: bool = False) -> None:
        dtype = np.dtype(dtype)
        if out.dtype.char != dtype.char:
            raise TypeError(f"Supplied output array has the wrong type. Expected {dtype.name}, got {out.dtype.name}")
        if not out.flags.c_contiguous and (check_only_c_cont or not out.flags.f_contiguous):
            raise ValueError("Supplied output array is not contiguous, writable or aligned.")
        if size is not None and _shape(size) != out.shape:
            raise ValueError("size must match out.shape when used together")

    @staticmethod
    def _deliver(values: Array, out: Array | None, dtype: Any) -> Array:
        if out is not None:
            np.copyto(out, values, casting="unsafe")
            values = out
        return values.astype(dtype, copy=False)

    def random(self, size: Size = None, dtype: Any = np.float64, out: Array | None = None) -> Array:
        """Uniform in [0, 1)."""
        if out is not None:
            self._check_output_array(dtype, size, out)
            size = out.shape
        name = "random_uniform" if np.dtype(dtype).char == "d" else "random_uniform_float"
        return self._deliver(self._draw(name, _shape(size)), out, dtype)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Size = None, dtype: Any = np.float64) -> Array:
        """Uniform in [low, high)."""
        low, high = np.asarray(low), np.asarray(high)
        name = "random_uniform" if np.dtype(dtype).char == "d" else "random_uniform_float"
        unit = self._draw(name, _shape(size, low, high))
        return np.asarray(low + (high - low) * unit).astype(dtype, copy=False)

    def integers(
        self, low: int, high: int | None = None, size: Size = None, dtype: Any = np.int64, endpoint: bool = False
    ) -> Array:
        """Integers from low to high, without high unless ``endpoint``."""
        first, last = (0, int(low)) if high is None else (int(low), int(high))
        last -= not endpoint
        limits = np.iinfo(dtype)
        if first > last:
            raise ValueError("low >= high")
        if first < limits.min:
            raise ValueError(f"low is out of bounds for {np.dtype(dtype).name}")
        if last > limits.max:
            raise ValueError(f"high is out of bounds for {np.dtype(dtype).name}")
        span = last - first
        if span > 0xFFFFFFFFFFFFFFFF:
            raise ValueError(f"high - low must be within uint64 range (actual: {span})")
        mask = (1 << span.bit_length()) - 1
        narrow = span <= 0xFFFFFFFF
        kind: type = np.uint32 if narrow else np.uint64
        drawn = self._draw("interval_32" if narrow else "interval_64", _shape(size), kind(span), kind(mask))
        with np.errstate(over="ignore"):
            # Modulo 2^64, so that a range that needs all 64 bits comes out right as well.
            total = drawn.astype(np.uint64) + np.uint64(first & 0xFFFFFFFFFFFFFFFF)
        return np.asarray(total).astype(dtype)

    def beta(self, a: Any, b: Any, size: Size = None, dtype: Any = np.float64) -> Array:
        """Beta."""
        a, b = _parameter(a, "a", np.float64), _parameter(b, "b", np.float64)
        return self._draw("beta", _shape(size, a, b), a, b).astype(dtype, copy=False)

    def binomial(self, n: Any, p: Any, size: Size = None) -> Array:
        """Binomial."""
        n = _parameter(n, "n", np.int64)
        if not isinstance(p, np.ndarray | float):
            raise TypeError("p is required to be a cupy.ndarray or a scalar")
        p = _parameter(p, "p", np.float64)
        return self._draw("binomial", _shape(size, n, p), n, p)

    def chisquare(self, df: Any, size: Size = None) -> Array:
        """Chi-square."""
        df = _parameter(df, "df", np.float64)
        shape = _shape(size, df)
        return np.asarray(self.standard_gamma(np.broadcast_to(df, shape) / 2, shape) * 2)

    def dirichlet(self, alpha: Any, size: Size = None) -> Array:
        """Dirichlet, along the last axis."""
        alpha = _parameter(alpha, "alpha", np.float64)
        shape = (*_shape(size), *alpha.shape) if size is not None else alpha.shape
        values = self.standard_gamma(alpha, shape)
        normalised: Array = values / values.sum(axis=-1, keepdims=True)
        return normalised

    def exponential(self, scale: Any = 1.0, size: Size = None) -> Array:
        """Exponential."""
        return np.asarray(self.standard_exponential(size) * scale)

    def f(self, dfnum: Any, dfden: Any, size: Size = None) -> Array:
        """F."""
        dfnum, dfden = _parameter(dfnum, "dfnum", np.float64), _parameter(dfden, "dfden", np.float64)
        shape = _shape(size, dfnum, dfden)
        numerator = self.chisquare(np.broadcast_to(dfnum, shape), shape) * dfden
        return np.asarray(numerator / (self.chisquare(np.broadcast_to(dfden, shape), shape) * dfnum))

    def gamma(self, shape: Any, scale: Any = 1.0, size: Size = None) -> Array:
        """Gamma."""
        chosen = _shape(size, np.asarray(shape), np.asarray(scale))
        return np.asarray(self.standard_gamma(shape, chosen) * scale)

    def geometric(self, p: Any, size: Size = None) -> Array:
        """Trials up to the first success."""
        p = _parameter(p, "p", np.float64)
        return self._draw("geometric", _shape(size, p), p)

    def hypergeometric(self, ngood: Any, nbad: Any, nsample: Any, size: Size = None) -> Array:
        """Good ones in a sample."""
        named = {"ngood": ngood, "nbad": nbad, "nsample": nsample}
        for name, value in named.items():
            if type(value) in (float, int) and value < 0:
                raise ValueError(f"{name} < 0")
        values = [_parameter(value, name, np.int64) for name, value in named.items()]
        return self._draw("hypergeometric", _shape(size, *values), *values)

    def logseries(self, p: Any, size: Size = None) -> Array:
        """Logarithmic series."""
        p = _parameter(p, "p", np.float64)
        return self._draw("logseries", _shape(size, p), p)

    def poisson(self, lam: Any = 1.0, size: Size = None) -> Array:
        """Poisson."""
        lam = _parameter(lam, "lam", np.float64)
        return self._draw("poisson", _shape(size, lam), lam)

    def power(self, a: Any, size: Size = None) -> Array:
        """Power function."""
        a = _parameter(a, "a", np.float64)
        exponential = self.standard_exponential(_shape(size, a))
        return np.asarray((-np.expm1(-exponential)) ** (1.0 / a))

    def standard_exponential(
        self, size: Size = None, dtype: Any = np.float64, method: str = "inv", out: Array | None = None
    ) -> Array:
        """Standard exponential."""
        if method == "zig":
            raise NotImplementedError("Ziggurat method is not supported")
        if out is not None:
            self._check_output_array(dtype, size, out)
            size = out.shape
        return self._deliver(self._draw("exponential", _shape(size)), out, dtype)

    def standard_gamma(self, shape: Any, size: Size = None, dtype: Any = np.float64, out: Array | None = None) -> Array:
        """Gamma of scale one."""
        if np.dtype(dtype).char not in "fd":
            raise TypeError(f"Unsupported dtype {np.dtype(dtype).name} for standard_gamma")
        if out is not None:
            self._check_output_array(dtype, size, out, True)
            size = out.shape
        shape = _parameter(shape, "shape", np.float64)
        return self._deliver(self._draw("standard_gamma", _shape(size, shape), shape), out, dtype)

    def standard_normal(self, size: Size = None, dtype: Any = np.float64, out: Array | None = None) -> Array:
        """Standard normal."""
        if np.dtype(dtype).char not in "fd":
            raise TypeError(f"Unsupported dtype {np.dtype(dtype).name} for standard_normal")
        if out is not None:
            self._check_output_array(dtype, size, out)
            size = out.shape
        name = "standard_normal" if np.dtype(dtype).char == "d" else "standard_normal_float"
        return self._deliver(self._draw(name, _shape(size)), out, dtype)


class _FeistelBijectionParam:
    """The cipher's parameters, which the real module hands to its kernel by pointer."""

    def __init__(self) -> None:
        self.left_bits = 0
        self.right_bits = 0
        self.keys: Array = np.zeros(0, np.uint32)


class FeistelBijection:
    """A random bijection of ``range(num_elements)`` by a Feistel network, of which a prefix is evaluated.

    Parameters
    ----------
    num_elements : int
        Size of the domain.
    keys_array : ndarray of uint32
        One key per round.
    """

    num_rounds = 24

    def __init__(self, num_elements: int, keys_array: Array) -> None:
        assert len(keys_array) == self.num_rounds
        bits = 8 if num_elements <= 256 else (num_elements - 1).bit_length()
        self.params = _FeistelBijectionParam()
        self.params.left_bits = bits // 2
        self.params.right_bits = bits - bits // 2
        self.params.keys = np.array(keys_array, np.uint32)
        self.arr_size = num_elements

    def __call__(self, size: int) -> Array:
        """Return the images of 0 … size-1; what falls outside of the domain is sent through again."""
        values = self._encrypt(np.arange(size, dtype=np.uint64))
        while (outside := np.flatnonzero(values >= np.uint64(self.arr_size))).size:
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: Array) -> Array:
        left_bits, right_bits = np.uint64(self.params.left_bits), np.uint64(self.params.right_bits)
        one, low = np.uint64(1), np.uint64(0xFFFFFFFF)
        left_mask, right_mask = (one << left_bits) - one, (one << right_bits) - one
        left, right = (values >> right_bits) & low, values & right_mask
        for key in self.params.keys:
            product = np.uint64(0xD2B74407B1CE6E93) * left
            mixed = (product >> np.uint64(32)) ^ np.uint64(key) ^ right
            spread = ((product & low) << (right_bits - left_bits)) & low
            left, right = mixed & left_mask, (spread | (right >> left_bits)) & right_mask
        return (left << right_bits) | right


REFUSED = complete(globals(), "generator_api", None)
