"""The host API's view of the engines: in which order thousands of lanes fill an array.

cuRAND's host functions spread a generator over a fixed number of lanes and let each lane advance on its own, so the
numbers that follow depend on the kinds of numbers drawn before. The rules here were established against cuRAND 10.3's
own host generators (``curandCreateGeneratorHost``), which promise the device generators' sequences, and
``tests/unit/softgpu_libraries/data/curand_host.json`` holds what those returned:

- XORWOW and MRG32k3a go round their lanes, one lane per number (per pair of normal numbers), and the lane advances by
  the words that the number takes. XORWOW has 4,096 lanes; MRG32k3a has 81,920, or 4,096 in the legacy ordering.
- Philox goes round 65,536 lanes, four numbers per lane, and a lane that is done advances by four words, or by eight for
  numbers of 64 bits.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import ndtri

from . import random_engines as engines

Array = npt.NDArray[Any]

BITS, UNIFORM, UNIFORM_DOUBLE, NORMAL, NORMAL_DOUBLE = range(5)
DTYPES: tuple[type, ...] = (np.uint32, np.float32, np.float64, np.float32, np.float64)


class Stream(Protocol):
    """A sequence of numbers, of which each call returns the next ones."""

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind."""


class LaneStream:
    """XORWOW or MRG32k3a over a fixed number of lanes.

    Parameters
    ----------
    engine : type
        The engine.
    seed, offset : int
        The seed, and how many 32-bit numbers to skip.
    lanes : int
        How many lanes the ordering has.
    """

    def __init__(self, engine: type[engines.Engine], seed: int, offset: int, lanes: int) -> None:
        rounds, self._next = divmod(offset, lanes)
        self._lanes = lanes
        self._engine = engine.seeded(seed, np.arange(lanes), rounds)
        if self._next:
            self._window(0, self._next).bits()

    def _window(self, first: int, last: int) -> engines.Engine:
        """Return an engine that shares the states of some neighbouring lanes."""
        part = type(self._engine).__new__(type(self._engine))
        part.core = self._engine.core[:, first:last]
        return part

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind; normal numbers come in pairs, so their count is even."""
        out: Array = np.empty(count, DTYPES[kind])
        width = 2 if kind in (NORMAL, NORMAL_DOUBLE) else 1
        done = 0
        while done < count:
            taken = min(self._lanes - self._next, (count - done) // width)
            part = self._window(self._next, self._next + taken)
            target = out[done : done + taken * width]
            if width == 1:
                target[...] = _single(part, kind)
            else:
                pair = part.normal_pair() if kind == NORMAL else part.normal_pair_double()
                target[0::2], target[1::2] = pair
            done += taken * width
            self._next = (self._next + taken) % self._lanes
        return out


def _single(part: engines.Engine, kind: int) -> Array:
    if kind == BITS:
        return part.bits()
    return part.uniform() if kind == UNIFORM else part.uniform_double()


class PhiloxStream:
    """Philox4x32-10 over 65,536 lanes of four numbers each."""

    LANES = 65536

    def __init__(self, seed: int, offset: int) -> None:
        group, self._inner = divmod(offset, 4)
        rounds, self._next = divmod(group, self.LANES)
        self._key = np.array([[seed & engines.MASK32], [seed >> 32 & engines.MASK32]], np.uint64)
        # How many blocks of four words each lane has used.
        self._blocks = np.full(self.LANES, rounds, np.uint64)
        self._blocks[: self._next] += np.uint64(1)

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind."""
        out: Array = np.empty(count, DTYPES[kind])
        done = 0
        while done < count:
            wanted = -(-(self._inner + count - done) // 4)
            taken = min(self.LANES - self._next, wanted)
            lanes = slice(self._next, self._next + taken)
            values = self._groups(kind, lanes).reshape(-1)[self._inner :][: count - done]
            out[done : done + len(values)] = values
            done += len(values)
            complete, self._inner = divmod(self._inner + len(values), 4)
            width = 2 if kind in (UNIFORM_DOUBLE, NORMAL_DOUBLE) else 1
            self._blocks[self._next : self._next + complete] += np.uint64(width)
            self._next = (self._next + complete) % self.LANES
        return out

    def _groups(self, kind: int, lanes: slice) -> Array:
        """Return the four numbers of each lane in turn, one lane per row."""
        first = self._words(lanes, 0)
        if kind == BITS:
            return first.T
        if kind == UNIFORM:
            return engines.uniform_of(first).T
        if kind == NORMAL:
            pairs = [engines.box_muller_of(first[k], first[k + 1]) for k in (0, 2)]
            return np.stack([value for pair in pairs for value in pair], -1)
        words = np.concatenate([first, self._words(lanes, 1)])
        if kind == UNIFORM_DOUBLE:
            return engines.uniform_double_of(words[0::2], words[1::2]).T
        pairs = [engines.box_muller_double_of(*words[k : k + 4]) for k in (0, 4)]
        return np.stack([value for pair in pairs for value in pair], -1)

    def _words(self, lanes: slice, ahead: int) -> Array:
        blocks = self._blocks[lanes] + np.uint64(ahead)
        mask = np.uint64(engines.MASK32)
        subsequence = np.arange(lanes.start, lanes.stop, dtype=np.uint64)
        counter = np.stack([blocks & mask, blocks >> np.uint64(32), subsequence, np.zeros_like(subsequence)])
        return engines.philox(counter, self._key).astype(np.uint32)


class SobolStream:
    """The first dimension of a Sobol sequence in Gray-code order: cuRAND's quasirandom generators, which CuPy leaves
    at one dimension.

    Parameters
    ----------
    bits : int
        32 or 64.
    offset : int
        How many numbers to skip.
    """

    def __init__(self, bits: int, offset: int) -> None:
        self._bits = bits
        self._next = offset

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind; `BITS` are as wide as the generator."""
        index = np.arange(self._next, self._next + count, dtype=np.uint64)
        self._next += count
        gray = index ^ (index >> np.uint64(1))
        value = np.zeros(count, np.uint64)
        for bit in range(self._bits):  # the direction numbers of the first dimension reverse the bits
            value |= ((gray >> np.uint64(bit)) & np.uint64(1)) << np.uint64(self._bits - 1 - bit)
        if kind == BITS:
            return value.astype(np.uint32) if self._bits == 32 else value
        if kind in (UNIFORM_DOUBLE, NORMAL_DOUBLE):
            half = 2.0**-33 if self._bits == 32 else 2.0**-54
            unit = value * 2.0**-32 if self._bits == 32 else (value >> np.uint64(11)) * 2.0**-53
            if kind == UNIFORM_DOUBLE:
                return unit + (2 * half if self._bits == 32 else half)
            return np.asarray(ndtri(unit + half))
        top = value if self._bits == 32 else value >> np.uint64(32)
        if kind == UNIFORM:
            return engines.uniform_of(top)
        return np.asarray(ndtri(top * 2.0**-32 + 2.0**-33)).astype(np.float32)


class NumpyStream:
    """MT19937 from NumPy: one sequence instead of cuRAND's interleaved ones, for MT19937 and for MTGP32.

    The numbers are as good as the real ones, but they are not the same numbers.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.MT19937(seed))

    def draw(self, kind: int, count: int) -> Array:
        """Return the next numbers of a kind."""
        if kind == BITS:
            return self._generator.integers(0, 1 << 32, count, np.uint32)
        if kind in (NORMAL, NORMAL_DOUBLE):
            normal = self._generator.standard_normal
            return normal(count, np.float32) if kind == NORMAL else normal(count)
        # cuRAND's interval is open at 0 and closed at 1, NumPy's the other way round.
        uniform = self._generator.random
        return np.float32(1) - uniform(count, np.float32) if kind == UNIFORM else 1.0 - uniform(count)


def poisson_of(bits: Array, mean: float) -> Array:
    """Map 32 bits to Poisson numbers by the inverse of the distribution function."""
    numbers: Array = stats.poisson.ppf((bits + 0.5) * 2.0**-32, mean)
    return numbers.astype(np.uint32)
