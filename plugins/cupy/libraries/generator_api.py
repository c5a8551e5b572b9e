"""Stand-in for ``cupy.random._generator_api``: argument rules and outputs here, the draws in the executor.

A bit generator's state lies in device memory that the function allocated; a draw names it by address, the kind of the
generator and the number of its lanes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import calls, standin

_UINT32_MAX = (1 << 32) - 1
_UINT64_MAX = (1 << 64) - 1
FEISTEL_ROUNDS = 24

_FEISTEL_KERNEL = "migproxy_feistel"
_FEISTEL_SOURCE = r"""
struct Feistel { unsigned long long right_bits, left_bits, right_mask, left_mask; unsigned int keys[ROUNDS]; };
extern "C" __global__ void migproxy_feistel(
    long long* out, const Feistel f, const unsigned long long count, const unsigned long long total)
{
    const unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        unsigned long long value = i;
        do {
            unsigned int left = (unsigned int)(value >> f.right_bits);
            unsigned int right = (unsigned int)(value & f.right_mask);
            for (int round = 0; round < ROUNDS; ++round) {
                const unsigned long long product = 0xD2B74407B1CE6E93ull * left;
                const unsigned int high = (unsigned int)(product >> 32) ^ f.keys[round];
                const unsigned int low = (unsigned int)product;
                const unsigned int next = (low << (f.right_bits - f.left_bits)) | right >> f.left_bits;
                left = (high ^ right) & f.left_mask;
                right = next & f.right_mask;
            }
            value = ((unsigned long long)left << f.right_bits) | right;
        } while (value >= total);
        out[i] = (long long)value;
    }
}
""".replace("ROUNDS", str(FEISTEL_ROUNDS))
_FEISTEL_DTYPE = np.dtype(
    [("right_bits", "<u8"), ("left_bits", "<u8"), ("right_mask", "<u8"), ("left_mask", "<u8"),
     ("keys", "<u4", (FEISTEL_ROUNDS,))]
)  # fmt: skip


def _tuple(size: Any, default: tuple[int, ...]) -> tuple[int, ...]:
    if size is None:
        return default
    return size if isinstance(size, tuple) else (size,)


def _operand(value: Any, name: str, dtype: Any, error: type[Exception] = TypeError) -> Any:
    """Return a parameter as an array of the dtype; only arrays and plain numbers are parameters."""
    import cupy

    if isinstance(value, cupy.ndarray):
        return value.astype(dtype, copy=False)
    if type(value) in (float, int):
        made = cupy.ndarray((), dtype)
        made.fill(value)
        return made
    raise error(f"{name} is required to be a cupy.ndarray or a scalar")


class Generator:
    """Container for the BitGenerators.

    Parameters
    ----------
    bit_generator : cupy.random.BitGenerator
        The source of the bits.
    """

    _library: standin.Library

    def __init__(self, bit_generator: Any) -> None:
        self.bit_generator = bit_generator
        self._binomial_state = None

    def _draw(self, distribution: str, out: Any, *parameters: Any) -> None:
        draw(self._library, self.bit_generator, distribution, out, parameters)

    def _check_output_array(self, dtype: Any, size: Any, out: Any, check_only_c_cont: bool = False) -> None:
        dtype = np.dtype(dtype)
        if out.dtype.char != dtype.char:
            raise TypeError(f"Supplied output array has the wrong type. Expected {dtype.name}, got {out.dtype.name}")
        if not out.flags.c_contiguous and (check_only_c_cont or not out.flags.f_contiguous):
            raise ValueError("Supplied output array is not contiguous, writable or aligned.")
        if size is not None:
            try:
                wanted = tuple(size)
            except TypeError:
                wanted = (size,)
            if wanted != out.shape:
                raise ValueError("size must match out.shape when used together")

    @staticmethod
    def _deliver(result: Any, out: Any, dtype: Any) -> Any:
        import cupy

        if out is not None:
            cupy._core.elementwise_copy(result, out)
            result = out
        return result.astype(dtype, copy=False)

    def _uniform(self, size: Any, dtype: Any) -> Any:
        import cupy

        if np.dtype(dtype).char == "d":
            y = cupy.ndarray(size, np.float64)
            self._draw("random_uniform", y)
        else:
            y = cupy.ndarray(size, np.float32)
            self._draw("random_uniform_float", y)
        return y

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Return random floats in the half-open interval [0.0, 1.0)."""
        if out is not None:
            self._check_output_array(dtype, size, out)
        return self._deliver(self._uniform(() if size is None else size, dtype), out, dtype)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None, dtype: Any = np.float64) -> Any:
        """Draw samples from a uniform distribution."""
        import cupy

        low, high = cupy.asarray(low), cupy.asarray(high)
        if size is None:
            size = cupy.broadcast(low, high).shape
        y = self._uniform(size, dtype)
        low, high = cupy.broadcast_to(low, y.shape), cupy.broadcast_to(high, y.shape)
        return (low + (high - low) * y).astype(dtype, copy=False)

    def integers(
        self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False
    ) -> Any:
        """Return integers over an interval."""
        import cupy

        lowest, highest = (0, int(low)) if high is None else (int(low), int(high))
        if not endpoint:
            highest -= 1
        if lowest > highest:
            raise ValueError("low >= high")
        if lowest < cupy.iinfo(dtype).min:
            raise ValueError(f"low is out of bounds for {cupy.dtype(dtype).name}")
        if highest > cupy.iinfo(dtype).max:
            raise ValueError(f"high is out of bounds for {cupy.dtype(dtype).name}")
        span = highest - lowest
        if span > _UINT64_MAX:
            raise ValueError(f"high - low must be within uint64 range (actual: {span})")
        narrow = span <= _UINT32_MAX
        y = cupy.ndarray(() if size is None else size, np.uint32 if narrow else np.uint64)
        mask = (1 << span.bit_length()) - 1
        self._draw("interval_32" if narrow else "interval_64", y, span, mask)
        return cupy.add(lowest, y, dtype=dtype)

    def beta(self, a: Any, b: Any, size: Any = None, dtype: Any = np.float64) -> Any:
        """Beta distribution."""
        import cupy

        a, b = _operand(a, "a", np.float64), _operand(b, "b", np.float64)
        y = cupy.ndarray(_tuple(size, cupy.broadcast(a, b).shape), np.float64)
        self._draw("beta", y, cupy.broadcast_to(a, y.shape), cupy.broadcast_to(b, y.shape))
        return y.astype(dtype, copy=False)

    def chisquare(self, df: Any, size: Any = None) -> Any:
        """Chi-square distribution."""
        import cupy

        df = _operand(df, "df", np.float64)
        shape = cupy.ndarray(_tuple(size, df.shape), np.float64).shape
        y = self.standard_gamma(cupy.broadcast_to(df, shape) / 2)
        y *= 2
        return y

    def dirichlet(self, alpha: Any, size: Any = None) -> Any:
        """Dirichlet distribution."""
        alpha = _operand(alpha, "alpha", np.float64)
        y = self.standard_gamma(alpha, _tuple(size, ()) + alpha.shape)
        y /= y.sum(axis=-1, keepdims=True)
        return y

    def exponential(self, scale: Any = 1.0, size: Any = None) -> Any:
        """Exponential distribution."""
        return self.standard_exponential(size) * scale

    def f(self, dfnum: Any, dfden: Any, size: Any = None) -> Any:
        """F distribution."""
        import cupy

        dfnum, dfden = _operand(dfnum, "dfnum", np.float64), _operand(dfden, "dfden", np.float64)
        if size is None:
            size = cupy.broadcast(dfnum, dfden).shape
        return (self.chisquare(dfnum, size) * dfden) / (self.chisquare(dfden, size) * dfnum)

    def geometric(self, p: Any, size: Any = None) -> Any:
        """Geometric distribution."""
        return self._by_one("geometric", _operand(p, "p", np.float64), size)

    def logseries(self, p: Any, size: Any = None) -> Any:
        """Log series distribution."""
        return self._by_one("logseries", _operand(p, "p", np.float64), size)

    def poisson(self, lam: Any = 1.0, size: Any = None) -> Any:
        """Poisson distribution."""
        return self._by_one("poisson", _operand(lam, "lam", np.float64), size)

    def _by_one(self, distribution: str, parameter: Any, size: Any) -> Any:
        import cupy

        y = cupy.ndarray(_tuple(size, parameter.shape), np.int64)
        self._draw(distribution, y, cupy.broadcast_to(parameter, y.shape))
        return y

    def hypergeometric(self, ngood: Any, nbad: Any, nsample: Any, size: Any = None) -> Any:
        """Hypergeometric distribution."""
        import cupy

        given = {"ngood": ngood, "nbad": nbad, "nsample": nsample}
        for name, value in given.items():
            if type(value) in (float, int) and value < 0:
                raise ValueError(f"{name} < 0")
        arrays = [_operand(value, name, np.int64) for name, value in given.items()]
        y = cupy.ndarray(_tuple(size, cupy.broadcast(*arrays).shape), np.int64)
        self._draw("hypergeometric", y, *(cupy.broadcast_to(array, y.shape) for array in arrays))
        return y

    def standard_exponential(
        self, size: Any = None, dtype: Any = np.float64, method: str = "inv", out: Any = None
    ) -> Any:
        """Standard exponential distribution."""
        import cupy

        if method == "zig":
            raise NotImplementedError("Ziggurat method is not supported")
        if out is not None:
            self._check_output_array(dtype, size, out)
        y = cupy.ndarray(() if size is None else size, np.float64)
        self._draw("exponential", y)
        return self._deliver(y, out, dtype)

    def power(self, a: Any, size: Any = None) -> Any:
        """Power distribution."""
        import cupy

        a = _operand(a, "a", np.float64)
        x = self.standard_exponential(_tuple(size, a.shape))
        cupy.exp(-x, out=x)
        cupy.add(1, -x, out=x)
        cupy.power(x, 1.0 / a, out=x)
        return x

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Standard normal distribution."""
        import cupy

        if out is not None:
            self._check_output_array(dtype, size, out)
            y = out
        else:
            y = cupy.ndarray(() if size is None else size, dtype)
        if y.dtype.char not in ("f", "d"):
            raise TypeError(f"Unsupported dtype {y.dtype.name} for standard_normal")
        self._draw("standard_normal" if y.dtype.char == "d" else "standard_normal_float", y)
        return y

    def gamma(self, shape: Any, scale: Any = 1.0, size: Any = None) -> Any:
        """Gamma distribution."""
        import cupy

        y = self.standard_gamma(shape, cupy.broadcast(shape, scale).shape if size is None else size)
        y *= scale
        return y

    def standard_gamma(self, shape: Any, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Standard gamma distribution."""
        import cupy

        if shape is None:
            raise TypeError("shape must be real number, not NoneType")
        shape = _operand(shape, "shape", np.float64, ValueError)
        size = _tuple(size, shape.shape if out is None else out.shape)
        y = None
        if out is not None:
            self._check_output_array(dtype, size, out, True)
            y = out if out.dtype.char == "d" else None
        if y is None:
            y = cupy.ndarray(size, np.float64)
        if np.dtype(dtype).char not in ("f", "d"):
            raise TypeError(f"Unsupported dtype {y.dtype.name} for standard_gamma")
        self._draw("standard_gamma", y, cupy.broadcast_to(shape, y.shape))
        return self._deliver(y, out if out is not y else None, dtype)

    def binomial(self, n: Any, p: Any, size: Any = None) -> Any:
        """Binomial distribution."""
        import cupy

        if not isinstance(p, cupy.ndarray) and type(p) is not float:
            raise TypeError("p is required to be a cupy.ndarray or a scalar")
        n, p = _operand(n, "n", np.int64), _operand(p, "p", np.float64)
        y = cupy.ndarray(cupy.broadcast(n, p).shape if size is None else size, np.int64)
        self._draw("binomial", y, cupy.broadcast_to(n, y.shape), cupy.broadcast_to(p, y.shape))
        return y


