"""The pseudorandom engines of cuRAND: XORWOW, MRG32k3a and Philox4x32-10, many lanes at once.

An engine holds the states of many lanes (a GPU thread each) as arrays, and draws one value per lane. The sequences are
those of cuRAND's device functions, bit for bit: ``seed``, ``subsequence`` (2^67 values apart for XORWOW, 2^76 for
MRG32k3a, 2^66 for Philox) and ``offset`` mean the same. Jumps are computed from the recurrences themselves: powers of
the transition matrix over GF(2), or modulo the two moduli of MRG32k3a.

`Engine.load` and `Engine.save` read and write the states in cuRAND's struct layout, which CuPy's bit generators keep in
device memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
U32, U64 = np.uint32, np.uint64
MASK32 = 0xFFFFFFFF

_BOX_MULLER: list[tuple[str, Any]] = [
    ("flag", np.int32), ("flag_double", np.int32), ("extra", np.float32), ("extra_double", np.float64),
]  # fmt: skip
TINY = np.float32(2.3283064e-10)
TINY_2PI = TINY * np.float32(6.2831855)
FINE = 1.1102230246251565e-16


class Engine:
    """States of a number of lanes; the subclasses are the generators.

    Parameters
    ----------
    core : ndarray
        The generator's own words, one row per word, one column per lane.
    """

    STATE: ClassVar[np.dtype[Any]]
    name: ClassVar[str] = ""

    def __init__(self, core: Array) -> None:
        self.core = core
        lanes = core.shape[1]
        # A normal draw makes two values and keeps one for the next call, in the state, as cuRAND does.
        self.flag = np.zeros(lanes, np.int32)
        self.flag_double = np.zeros(lanes, np.int32)
        self.extra = np.zeros(lanes, np.float32)
        self.extra_double = np.zeros(lanes, np.float64)

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return int(self.core.shape[1])

    @classmethod
    def seeded(cls, seed: int, subsequences: Array, offset: int = 0) -> Engine:
        """Return an engine with one lane per subsequence, as ``curand_init(seed, subsequence, offset)``."""
        raise NotImplementedError

    @classmethod
    def load(cls, states: Array) -> Engine:
        """Return an engine over a copy of states in cuRAND's layout (dtype `STATE`)."""
        engine = cls.__new__(cls)
        engine.core = cls._core_of(states)
        for name in ("flag", "flag_double", "extra", "extra_double"):
            setattr(engine, name, np.array(states[name]))
        return engine

    def save(self, states: Array) -> None:
        """Write the states back."""
        self._core_to(states)
        for name in ("flag", "flag_double", "extra", "extra_double"):
            states[name] = getattr(self, name)

    @classmethod
    def _core_of(cls, states: Array) -> Array:
        raise NotImplementedError

    def _core_to(self, states: Array) -> None:
        raise NotImplementedError

    def take(self, lanes: Array) -> Engine:
        """Return a copy of some lanes."""
        other = type(self).__new__(type(self))
        other.core = self.core[:, lanes]
        for name in ("flag", "flag_double", "extra", "extra_double"):
            setattr(other, name, getattr(self, name)[lanes])
        return other

    def put(self, lanes: Array, other: Engine) -> None:
        """Copy lanes back from what `take` gave."""
        self.core[:, lanes] = other.core
        for name in ("flag", "flag_double", "extra", "extra_double"):
            getattr(self, name)[lanes] = getattr(other, name)

    def bits(self) -> Array:
        """Return 32 random bits per lane."""
        raise NotImplementedError

    def uniform(self) -> Array:
        """Return float32 in (0, 1]."""
        return uniform_of(self.bits())

    def uniform_double(self) -> Array:
        """Return float64 in (0, 1]."""
        low = self.bits()
        return uniform_double_of(low, self.bits())

    def normal_pair(self) -> tuple[Array, Array]:
        """Return two float32 normal values per lane."""
        first = self.bits()
        return box_muller_of(first, self.bits())

    def normal_pair_double(self) -> tuple[Array, Array]:
        """Return two float64 normal values per lane."""
        words = [self.bits() for _ in range(4)]
        return box_muller_double_of(*words)

    def normal(self) -> Array:
        """Return one float32 normal value per lane: a new one, or the one kept from the last draw."""
        return self._kept("flag", "extra", "normal_pair")

    def normal_double(self) -> Array:
        """Return one float64 normal value per lane."""
        return self._kept("flag_double", "extra_double", "normal_pair_double")

    def _kept(self, flag_name: str, extra_name: str, draw: str) -> Array:
        flag, extra = getattr(self, flag_name), getattr(self, extra_name)
        values: Array = extra.copy()
        fresh = flag != 1
        if fresh.all():
            values, extra[...] = getattr(self, draw)()
        elif fresh.any():
            lanes = np.flatnonzero(fresh)
            some = self.take(lanes)
            values[lanes], second = getattr(some, draw)()
            self.put(lanes, some)
            extra[lanes] = second
        flag[...] = fresh
        return values


