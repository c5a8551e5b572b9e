"""Draws of CuPy's bit generators in the executor, by the module's own ``Generator`` on the function's state memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from migproxy_plugins.cupy.serving import Serving, serves

from migproxy.errors import ProtocolError

API = "cupy.random._generator_api"
MAX_GENERATORS = 64


class Bits:
    """A bit generator as ``Generator`` sees it: a state in device memory.

    Parameters
    ----------
    kind : int
        CuPy's number of the engine.
    address : int
        The state's device address.
    lanes : int
        How many values are drawn at once.
    """

    def __init__(self, kind: int, address: int, lanes: int) -> None:
        self.generator = kind
        self._address = address
        self._lanes = lanes

    def state(self) -> int:
        """Return the state's address."""
        return self._address

    def _state_size(self) -> int:
        return self._lanes


def _interval(generator: Any, out: Any, span: int, mask: int) -> Any:
    if mask != (1 << span.bit_length()) - 1:
        raise ProtocolError("the mask does not fit the interval")
    return generator.integers(0, span, size=out.shape, dtype=out.dtype, endpoint=True)


_DRAWS: dict[str, Callable[..., Any]] = {
    "random_uniform": lambda g, out: g.random(size=out.shape, dtype=np.float64),
    "random_uniform_float": lambda g, out: g.random(size=out.shape, dtype=np.float32),
    "interval_32": _interval,
    "interval_64": _interval,
    "beta": lambda g, out, a, b: g.beta(a, b, size=out.shape),
    "exponential": lambda g, out: g.standard_exponential(size=out.shape),
    "geometric": lambda g, out, p: g.geometric(p, size=out.shape),
    "hypergeometric": lambda g, out, *counts: g.hypergeometric(*counts, size=out.shape),
    "logseries": lambda g, out, p: g.logseries(p, size=out.shape),
    "standard_normal": lambda g, out: g.standard_normal(size=out.shape, dtype=np.float64),
    "standard_normal_float": lambda g, out: g.standard_normal(size=out.shape, dtype=np.float32),
    "standard_gamma": lambda g, out, shape: g.standard_gamma(shape, size=out.shape),
    "poisson": lambda g, out, lam: g.poisson(lam, size=out.shape),
    "binomial": lambda g, out, n, p: g.binomial(n, p, size=out.shape),
}


@serves(API, "init_curand")
def _init_curand(server: Serving, kind: int, state: int, seed: int, lanes: int) -> None:
    server.context.check_range(server.integer(state), 1)
    server.module(API).init_curand(kind, state, seed, lanes)


@serves(API, "draw")
def _draw(
    server: Serving, distribution: str, kind: int, state: int, lanes: int, out: Any, parameters: list[Any]
) -> None:
    module = server.module(API)
    server.context.check_range(state, 1)
    bits = Bits(kind, state, lanes)
    target = server.array(out)
    if distribution == "raw":
        module.random_raw(bits, target)
        return
    if distribution not in _DRAWS:
        raise ProtocolError(f"no distribution {distribution!r}")
    arrays = [server.array(item) if isinstance(item, dict) else server.integer(item) for item in parameters]
    # One Generator per state: it keeps scratch that makes the next binomial draw cheaper.
    generators: dict[int, tuple[int, Any]] = server.__dict__.setdefault("_generators", {})
    known = generators.get(state)
    if known is None or known[0] != lanes or known[1].bit_generator.generator != kind:
        while len(generators) >= MAX_GENERATORS:
            del generators[next(iter(generators))]
        known = generators[state] = (lanes, module.Generator(bits))
    target[...] = _DRAWS[distribution](known[1], target, *arrays)
