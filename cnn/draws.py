"""Random numbers of examples: a draw is a pure function of (seed, position, stream, number of the call).

So augmentation depends neither on batch size, hosts, workers, threads nor on where a run was resumed. Integer
arithmetic only (no NumPy Generator, whose streams may change between versions).
"""

import functools
import math
import zlib

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt64

Number = int | float  # of an option; type checkers take an int for a float, runtime ones do not
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_30, _27, _31, _11 = (np.array(bits, np.uint64) for bits in (30, 27, 31, 11))
_M1, _M2 = np.array(0xBF58476D1CE4E5B9, np.uint64), np.array(0x94D049BB133111EB, np.uint64)
_STEP = np.array(_GOLDEN, np.uint64)
_DRAWS, _UNIT = 0x64726177, 2.0**-53


def mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, variant 13): a bijection of 64-bit words."""
    x = x ^ (x >> _30)
    x *= _M1
    x ^= x >> _27
    x *= _M2
    x ^= x >> _31
    return x


def key(*parts: int) -> int:
    """A 64-bit key from several integers, the same function as `mix` on Python integers."""
    state = 0
    for part in parts:
        state = (state + part * _GOLDEN + 1) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state


@functools.lru_cache(maxsize=64)
def _key_word(*parts: int) -> np.uint64:
    return np.uint64(key(*parts))


@functools.lru_cache(maxsize=64)
def _name_word(name: str) -> np.uint64:
    return np.uint64(key(zlib.crc32(name.encode())))


class Draws:
    """Random numbers of b examples, a pure function of (seed, position, stream, number of the call).

    Every method returns one row per example, and a row depends on that example's position alone, so
    one call for b examples equals b calls for one example. Calls are counted: make them in the same
    order for every example.
    """

    __slots__ = ("_base", "_calls")

    def __init__(self, seed: int, positions: Int[np.ndarray, " b"]):
        self._base = mix(positions.astype(np.uint64) * _STEP + _key_word(seed, _DRAWS))
        self._calls = 0

    def __len__(self) -> int:
        return len(self._base)

    def _child(self, base: UInt64[np.ndarray, " b"], calls: int) -> "Draws":
        result = Draws.__new__(Draws)
        result._base, result._calls = base, calls
        return result

    def stream(self, name: str) -> "Draws":
        """Independent draws for one user (a transform), so adding another user changes nothing here."""
        return self._child(mix(self._base + _name_word(name)), 0)

    def one(self, i: int) -> "Draws":
        """The draws of example i alone."""
        return self._child(self._base[i : i + 1], self._calls)

    def _bits(self, shape: tuple[int, ...]) -> UInt64[np.ndarray, "b ..."]:
        self._calls += 1
        words = mix(self._base + np.uint64(self._calls * _GOLDEN & _WORD))
        if not shape:
            return words
        count = np.arange(1, 1 + math.prod(shape), dtype=np.uint64) * _STEP
        return mix(words[:, None] + count).reshape(len(words), *shape)

    def uniform(
        self, low: Number = 0.0, high: Number = 1.0, shape: tuple[int, ...] = ()
    ) -> Float[np.ndarray, "b ..."]:
        """Uniform in [low, high), float64."""
        return (self._bits(shape) >> _11) * ((high - low) * _UNIT) + low

    def integers(
        self, low: int, high: int, shape: tuple[int, ...] = ()
    ) -> Int64[np.ndarray, "b ..."]:
        """Uniform in low..high-1."""
        unit = (self._bits(shape) >> _11) * _UNIT
        return (unit * (high - low)).astype(np.int64) + low

    def bernoulli(self, p: Number, shape: tuple[int, ...] = ()) -> Bool[np.ndarray, "b ..."]:
        """True with probability p."""
        return self.uniform(shape=shape) < p

    def normal(self, shape: tuple[int, ...] = ()) -> Float[np.ndarray, "b ..."]:
        """Standard normal (Box & Muller 1958), float64."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(shape=shape)))
        return radius * np.cos(self.uniform(0.0, 2.0 * np.pi, shape))

    def generator(self) -> np.random.Generator:
        """A numpy generator for one example, where a library asks for one."""
        if len(self) != 1:
            raise ValueError(f"a generator serves one example, these are draws of {len(self)}")
        return np.random.Generator(np.random.Philox(key=int(self._bits(())[0])))