def uniform_of(bits: Array) -> Array:
    """Map 32 bits to float32 in (0, 1]."""
    return bits.astype(np.float32) * TINY + TINY / np.float32(2)


def uniform_double_of(low: Array, high: Array) -> Array:
    """Map twice 32 bits to float64 in (0, 1]."""
    return (low.astype(U64) ^ (high.astype(U64) << U64(21))) * FINE + FINE / 2


def box_muller_of(first: Array, second: Array) -> tuple[Array, Array]:
    """Map twice 32 bits to two normal float32."""
    angle = second.astype(np.float32) * TINY_2PI + TINY_2PI / np.float32(2)
    radius = np.sqrt(np.float32(-2) * np.log(uniform_of(first)))
    return np.sin(angle) * radius, np.cos(angle) * radius


def box_muller_double_of(x0: Array, x1: Array, y0: Array, y1: Array) -> tuple[Array, Array]:
    """Map four times 32 bits to two normal float64."""
    angle = (y0.astype(U64) ^ (y1.astype(U64) << U64(21))) * (FINE * 2) + FINE
    radius = np.sqrt(-2.0 * np.log(uniform_double_of(x0, x1)))
    return np.sin(angle * np.pi) * radius, np.cos(angle * np.pi) * radius


# --- XORWOW ----------------------------------------------------------------------------------------------------------


def _xorwow_step(v: list[Array]) -> list[Array]:
    twisted = v[0] ^ (v[0] >> U32(2))
    newest = (v[4] ^ (v[4] << U32(4))) ^ (twisted ^ (twisted << U32(1)))
    return [v[1], v[2], v[3], v[4], newest]


def _apply(table: Array, words: Array) -> Array:
    """Multiply GF(2) vectors by a matrix that is given as a table: byte place × byte value → 5 words."""
    columns = np.ascontiguousarray(words.T).view(np.uint8)
    result = table[0][columns[:, 0]]
    for place in range(1, 20):
        result ^= table[place][columns[:, place]]
    return np.ascontiguousarray(result.T)


def _table(images: Array) -> Array:
    """Return the lookup table of the matrix whose bit ``i`` maps to ``images[:, i]`` (5 words)."""
    table = np.zeros((20, 256, 5), U32)
    for bit in range(160):
        place, weight = divmod(bit, 8)
        half = 1 << weight
        table[place, half : 2 * half] = table[place, :half] ^ images[:, bit]
    return table


