"""cuRAND's host API: the counterpart of ``cupy_backends.cuda.libs.curand``.

XORWOW, MRG32k3a and Philox4x32-10 return cuRAND's own sequences: 32-bit and uniform numbers bit for bit, normal and
log-normal ones up to the rounding of sine and logarithm, in every mixture of kinds and in the default, best and legacy
orderings. They were compared with cuRAND 10.3's host generators; a GPU's own output has not been compared yet
(``tests/gpu_data/record_curand.py`` records it). The Sobol generators return cuRAND's numbers, too; their scrambled
variants are refused by name. Not the same numbers, though of the right distribution: Poisson, XORWOW in the "seeded"
ordering, MT19937 and MTGP32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import random_engines as engines
from . import random_streams as streams
from . import views_unsafe as raw
from .handles import Handles
from .names import complete
from .random_streams import BITS, NORMAL, NORMAL_DOUBLE, UNIFORM, UNIFORM_DOUBLE
from .status import CURANDError

Array = npt.NDArray[Any]

DEFAULT, XORWOW, MRG32K3A, MTGP32, MT19937, PHILOX = 100, 101, 121, 141, 142, 161
ORDER_BEST, ORDER_DEFAULT, ORDER_SEEDED, ORDER_LEGACY = 100, 101, 102, 103
TYPE_ERROR, OUT_OF_RANGE, LENGTH_NOT_MULTIPLE = 103, 104, 105
SOBOL32, SOBOL64, QUASI = 201, 203, {200: 201, 201: 201, 203: 203}
SCRAMBLED = (202, 204)
ORDER_QUASI = 201


@dataclass
class Generator:
    """A generator: what was set, and the sequence, which starts at the first draw after a setting changed."""

    kind: int
    seed: int = 0
    offset: int = 0
    ordering: int = ORDER_DEFAULT
    stream: int = 0
    sequence: streams.Stream | None = None

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind."""
        if self.sequence is None:
            self.sequence = self._start()
        return self.sequence.draw(kind, count)

    def _start(self) -> streams.Stream:
        if self.kind == PHILOX:
            return streams.PhiloxStream(self.seed, self.offset)
        if self.kind in (MT19937, MTGP32):
            return streams.NumpyStream(self.seed)
        if self.kind in (SOBOL32, SOBOL64):
            return streams.SobolStream(32 if self.kind == SOBOL32 else 64, self.offset)
        if self.kind == XORWOW:
            return streams.LaneStream(engines.Xorwow, self.seed, self.offset, 4096)
        lanes = 4096 if self.ordering == ORDER_LEGACY else 81920
        return streams.LaneStream(engines.Mrg32k3a, self.seed, self.offset, lanes)


_generators: Handles[Generator] = Handles(lambda handle: CURANDError(101, f"no generator {handle:#x}"))


def check_status(status: int) -> None:
    """Raise `CURANDError` for a status other than success."""
    if status != 0:
        raise CURANDError(status)


def getVersion() -> int:
    """Return the version of cuRAND that this module follows."""
    return 10310


def createGenerator(rng_type: int) -> int:
    """Make a generator and return its handle."""
    kind = XORWOW if rng_type == DEFAULT else QUASI.get(rng_type, rng_type)
    if kind in SCRAMBLED:
        raise CURANDError(TYPE_ERROR, f"curand generator type {rng_type} is not supported by the software GPU")
    if kind not in (XORWOW, MRG32K3A, PHILOX, MT19937, MTGP32, SOBOL32, SOBOL64):
        raise CURANDError(TYPE_ERROR, f"no generator type {rng_type}")
    return _generators.add(Generator(kind))


def destroyGenerator(generator: int) -> None:
    """Forget a generator."""
    _generators.pop(generator)


def setStream(generator: int, stream: int) -> None:
    """Remember the stream; the executor orders the calls."""
    _generators[generator].stream = stream


def setPseudoRandomGeneratorSeed(generator: int, seed: int) -> None:
    """Set the seed and start over."""
    state = _generators[generator]
    if state.kind in (SOBOL32, SOBOL64):
        raise CURANDError(TYPE_ERROR, "a quasirandom generator has no seed")
    state.seed = seed & 0xFFFFFFFFFFFFFFFF
    state.sequence = None