def draw(library: standin.Library, bits: Any, distribution: str, out: Any, parameters: tuple[Any, ...]) -> None:
    """Fill ``out`` in the executor."""
    import cupy

    state, kind, lanes = bits.state(), int(bits.generator), int(bits._state_size())
    if out.size == 0:
        return
    sent = [calls.describe(item) if isinstance(item, cupy.ndarray) else item for item in parameters]
    library.call("draw", (distribution, kind, state, lanes, calls.describe(out), sent), wait=False)


class FeistelBijection:
    """A pseudorandom permutation of ``range(num_elements)``, evaluated element by element.

    Parameters
    ----------
    num_elements : int
        Size of the range.
    keys_array : ndarray of uint32
        One key per round.
    """

    num_rounds = FEISTEL_ROUNDS

    def __init__(self, num_elements: int, keys_array: Any) -> None:
        keys = np.ascontiguousarray(keys_array, np.uint32)
        assert len(keys) == FEISTEL_ROUNDS
        bits = 8 if num_elements <= 256 else (num_elements - 1).bit_length()
        left, right = bits // 2, bits - bits // 2
        self.arr_size = num_elements
        self.params = np.zeros((), _FEISTEL_DTYPE)
        self.params[()] = (right, left, (1 << right) - 1, (1 << left) - 1, keys)

    def __call__(self, size: int) -> Any:
        """Return the images of ``range(size)``."""
        import cupy

        indices = cupy.empty(size, cupy.int64)
        kernel = cupy.RawKernel(_FEISTEL_SOURCE, _FEISTEL_KERNEL)
        kernel(((size + 255) // 256,), (256,), (indices, self.params[()], np.uint64(size), np.uint64(self.arr_size)))
        return indices


def make(name: str) -> ModuleType:
    """Return the stand-in."""
    module, facts = standin.base_module(name)
    library = standin.Library(module, facts)

    def init_curand(generator: int, state: int, seed: Any, size: int) -> None:
        library.call("init_curand", (int(generator), int(state), int(seed), int(size)), wait=False)

    def random_raw(generator: Any, out: Any) -> None:
        draw(library, generator, "raw", out, ())

    class _FeistelBijectionParam:
        """The real module's holder of the parameters."""

    namespace = vars(module)
    namespace["Generator"] = type("Generator", (Generator,), {"_library": library, "__module__": name})
    namespace["FeistelBijection"] = FeistelBijection
    namespace["_FeistelBijectionParam"] = _FeistelBijectionParam
    standin.publish(module, library, {"init_curand": init_curand, "random_raw": random_raw})
    return module