@cache
def _xorwow_power(exponent: int) -> Array:
    """Return the table of the XORWOW transition to the power 2^exponent."""
    unit = np.zeros((5, 160), U32)
    for bit in range(160):
        unit[bit // 32, bit] = U32(1 << bit % 32)
    if exponent == 0:
        return _table(np.array(_xorwow_step(list(unit))))
    half = _xorwow_power(exponent - 1)
    return _table(_apply(half, _apply(half, unit)))


def _xorwow_jump(words: Array, steps: int, spacing: int) -> Array:
    """Advance all lanes by steps·2^spacing."""
    while steps:
        if steps & 1:
            words = _apply(_xorwow_power(spacing), words)
        steps >>= 1
        spacing += 1
    return words


class Xorwow(Engine):
    """XORWOW: a 160-bit xorshift register plus a Weyl sequence; rows are d, v0 … v4."""

    STATE = np.dtype(
        {
            "names": ["d", "v", "flag", "flag_double", "extra", "extra_double"],
            "formats": [U32, (U32, 5), np.int32, np.int32, np.float32, np.float64],
            "offsets": [0, 4, 24, 28, 32, 40],
            "itemsize": 48,
        }
    )
    name = "XORWOW"

    @classmethod
    def seeded(cls, seed: int, subsequences: Array, offset: int = 0) -> Xorwow:
        t0 = 1099087573 * ((seed & MASK32) ^ 0xAAD26B49) & MASK32
        t1 = 2591861531 * ((seed >> 32 & MASK32) ^ 0xF7DCEFDD) & MASK32
        d = 6615241 + t1 + t0 + 362437 * offset & MASK32
        start = [123456789 + t0, 362436069 ^ t0, 521288629 + t1, 88675123 ^ t1, 5783321 + t0]
        base = np.array([[word & MASK32] for word in start], U32)
        base = _xorwow_jump(base, offset, 0)
        words = _spread(base, np.asarray(subsequences, np.int64), lambda w, bit: _apply(_xorwow_power(67 + bit), w))
        core = np.empty((6, words.shape[1]), U32)
        core[0], core[1:] = d, words
        return cls(core)

    @classmethod
    def _core_of(cls, states: Array) -> Array:
        core = np.empty((6, len(states)), U32)
        core[0], core[1:] = states["d"], states["v"].T
        return core

    def _core_to(self, states: Array) -> None:
        states["d"], states["v"] = self.core[0], self.core[1:].T

    def bits(self) -> Array:
        core = self.core
        core[1:] = _xorwow_step([core[1], core[2], core[3], core[4], core[5]])
        core[0] += U32(362437)
        total: Array = core[5] + core[0]
        return total


def _spread(base: Array, subsequences: Array, jump: Any) -> Array:
    """Return one column per subsequence, from the column of subsequence 0.

    ``jump(words, bit)`` advances by 2^bit subsequences. The wanted numbers are handled bit by bit, each bit for all
    lanes that have it, so that the cost grows with the logarithm of the largest number.
    """
    words = np.repeat(base, len(subsequences), axis=1)
    bit = 0
    while (remaining := subsequences >> bit).any():
        lanes = np.flatnonzero(remaining & 1)
        if len(lanes):
            words[:, lanes] = jump(words[:, lanes], bit)
        bit += 1
    return words


# --- MRG32k3a --------------------------------------------------------------------------------------------------------

M1, M2 = 4294967087, 4294944443
A12, A13N, A21, A23N = 1403580, 810728, 527612, 1370589
MRG_NORM, MRG_BITS = 2.3283065498378288e-10, 1.000000048662
_Matrix = tuple[tuple[int, ...], ...]


def _matmul(a: _Matrix, b: _Matrix, modulus: int) -> _Matrix:
    return tuple(
        tuple(sum(a[i][k] * b[k][j] for k in range(3)) % modulus for j in range(3)) for i in range(3)
    )  # fmt: skip


@cache
def _mrg_power(component: int, exponent: int) -> _Matrix:
    """Return the transition matrix of one component to the power 2^exponent."""
    modulus = (M1, M2)[component]
    if exponent == 0:
        if component == 0:
            return ((0, 1, 0), (0, 0, 1), (M1 - A13N, A12, 0))
        return ((0, 1, 0), (0, 0, 1), (M2 - A23N, 0, A21))
    half = _mrg_power(component, exponent - 1)
    return _matmul(half, half, modulus)


def _mrg_apply(words: Array, exponent: int) -> Array:
    """Advance all lanes by 2^exponent."""
    result = np.empty_like(words)
    for component, modulus in enumerate((M1, M2)):
        matrix = _mrg_power(component, exponent)
        for row in range(3):
            total = np.zeros(words.shape[1], U64)
            for column in range(3):
                # Both factors are below 2^32, so the product fits in 64 bits before it is reduced.
                total += U64(matrix[row][column]) * words[3 * component + column] % U64(modulus)
            result[3 * component + row] = total % U64(modulus)
    return result


class Mrg32k3a(Engine):
    """MRG32k3a: two recurrences of order three; rows are s1[0..2], s2[0..2], in 64-bit words."""

    STATE = np.dtype(
        {
            "names": ["s", "flag", "flag_double", "extra", "extra_double"],
            "formats": [(U32, 6), np.int32, np.int32, np.float32, np.float64],
            "offsets": [0, 24, 28, 32, 40],
            "itemsize": 48,
        }
    )
    name = "MRG32k3a"

    @classmethod
    def seeded(cls, seed: int, subsequences: Array, offset: int = 0) -> Mrg32k3a:
        base = np.full((6, 1), 12345, U64)
        if seed:
            x1 = (seed & MASK32) ^ 0x55555555
            x2 = (seed >> 32 & MASK32) ^ 0xAAAAAAAA
            factors = (x1, x2, x1, x2, x1, x2)
            for row, factor in enumerate(factors):
                base[row, 0] = factor * 12345 % (M1 if row < 3 else M2)
        bit = 0
        while offset >> bit:
            if offset >> bit & 1:
                base = _mrg_apply(base, bit)
            bit += 1
        return cls(_spread(base, np.asarray(subsequences, np.int64), lambda w, bit: _mrg_apply(w, 76 + bit)))

    @classmethod
    def _core_of(cls, states: Array) -> Array:
        return np.ascontiguousarray(states["s"].T, U64)

    def _core_to(self, states: Array) -> None:
        states["s"] = self.core.T

    def integers(self) -> Array:
        """Return the raw values, from 1 to the first modulus."""
        core = self.core
        p1 = (U64(A12) * core[1] + U64(A13N) * (U64(M1) - core[0])) % U64(M1)
        p2 = (U64(A21) * core[5] + U64(A23N) * (U64(M2) - core[3])) % U64(M2)
        core[0:2], core[3:5] = core[1:3].copy(), core[4:6].copy()
        core[2], core[5] = p1, p2
        values: Array = np.where(p1 <= p2, p1 + U64(M1) - p2, p1 - p2)
        return values

    def bits(self) -> Array:
        return (self.integers() * MRG_BITS).astype(U64).astype(U32)

    def uniform(self) -> Array:
        return self.uniform_double().astype(np.float32)

    def uniform_double(self) -> Array:
        scaled: Array = self.integers() * MRG_NORM
        return scaled

    def normal_pair(self) -> tuple[Array, Array]:
        radius = np.sqrt(np.float32(-2) * np.log(self.uniform()))
        angle = self.uniform() * np.float32(6.2831855)
        return np.sin(angle) * radius, np.cos(angle) * radius

    def normal_pair_double(self) -> tuple[Array, Array]:
        radius = np.sqrt(-2.0 * np.log(self.uniform_double()))
        angle = self.uniform_double() * 2.0
        return np.sin(angle * np.pi) * radius, np.cos(angle * np.pi) * radius


# --- Philox4x32-10 ---------------------------------------------------------------------------------------------------


def philox(counter: Array, key: Array) -> Array:
    """Return Philox4x32-10 of counters (4 × lanes) under keys (2 × lanes), all in 64-bit words holding 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key[0].copy(), key[1].copy()
    mask = U64(MASK32)
    for _ in range(10):
        low, high = U64(0xD2511F53) * c0, U64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (high >> U64(32)) ^ c1 ^ k0,
            high & mask,
            (low >> U64(32)) ^ c3 ^ k1,
            low & mask,
        )
        k0, k1 = (k0 + U64(0x9E3779B9)) & mask, (k1 + U64(0xBB67AE85)) & mask
    return np.stack([c0, c1, c2, c3])


class Philox(Engine):
    """Philox4x32-10: rows are the counter (4), the key (2) and the place in the block, in 64-bit words."""

    STATE = np.dtype(
        {
            "names": ["ctr", "output", "key", "STATE", "flag", "flag_double", "extra", "extra_double"],
            "formats": [(U32, 4), (U32, 4), (U32, 2), U32, np.int32, np.int32, np.float32, np.float64],
            "offsets": [0, 16, 32, 40, 44, 48, 52, 56],
            "itemsize": 64,
        }
    )
    name = "Philox4_32_10"

    @classmethod
    def seeded(cls, seed: int, subsequences: Array, offset: int = 0) -> Philox:
        subsequences = np.asarray(subsequences, U64)
        core = np.zeros((7, len(subsequences)), U64)
        blocks, place = divmod(offset, 4)
        core[0], core[1] = blocks & MASK32, blocks >> 32 & MASK32
        core[2], core[3] = subsequences & U64(MASK32), subsequences >> U64(32)
        core[4], core[5], core[6] = seed & MASK32, seed >> 32 & MASK32, place
        return cls(core)

    @classmethod
    def _core_of(cls, states: Array) -> Array:
        core = np.empty((7, len(states)), U64)
        core[0:4], core[4:6], core[6] = states["ctr"].T, states["key"].T, states["STATE"]
        return core

    def _core_to(self, states: Array) -> None:
        states["ctr"], states["key"], states["STATE"] = self.core[0:4].T, self.core[4:6].T, self.core[6]
        states["output"] = philox(self.core[0:4], self.core[4:6]).T

    def _increment(self, lanes: Array | slice) -> None:
        carry = np.ones(self.core[0, lanes].shape, U64)
        for row in range(4):
            total = self.core[row, lanes] + carry
            self.core[row, lanes] = total & U64(MASK32)
            carry = total >> U64(32)

    def bits(self) -> Array:
        block = philox(self.core[0:4], self.core[4:6])
        place = self.core[6].astype(np.intp)
        value: Array = np.take_along_axis(block, place[None], 0)[0].astype(U32)
        self.core[6] = (self.core[6] + U64(1)) & U64(3)
        self._increment(np.flatnonzero(place == 3))
        return value

    def four(self) -> Array:
        """Return 4 × lanes words: the next four of each lane, wherever it stands in its block."""
        place = self.core[6].astype(np.intp)
        both = philox(self.core[0:4], self.core[4:6])
        self._increment(slice(None))
        both = np.concatenate([both, philox(self.core[0:4], self.core[4:6])])
        return np.take_along_axis(both, place[None] + np.arange(4)[:, None], 0).astype(U32)

    def uniform_double(self) -> Array:
        # One word only, unlike the other engines: so it is in cuRAND's device function for Philox.
        step = 2.3283064365386963e-10
        return self.bits() * step + step

    def normal_pair_double(self) -> tuple[Array, Array]:
        return box_muller_double_of(*self.four())


#: CuPy's numbers of the device generators.
ENGINES: dict[int, type[Engine]] = {0: Xorwow, 1: Mrg32k3a, 2: Philox}