def setGeneratorOffset(generator: int, offset: int) -> None:
    """Set how many numbers of the sequence to skip, and start over there."""
    state = _generators[generator]
    if state.kind in (MT19937, MTGP32):
        raise CURANDError(TYPE_ERROR, "a Mersenne twister has no offset")
    state.offset = offset & 0xFFFFFFFFFFFFFFFF
    state.sequence = None


def setGeneratorOrdering(generator: int, order: int) -> None:
    """Set in which order the lanes fill an array, and start over."""
    state = _generators[generator]
    allowed = {ORDER_DEFAULT, ORDER_LEGACY}
    if state.kind in (SOBOL32, SOBOL64):
        allowed = {ORDER_QUASI}
    elif state.kind != MT19937:
        allowed.add(ORDER_BEST)
    if state.kind == XORWOW:
        allowed.add(ORDER_SEEDED)
    if order not in allowed:
        raise CURANDError(OUT_OF_RANGE, f"ordering {order} for generator type {state.kind}")
    state.ordering = order
    state.sequence = None


def _fill(generator: int, address: int, count: int, kind: int) -> Array:
    """Draw numbers into memory; return the view, for what is done to them next."""
    numbers = _generators[generator].draw(kind, count)
    view = raw.array(address, count, numbers.dtype)
    view[...] = numbers
    return view


def generate(generator: int, outputPtr: int, num: int) -> None:
    """Fill with 32-bit integers."""
    if _generators[generator].kind == SOBOL64:
        raise CURANDError(TYPE_ERROR, "a 64-bit generator has no 32-bit integers")
    _fill(generator, outputPtr, num, BITS)


def generateLongLong(generator: int, outputPtr: int, num: int) -> None:
    """Fill with 64-bit integers, which the 64-bit quasirandom generator alone has."""
    if _generators[generator].kind == SOBOL64:
        _fill(generator, outputPtr, num, BITS)
        return
    raise CURANDError(TYPE_ERROR, f"generator type {_generators[generator].kind} has no 64-bit integers")


def generateUniform(generator: int, outputPtr: int, num: int) -> None:
    """Fill with float32 in (0, 1]."""
    _fill(generator, outputPtr, num, UNIFORM)


def generateUniformDouble(generator: int, outputPtr: int, num: int) -> None:
    """Fill with float64 in (0, 1]."""
    _fill(generator, outputPtr, num, UNIFORM_DOUBLE)


def _normal(generator: int, address: int, n: int, mean: float, stddev: float, kind: int, name: str) -> Array:
    if n % 2 == 1:
        raise ValueError(
            f"{name} can only generate even number of random variables simultaneously. See issue #390 for detail."
        )
    view = _fill(generator, address, n, kind)
    view *= view.dtype.type(stddev)
    view += view.dtype.type(mean)
    return view


def generateNormal(generator: int, outputPtr: int, n: int, mean: float, stddev: float) -> None:
    """Fill with normal float32."""
    _normal(generator, outputPtr, n, mean, stddev, NORMAL, "curandGenerateNormal")


def generateNormalDouble(generator: int, outputPtr: int, n: int, mean: float, stddev: float) -> None:
    """Fill with normal float64."""
    _normal(generator, outputPtr, n, mean, stddev, NORMAL_DOUBLE, "curandGenerateNormalDouble")


def generateLogNormal(generator: int, outputPtr: int, n: int, mean: float, stddev: float) -> None:
    """Fill with log-normal float32."""
    view = _normal(generator, outputPtr, n, mean, stddev, NORMAL, "curandGenerateLogNormal")
    np.exp(view, out=view)


def generateLogNormalDouble(generator: int, outputPtr: int, n: int, mean: float, stddev: float) -> None:
    """Fill with log-normal float64."""
    view = _normal(generator, outputPtr, n, mean, stddev, NORMAL_DOUBLE, "curandGenerateLogNormalDouble")
    np.exp(view, out=view)


def generatePoisson(generator: int, outputPtr: int, n: int, lam: float) -> None:
    """Fill with Poisson-distributed 32-bit integers."""
    if not lam > 0:
        raise CURANDError(OUT_OF_RANGE, f"lambda {lam}")
    state = _generators[generator]
    bits = state.draw(BITS, n)
    top = bits >> np.uint64(32) if state.kind == SOBOL64 else bits
    raw.array(outputPtr, n, np.uint32)[...] = streams.poisson_of(top, lam)


REFUSED = complete(globals(), "curand", CURANDError)
